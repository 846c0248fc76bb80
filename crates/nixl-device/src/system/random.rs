//! Random numbers of the system.

use std::fs::File;
use std::io::{self, Read as _};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

/// Fills the bytes with random ones. Where the system call is refused they are those of `/dev/urandom`, as `uuid` takes them.
///
/// # Errors
///
/// The system's, if neither is there.
pub fn fill_random(bytes: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        match getrandom(&mut bytes[filled..], GetRandomFlags::empty()) {
            Ok(some) => filled += some,
            Err(Errno::INTR) => {}
            Err(_) => return from_device(&mut bytes[filled..]),
        }
    }
    Ok(())
}

fn from_device(bytes: &mut [u8]) -> io::Result<()> {
    let named = |path: &'static str| {
        File::open(path).map_err(|error| {
            let text = format!("getrandom is refused, and {path} cannot be opened: {error}");
            io::Error::new(error.kind(), text)
        })
    };
    // It can be read once the kernel has numbers; the other is read without a wait.
    poll(&mut [PollFd::new(&named("/dev/random")?, PollFlags::IN)], None)?;
    named("/dev/urandom")?.read_exact(bytes)
}

#[cfg(all(test, not(miri)))]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_either_source_differ() {
        let mut filled = [[0; 300]; 4];
        fill_random(&mut filled[0]).unwrap();
        fill_random(&mut filled[1]).unwrap();
        from_device(&mut filled[2]).unwrap();
        from_device(&mut filled[3]).unwrap();
        for (at, one) in filled.iter().enumerate() {
            assert!(filled[..at].iter().all(|other| one[284..] != other[284..]));
        }
    }
}
