//! Memory devices: host memory, or that of the n-th accelerator of a kind.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::ser::{Serialize, Serializer};

/// The kind of memory a [`Device`] has.
///
/// Serialised as `cpu`, `cuda` or `xpu`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DeviceKind {
    /// Host memory (DRAM), pinned or not.
    #[serde(rename = "cpu", alias = "host")]
    Host,
    /// Memory of an NVIDIA GPU, addressed through CUDA.
    #[serde(alias = "gpu")]
    Cuda,
    /// Memory of an Intel GPU, addressed through Level Zero.
    Xpu,
}

impl DeviceKind {
    /// The canonical name: `cpu`, `cuda` or `xpu`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Host => "cpu",
            Self::Cuda => "cuda",
            Self::Xpu => "xpu",
        }
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A memory that bytes can live in: the host's, or that of one accelerator.
///
/// It is a name, not a handle: that `cuda:7` can be written down does not mean that such a GPU exists.
///
/// # Text form
///
/// [`Display`](fmt::Display) and serde print the canonical form, which is also the form on the wire:
/// `cpu`, `cuda:N` or `xpu:N`. [`FromStr`] and serde read, ignoring case and whitespace around the kind and the
/// index:
///
/// | text | device |
/// |---|---|
/// | `cpu`, `host`, `cpu:0`, `host:0` | [`Device::HOST`] |
/// | `cuda`, `gpu` | `Device::cuda(0)` |
/// | `cuda:N`, `gpu:N` | `Device::cuda(N)` |
/// | `xpu` | `Device::xpu(0)` |
/// | `xpu:N` | `Device::xpu(N)` |
///
/// Dynamo's `nixl_connect` looks at the prefix only, so it also takes `cuda-7` for `cuda:0`, `cpu:3` for `cpu` and
/// `cuda:-1` as it stands. Those are refused here: they name no memory that exists, and it never prints them for a
/// real one.
///
/// ```
/// use nixl_device::{Device, DeviceKind};
///
/// let device: Device = " GPU:3 ".parse()?;
/// assert_eq!(device, Device::cuda(3));
/// assert_eq!(device.kind(), DeviceKind::Cuda);
/// assert_eq!(device.to_string(), "cuda:3");
/// # Ok::<(), nixl_device::ParseDeviceError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Device {
    kind: DeviceKind,
    index: u32, // always 0 for the host, so that derived equality is right
}

impl Device {
    /// Host memory.
    pub const HOST: Self = Self { kind: DeviceKind::Host, index: 0 };

    /// The CUDA device with this ordinal.
    #[must_use]
    pub const fn cuda(index: u32) -> Self {
        Self { kind: DeviceKind::Cuda, index }
    }

    /// The XPU device with this ordinal.
    #[must_use]
    pub const fn xpu(index: u32) -> Self {
        Self { kind: DeviceKind::Xpu, index }
    }

    /// The kind of memory.
    #[must_use]
    pub const fn kind(self) -> DeviceKind {
        self.kind
    }

    /// The ordinal among the devices of its kind, from 0; always 0 for the host.
    #[must_use]
    pub const fn index(self) -> u32 {
        self.index
    }

    /// Whether this is host memory.
    #[must_use]
    pub const fn is_host(self) -> bool {
        matches!(self.kind, DeviceKind::Host)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            DeviceKind::Host => f.pad(self.kind.as_str()),
            DeviceKind::Cuda | DeviceKind::Xpu if f.width().is_some() => {
                f.pad(&format!("{}:{}", self.kind, self.index))
            }
            DeviceKind::Cuda | DeviceKind::Xpu => write!(f, "{}:{}", self.kind, self.index),
        }
    }
}

impl FromStr for Device {
    type Err = ParseDeviceError;

    fn from_str(text: &str) -> Result<Self, ParseDeviceError> {
        let (name, index) = match text.split_once(':') {
            Some((name, index)) => (name.trim(), Some(index.trim())),
            None => (text.trim(), None),
        };
        let is = |candidate: &str| name.eq_ignore_ascii_case(candidate);
        let kind = if is("cpu") || is("host") {
            DeviceKind::Host
        } else if is("cuda") || is("gpu") {
            DeviceKind::Cuda
        } else if is("xpu") {
            DeviceKind::Xpu
        } else {
            return Err(ParseDeviceError::UnknownKind { input: excerpt(text) });
        };
        let index = match index {
            None => 0,
            Some(digits) => parse_index(digits)
                .ok_or_else(|| ParseDeviceError::InvalidIndex { input: excerpt(text) })?,
        };
        if kind == DeviceKind::Host && index != 0 {
            return Err(ParseDeviceError::HostIndex { input: excerpt(text) });
        }
        Ok(Self { kind, index })
    }
}

/// Decimal digits only: `u32`'s own parser would take a plus sign.
fn parse_index(digits: &str) -> Option<u32> {
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// The start of an input that may be long or hostile, for an error message.
fn excerpt(text: &str) -> String {
    const MAX_CHARS: usize = 40;
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A text does not name a [`Device`].
///
/// `input` is the text that was given, cut after 40 characters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseDeviceError {
    /// The part before the colon is no known kind.
    #[error("unknown device {input:?}: expected `cpu`, `cuda:N` or `xpu:N`")]
    UnknownKind {
        /// The text, cut.
        input: String,
    },
    /// The part after the colon is not a decimal number from 0 to 4294967295.
    #[error(
        "invalid index in device {input:?}: expected decimal digits of a 32-bit number after the colon"
    )]
    InvalidIndex {
        /// The text, cut.
        input: String,
    },
    /// The host is one device, but another one than `cpu:0` was named.
    #[error("invalid index in device {input:?}: the host is a single device, write `cpu`")]
    HostIndex {
        /// The text, cut.
        input: String,
    },
}

