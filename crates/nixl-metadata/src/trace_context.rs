//! W3C trace contexts, which tie the spans of both sides of a transfer together.

use std::fmt;
use std::str::FromStr;

/// The trace that an offer belongs to, and the span in which it was made: the content of W3C's header `traceparent`.
///
/// Travels in the native profile only, from version 4. It is a hint for those who read traces: nothing depends on it, and a peer can put
/// any there.
///
/// ```
/// use nixl_metadata::TraceContext;
///
/// let context: TraceContext = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse()?;
/// assert!(context.is_sampled());
/// assert_eq!(context.to_string(), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
/// # Ok::<_, nixl_metadata::ParseTraceContextError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    trace_id: [u8; 16],
    parent_id: [u8; 8],
    flags: u8,
}

impl TraceContext {
    /// The only flag of level 1.
    const SAMPLED: u8 = 1 << 0;

    /// The number of bytes on the wire.
    pub(crate) const LEN: usize = 16 + 8 + 1;

    /// `None` if an id is zero, which W3C calls invalid. Of the flags, those that level 1 does not define are dropped.
    #[must_use]
    pub fn new(trace_id: [u8; 16], parent_id: [u8; 8], flags: u8) -> Option<Self> {
        let is_valid = trace_id != [0; 16] && parent_id != [0; 8];
        is_valid.then_some(Self { trace_id, parent_id, flags: flags & Self::SAMPLED })
    }

    /// The id of the whole trace.
    #[must_use]
    pub const fn trace_id(&self) -> [u8; 16] {
        self.trace_id
    }

    /// The id of the span that was current when the offer was made.
    #[must_use]
    pub const fn parent_id(&self) -> [u8; 8] {
        self.parent_id
    }

    /// Whether the sender may have recorded its part of the trace.
    #[must_use]
    pub const fn is_sampled(&self) -> bool {
        self.flags & Self::SAMPLED != 0
    }

    pub(crate) fn to_wire(self) -> [u8; Self::LEN] {
        let mut bytes = [self.flags; Self::LEN];
        bytes[..16].copy_from_slice(&self.trace_id);
        bytes[16..24].copy_from_slice(&self.parent_id);
        bytes
    }

    /// `None` of what is no valid context: W3C has it ignored.
    pub(crate) fn from_wire(bytes: &[u8]) -> Option<Self> {
        let (trace_id, rest) = bytes.split_first_chunk()?;
        let (parent_id, rest) = rest.split_first_chunk()?;
        let &[flags] = rest else { return None };
        Self::new(*trace_id, *parent_id, flags)
    }
}

/// As the header `traceparent` has it, of version 00.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trace_id = u128::from_be_bytes(self.trace_id);
        let parent_id = u64::from_be_bytes(self.parent_id);
        write!(f, "00-{trace_id:032x}-{parent_id:016x}-{:02x}", self.flags)
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TraceContext({self})")
    }
}

/// A text is no `traceparent`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a traceparent: W3C has `00-`, 32 digits of the trace id, `-`, 16 of the parent id, `-`, 2 of the flags; lower-case hexadecimal, and no id all zero"
)]
#[non_exhaustive]
pub struct ParseTraceContextError;

/// Of level 1: a later version is read as far as version 00 goes, if a `-` follows.
impl FromStr for TraceContext {
    type Err = ParseTraceContextError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text.as_bytes()).ok_or(ParseTraceContextError)
    }
}

fn parse(text: &[u8]) -> Option<TraceContext> {
    const LEN: usize = 55;
    let (known, more) = text.split_at_checked(LEN)?;
    let [version] = hex(&known[..2])?;
    match (version, more) {
        // Not a version at all.
        (0xff, _) => return None,
        (_, []) | (1.., [b'-', ..]) => {}
        _ => return None,
    }
    if [known[2], known[35], known[52]] != [b'-'; 3] {
        return None;
    }
    let [flags] = hex(&known[53..])?;
    TraceContext::new(hex(&known[3..35])?, hex(&known[36..52])?, flags)
}

/// Lower-case digits, two a byte.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn parsed(text: &str) -> Option<String> {
        text.parse::<TraceContext>().ok().map(|context| context.to_string())
    }

    #[test]
    fn what_w3c_allows_is_read() {
        assert_eq!(parsed(GOOD).as_deref(), Some(GOOD));
        let context: TraceContext = GOOD.parse().unwrap();
        assert_eq!(context.trace_id()[..2], [0x4b, 0xf9]);
        assert_eq!(context.parent_id()[6..], [0x02, 0xb7]);
        assert!(context.is_sampled());
        assert!(!GOOD.replace("-01", "-00").parse::<TraceContext>().unwrap().is_sampled());
        // Flags of later levels are dropped, and a later version is read as version 00.
        assert_eq!(parsed(&GOOD.replace("-01", "-ff")).as_deref(), Some(GOOD));
        assert_eq!(parsed(&GOOD.replacen("00", "01", 1)).as_deref(), Some(GOOD));
        assert_eq!(parsed(&format!("cc{}-more", &GOOD[2..])).as_deref(), Some(GOOD));
    }

    #[test]
    fn what_w3c_calls_invalid_is_refused() {
        let replaced = |from: &str, to: &str| {
            let text = GOOD.replacen(from, to, 1);
            assert_ne!(text, GOOD);
            text
        };
        let faulty = [
            String::new(),
            GOOD[..54].to_owned(),
            format!("{GOOD}0"),
            format!("{GOOD}-more"),
            format!("01{}.more", &GOOD[2..]),
            replaced("00-", "ff-"),
            replaced("00-", "0g-"),
            replaced("4bf9", "4BF9"),
            replaced("4bf9", "4b 9"),
            replaced("4bf92f3577b34da6a3ce929d0e0e4736", "00000000000000000000000000000000"),
            replaced("00f067aa0ba902b7", "0000000000000000"),
            replaced("-01", "-0x"),
            replaced("-01", "_01"),
            replaced("4bf92f3577b3", "4bf92f3577é"),
        ];
        for text in faulty {
            assert_eq!(text.parse::<TraceContext>(), Err(ParseTraceContextError), "{text:?}");
        }
    }

    #[test]
    fn bytes_are_read_as_they_were_written_or_ignored() {
        let context: TraceContext = GOOD.parse().unwrap();
        let wire = context.to_wire();
        assert_eq!(TraceContext::from_wire(&wire), Some(context));
        for len in 0..wire.len() {
            assert_eq!(TraceContext::from_wire(&wire[..len]), None);
        }
        assert_eq!(TraceContext::from_wire(&[&wire[..], &[0]].concat()), None);
        assert_eq!(TraceContext::from_wire(&[0; TraceContext::LEN]), None);
        assert_eq!(TraceContext::from_wire(&[0xff; TraceContext::LEN]).unwrap().flags, 1);
    }
}
