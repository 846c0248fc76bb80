//! Element types.

/// The type of a tensor's elements, as safetensors and DLPack have it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum DType {
    /// A byte that is 0 or 1.
    Bool,
    /// 8 bits without a sign.
    U8,
    /// 16 bits without a sign.
    U16,
    /// 32 bits without a sign.
    U32,
    /// 64 bits without a sign.
    U64,
    /// 8 bits with a sign.
    I8,
    /// 16 bits with a sign.
    I16,
    /// 32 bits with a sign.
    I32,
    /// 64 bits with a sign.
    I64,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of an `F32`.
    BF16,
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 double precision.
    F64,
    /// Two `F32`, the real and the imaginary part.
    C64,
    /// 4 bits of exponent, 3 of mantissa; finite (`e4m3fn`).
    F8E4M3,
    /// 5 bits of exponent, 2 of mantissa.
    F8E5M2,
    /// 8 bits of exponent, a scale (`e8m0fnu`).
    F8E8M0,
    /// 4 bits of exponent, 3 of mantissa; finite, one zero.
    F8E4M3Fnuz,
    /// 5 bits of exponent, 2 of mantissa; finite, one zero.
    F8E5M2Fnuz,
    /// 2 bits of exponent, 3 of mantissa.
    F6E2M3,
    /// 3 bits of exponent, 2 of mantissa.
    F6E3M2,
    /// 2 bits of exponent, 1 of mantissa; two elements in a byte.
    F4,
}

impl DType {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::Bool,
        Self::U8,
        Self::U16,
        Self::U32,
        Self::U64,
        Self::I8,
        Self::I16,
        Self::I32,
        Self::I64,
        Self::F16,
        Self::BF16,
        Self::F32,
        Self::F64,
        Self::C64,
        Self::F8E4M3,
        Self::F8E5M2,
        Self::F8E8M0,
        Self::F8E4M3Fnuz,
        Self::F8E5M2Fnuz,
        Self::F6E2M3,
        Self::F6E3M2,
        Self::F4,
    ];

    /// The bits of an element.
    #[must_use]
    pub const fn bits(self) -> usize {
        match self {
            Self::F4 => 4,
            Self::F6E2M3 | Self::F6E3M2 => 6,
            Self::Bool
            | Self::U8
            | Self::I8
            | Self::F8E4M3
            | Self::F8E5M2
            | Self::F8E8M0
            | Self::F8E4M3Fnuz
            | Self::F8E5M2Fnuz => 8,
            Self::U16 | Self::I16 | Self::F16 | Self::BF16 => 16,
            Self::U32 | Self::I32 | Self::F32 => 32,
            Self::U64 | Self::I64 | Self::F64 | Self::C64 => 64,
        }
    }

    /// The bytes of an element; `None` for elements of less than one.
    #[must_use]
    pub const fn bytes(self) -> Option<usize> {
        match self.bits() {
            bits if bits % 8 == 0 => Some(bits / 8),
            _ => None,
        }
    }

    /// The address of an element is a multiple of this many bytes.
    #[must_use]
    pub const fn alignment(self) -> usize {
        match self {
            Self::C64 => 4,
            _ => match self.bytes() {
                Some(bytes) => bytes,
                None => 1,
            },
        }
    }
}
