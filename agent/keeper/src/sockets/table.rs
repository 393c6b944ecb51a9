//! The kernel's tables of sockets under /proc: every socket of the host as text. Slow on a busy host; for systems where
//! [`super::diag`] is not permitted.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Connection, is_open};

/// Tells of every open TCP connection of the family.
pub(super) fn each_tcp(v6: bool, mut visit: impl FnMut(Connection)) {
    let table = if v6 {
        "/proc/self/net/tcp6"
    } else {
        "/proc/self/net/tcp"
    };
    each_line(table, |fields| {
        if let Some((connection, state)) = connection(fields)
            && is_open(state)
        {
            visit(connection);
        }
    });
}

/// Tells the inode and bound name of every connected Unix stream that has a name.
pub(super) fn each_unix(mut visit: impl FnMut(u32, &[u8])) {
    // Num RefCount Protocol Flags Type St Inode Path: an accepted socket is connected (03) and has the listener's path.
    each_line("/proc/self/net/unix", |fields| {
        let inode = fields.get(6).and_then(|inode| inode.parse().ok());
        if let (Some("03"), Some(inode), Some(path)) = (fields.get(5).copied(), inode, fields.get(7)) {
            visit(inode, path.as_bytes());
        }
    });
}

/// sl local rem st tx:rx tr:when retrnsmt uid timeout inode ...
fn connection(fields: &[&str]) -> Option<(Connection, u8)> {
    let port = |field: &str| u16::from_str_radix(field.rsplit(':').next()?, 16).ok();
    let (ip, _) = fields.get(1)?.split_once(':')?;
    Some((
        Connection {
            local: SocketAddr::new(self::ip(ip)?, port(fields.get(1)?)?),
            remote_port: port(fields.get(2)?)?,
            inode: fields.get(9)?.parse().ok()?,
        },
        u8::from_str_radix(fields.get(3)?, 16).ok()?,
    ))
}

/// Words of 32 bits, each printed as this machine reads it from memory.
fn ip(text: &str) -> Option<IpAddr> {
    let mut bytes = Vec::with_capacity(16);
    for at in (0..text.len()).step_by(8) {
        bytes.extend(u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    }
    if let Ok(four) = <[u8; 4]>::try_from(bytes.as_slice()) {
        return Some(Ipv4Addr::from(four).into());
    }
    let sixteen = <[u8; 16]>::try_from(bytes.as_slice()).ok()?;
    Some(IpAddr::from(Ipv6Addr::from(sixteen)).to_canonical())
}

fn each_line(table: &str, mut visit: impl FnMut(&[&str])) {
    let Ok(file) = File::open(table) else { return };
    let mut reader = BufReader::new(file);
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|count| count > 0) {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        visit(&fields);
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::ip;

    #[test]
    #[cfg(target_endian = "little")]
    fn reads_addresses() {
        assert_eq!(ip("0100007F"), "127.0.0.1".parse().ok());
        assert_eq!(ip("00000000000000000000000001000000"), "::1".parse().ok());
        assert_eq!(ip("0000000000000000FFFF00000100007F"), "127.0.0.1".parse().ok());
        assert_eq!(ip("01"), None);
        assert_eq!(ip(""), None);
    }
}
