//! Rust types of elements.

use bytemuck::Pod;

use super::dtype::DType;

/// A type whose values are elements of a tensor, byte for byte.
///
/// ```compile_fail
/// // An element of 8 bits is no `u16`.
/// #[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
/// #[repr(transparent)]
/// struct Fp8(u16);
/// impl nixl_descriptor::tensor::Element for Fp8 {
///     const DTYPE: nixl_descriptor::tensor::DType = nixl_descriptor::tensor::DType::F8E4M3;
/// }
/// nixl_descriptor::tensor::Tensor::from_vec(vec![Fp8(0)], &[1]);
/// ```
pub trait Element: Pod + Send + Sync {
    /// The type of the elements. It has as many bits as the Rust type; else a use of it does not compile.
    const DTYPE: DType;
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident,)*) => {
        $(impl Element for $rust {
            const DTYPE: DType = DType::$dtype;
        })*
    };
}

elements! {
    u8 => U8,
    u16 => U16,
    u32 => U32,
    u64 => U64,
    i8 => I8,
    i16 => I16,
    i32 => I32,
    i64 => I64,
    f32 => F32,
    f64 => F64,
}

#[cfg(feature = "half")]
elements! {
    half::f16 => F16,
    half::bf16 => BF16,
}
