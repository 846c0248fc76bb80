//! The time for which TCP retransmits unacknowledged data.

use std::fs;
use std::time::Duration;

/// How long after it was sent first the kernel sends data again at the latest, before it gives the connection up: what waits longer
/// never arrives. Of this host's setting (`net.ipv4.tcp_retries2`, 15 unless it is changed), which hosts of one cluster usually share.
///
/// 1,045 s by default: 924.6 s, by the kernel's documentation of the setting, and one more interval of the longest, 120 s.
#[must_use]
pub fn tcp_gives_up_after() -> Duration {
    let setting = fs::read_to_string("/proc/sys/net/ipv4/tcp_retries2");
    given_up_after(setting.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(15))
}

/// Intervals double from 200 ms to 120 s.
fn given_up_after(retries: u32) -> Duration {
    const LONGEST: Duration = Duration::from_secs(120);
    let interval = |retry: u32| LONGEST.min(Duration::from_millis(200 << retry.min(10)));
    (0..=retries.min(255)).map(interval).sum::<Duration>() + LONGEST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_as_the_kernel_documents_it() {
        assert_eq!(given_up_after(15), Duration::from_millis(924_600 + 120_000));
        assert_eq!(given_up_after(0), Duration::from_millis(200 + 120_000));
        assert!(given_up_after(u32::MAX) < Duration::from_secs(10 * 3600));
    }
}
