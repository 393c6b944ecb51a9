//! The listeners of an app: bound once, kept for the app's life, and leading new connections to one generation.

mod address;
mod bpf;
mod handed;
mod outside;
mod path;
mod shared;
mod steered;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use thiserror::Error;

pub use address::{Address, AddressError};
pub use bpf::Source;
pub use handed::{GroupRecord, MemberRecord};
pub use outside::OutsideGroup;
pub use path::PathGroup;
pub use shared::SharedGroup;
pub use steered::SteeredGroup;

use crate::protocol::{Intent, ListenSpec, ProcessSpec, Steering};

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
    /// One TCP socket per generation, chosen by a BPF program.
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
    /// Binds `address`; port 0 takes the port of `before`, or a free one.
    ///
    /// # Errors
    /// [`ListenError::Taken`] when another program listens there.
    pub fn bind(address: &Address, before: Option<&str>, steering: bool) -> Result<Self, ListenError> {
        match address {
            Address::Unix(path) => Ok(Self::Path(PathGroup::bind(path)?)),
            Address::Tcp(addr) => {
                let wanted = before
                    .and_then(|bound| Address::parse(bound).ok())
                    .and_then(|bound| bound.tcp());
                let addr = wanted.filter(|_| addr.port() == 0).unwrap_or(*addr);
                if steering {
                    match SteeredGroup::bind(addr) {
                        Err(ListenError::System {
                            action: bpf::ATTACH, ..
                        }) => {}
                        other => return other.map(Self::Steered),
                    }
                }
                SharedGroup::bind(addr).map(Self::Shared)
            }
        }
    }

    /// Takes a group back from the generations that listen on it. `layout` is the order of inodes as the last
    /// keeper wrote it, `active` the generation that gets new connections. `spares`, with their inodes, are sockets of the
    /// group that no generation has, and where somebody may wait.
    ///
    /// # Errors
    /// When there is nothing to take or the system refuses; the sockets given are closed then.
    pub fn adopt(
        address: &Address,
        found: Vec<Adopted>,
        spares: Vec<(OwnedFd, u64)>,
        layout: &[u64],
        active: Option<u64>,
    ) -> Result<Self, ListenError> {
        match address {
            Address::Unix(path) => Ok(Self::Path(PathGroup::adopt(path, found))),
            Address::Tcp(addr) => {
                let one = found.first().map(|found| found.inode);
                let distinct = found.iter().any(|found| Some(found.inode) != one);
                let shared = !distinct && found.len() > 1 && spares.is_empty();
                if shared || !steered::has_reuseport(&found) {
                    return Ok(Self::Shared(SharedGroup::adopt(*addr, found)));
                }
                SteeredGroup::adopt(*addr, found, spares, layout, active).map(Self::Steered)
            }
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
            Self::Steered(group) => connect_tcp(group.bound(), None),
            Self::Shared(group) => connect_tcp(group.bound(), None),
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
            Self::Path(_) | Self::Outside(_) => false,
        }
    }

    /// Where it is bound, in the words of an intent.
    #[must_use]
    pub fn bound(&self) -> String {
        match self {
            Self::Steered(group) => format!("tcp:{}", group.bound()),
            Self::Shared(group) => format!("tcp:{}", group.bound()),
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
    pub fn tcp(&self) -> Option<std::net::SocketAddr> {
        match self {
            Self::Steered(group) => Some(group.bound()),
            Self::Shared(group) => Some(group.bound()),
            Self::Path(_) => None,
            Self::Outside(group) => group.address().tcp(),
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
            Self::Shared(_) | Self::Outside(_) => Vec::new(),
            Self::Path(group) => group.orphans(),
        }
    }

    /// Whether connections wait to be accepted by `generation`.
    #[must_use]
    pub fn has_queue(&self, generation: u64) -> bool {
        self.socket(generation).is_some_and(has_queue)
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

/// Begins a TCP connection, from `source` when given.
fn connect_tcp(to: std::net::SocketAddr, source: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    let socket = match source {
        Some(bound) => bound.try_clone_to_owned()?,
        None => new_tcp(to)?,
    };
    match rustix::net::connect(&socket, &bpf::reachable(to)) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

fn new_tcp(for_addr: std::net::SocketAddr) -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let family = if for_addr.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(family, SocketType::STREAM, flags, None)?)
}

/// A new TCP socket with the options every listener has.
///
/// It must block: a generation that inherits it may know only blocking accepts.
fn new_listener(addr: std::net::SocketAddr) -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let family = if addr.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    Ok(socket)
}

fn inode_of(socket: impl AsFd) -> io::Result<u64> {
    crate::unix::inode(socket)
}

/// Begins the key of a listener that the app binds by itself.
const OUTSIDE: &str = "outside ";

/// All listeners of the app, by key.
#[derive(Debug, Default)]
pub struct Listeners {
    groups: BTreeMap<String, Group>,
}

/// The name under which a listener outlives releases: its address, or, as port 0 says nothing, whose it is.
#[must_use]
pub fn key(process: &ProcessSpec, listener: &ListenSpec) -> String {
    if process.strategy.is_outside() {
        return format!("{OUTSIDE}{}", listener.addr);
    }
    match Address::parse(&listener.addr)
        .ok()
        .and_then(|address| address.tcp())
    {
        Some(addr) if addr.port() == 0 => format!("tcp:{addr}#{}.{}", process.name, listener.name),
        Some(addr) => format!("tcp:{addr}"),
        None => listener.addr.clone(),
    }
}

impl Listeners {
    /// Binds what `intent` needs and is not there yet. `bound` tells where port 0 was before. Answers the keys bound anew.
    ///
    /// # Errors
    /// When one cannot be had; those bound by this call are closed again.
    pub fn prepare(
        &mut self,
        intent: &Intent,
        bound: &BTreeMap<String, String>,
        steering: bool,
    ) -> Result<Vec<String>, ListenError> {
        let mut fresh: Vec<String> = Vec::new();
        for (process, listener) in listeners_of(intent) {
            let key = key(process, listener);
            if self.groups.contains_key(&key) {
                continue;
            }
            let made = Address::parse(&listener.addr)
                .map_err(|source| ListenError::Address {
                    name: listener.name.clone(),
                    source,
                })
                .and_then(|address| {
                    if process.strategy.is_outside() {
                        return Ok(Group::Outside(OutsideGroup::new(address)));
                    }
                    Group::bind(&address, bound.get(&key).map(String::as_str), steering)
                });
            // The app itself still listens there: it is bound when that has ended.
            let until_it_ends = self.groups.contains_key(&format!("{OUTSIDE}{}", listener.addr));
            if until_it_ends && matches!(made, Err(ListenError::Taken { .. })) {
                continue;
            }
            match made {
                Ok(group) => {
                    self.groups.insert(key.clone(), group);
                    fresh.push(key);
                }
                Err(error) => {
                    for key in fresh {
                        self.groups.remove(&key);
                    }
                    return Err(error);
                }
            }
        }
        Ok(fresh)
    }

    /// The group under `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Group> {
        self.groups.get(key)
    }

    /// The group under `key`.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Group> {
        self.groups.get_mut(key)
    }

    /// Puts an adopted group in place.
    pub fn insert(&mut self, key: String, group: Group) {
        self.groups.insert(key, group);
    }

    /// All groups with their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Group)> {
        self.groups.iter()
    }

    /// All groups with their keys.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&String, &mut Group)> {
        self.groups.iter_mut()
    }

    /// Closes what is held of the addresses that the app's own processes are about to bind.
    pub fn give_up(&mut self, process: &ProcessSpec) {
        if process.strategy.is_outside() {
            for listener in &process.listen {
                self.groups.remove(&listener.addr);
            }
        }
    }

    /// Closes groups that no generation uses.
    pub fn close_unused(&mut self) {
        self.groups.retain(|_, group| !group.is_unused());
    }
}

/// All listeners of an intent with their processes.
pub fn listeners_of(intent: &Intent) -> impl Iterator<Item = (&ProcessSpec, &ListenSpec)> {
    intent
        .processes
        .iter()
        .flat_map(|process| process.listen.iter().map(move |listener| (process, listener)))
}
