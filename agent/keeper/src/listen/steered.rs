//! One socket per generation in a SO_REUSEPORT group; a BPF program names the one that gets new connections.
//!
//! The kernel keeps the group as an array and moves its *last* member into the place of one that leaves. A generation can
//! leave at any moment, by `shutdown` on its listener. So the last member is always a spare that no app holds: whoever
//! leaves, the place is taken by the spare, never by a generation that users must not see. What strays to the spare is
//! accepted by the keeper and led on.
//!
//! A new generation takes over the spare after another spare was added behind it. The sockets of generations that are gone
//! are closed when all others are proven, so that the layout stays one that is the same after the keeper's own death
//! (which closes its spares): the generations, then one spare.
//!
//! Datagrams know no connections: each is steered by itself, so what a client says goes to the new generation from one
//! datagram to the next. What waits in a generation's queue is its own to read until it is gone, also over a crash of its
//! process; what it never read is lost with it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::bpf::{self, Share, Source};
use super::{
    Address, Adopted, BACKLOG, ListenError, Route, Transport, connect_inet, inode_of, new_client, new_socket,
};

#[derive(Debug)]
pub(super) struct Member {
    pub(super) socket: OwnedFd,
    pub(super) inode: u64,
    pub(super) holder: Option<u64>,
}

/// A generation that gets new connections of a share of the clients, while another gets all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// Which.
    pub generation: u64,
    /// 1 to 100.
    pub percent: u8,
    /// Shuffles the clients, so that they are not the same ones each time.
    pub salt: u32,
}

/// See the module.
#[derive(Debug)]
pub struct SteeredGroup {
    pub(super) transport: Transport,
    pub(super) bound: SocketAddr,
    /// In the kernel's order.
    pub(super) members: Vec<Member>,
    pub(super) active: Option<u64>,
    pub(super) probe: Option<Source>,
    pub(super) canary: Option<Canary>,
}

impl SteeredGroup {
    /// Binds the address and attaches the first program. Until a generation is steered to, connections wait at the spare.
    ///
    /// All that later generations need is tried out: what is refused is refused here.
    pub(super) fn bind(transport: Transport, addr: SocketAddr) -> Result<Self, ListenError> {
        let first = bind_alone(transport, addr).map_err(ListenError::bind(addr))?;
        let bound = local(&first).map_err(ListenError::bind(addr))?;
        let inode = inode_of(&first).map_err(ListenError::bind(addr))?;
        let members = vec![Member {
            socket: first,
            inode,
            holder: None,
        }];
        let mut group = Self {
            transport,
            bound,
            members,
            active: None,
            probe: None,
            canary: None,
        };
        // A datagram socket that was bound alone is in no group before a second one joins.
        group.add_spare().map_err(|error| match error {
            ListenError::Taken { addr } => ListenError::System {
                action: "bind a second socket to",
                addr,
                source: io::ErrorKind::AddrInUse.into(),
            },
            other => other,
        })?;
        Ok(group)
    }

    /// Takes the group back after another keeper's death: its spares are gone but for those that somebody has kept, its
    /// generations' sockets are not.
    ///
    /// The old program may name a place that means another socket by now, so it is replaced before a spare joins.
    pub(super) fn adopt(
        transport: Transport,
        addr: SocketAddr,
        found: Vec<Adopted>,
        spares: Vec<(OwnedFd, u64)>,
        layout: &[u64],
        active: Option<u64>,
        canary: Option<Canary>,
    ) -> Result<Self, ListenError> {
        let order = order_after_death(layout, |inode| {
            found.iter().any(|found| found.inode == inode) || spares.iter().any(|(_, kept)| *kept == inode)
        });
        let mut members: Vec<_> = found
            .into_iter()
            .map(|found| Member {
                socket: found.socket,
                inode: found.inode,
                holder: Some(found.generation),
            })
            .collect();
        members.extend(spares.into_iter().map(|(socket, inode)| Member {
            socket,
            inode,
            holder: None,
        }));
        members.sort_by_key(|member| order.iter().position(|inode| *inode == member.inode));
        let mut group = Self {
            transport,
            bound: addr,
            members,
            active,
            probe: None,
            canary,
        };
        if active.and_then(|generation| group.index(generation)).is_some() {
            group.attach()?;
        }
        group.add_spare()?;
        Ok(group)
    }

