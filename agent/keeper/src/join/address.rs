//! Which listener a bind means.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The address in the bytes of a `sockaddr`; none where it is no IP address.
#[must_use]
pub fn read(bytes: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(*bytes.first_chunk()?));
    let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
    if family == libc::AF_INET {
        let ip: [u8; 4] = *bytes.get(4..)?.first_chunk()?;
        return Some((Ipv4Addr::from(ip), port).into());
    }
    if family != libc::AF_INET6 {
        return None;
    }
    let ip: [u8; 16] = *bytes.get(8..)?.first_chunk()?;
    Some((Ipv6Addr::from(ip), port).into())
}

/// Whether a socket asked to bind `asked` is meant to be the one of a listener bound to `listener`. `dual` when it takes
/// both families.
///
/// "All addresses" is taken for the one that is listened on: a release that knows only its port fits every host. The other
/// way round would open what the process wants closed. A socket of IPv4 is never given one of IPv6, whose clients'
/// addresses it has no room for.
#[must_use]
pub fn names(listener: SocketAddr, asked: SocketAddr, dual: bool) -> bool {
    if listener.port() != asked.port() {
        return false;
    }
    match (listener.ip(), asked.ip().to_canonical()) {
        (one, other) if one == other => true,
        (IpAddr::V4(_), IpAddr::V4(all)) => all.is_unspecified(),
        (IpAddr::V6(_), IpAddr::V6(all)) => all.is_unspecified(),
        (IpAddr::V4(_), IpAddr::V6(all)) => all.is_unspecified() && dual,
        (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::{names, read};

    #[test]
    fn reads_both_families_and_nothing_else() {
        let mut four = vec![0_u8; 16];
        four[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        four[2..8].copy_from_slice(&[0x1f, 0x90, 127, 0, 0, 2]);
        assert_eq!(read(&four), Some("127.0.0.2:8080".parse().unwrap()));
        assert_eq!(read(&four[..7]), None);
        let mut six = vec![0_u8; 28];
        six[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
        six[2..4].copy_from_slice(&[0, 80]);
        six[23] = 1;
        assert_eq!(read(&six), Some("[::1]:80".parse().unwrap()));
        assert_eq!(read(&six[..20]), None);
        assert_eq!(read(&[1, 0, b'/', b'r']), None);
        assert_eq!(read(&[]), None);
    }

    #[test]
    fn a_bind_means_its_address_or_all_of_them() {
        for (listener, asked, dual, wanted) in [
            ("127.0.0.1:80", "127.0.0.1:80", false, true),
            ("127.0.0.1:80", "127.0.0.1:81", false, false),
            ("127.0.0.1:80", "127.0.0.2:80", false, false),
            ("127.0.0.1:80", "0.0.0.0:80", false, true),
            ("127.0.0.1:80", "[::ffff:127.0.0.1]:80", true, true),
            ("127.0.0.1:80", "[::]:80", true, true),
            ("127.0.0.1:80", "[::]:80", false, false),
            ("0.0.0.0:80", "127.0.0.1:80", false, false),
            ("0.0.0.0:80", "0.0.0.0:80", false, true),
            ("[::]:80", "[::]:80", true, true),
            ("[::]:80", "0.0.0.0:80", false, false),
            ("[::1]:80", "[::]:80", false, true),
            ("[::1]:80", "[::2]:80", false, false),
        ] {
            let found = names(listener.parse().unwrap(), asked.parse().unwrap(), dual);
            assert_eq!(found, wanted, "{listener} {asked} {dual}");
        }
    }
}
