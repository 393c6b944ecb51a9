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

/// A share of the clients that goes to another socket than all others do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    /// The index of the socket that gets it.
    pub index: u32,
    /// 1 to 100.
    pub percent: u8,
    /// Another number shuffles the clients anew.
    pub salt: u32,
}

impl Share {
    /// Lots below it are in; none: all are.
    fn threshold(self) -> Option<u32> {
        let lots = (u64::from(self.percent) << 32).div_ceil(100);
        u32::try_from(lots).ok()
    }
}

/// What an address draws; [`Share::threshold`] says whether that is in. A greater threshold keeps whoever was in.
///
/// The program computes the very same: every word of the address is multiplied into the sum, then all bits are mixed.
#[must_use]
pub fn lot(client: IpAddr, salt: u32) -> u32 {
    let sum = match client.to_canonical() {
        IpAddr::V4(ip) => u32::from(ip),
        // Nothing times anything is nothing, so the first word is taken as it is.
        IpAddr::V6(ip) => ip.octets().chunks_exact(4).fold(0, |sum: u32, word| {
            sum.wrapping_mul(SPREAD) ^ u32::from_be_bytes([word[0], word[1], word[2], word[3]])
        }),
    };
    let mut lot = sum ^ salt;
    for (shift, factor) in MIX {
        lot ^= lot >> shift;
        lot = lot.wrapping_mul(factor);
    }
    lot ^ (lot >> 16)
}

/// Whether a client is in a share of so many per cent.
#[must_use]
pub fn is_in(client: IpAddr, salt: u32, percent: u8) -> bool {
    let share = Share {
        index: 0,
        percent,
        salt,
    };
    share
        .threshold()
        .is_none_or(|threshold| lot(client, salt) < threshold)
}

const SPREAD: u32 = 0x9e37_79b1;
/// The last steps of MurmurHash3: every bit of an address changes about half of those of its lot.
const MIX: [(u32, u32); 2] = [(16, 0x85eb_ca6b), (13, 0xc2b2_ae35)];

fn op(code: u32, k: u32) -> libc::sock_filter {
    jump(code, 0, 0, k)
}

fn jump(code: u32, jt: usize, jf: usize, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt: jt as u8,
        jf: jf as u8,
        k,
    }
}

/// Loads at `offset` from the network header.
fn load(size: u32, offset: u32) -> libc::sock_filter {
    op(libc::BPF_LD | size | libc::BPF_ABS, NET.wrapping_add(offset))
}

/// Loads at `offset` from the network header and goes on only if the value is `k`; else jumps behind the part, which
/// [`probe_part`] fills in.
fn expect(size: u32, offset: u32, k: u32) -> [libc::sock_filter; 2] {
    [
        load(size, offset),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, k),
    ]
}

fn arithmetic(operation: u32, k: u32) -> libc::sock_filter {
    op(libc::BPF_ALU | operation | libc::BPF_K, k)
}

fn xor_x() -> libc::sock_filter {
    op(libc::BPF_ALU | libc::BPF_XOR | libc::BPF_X, 0)
}

fn keep_in_x() -> libc::sock_filter {
    op(libc::BPF_MISC | libc::BPF_TAX, 0)
}

/// The IP version in the upper half of the first byte; a socket for both families sees IPv4 packets as such.
fn version() -> [libc::sock_filter; 2] {
    [load(libc::BPF_B, 0), arithmetic(libc::BPF_AND, 0xf0)]
}

/// "A connection from the probe goes to its index."
fn probe_part(Source { addr, index }: Source) -> Vec<libc::sock_filter> {
    let mut code = Vec::new();
    match addr.ip() {
        IpAddr::V4(ip) => {
            code.extend(expect(libc::BPF_W, 12, u32::from(ip)));
            code.extend(expect(libc::BPF_H, 20, u32::from(addr.port())));
        }
        IpAddr::V6(ip) => {
            code.extend(version());
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
    code
}

/// "A client whose lot is in goes to the share's index."
fn share_part(share: Share) -> Vec<libc::sock_filter> {
    let to_share = op(libc::BPF_RET | libc::BPF_K, share.index);
    let Some(threshold) = share.threshold() else {
        return vec![to_share];
    };
    let mut six = vec![load(libc::BPF_W, 8)];
    for offset in [12, 16, 20] {
        six.extend([
            arithmetic(libc::BPF_MUL, SPREAD),
            keep_in_x(),
            load(libc::BPF_W, offset),
            xor_x(),
        ]);
    }
    let four = load(libc::BPF_W, 12);
    let mut code = version().to_vec();
    code.push(jump(
        libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
        0,
        six.len() + 1,
        0x60,
    ));
    code.extend(six);
    code.push(op(libc::BPF_JMP | libc::BPF_JA, 1));
    code.push(four);
    code.push(arithmetic(libc::BPF_XOR, share.salt));
    for (shift, factor) in MIX {
        code.extend([keep_in_x(), arithmetic(libc::BPF_RSH, shift), xor_x()]);
        code.push(arithmetic(libc::BPF_MUL, factor));
    }
    code.extend([keep_in_x(), arithmetic(libc::BPF_RSH, 16), xor_x()]);
    code.push(jump(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 1, 0, threshold));
    code.push(to_share);
    code
}

/// "A connection from `probe` goes to its index, a client in `share` to its, every other to `active`."
fn program(active: u32, probe: Option<Source>, share: Option<Share>) -> Vec<libc::sock_filter> {
    let mut code = probe.map(probe_part).unwrap_or_default();
    code.extend(share.map(share_part).unwrap_or_default());
    code.push(op(libc::BPF_RET | libc::BPF_K, active));
    code
}

/// Gives the group of `socket` this program; connections from the next one on follow it.
pub(super) fn attach(
    socket: BorrowedFd<'_>,
    active: u32,
    probe: Option<Source>,
    share: Option<Share>,
) -> io::Result<()> {
    let mut code = program(active, probe, share);
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