    /// Makes a group of a listener that was alone, and whose app goes on with it. Until the program is attached, some of its
    /// users may reach the spare; they are led on.
    pub(super) fn around(found: Adopted) -> Result<Self, ListenError> {
        let addr = local(&found.socket).map_err(ListenError::bind("a listener"))?;
        rustix::net::sockopt::set_socket_reuseport(&found.socket, true)
            .map_err(|error| ListenError::bind(addr)(error.into()))?;
        let copy = found.socket.try_clone().map_err(ListenError::bind(addr))?;
        let mut group = Self {
            transport: Transport::Tcp,
            bound: addr,
            members: vec![Member {
                socket: found.socket,
                inode: found.inode,
                holder: Some(found.generation),
            }],
            active: Some(found.generation),
            probe: None,
            canary: None,
        };
        group.add_spare().inspect_err(|_| {
            let _ = rustix::net::sockopt::set_socket_reuseport(&copy, false);
        })?;
        Ok(group)
    }

    pub(super) fn bound(&self) -> SocketAddr {
        self.bound
    }

    pub(super) fn transport(&self) -> Transport {
        self.transport
    }

    pub(super) fn address(&self) -> Address {
        match self.transport {
            Transport::Tcp => Address::Tcp(self.bound),
            Transport::Udp => Address::Udp(self.bound),
        }
    }

    pub(super) fn layout(&self) -> Vec<u64> {
        self.members.iter().map(|member| member.inode).collect()
    }

    fn index(&self, generation: u64) -> Option<usize> {
        self.members
            .iter()
            .position(|member| member.holder == Some(generation))
    }

