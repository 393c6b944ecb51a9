//! The listeners of an app: bound once, kept for the app's life, and leading new connections to one generation.

mod address;
mod all;
mod bpf;
mod handed;
mod outside;
mod path;
mod shared;
mod steered;

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use thiserror::Error;

pub use address::{Address, AddressError, Transport};
pub use all::{Listeners, key, listeners_of};
pub use bpf::{Source, is_in};
pub use handed::{GroupRecord, MemberRecord};
pub use outside::OutsideGroup;
pub use path::PathGroup;
pub use shared::SharedGroup;
pub use steered::{Canary, SteeredGroup};

use crate::protocol::Steering;

/// Connections that may wait to be accepted; the kernel lowers it to `net.core.somaxconn`.
pub(crate) const BACKLOG: i32 = 4096;

/// Why a listener could not be had.
#[derive(Debug, Error)]
pub enum ListenError {
    /// The address cannot be read.
    #[error("listener {name}")]
    Address {
        /// The listener.
        name: String,
        /// What is wrong with it.
        source: AddressError,
    },
    /// Somebody else listens there.
    #[error("{addr} is taken by another program; stop it or choose another address")]
    Taken {
        /// The address.
        addr: String,
    },
    /// The system refused.
    #[error("cannot {action} {addr}")]
    System {
        /// What was being done.
        action: &'static str,
        /// The address.
        addr: String,
        /// What the system said.
        source: io::Error,
    },
}

impl ListenError {
    fn bind(addr: impl ToString) -> impl FnOnce(io::Error) -> Self {
        let addr = addr.to_string();
        move |source| match source.kind() {
            io::ErrorKind::AddrInUse => Self::Taken { addr },
            _ => Self::System {
                action: "listen on",
                addr,
                source,
            },
        }
    }
}

/// The sockets behind one address.
#[derive(Debug)]
pub enum Group {
    /// One socket per generation, chosen by a BPF program.
    Steered(SteeredGroup),
    /// One socket for all.
    Shared(SharedGroup),
    /// One Unix socket per generation, chosen by what the path names.
    Path(PathGroup),
    /// None: the app listens by itself.
    Outside(OutsideGroup),
}

/// A listening socket of a generation, as the keeper holds it.
#[derive(Debug)]
pub struct Adopted {
    /// The generation that listens on it.
    pub generation: u64,
    /// The keeper's own handle.
    pub socket: OwnedFd,
    /// Its inode.
    pub inode: u64,
}

/// Where and how a probe reaches one generation.
#[derive(Debug)]
pub struct Route {
    /// The connecting socket, already bound to the source the listener knows, if that matters.
    pub socket: OwnedFd,
    /// Whether a good answer proves that this generation gave it.
    pub exclusive: bool,
}

impl Group {
    /// Binds `address`; port 0 takes the port of `before`, or a free one. Where generations cannot have a socket each, one is
    /// bound for all; see [`Group::remark`].
    ///
    /// # Errors
    /// [`ListenError::Taken`] when another program listens there.
    pub fn bind(address: &Address, before: Option<&str>, steering: bool) -> Result<Self, ListenError> {
        let before = before.and_then(|bound| Address::parse(bound).ok());
        let port_is_open = address.inet().is_some_and(|(_, addr)| addr.port() == 0);
        let wanted = before.filter(|_| port_is_open).unwrap_or_else(|| address.clone());
        let better = match (&wanted, wanted.inet()) {
            _ if !steering => Err("the keeper was told not to steer".to_owned()),
            (Address::Unix(path), _) => {
                let group = PathGroup::bind(path)?;
                let tried = group.try_out();
                tried
                    .map(|()| Self::Path(group))
                    .map_err(|error| format!("its path cannot name one socket after the other: {error}"))
            }
            (_, Some((transport, addr))) => match SteeredGroup::bind(transport, addr) {
                Err(error @ ListenError::Taken { .. }) => return Err(error),
                other => other
                    .map(Self::Steered)
                    .map_err(|error| crate::keeper::chain(&error)),
            },
            (_, None) => Err(String::new()),
        };
        better.or_else(|reason| SharedGroup::bind(&wanted, reason).map(Self::Shared))
    }

