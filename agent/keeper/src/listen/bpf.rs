//! The program in the kernel that names, for each new connection, the socket of the group that gets it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

/// The action of the error that means: no BPF here.
pub(super) const ATTACH: &str = "attach a steering program to";

/// Offset that makes a classic BPF load count from the network header.
const NET: u32 = (-0x10_0000_i32).cast_unsigned();

/// The address a probe comes from. It is bound by the keeper while the program names it, so nobody else can have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// Address and port of the connecting socket.
    pub addr: SocketAddr,
    /// The index of the socket that gets its connections.
    pub index: u32,
}

/// The address at which a listener bound to `bound` is reached from this host.
pub(super) fn reachable(bound: SocketAddr) -> SocketAddr {
    match bound.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, bound.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, bound.port()).into(),
        _ => bound,
    }
}

/// The address a probe of `bound` comes from: one no user has, where there is one; else this host's own.
pub(super) fn probe_source(bound: SocketAddr) -> SocketAddr {
    match reachable(bound).ip() {
        IpAddr::V4(ip) if ip.is_loopback() => (Ipv4Addr::new(127, 77, 0, 1), 0).into(),
        ip => (ip, 0).into(),
    }
}

fn op(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

/// Loads at `offset` from the network header and goes on only if the value is `k`; else jumps over `otherwise`
/// instructions, which [`program`] fills in.
fn expect(size: u32, offset: u32, k: u32) -> [libc::sock_filter; 2] {
    [
        op(libc::BPF_LD | size | libc::BPF_ABS, NET.wrapping_add(offset)),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, k),
    ]
}

/// "A connection from `probe` goes to its index, every other to `active`."
fn program(active: u32, probe: Option<Source>) -> Vec<libc::sock_filter> {
    let mut code = Vec::new();
    if let Some(Source { addr, index }) = probe {
        match addr.ip() {
            IpAddr::V4(ip) => {
                code.extend(expect(libc::BPF_W, 12, u32::from(ip)));
                code.extend(expect(libc::BPF_H, 20, u32::from(addr.port())));
            }
            IpAddr::V6(ip) => {
                // A socket for both families sees IPv4 packets as such.
                code.push(op(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, NET));
                code.push(op(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0xf0));
                code.push(op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0x60));
                for (word, offset) in ip.octets().chunks_exact(4).zip([8, 12, 16, 20]) {
                    code.extend(expect(
                        libc::BPF_W,
                        offset,
                        u32::from_be_bytes([word[0], word[1], word[2], word[3]]),
                    ));
                }
                code.extend(expect(libc::BPF_H, 40, u32::from(addr.port())));
            }
        }
        code.push(op(libc::BPF_RET | libc::BPF_K, index));
        let end = code.len();
        for (at, instruction) in code.iter_mut().enumerate() {
            if u32::from(instruction.code) & 0x07 == libc::BPF_JMP {
                instruction.jf = (end - at - 1) as u8;
            }
        }
    }
    code.push(op(libc::BPF_RET | libc::BPF_K, active));
    code
}

/// Gives the group of `socket` this program; connections from the next one on follow it.
pub(super) fn attach(socket: BorrowedFd<'_>, active: u32, probe: Option<Source>) -> io::Result<()> {
    let mut code = program(active, probe);
    let filter = libc::sock_fprog {
        len: code.len() as u16,
        filter: code.as_mut_ptr(),
    };
    // SAFETY: the pointer and size describe `filter`, and `filter` describes `code`; both outlive the call, which copies.
    #[allow(unsafe_code, reason = "no safe crate sets this option")]
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            std::ptr::from_ref(&filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