    pub(super) fn socket(&self, generation: u64) -> Option<BorrowedFd<'_>> {
        self.index(generation)
            .map(|index| self.members[index].socket.as_fd())
    }

    pub(super) fn is_unused(&self) -> bool {
        self.members.iter().all(|member| member.holder.is_none())
    }

    /// While nobody is steered to, those who wait are to wait on.
    pub(super) fn orphans(&self) -> Vec<BorrowedFd<'_>> {
        if self.active.is_none() || self.transport == Transport::Udp {
            return Vec::new();
        }
        let orphans = self.members.iter().filter(|member| member.holder.is_none());
        orphans.map(|member| member.socket.as_fd()).collect()
    }

    pub(super) fn take(&mut self, generation: u64) -> Result<u64, ListenError> {
        if let Some(index) = self.index(generation) {
            return Ok(self.members[index].inode);
        }
        let last = self.members.len() - 1;
        // The generation that users get takes the socket where they wait, any other one where nobody does.
        let with_queue = self.active == Some(generation);
        let vacant = (0..last).find(|index| {
            let member = &self.members[*index];
            member.holder.is_none() && super::has_queue(member.socket.as_fd()) == with_queue
        });
        let taken = match vacant {
            Some(vacant) => vacant,
            // What was the spare becomes the generation's only after a new spare stands behind it.
            None => {
                self.add_spare()?;
                last
            }
        };
        self.members[taken].holder = Some(generation);
        Ok(self.members[taken].inode)
    }

    fn add_spare(&mut self) -> Result<(), ListenError> {
        let spare = join(self.transport, self.bound).map_err(ListenError::bind(self.bound))?;
        let inode = inode_of(&spare).map_err(ListenError::bind(self.bound))?;
        self.members.push(Member {
            socket: spare,
            inode,
            holder: None,
        });
        self.attach()
    }

    pub(super) fn steer(&mut self, generation: u64) -> Result<(), ListenError> {
        if self.index(generation).is_none() {
            return Err(self.no_socket(generation));
        }
        let before = (self.active.replace(generation), self.canary.take());
        self.attach().inspect_err(|_| (self.active, self.canary) = before)
    }

    /// Sends a share of the clients to another generation than all others.
    pub(super) fn share(&mut self, canary: Canary) -> Result<(), ListenError> {
        if self.index(canary.generation).is_none() {
            return Err(self.no_socket(canary.generation));
        }
        let before = self.canary.replace(canary);
        self.attach().inspect_err(|_| self.canary = before)
    }

    fn no_socket(&self, generation: u64) -> ListenError {
        ListenError::System {
            action: "steer",
            addr: self.bound.to_string(),
            source: io::Error::other(format!("generation {generation} has no socket there")),
        }
    }

    /// New connections wait at the spare, and are led on from there. Datagrams cannot be led on: they wait with whoever is to
    /// come, if somebody is.
    pub(super) fn hold(&mut self, generation: u64) -> Result<(), ListenError> {
        if let Some(canary) = self.canary.take_if(|canary| canary.generation == generation) {
            return self.attach().inspect_err(|_| self.canary = Some(canary));
        }
        if self.active != Some(generation) {
            return Ok(());
        }
        let others = self.members.iter().filter_map(|member| member.holder);
        let next = others.filter(|holder| *holder > generation).max();
        self.active = next.filter(|_| self.transport == Transport::Udp);
        self.attach().inspect_err(|_| self.active = Some(generation))
    }

    /// The program follows the members and the active generation.
    fn attach(&mut self) -> Result<(), ListenError> {
        let last = self.members.len() - 1;
        let active = self
            .active
            .and_then(|generation| self.index(generation))
            .unwrap_or(last);
        let socket = self.members[last].socket.as_fd();
        bpf::attach(socket, active as u32, self.probe, self.in_program()).map_err(|source| {
            ListenError::System {
                action: bpf::ATTACH,
                addr: self.bound.to_string(),
                source,
            }
        })
    }

    /// A canary that has left the group has no share of it.
    fn in_program(&self) -> Option<Share> {
        let canary = self.canary?;
        Some(Share {
            index: self.index(canary.generation)? as u32,
            percent: canary.percent,
            salt: canary.salt,
        })
    }

    pub(super) fn probe(&mut self, generation: u64) -> io::Result<Route> {
        let index = self.index(generation).ok_or(io::ErrorKind::NotFound)?;
        let socket = new_client(self.transport, self.bound)?;
        rustix::net::bind(&socket, &bpf::probe_source(self.bound))?;
        let addr = SocketAddr::try_from(rustix::net::getsockname(&socket)?).map_err(io::Error::other)?;
        self.probe = Some(Source {
            addr,
            index: index as u32,
        });
        self.attach().map_err(io::Error::other)?;
        let socket = connect_inet(self.transport, self.bound, Some(socket.as_fd()))?;
        Ok(Route {
            socket,
            exclusive: true,
        })
    }

    pub(super) fn release(&mut self, generation: u64) {
        self.probe = None;
        if self.active == Some(generation) {
            self.active = None;
        }
        self.canary = self.canary.filter(|canary| canary.generation != generation);
        if let Some(index) = self.index(generation) {
            self.members[index].holder = None;
        }
        let _ = self.attach();
    }

    /// What waits there is to be led on.
    pub(super) fn abandon(&mut self, generation: u64) {
        if self.transport == Transport::Tcp && self.active != Some(generation) {
            self.release(generation);
        }
    }

    /// Closes all sockets without an app but for one spare at the end.
    ///
    /// Only while every generation here is proven: for a moment the last member is a generation's, and if that is the
    /// active one and it moves, the kernel chooses among the generations by itself. Waits while somebody is queued at a
    /// socket that would be closed; he is led on first.
    fn compact(&mut self) {
        let held = self
            .members
            .iter()
            .filter(|member| member.holder.is_some())
            .count();
        let active = self.active.and_then(|generation| self.index(generation));
        let strays = self.orphans().into_iter().any(super::has_queue);
        if held == 0 || active.is_none() || strays || self.members.len() == held + 1 {
            return;
        }
        while let Some(vacant) = self.members.iter().rposition(|member| member.holder.is_none()) {
            // Dropping closes it, and the kernel makes the same move.
            drop(self.members.swap_remove(vacant));
        }
        let _ = self.attach();
        let _ = self.add_spare();
    }

    /// Looks which sockets still listen, follows the kernel's moves, and answers whether `generation`'s does not.
    /// `proven` when users may be sent to any generation here.
    pub(super) fn inspect(&mut self, generation: u64, proven: bool) -> bool {
        let mut lost = false;
        let mut left = false;
        while let Some(index) = self
            .members
            .iter()
            .position(|member| self.transport == Transport::Tcp && !listens(member.socket.as_fd()))
        {
            lost |= self.members[index].holder == Some(generation);
            left = true;
            self.members.swap_remove(index);
        }
        let spare_last = self.members.last().is_some_and(|member| member.holder.is_none());
        if left || !spare_last {
            let _ = self.add_spare();
            let _ = self.attach();
        } else if proven {
            self.compact();
        }
        lost || self.index(generation).is_none()
    }
}