    /// Takes a group back from the generations that listen on it. `layout` is the order of inodes as the last
    /// keeper wrote it, `active` the generation that gets new connections, but for the share that `canary` has. `spares`,
    /// with their inodes, are sockets of the group that no generation has, and where somebody may wait.
    ///
    /// # Errors
    /// When there is nothing to take or the system refuses; the sockets given are closed then.
    pub fn adopt(
        address: &Address,
        found: Vec<Adopted>,
        spares: Vec<(OwnedFd, u64)>,
        layout: &[u64],
        active: Option<u64>,
        canary: Option<Canary>,
    ) -> Result<Self, ListenError> {
        let one = found.first().map(|found| found.inode);
        let distinct = found.iter().any(|found| Some(found.inode) != one);
        let shared = !distinct && found.len() > 1 && spares.is_empty();
        match (address, address.inet()) {
            (Address::Unix(path), _) if !shared && PathGroup::is_of(path, &found) => {
                Ok(Self::Path(PathGroup::adopt(path, found, spares, active)))
            }
            (_, Some((transport, addr))) if !shared && steered::has_reuseport(&found) => {
                SteeredGroup::adopt(transport, addr, found, spares, layout, active, canary).map(Self::Steered)
            }
            _ => Ok(Self::Shared(SharedGroup::adopt(address, found))),
        }
    }

    /// Why this is less than it could be; none where it is not.
    #[must_use]
    pub fn remark(&self) -> Option<String> {
        match self {
            Self::Shared(group) => Some(format!("one socket for all generations: {}", group.reason())),
            Self::Steered(_) | Self::Path(_) | Self::Outside(_) => None,
        }
    }

    /// Makes a group of the listener of an app that bound it by itself.
    ///
    /// # Errors
    /// [`ListenError::Taken`] when nobody may join it, as when it is another user's.
    pub fn around(found: Adopted) -> Result<Self, ListenError> {
        SteeredGroup::around(found).map(Self::Steered)
    }

    /// Gives `generation` a socket of its own, or its own again, and tells its inode; none where the app makes its own.
    ///
    /// # Errors
    /// When the system has no more; nothing has changed for others.
    pub fn take(&mut self, generation: u64) -> Result<Option<u64>, ListenError> {
        match self {
            Self::Steered(group) => group.take(generation).map(Some),
            Self::Shared(group) => Ok(Some(group.take(generation))),
            Self::Path(group) => group.take(generation).map(Some),
            Self::Outside(group) => {
                group.take(generation);
                Ok(None)
            }
        }
    }

    /// Whether `generation` has what it needs to get new connections.
    #[must_use]
    pub fn has(&self, generation: u64) -> bool {
        match self {
            Self::Steered(_) | Self::Path(_) => self.socket(generation).is_some(),
            Self::Shared(_) | Self::Outside(_) => true,
        }
    }

