//! The socket that a process wants to bind, as far as the one it is given instead must be like it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::OFlags;
use rustix::net::sockopt;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};

/// Options that a listener passes on to its connections.
const PASSED_ON: [(i32, i32); 7] = [
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT),
];

/// See the module.
#[derive(Debug)]
pub struct Given {
    socket: OwnedFd,
    /// Whether its descriptor is closed when the process runs another program.
    pub close_on_exec: bool,
}

impl Given {
    /// A copy of descriptor `number` of the process that `thread` belongs to. True only if the thread lives on afterwards.
    ///
    /// # Errors
    /// When it may not be looked at.
    pub fn of(thread: u32, number: RawFd) -> io::Result<Self> {
        let process = process_of(thread)?;
        let pid = Pid::from_raw(process.cast_signed()).ok_or(io::ErrorKind::NotFound)?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        let socket = rustix::process::pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty())?;
        let about = std::fs::read_to_string(format!("/proc/{thread}/fdinfo/{number}"))?;
        let flags = about.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
        Ok(Self {
            socket,
            close_on_exec: flags.is_some_and(|flags| flags & libc::O_CLOEXEC != 0),
        })
    }

    /// Whether it can listen for TCP connections; MPTCP's are TCP to those who do not know it.
    #[must_use]
    pub fn is_tcp(&self) -> bool {
        sockopt::socket_type(&self.socket).is_ok_and(|kind| kind == rustix::net::SocketType::STREAM)
    }

    /// Whether it takes IPv4 and IPv6.
    #[must_use]
    pub fn is_dual(&self) -> bool {
        let six = sockopt::socket_domain(&self.socket)
            .is_ok_and(|family| family == rustix::net::AddressFamily::INET6);
        six && !sockopt::ipv6_v6only(&self.socket).unwrap_or(true)
    }

    /// Makes `other` behave as this one does.
    ///
    /// # Errors
    /// When it cannot be told not to wait, without which an event loop would stand still.
    pub fn dress(&self, other: BorrowedFd<'_>) -> io::Result<()> {
        let wanted = rustix::fs::fcntl_getfl(&self.socket)? & OFlags::NONBLOCK;
        let others = rustix::fs::fcntl_getfl(other)? - OFlags::NONBLOCK;
        rustix::fs::fcntl_setfl(other, others | wanted)?;
        for (level, option) in PASSED_ON {
            let wanted = number(self.socket.as_fd(), level, option);
            if wanted != number(other, level, option)
                && let Some(wanted) = wanted
            {
                set_number(other, level, option, wanted);
            }
        }
        Ok(())
    }
}

/// The process that a thread belongs to.
fn process_of(thread: u32) -> io::Result<u32> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status"))?;
    let process = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    process
        .and_then(|digits| digits.trim().parse().ok())
        .ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn number(socket: BorrowedFd<'_>, level: i32, option: i32) -> Option<i32> {
    let mut value = 0_i32;
    let mut length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the value has the length that is told.
    #[allow(unsafe_code, reason = "a table of options has no safe face")]
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_mut(&mut value).cast(),
            &raw mut length,
        )
    };
    (result == 0).then_some(value)
}

/// An option that is refused stays as it was: the listener works all the same.
fn set_number(socket: BorrowedFd<'_>, level: i32, option: i32, value: i32) {
    // SAFETY: the value has the length that is told.
    #[allow(unsafe_code, reason = "a table of options has no safe face")]
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(&value).cast(),
            size_of::<i32>() as libc::socklen_t,
        );
    }
}