fn local(socket: &OwnedFd) -> io::Result<SocketAddr> {
    let addr = rustix::net::getsockname(socket)?;
    SocketAddr::try_from(addr).map_err(io::Error::other)
}

/// Whether all these sockets can be members of a group.
pub(super) fn has_reuseport(found: &[Adopted]) -> bool {
    found
        .iter()
        .all(|found| rustix::net::sockopt::socket_reuseport(&found.socket).unwrap_or(false))
}

/// Whether the socket accepts connections.
fn listens(socket: BorrowedFd<'_>) -> bool {
    rustix::net::sockopt::socket_acceptconn(socket).unwrap_or(false)
}

/// The group's order after those without an app were closed with their keeper, last ones first.
fn order_after_death(layout: &[u64], lives: impl Fn(u64) -> bool) -> Vec<u64> {
    let mut order = layout.to_vec();
    while let Some(dead) = order.iter().rposition(|inode| !lives(*inode)) {
        order.swap_remove(dead);
    }
    order
}

/// Binds and listens where nobody else does, not even another group, and opens the group after that.
fn bind_alone(transport: Transport, addr: SocketAddr) -> io::Result<OwnedFd> {
    let socket = new_socket(transport, addr)?;
    // Without SO_REUSEPORT the kernel refuses an address that any other listener has, a group of the same user too.
    rustix::net::bind(&socket, &addr)?;
    rustix::net::sockopt::set_socket_reuseport(&socket, true)?;
    listen(transport, socket)
}

fn listen(transport: Transport, socket: OwnedFd) -> io::Result<OwnedFd> {
    if transport == Transport::Tcp {
        rustix::net::listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}

/// One more member, the last of the group.
fn join(transport: Transport, addr: SocketAddr) -> io::Result<OwnedFd> {
    let socket = new_socket(transport, addr)?;
    rustix::net::sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &addr)?;
    listen(transport, socket)
}

#[cfg(test)]
mod tests {
    use super::order_after_death;

    #[test]
    fn the_dead_leave_as_the_kernel_moves_the_living() {
        assert_eq!(order_after_death(&[1, 9], |inode| inode < 9), [1]);
        assert_eq!(order_after_death(&[1, 2, 9], |inode| inode < 9), [1, 2]);
        assert_eq!(order_after_death(&[9, 1, 2, 8], |inode| inode < 8), [2, 1]);
    }
}