    /// The socket that `generation` is handed.
    #[must_use]
    pub fn socket(&self, generation: u64) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Steered(group) => group.socket(generation),
            Self::Shared(group) => Some(group.socket()),
            Self::Path(group) => group.socket(generation),
            Self::Outside(_) => None,
        }
    }

    /// Sends new connections to `generation`.
    ///
    /// # Errors
    /// When it has no socket here or the system refuses; nothing has changed then.
    pub fn steer(&mut self, generation: u64) -> Result<(), ListenError> {
        match self {
            Self::Steered(group) => group.steer(generation),
            Self::Shared(_) | Self::Outside(_) => Ok(()),
            Self::Path(group) => group.steer(generation),
        }
    }

    /// Sends a share of the clients to another generation until [`Group::steer`]; false where all or none must be sent.
    ///
    /// # Errors
    /// When it has no socket here or the system refuses; nothing has changed then.
    pub fn share(&mut self, canary: Canary) -> Result<bool, ListenError> {
        match self {
            Self::Steered(group) => group.share(canary).map(|()| true),
            Self::Shared(_) | Self::Path(_) | Self::Outside(_) => Ok(false),
        }
    }

    /// Lets new connections wait until [`Group::steer`], if they go to `generation` now and can be made to wait.
    ///
    /// # Errors
    /// When the system refuses; they go on as before then.
    pub fn hold(&mut self, generation: u64) -> Result<(), ListenError> {
        match self {
            Self::Steered(group) => group.hold(generation),
            Self::Shared(_) | Self::Path(_) | Self::Outside(_) => Ok(()),
        }
    }

    /// Takes over what waits for a generation that accepts nothing more here: see [`Group::orphans`].
    pub fn abandon(&mut self, generation: u64) {
        match self {
            Self::Steered(group) => group.abandon(generation),
            Self::Path(group) => group.abandon(generation),
            Self::Shared(_) | Self::Outside(_) => {}
        }
    }

    /// Takes the socket of a generation that is gone.
    pub fn release(&mut self, generation: u64) {
        match self {
            Self::Steered(group) => group.release(generation),
            Self::Shared(group) => group.release(generation),
            Self::Path(group) => group.release(generation),
            Self::Outside(group) => group.release(generation),
        }
    }

    /// Whether no generation has a socket here.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        match self {
            Self::Steered(group) => group.is_unused(),
            Self::Shared(group) => group.is_unused(),
            Self::Path(group) => group.is_unused(),
            Self::Outside(group) => group.is_unused(),
        }
    }

    /// A socket connecting to `generation`, or to whoever answers where this cannot be chosen.
    ///
    /// # Errors
    /// When it cannot be made, or is refused at once.
    pub fn probe(&mut self, generation: u64) -> io::Result<Route> {
        match self {
            Self::Steered(group) => group.probe(generation),
            Self::Shared(group) => group.probe(),
            Self::Path(group) => group.probe(generation),
            Self::Outside(group) => group.probe(),
        }
    }

    /// A socket connecting to whoever gets new connections, as a user would.
    ///
    /// # Errors
    /// When it cannot be made, or is refused at once.
    pub fn connect(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Steered(group) => connect_inet(group.transport(), group.bound(), None),
            Self::Shared(group) => group.connect(),
            Self::Path(group) => crate::unix::connect_nonblocking(group.path()),
            Self::Outside(group) => group.probe().map(|route| route.socket),
        }
    }

    /// Puts right what a generation did to its own socket (`shutdown` on a listener leaves the group). True when
    /// `generation`'s socket does not listen any more. `proven` when users may be sent to any generation here.
    pub fn inspect(&mut self, generation: u64, proven: bool) -> bool {
        match self {
            Self::Steered(group) => group.inspect(generation, proven),
            Self::Shared(group) => group.inspect(),
            Self::Path(group) => group.inspect(generation),
            Self::Outside(_) => false,
        }
    }

    /// Where it is bound, in the words of an intent.
    #[must_use]
    pub fn bound(&self) -> String {
        match self {
            Self::Steered(group) => group.address().to_string(),
            Self::Shared(group) => group.at().to_string(),
            Self::Path(group) => format!("unix:{}", group.path().display()),
            Self::Outside(group) => group.address().to_string(),
        }
    }

    /// How new connections are led.
    #[must_use]
    pub fn steering(&self) -> Steering {
        match self {
            Self::Steered(_) => Steering::Bpf,
            Self::Shared(_) => Steering::Shared,
            Self::Path(_) => Steering::Path,
            Self::Outside(_) => Steering::Outside,
        }
    }

    /// The bound TCP address, if it has one.
    #[must_use]
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Steered(group) => group.address().tcp(),
            Self::Shared(group) => group.at().tcp(),
            Self::Path(_) => None,
            Self::Outside(group) => group.address().tcp(),
        }
    }

    /// What goes over it; a Unix stream is as good as TCP.
    #[must_use]
    pub fn transport(&self) -> Transport {
        let udp = match self {
            Self::Steered(group) => group.transport() == Transport::Udp,
            Self::Shared(group) => matches!(group.at(), Address::Udp(_)),
            Self::Path(_) => false,
            Self::Outside(group) => matches!(group.address(), Address::Udp(_)),
        };
        if udp { Transport::Udp } else { Transport::Tcp }
    }

    /// Whether users come to it by a path.
    #[must_use]
    pub fn is_unix(&self) -> bool {
        match self {
            Self::Steered(_) => false,
            Self::Shared(group) => matches!(group.at(), Address::Unix(_)),
            Self::Path(_) => true,
            Self::Outside(group) => matches!(group.address(), Address::Unix(_)),
        }
    }

    /// The socket of `generation` that hangs up when it is shut down, to be waited on for that. Datagram sockets do not, and
    /// may have errors for their app to fetch, which would wake the keeper for ever.
    #[must_use]
    pub fn hangs_up(&self, generation: u64) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Steered(group) if group.transport() == Transport::Udp => None,
            // Only TCP's can be revived; another would wake the keeper for ever.
            Self::Shared(group) if group.at().tcp().is_none() => None,
            _ => self.socket(generation),
        }
    }

    /// The inodes of all sockets in the kernel's order, for the next keeper.
    #[must_use]
    pub fn layout(&self) -> Vec<u64> {
        match self {
            Self::Steered(group) => group.layout(),
            Self::Shared(_) | Self::Path(_) | Self::Outside(_) => Vec::new(),
        }
    }

    /// Sockets that no living generation accepts from: connections that strayed there are the keeper's to lead on.
    pub fn orphans(&self) -> Vec<BorrowedFd<'_>> {
        match self {
            Self::Steered(group) => group.orphans(),
            Self::Path(group) => group.orphans(),
            Self::Shared(_) | Self::Outside(_) => Vec::new(),
        }
    }

    /// Whether connections or datagrams wait for `generation` alone.
    #[must_use]
    pub fn has_queue(&self, generation: u64) -> bool {
        match self {
            // Its successor takes them as well.
            Self::Shared(_) => false,
            _ => self.socket(generation).is_some_and(has_queue),
        }
    }
}