impl Serialize for Device {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Device {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DeviceVisitor;

        impl Visitor<'_> for DeviceVisitor {
            type Value = Device;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a device such as `cpu`, `cuda:0` or `xpu:0`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Device, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(DeviceVisitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_device() -> impl Strategy<Value = Device> {
        prop_oneof![
            Just(Device::HOST),
            any::<u32>().prop_map(Device::cuda),
            any::<u32>().prop_map(Device::xpu),
        ]
    }

    /// Flips the case of the letters whose bit is set.
    fn mix_case(text: &str, mask: u32) -> String {
        text.chars()
            .enumerate()
            .map(|(i, c)| match mask >> (i % 32) & 1 {
                1 => c.to_ascii_uppercase(),
                _ => c,
            })
            .collect()
    }

    proptest! {
        #[test]
        fn canonical_text_round_trips(device in any_device()) {
            prop_assert_eq!(device.to_string().parse(), Ok(device));
        }

        #[test]
        fn json_round_trips_as_the_canonical_text(device in any_device()) {
            let json = serde_json::to_string(&device)?;
            prop_assert_eq!(&json, &format!("\"{device}\""));
            prop_assert_eq!(serde_json::from_str::<Device>(&json)?, device);
        }

        #[test]
        fn case_and_whitespace_do_not_matter(
            device in any_device(),
            mask in any::<u32>(),
            before in "[ \t\n]{0,3}",
            around in "[ \t]{0,2}",
            after in "[ \t\r\n]{0,3}",
        ) {
            let spaced = device.to_string().replace(':', &format!("{around}:{around}"));
            let text = format!("{before}{}{after}", mix_case(&spaced, mask));
            prop_assert_eq!(text.parse(), Ok(device));
        }

        #[test]
        fn aliases_name_the_same_device(index in any::<u32>()) {
            prop_assert_eq!(format!("gpu:{index}").parse(), Ok(Device::cuda(index)));
        }

        #[test]
        fn any_text_parses_to_what_prints_back_or_to_a_short_error(text in any::<String>()) {
            match text.parse::<Device>() {
                Ok(device) => prop_assert_eq!(device.to_string().parse(), Ok(device)),
                // Escapes take up to ten bytes (`\u{10ffff}`) for each of the 40 characters.
                Err(error) => prop_assert!(error.to_string().len() < 600),
            }
        }

        #[test]
        fn an_index_beyond_32_bits_is_refused(index in u64::from(u32::MAX) + 1..) {
            let text = format!("cuda:{index}");
            prop_assert_eq!(
                text.parse::<Device>(),
                Err(ParseDeviceError::InvalidIndex { input: text })
            );
        }
    }

    #[test]
    fn documented_short_forms() {
        for text in ["cpu", "host", "cpu:0", "HOST:0", " Cpu\n"] {
            assert_eq!(text.parse(), Ok(Device::HOST), "{text:?}");
        }
        assert_eq!("gpu".parse(), Ok(Device::cuda(0)));
        assert_eq!("cuda".parse(), Ok(Device::cuda(0)));
        assert_eq!("xpu".parse(), Ok(Device::xpu(0)));
        assert_eq!("cuda:007".parse(), Ok(Device::cuda(7)));
    }

    #[test]
    fn refused_texts_name_the_reason_and_the_input() {
        let unknown = |input: &str| ParseDeviceError::UnknownKind { input: input.to_owned() };
        let index = |input: &str| ParseDeviceError::InvalidIndex { input: input.to_owned() };
        for text in
            ["", " ", ":", ":0", "cudax:0", "cuda0", "cuda-7", "c uda", "tpu:1", "<invalid>"]
        {
            assert_eq!(text.parse::<Device>(), Err(unknown(text)));
        }
        for text in [
            "cuda:", "cuda:-1", "gpu:+1", "xpu:0x1", "cuda:1:2", "cuda:1_0", "cuda:1 0", "cuda:٣",
            "cpu:",
        ] {
            assert_eq!(text.parse::<Device>(), Err(index(text)));
        }
        assert_eq!(
            "host:1".parse::<Device>(),
            Err(ParseDeviceError::HostIndex { input: "host:1".to_owned() })
        );
    }

    #[test]
    fn a_long_input_is_cut_at_a_character_boundary() {
        let error = "é".repeat(1000).parse::<Device>();
        assert_eq!(
            error,
            Err(ParseDeviceError::UnknownKind { input: format!("{}…", "é".repeat(40)) })
        );
    }

    #[test]
    fn json_of_another_type_is_an_error_that_says_what_was_expected() {
        let error = serde_json::from_str::<Device>("7").map_err(|error| error.to_string());
        assert!(
            matches!(&error, Err(message) if message.contains("a device such as")),
            "{error:?}"
        );
    }

    #[test]
    fn kinds_serialise_as_their_names() -> Result<(), serde_json::Error> {
        for kind in [DeviceKind::Host, DeviceKind::Cuda, DeviceKind::Xpu] {
            let json = serde_json::to_string(&kind)?;
            assert_eq!(json, format!("\"{kind}\""));
            assert_eq!(serde_json::from_str::<DeviceKind>(&json)?, kind);
        }
        assert_eq!(serde_json::from_str::<DeviceKind>("\"gpu\"")?, DeviceKind::Cuda);
        assert_eq!(serde_json::from_str::<DeviceKind>("\"host\"")?, DeviceKind::Host);
        Ok(())
    }

    #[test]
    fn padding_applies_to_the_whole_name() {
        assert_eq!(format!("{:>8}|{:<6}|", Device::cuda(1), Device::HOST), "  cuda:1|cpu   |");
    }
}
