//! Values of settings at which UCX ends the process as its library loads or a context is made.

use super::choice::MOST_NAMES;

/// Lists with more names than [`MOST_NAMES`] in these make UCX abort the process.
const BOUNDED: [&str; 5] = ["NET_DEVICES", "SHM_DEVICES", "ACC_DEVICES", "SELF_DEVICES", "TLS"];

/// UCX's transports of shared memory, and the name of what they have in common.
const SHARED_MEMORY: [&str; 4] = ["MM", "POSIX", "SYSV", "XPMEM"];
/// UCX multiplies the size of an element by their number in 32 bits, and ends the process where that overflows.
const LARGEST_ELEMENT: u32 = 1 << 16;
const MOST_ELEMENTS: u32 = 1 << 15;

/// The settings of UCX's places of devices, by name.
const TOPOLOGIES: [&str; 2] = ["sysfs", "default"];

/// A wait of UCX, in seconds, eight of which were seen in the load of its library.
const LONGEST_GRACE: f64 = 10.0;

/// UCX's buffer for a message by default, the one that it chooses itself, and the largest one, in bytes.
const MESSAGE: u64 = 1024;
const CHOSEN_MESSAGE: u64 = 256;
const LONGEST_MESSAGE: u64 = 1200;

/// Why UCX would end the process at this value, if it would. The name has no `UCX_`.
pub(super) fn reason(name: &str, value: &str) -> Option<String> {
    if BOUNDED.contains(&name) && names_in(value) > MOST_NAMES {
        return Some(format!(
            "it has more than {MOST_NAMES} names, for which UCX ends the process"
        ));
    }
    let beyond = |most: u32| {
        is_beyond(value, most.into())
            .then(|| format!("it is no number from 0 to {most}, for which UCX ends the process"))
    };
    if SHARED_MEMORY.iter().any(|transport| name == format!("{transport}_FIFO_ELEM_SIZE")) {
        return beyond(LARGEST_ELEMENT);
    }
    if SHARED_MEMORY.iter().any(|transport| name == format!("{transport}_FIFO_SIZE")) {
        return beyond(MOST_ELEMENTS);
    }
    match name {
        "LOG_FILE_ROTATE" => beyond(i32::MAX.unsigned_abs()),
        "NUM_PPN" => is_zero(value).then(|| "UCX divides by it, which ends the process".to_owned()),
        "MULTI_LANE_MAX_RATIO" => is_negative(value)
            .then(|| "it is no ratio, and UCX may end the process at it".to_owned()),
        "TOPO_PRIO" => {
            let knows = value.split(',').any(|name| TOPOLOGIES.contains(&name));
            let [one, other] = TOPOLOGIES;
            let reason =
                format!("it names neither {one} nor {other}, without which UCX ends the process");
            (!knows).then_some(reason)
        }
        "MEM_BISTRO_GRACE_DURATION" => (seconds(value) > LONGEST_GRACE).then(|| {
            format!("UCX waits several times as long while it loads: at most {LONGEST_GRACE} s")
        }),
        _ => None,
    }
}

/// As [`reason`], of the size of log files beside that of a message.
pub(super) fn reason_of_size(size: &str, message: Option<&str>) -> Option<String> {
    let needed = match message.map(bytes) {
        None | Some(Bytes::Unreadable) => MESSAGE,
        Some(Bytes::Auto) => CHOSEN_MESSAGE,
        Some(Bytes::Of(len)) => len.min(LONGEST_MESSAGE),
    };
    match bytes(size) {
        Bytes::Of(size) if size < needed => Some(format!(
            "a message (UCX_LOG_BUFFER) has up to {needed} bytes, and UCX ends the process if a log file is smaller"
        )),
        _ => None,
    }
}

/// The number of names in a list after UCX expands its ranges (`mlx5_[0-7]`).
pub(super) fn names_in(list: &str) -> usize {
    let range = |name: &str| {
        let (_, rest) = name.split_once('[')?;
        let (first, last) = rest.split_once(']')?.0.split_once('-')?;
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    list.split(',').map(|name| range(name).unwrap_or(1)).fold(0, usize::saturating_add)
}

/// Whether UCX reads a zero.
fn is_zero(value: &str) -> bool {
    let value = value.trim_start();
    number(value.strip_prefix(['+', '-']).unwrap_or(value)).is_some_and(|(number, _)| number == 0)
}

fn is_negative(value: &str) -> bool {
    value
        .trim_start()
        .strip_prefix('-')
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit() || c == '.' || c == 'i'))
}

