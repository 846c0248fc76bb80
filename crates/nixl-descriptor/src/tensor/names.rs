//! Names of element types: those of safetensors, NumPy and PyTorch, and the codes of DLPack.

use std::fmt;
use std::str::FromStr;

use super::dtype::DType;

/// Each type, its name in safetensors, its name in NumPy and PyTorch, and its code in DLPack.
const NAMES: [(DType, &str, &str, u8); 22] = [
    (DType::Bool, "BOOL", "bool", 6),
    (DType::U8, "U8", "uint8", 1),
    (DType::U16, "U16", "uint16", 1),
    (DType::U32, "U32", "uint32", 1),
    (DType::U64, "U64", "uint64", 1),
    (DType::I8, "I8", "int8", 0),
    (DType::I16, "I16", "int16", 0),
    (DType::I32, "I32", "int32", 0),
    (DType::I64, "I64", "int64", 0),
    (DType::F16, "F16", "float16", 2),
    (DType::BF16, "BF16", "bfloat16", 4),
    (DType::F32, "F32", "float32", 2),
    (DType::F64, "F64", "float64", 2),
    (DType::C64, "C64", "complex64", 5),
    (DType::F8E4M3, "F8_E4M3", "float8_e4m3fn", 10),
    (DType::F8E5M2, "F8_E5M2", "float8_e5m2", 12),
    (DType::F8E8M0, "F8_E8M0", "float8_e8m0fnu", 14),
    (DType::F8E4M3Fnuz, "F8_E4M3FNUZ", "float8_e4m3fnuz", 11),
    (DType::F8E5M2Fnuz, "F8_E5M2FNUZ", "float8_e5m2fnuz", 13),
    (DType::F6E2M3, "F6_E2M3", "float6_e2m3fn", 15),
    (DType::F6E3M2, "F6_E3M2", "float6_e3m2fn", 16),
    (DType::F4, "F4", "float4_e2m1fn", 17),
];

impl DType {
    fn row(self) -> &'static (Self, &'static str, &'static str, u8) {
        // `ALL`, the variants and the rows have one order, which a test checks.
        &NAMES[self as usize]
    }

    /// The name in safetensors, such as `BF16` or `F8_E4M3`.
    #[must_use]
    pub fn safetensors_name(self) -> &'static str {
        self.row().1
    }

    /// The type with this name in safetensors, which is in upper case.
    #[must_use]
    pub fn from_safetensors(name: &str) -> Option<Self> {
        NAMES.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// The name in NumPy (with `ml_dtypes`) and PyTorch, such as `uint8`. Dynamo has the same name in upper case for media, and in
    /// lower case for embeddings.
    #[must_use]
    pub fn numpy_name(self) -> &'static str {
        self.row().2
    }

    /// The type with this name in NumPy or PyTorch, in any case, with or without PyTorch's `torch.`. NumPy's short codes, in which
    /// `u8` has 8 *bytes*, are not read.
    #[must_use]
    pub fn from_numpy(name: &str) -> Option<Self> {
        let name = name.strip_prefix("torch.").unwrap_or(name);
        NAMES.iter().find(|row| row.2.eq_ignore_ascii_case(name)).map(|row| row.0)
    }

    /// The code and the bits in DLPack, for one lane.
    #[must_use]
    pub fn to_dlpack(self) -> (u8, u8) {
        // At most 64 bits.
        (self.row().3, self.bits() as u8)
    }

    /// The type with this code and these bits in DLPack.
    #[must_use]
    pub fn from_dlpack(code: u8, bits: u8) -> Option<Self> {
        NAMES.iter().map(|row| row.0).find(|dtype| dtype.to_dlpack() == (code, bits))
    }
}

/// The name in safetensors.
impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.safetensors_name())
    }
}

/// A text names no element type.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, thiserror::Error)]
#[error(
    "not the name of an element type: write one of safetensors, such as BF16, or one of NumPy, such as bfloat16"
)]
#[non_exhaustive]
pub struct ParseDTypeError;

/// Reads a name of safetensors, or one of NumPy and PyTorch.
impl FromStr for DType {
    type Err = ParseDTypeError;

    fn from_str(text: &str) -> Result<Self, ParseDTypeError> {
        Self::from_safetensors(text).or_else(|| Self::from_numpy(text)).ok_or(ParseDTypeError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_one_row_in_the_order_of_the_types() {
        for (row, dtype) in NAMES.iter().zip(DType::ALL) {
            assert_eq!((row.0, dtype.row().0), (dtype, dtype));
        }
    }

    #[test]
    fn every_name_and_code_is_read_back() {
        for dtype in DType::ALL {
            assert_eq!(dtype.to_string().parse(), Ok(dtype));
            assert_eq!(DType::from_numpy(&dtype.numpy_name().to_uppercase()), Some(dtype));
            let (code, bits) = dtype.to_dlpack();
            assert_eq!(DType::from_dlpack(code, bits), Some(dtype));
        }
        assert_eq!("UINT8".parse(), Ok(DType::U8));
        assert_eq!("torch.bfloat16".parse(), Ok(DType::BF16));
        for unknown in ["", "u8", "f32", "F128", "uint8 ", "torch.", "U8\0"] {
            assert_eq!(unknown.parse::<DType>(), Err(ParseDTypeError), "{unknown:?}");
        }
        assert_eq!(DType::from_dlpack(2, 80), None);
    }
}
