//! Asking the kernel for sockets by NETLINK_SOCK_DIAG: it filters by port itself, so other programs' sockets cost next to
//! nothing, however many there are.
//!
//! A request is a header and a question; the answer comes in parts of at most [`BUFFER`] bytes, each with whole messages:
//!
//! ```text
//! header  u32 length · u16 type · u16 flags · u32 sequence · u32 port     (16 bytes, native order)
//! tcp     u8 family · u8 state · u16 - · be16 local port · be16 remote port · 16 local · 16 remote ·
//!         u32 interface · u64 cookie · u32 expires · u32 in · u32 out · u32 uid · u32 inode
//! unix    u8 family · u8 type · u8 state · u8 - · u32 inode · u64 cookie · attributes
//! ```

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

use super::{Connection, is_open};

/// Bytes taken at once. The kernel cuts its answer to it, but never below 8 KiB.
const BUFFER: usize = 16 * 1024;
const HEADER: usize = 16;

const REQUEST: u16 = 0x1;
const ALL: u16 = 0x300;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const BY_FAMILY: u16 = 20;

const FAMILY_UNIX: u8 = 1;
const FAMILY_V4: u8 = 2;
const FAMILY_V6: u8 = 10;
const TCP: u8 = 6;
/// Established, and closed by the other side only.
const OPEN: u32 = 1 << 1 | 1 << 8;
const ESTABLISHED: u32 = 1 << 1;

/// The attribute that carries the program that filters.
const BYTECODE: u16 = 1;
const OP_JUMP: u8 = 1;
const OP_LOCAL_PORT_IS: u8 = 11;

/// Tells of every open TCP connection on one of these local ports. `v6` chooses the sockets' family: what comes over IPv4
/// to an IPv6 listener is of the latter.
///
/// # Errors
/// When the kernel does not answer or may not; some may have been told of before.
pub(super) fn each_tcp(v6: bool, ports: &[u16], mut visit: impl FnMut(Connection)) -> io::Result<()> {
    let family = if v6 { FAMILY_V6 } else { FAMILY_V4 };
    let mut request = header(REQUEST | ALL);
    request.extend([family, TCP, 0, 0]);
    request.extend(OPEN.to_ne_bytes());
    request.extend([0; 48]);
    let filter = filter(ports);
    let length = u16::try_from(4 + filter.len()).map_err(|_| io::Error::other("too many ports"))?;
    request.extend(length.to_ne_bytes());
    request.extend(BYTECODE.to_ne_bytes());
    request.extend(filter);
    ask(request, |body| {
        if let Some((connection, state)) = connection(body)
            && is_open(state)
        {
            visit(connection);
        }
    })
}

/// The server's end of the connection from `client` to `server`, if it is open.
///
/// # Errors
/// When the kernel does not answer or may not.
pub(super) fn find_tcp(client: SocketAddr, server: SocketAddr) -> io::Result<Option<Connection>> {
    let mut request = header(REQUEST);
    let family = if server.is_ipv6() { FAMILY_V6 } else { FAMILY_V4 };
    request.extend([family, TCP, 0, 0]);
    request.extend(OPEN.to_ne_bytes());
    request.extend(server.port().to_be_bytes());
    request.extend(client.port().to_be_bytes());
    request.extend(sixteen(server.ip()));
    request.extend(sixteen(client.ip()));
    request.extend([0; 4]);
    // Any cookie will do.
    request.extend([0xff; 8]);
    let mut found = None;
    let asked = ask(request, |body| {
        // Without such a connection the listener itself is found.
        found = connection(body)
            .filter(|(connection, state)| is_open(*state) && connection.remote_port == client.port())
            .map(|(connection, _)| connection);
    });
    match asked {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        other => other.map(|()| found),
    }
}

