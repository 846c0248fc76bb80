//! Names of workers in keys and subjects of servers, in hexadecimal.

use std::fmt::Write as _;

use super::WorkerName;

/// A name, or the begin of some.
pub(super) fn hex(name: &str) -> String {
    name.bytes().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// The name of a worker, if it is one.
pub(super) fn unhex(text: &[u8]) -> Option<WorkerName> {
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let bytes = text.chunks(2).map(|pair| match *pair {
        [high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    });
    let bytes = bytes.collect::<Option<Vec<_>>>()?;
    WorkerName::new(String::from_utf8(bytes).ok()?).ok()
}