/// Whether a connection waits in the accept queue.
pub(crate) fn has_queue(socket: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::new(&socket, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    rustix::event::poll(&mut polled, Some(&now)).is_ok_and(|ready| ready > 0)
        && polled[0].revents().contains(PollFlags::IN)
        && !polled[0].revents().contains(PollFlags::HUP)
}

/// Begins a connection, from `source` when given.
fn connect_inet(transport: Transport, to: SocketAddr, source: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    let socket = match source {
        Some(bound) => bound.try_clone_to_owned()?,
        None => new_client(transport, to)?,
    };
    match rustix::net::connect(&socket, &bpf::reachable(to)) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

fn open(transport: Transport, for_addr: SocketAddr, flags: SocketFlags) -> io::Result<OwnedFd> {
    let family = if for_addr.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let kind = match transport {
        Transport::Tcp => SocketType::STREAM,
        Transport::Udp => SocketType::DGRAM,
    };
    Ok(rustix::net::socket_with(family, kind, flags, None)?)
}

fn new_client(transport: Transport, to: SocketAddr) -> io::Result<OwnedFd> {
    open(transport, to, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
}

/// A new socket to be bound, with the options every listener has.
///
/// It must block: a generation that inherits it may know only blocking accepts.
fn new_socket(transport: Transport, addr: SocketAddr) -> io::Result<OwnedFd> {
    let socket = open(transport, addr, SocketFlags::CLOEXEC)?;
    // Among datagram sockets it would let any other program have the address as well.
    if transport == Transport::Tcp {
        rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    Ok(socket)
}

fn inode_of(socket: impl AsFd) -> io::Result<u64> {
    crate::unix::inode(socket)
}