/// Tells the inode and bound name of every connected Unix stream that has a name, as accepted ones do.
///
/// # Errors
/// When the kernel does not answer or may not; some may have been told of before.
pub(super) fn each_unix(mut visit: impl FnMut(u32, &[u8])) -> io::Result<()> {
    const SHOW_NAME: u32 = 1;
    const NAME: u16 = 0;
    let mut request = header(REQUEST | ALL);
    request.extend([FAMILY_UNIX, 0, 0, 0]);
    request.extend(ESTABLISHED.to_ne_bytes());
    request.extend([0; 4]);
    request.extend(SHOW_NAME.to_ne_bytes());
    request.extend([0xff; 8]);
    ask(request, |body| {
        let Some(inode) = u32_at(body, 4) else { return };
        each_attribute(body, |kind, value| {
            if kind == NAME {
                visit(inode, value);
            }
        });
    })
}

/// The inode of the other end of the Unix stream with this inode, 0 while nobody has accepted it; none when it has none.
///
/// # Errors
/// When the kernel does not answer or may not, or there is no such stream.
pub(super) fn unix_peer(inode: u32) -> io::Result<Option<u32>> {
    const SHOW_PEER: u32 = 4;
    const PEER: u16 = 2;
    let mut request = header(REQUEST);
    request.extend([FAMILY_UNIX, 0, 0, 0]);
    request.extend(u32::MAX.to_ne_bytes());
    request.extend(inode.to_ne_bytes());
    request.extend(SHOW_PEER.to_ne_bytes());
    request.extend([0xff; 8]);
    let mut found = None;
    ask(request, |body| {
        each_attribute(body, |kind, value| {
            if kind == PEER {
                found = u32_at(value, 0);
            }
        });
    })?;
    Ok(found)
}

/// Hands over the attributes behind the fixed part of what is told of a Unix socket.
fn each_attribute(body: &[u8], mut visit: impl FnMut(u16, &[u8])) {
    let mut rest = body.get(16..).unwrap_or_default();
    while let (Some(length), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let Some(value) = rest.get(4..usize::from(length)) else {
            return;
        };
        visit(kind, value);
        rest = rest.get(aligned(usize::from(length))..).unwrap_or_default();
    }
}

/// A program for the kernel's filter: true when the local port is one of `ports`.
///
/// An operation is `u8 code · u8 yes · u16 no`: how many bytes to go on by. Ending exactly behind the program accepts, four
/// bytes further refuses.
fn filter(ports: &[u16]) -> Vec<u8> {
    let mut program = Vec::new();
    // Each but the last is a comparison of 8 bytes and, if it holds, a jump of 4 to the end.
    let length = (ports.len() * 12).saturating_sub(4);
    for (index, port) in ports.iter().enumerate() {
        let mut operation = |code: u8, yes: u8, no: u16| {
            program.extend([code, yes]);
            program.extend(no.to_ne_bytes());
        };
        operation(OP_LOCAL_PORT_IS, 8, 12);
        operation(0, 0, *port);
        if index + 1 < ports.len() {
            let to_end = length - (index * 12 + 8);
            operation(OP_JUMP, 4, u16::try_from(to_end).unwrap_or(4));
        }
    }
    program
}

fn header(flags: u16) -> Vec<u8> {
    let mut request = vec![0; 4];
    request.extend(BY_FAMILY.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend([0; 8]);
    request
}

/// Sends the request and hands over the body of every message of the answer. Never blocks: the kernel has the next part
/// ready when the one before was taken.
fn ask(mut request: Vec<u8>, mut visit: impl FnMut(&[u8])) -> io::Result<()> {
    let length = u32::try_from(request.len()).map_err(io::Error::other)?;
    request[..4].copy_from_slice(&length.to_ne_bytes());
    let socket = socket()?;
    rustix::net::send(&socket, &request, SendFlags::empty())?;
    let whole = u16_at(&request, 6) == Some(REQUEST);
    let mut buffer = [0_u8; BUFFER];
    loop {
        let flags = RecvFlags::DONTWAIT | RecvFlags::TRUNC;
        let (_, length) = match rustix::net::recv(&socket, &mut buffer, flags) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        let part = buffer
            .get(..length)
            .ok_or_else(|| io::Error::other("an answer of the kernel was cut"))?;
        if take_part(part, &mut visit)? || whole {
            return Ok(());
        }
    }
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let protocol = Some(netlink::SOCK_DIAG);
    Ok(rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        flags,
        protocol,
    )?)
}

