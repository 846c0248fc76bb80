//! The kernel's table of TCP sockets as text: the same figures as of `inet_diag`, at twenty times its cost.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::tcp::Row;

/// All sockets of this network namespace.
pub(super) fn table() -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for path in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        match File::open(path) {
            Ok(file) => read(BufReader::with_capacity(1 << 16, file), &mut rows)?,
            // Without IPv6 in the kernel.
            Err(error) if error.kind() == ErrorKind::NotFound && path.ends_with('6') => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(rows)
}

fn read(mut text: impl BufRead, rows: &mut Vec<Row>) -> Result<(), String> {
    let mut line = String::new();
    // The first line has titles.
    for number in 0_u64.. {
        line.clear();
        if text.read_line(&mut line).map_err(|error| error.to_string())? == 0 {
            break;
        }
        if number > 0 {
            rows.push(parse(&line).ok_or_else(|| format!("an unknown line: {line:?}"))?);
        }
    }
    Ok(())
}

/// Of ` 0: 0100007F:1F90 0100007F:8C3A 01 00000000:00000005 00:00000000 00000000 1000 0 12345 1 0000000000000000 ...`:
/// number, local, remote, state, bytes to send and to read, timer, retransmits, user, probes, inode.
fn parse(line: &str) -> Option<Row> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, remote) = (parse_address(fields.next()?)?, parse_address(fields.next()?)?);
    let state = u8::from_str_radix(fields.next()?, 16).ok()?;
    let (send, receive) = fields.next()?.split_once(':')?;
    Some(Row {
        local,
        remote,
        state,
        receive_queue: u32::from_str_radix(receive, 16).ok()?,
        send_queue: u32::from_str_radix(send, 16).ok()?,
        inode: fields.nth(4)?.parse().ok()?,
    })
}

/// Words of 32 bits of this machine's order, whose bytes in memory are the address.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |index: usize| {
        let digits = address.get(8 * index..8 * (index + 1))?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    let address = match address.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut bytes = [0; 16];
            for (index, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(index)?);
            }
            IpAddr::from(Ipv6Addr::from(bytes))
        }
        _ => return None,
    };
    Some(SocketAddr::new(address.to_canonical(), u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const TITLES: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n";
    const LINE: &str = "  3: 0100007F:1F90 0200007F:8C3A 08 00000007:00000105 00:00000000 00000000  1000        0 123456789012 1 0000 20 4 30 10 -1\n";

    #[cfg(target_endian = "little")]
    #[test]
    fn a_line_is_read() {
        let row = parse(LINE).unwrap();
        let wanted = Row {
            local: "127.0.0.1:8080".parse().unwrap(),
            remote: "127.0.0.2:35898".parse().unwrap(),
            state: 8,
            receive_queue: 0x105,
            send_queue: 7,
            inode: 123_456_789_012,
        };
        assert_eq!(row, wanted);
        let six = LINE.replace("0100007F:", "00000000000000000000000001000000:");
        let six = six.replace("0200007F:", "0000000000000000FFFF00000200007F:");
        let wanted = Row { local: "[::1]:8080".parse().unwrap(), ..wanted };
        assert_eq!(parse(&six).unwrap(), wanted);
    }

    #[test]
    fn broken_lines_are_refused() {
        let mut rows = Vec::new();
        read(format!("{TITLES}{LINE}{LINE}").as_bytes(), &mut rows).unwrap();
        assert_eq!(rows.len(), 2);
        for broken in ["\n", "1: 0100007F:1F90\n", &LINE.replace("0100007F", "017F"), &LINE[..60]] {
            assert!(read(format!("{TITLES}{broken}").as_bytes(), &mut rows).is_err(), "{broken}");
        }
    }
}