/// A time as UCX reads it. What it cannot read is none: it takes the default, which is short.
fn seconds(value: &str) -> f64 {
    let value = value.trim();
    if value.eq_ignore_ascii_case("inf") {
        return f64::INFINITY;
    }
    const UNITS: [(&str, f64); 4] = [("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9), ("s", 1.0)];
    let unit = UNITS.iter().find_map(|(unit, of)| Some((value.strip_suffix(unit)?, *of)));
    let minutes = || Some((value.strip_suffix('m')?, 60.0));
    let (number, unit) = unit.or_else(minutes).unwrap_or((value, 1.0));
    number.trim_end().parse::<f64>().map_or(0.0, |number| number * unit)
}

/// What begins with no number is left out by UCX. A negative one is a large one.
fn is_beyond(value: &str, most: u128) -> bool {
    let value = value.trim_start();
    let digits = value.strip_prefix('+').unwrap_or(value);
    match number(digits) {
        Some((number, _)) => number > most,
        None => value.starts_with('-') || value.eq_ignore_ascii_case("inf"),
    }
}

/// An amount of memory as UCX reads it.
enum Bytes {
    Of(u64),
    /// UCX chooses.
    Auto,
    /// UCX takes the default.
    Unreadable,
}

fn bytes(value: &str) -> Bytes {
    let value = value.trim_start();
    if value.eq_ignore_ascii_case("inf") {
        return Bytes::Of(u64::MAX);
    }
    if value.eq_ignore_ascii_case("auto") {
        return Bytes::Auto;
    }
    let Some((number, unit)) = number(value.strip_prefix('+').unwrap_or(value)) else {
        return Bytes::Unreadable;
    };
    let mut unit = unit.chars().map(|c| c.to_ascii_uppercase());
    let shift = match (unit.next(), unit.next()) {
        (None, _) | (Some('B'), None) => 0,
        (Some(prefix), None | Some('B')) => match "KMGTPE".find(prefix) {
            Some(place) => 10 * (place + 1),
            None => return Bytes::Unreadable,
        },
        _ => return Bytes::Unreadable,
    };
    Bytes::Of(u64::try_from(number.saturating_mul(1 << shift)).unwrap_or(u64::MAX))
}

/// The number that a text begins with, and the rest.
fn number(text: &str) -> Option<(u128, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    (!digits.is_empty()).then(|| (digits.parse().unwrap_or(u128::MAX >> 64), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_counted_with_their_ranges() {
        let is_fatal = |name, value: &str| reason(name, value).is_some();
        assert!(is_fatal("NET_DEVICES", "eth[0-9],veth[1-99]") && is_fatal("TLS", "a[0-64]"));
        assert!(!is_fatal("NET_DEVICES", "mlx5_[0-63]:1") && !is_fatal("ALLOC_PRIO", "a[0-99]"));
    }

    /// What UCX 1.23 did with each, but for negative ratios, at which it ended at times.
    #[test]
    fn numbers_that_ucx_fails_at_are_known() {
        let is_fatal = |name, value: &str| reason(name, value).is_some();
        for value in ["0", "00", "+0", " 0", "0x1", "0k"] {
            assert!(is_fatal("NUM_PPN", value), "{value:?}");
        }
        for value in ["1", "", "-1", "inf", "auto"] {
            assert!(!is_fatal("NUM_PPN", value), "{value:?}");
        }
        assert!(is_fatal("MULTI_LANE_MAX_RATIO", "-1") && is_fatal("MULTI_LANE_MAX_RATIO", " -.5"));
        assert!(!is_fatal("MULTI_LANE_MAX_RATIO", "0.5") && !is_fatal("MULTI_LANE_MAX_RATIO", "x"));
        for value in ["", ",", " sysfs", "SYSFS", "def*", "sysfs default", "nan"] {
            assert!(is_fatal("TOPO_PRIO", value), "{value:?}");
        }
        for value in ["default", "x,sysfs", ",default,"] {
            assert!(!is_fatal("TOPO_PRIO", value), "{value:?}");
        }
        for name in ["POSIX_FIFO_ELEM_SIZE", "SYSV_FIFO_ELEM_SIZE", "MM_FIFO_ELEM_SIZE"] {
            for value in ["-1", "inf", "4294967295", "33554432"] {
                assert!(is_fatal(name, value), "{name} {value:?}");
            }
            assert!(!is_fatal(name, "128") && !is_fatal(name, "65536"));
        }
        assert!(is_fatal("SYSV_FIFO_SIZE", "33554432") && !is_fatal("SYSV_FIFO_SIZE", "256"));
        for value in ["inf", "4294967295", "11s", "0.5m", "20000ms", "1e2"] {
            assert!(is_fatal("MEM_BISTRO_GRACE_DURATION", value), "{value:?}");
        }
        for value in ["2", "50000.00us", "0.1m", "-1", "x", "99x", "90ns", ""] {
            assert!(!is_fatal("MEM_BISTRO_GRACE_DURATION", value), "{value:?}");
        }
    }

    /// What UCX 1.23 did with each.
    #[test]
    fn sizes_and_numbers_of_log_files_are_read_as_ucx_reads_them() {
        let is_fatal = |size, message| reason_of_size(size, message).is_some();
        for size in ["100", "1000b", " 5", "1023", "0"] {
            assert!(is_fatal(size, None), "{size:?}");
        }
        for size in ["1K", "1kb", "1024", "inf", "auto", "junk", "", "-1", "5Q", "5xyz", "0.5K"] {
            assert!(!is_fatal(size, None), "{size:?}");
        }
        for (size, message) in [("1K", "2K"), ("1K", "inf"), ("255", "auto"), ("1023", "junk")] {
            assert!(is_fatal(size, Some(message)), "{size} {message}");
        }
        for (size, message) in [("256", "auto"), ("1200", "64M"), ("1", "1"), ("9E9", "1P")] {
            assert!(!is_fatal(size, Some(message)), "{size} {message}");
        }
        let is_fatal = |rotate| reason("LOG_FILE_ROTATE", rotate).is_some();
        for rotate in
            ["3000000000", "-1", "inf", "2147483648x", "99999999999999999999999999999999999999999"]
        {
            assert!(is_fatal(rotate), "{rotate:?}");
        }
        for rotate in ["0", "2147483647", "junk", "", "0x80000000"] {
            assert!(!is_fatal(rotate), "{rotate:?}");
        }
    }
}