/// Hands over the bodies in one part of an answer; true when it was the last.
fn take_part(mut part: &[u8], visit: &mut impl FnMut(&[u8])) -> io::Result<bool> {
    if part.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    while !part.is_empty() {
        let malformed = || io::Error::other("an answer of the kernel makes no sense");
        let length = u32_at(part, 0).ok_or_else(malformed)? as usize;
        let kind = u16_at(part, 4).ok_or_else(malformed)?;
        let body = part.get(HEADER..length).ok_or_else(malformed)?;
        match kind {
            // Both carry an error as a negative number, or 0.
            ERROR | DONE => {
                let code = u32_at(body, 0).map_or(0, u32::cast_signed);
                if code < 0 {
                    return Err(io::Error::from_raw_os_error(code.saturating_neg()));
                }
                return Ok(true);
            }
            BY_FAMILY => visit(body),
            _ => {}
        }
        part = part.get(aligned(length)..).unwrap_or_default();
    }
    Ok(false)
}

fn connection(body: &[u8]) -> Option<(Connection, u8)> {
    let (family, state) = (*body.first()?, *body.get(1)?);
    let be16 = |at: usize| Some(u16::from_be_bytes(body.get(at..at + 2)?.try_into().ok()?));
    Some((
        Connection {
            local: SocketAddr::new(ip(family, body.get(8..24)?)?, be16(4)?),
            remote_port: be16(6)?,
            inode: u32_at(body, 68)?,
        },
        state,
    ))
}

fn ip(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    if family == FAMILY_V4 {
        let four: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
        return Some(Ipv4Addr::from(four).into());
    }
    let sixteen: [u8; 16] = bytes.try_into().ok()?;
    Some(IpAddr::from(Ipv6Addr::from(sixteen)).to_canonical())
}

fn sixteen(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&ip.octets());
            bytes
        }
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn aligned(length: usize) -> usize {
    length.max(4).next_multiple_of(4)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::{BY_FAMILY, DONE, ERROR, connection, filter, take_part};

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = (16 + body.len() as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn parts_are_taken_whole_and_nonsense_is_refused() {
        let mut seen = Vec::new();
        let mut part = message(BY_FAMILY, b"abcd");
        part.extend(message(BY_FAMILY, b"efgh"));
        assert!(!take_part(&part, &mut |body: &[u8]| seen.push(body.to_vec())).unwrap());
        assert_eq!(seen, [b"abcd".to_vec(), b"efgh".to_vec()]);
        part.extend(message(DONE, &[0; 4]));
        assert!(take_part(&part, &mut |_: &[u8]| ()).unwrap());
        let refused = message(ERROR, &(-1_i32).to_ne_bytes());
        let error = take_part(&refused, &mut |_: &[u8]| ()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
        for length in 1..part.len() {
            // Cut anywhere, it ends without a panic and without a body that is not there.
            let _ = take_part(&part[..length], &mut |body: &[u8]| assert_eq!(body.len(), 4));
        }
        let mut endless = message(BY_FAMILY, b"");
        endless[..4].copy_from_slice(&0_u32.to_ne_bytes());
        assert!(take_part(&endless, &mut |_: &[u8]| ()).is_err());
        assert!(connection(&[2; 71]).is_none());
    }

    /// The kernel refuses a program whose jumps do not fit; here they are walked as it does.
    #[test]
    fn the_filter_accepts_its_ports_only() {
        let accepts = |program: &[u8], port: u16| {
            let (mut at, mut left) = (0, program.len() as isize);
            while left > 0 {
                let value = |at: usize| u16::from_ne_bytes(program[at..at + 2].try_into().unwrap());
                let yes = program[at] == super::OP_LOCAL_PORT_IS && value(at + 6) == port;
                let by = if yes {
                    program[at + 1].into()
                } else {
                    value(at + 2)
                };
                at += usize::from(by);
                left -= by as isize;
            }
            left == 0
        };
        let ports = [80, 443, 8080, 9090];
        for count in 1..=ports.len() {
            let program = filter(&ports[..count]);
            for (index, port) in ports.iter().enumerate() {
                assert_eq!(accepts(&program, *port), index < count, "{count} {port}");
            }
        }
    }
}
