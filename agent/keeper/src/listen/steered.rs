//! One TCP socket per generation in a SO_REUSEPORT group; a BPF program names the one that gets new connections.
//!
//! The kernel keeps the group as an array and moves its *last* member into the place of one that leaves. A generation can
//! leave at any moment, by `shutdown` on its listener. So the last member is always a spare that no app holds: whoever
//! leaves, the place is taken by the spare, never by a generation that users must not see. What strays to the spare is
//! accepted by the keeper and led on.
//!
//! A new generation takes over the spare after another spare was added behind it. The sockets of generations that are gone
//! are closed when all others are proven, so that the layout stays one that is the same after the keeper's own death
//! (which closes its spares): the generations, then one spare.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::bpf::{self, Source};
use super::{Adopted, BACKLOG, ListenError, Route, connect_tcp, inode_of, new_listener, new_tcp};

#[derive(Debug)]
pub(super) struct Member {
    pub(super) socket: OwnedFd,
    pub(super) inode: u64,
    pub(super) holder: Option<u64>,
}

/// See the module.
#[derive(Debug)]
pub struct SteeredGroup {
    pub(super) bound: SocketAddr,
    /// In the kernel's order.
    pub(super) members: Vec<Member>,
    pub(super) active: Option<u64>,
    pub(super) probe: Option<Source>,
}

impl SteeredGroup {
    /// Binds the address and attaches the first program. Until a generation is steered to, connections wait at the spare.
    pub(super) fn bind(addr: SocketAddr) -> Result<Self, ListenError> {
        let first = bind_alone(addr).map_err(ListenError::bind(addr))?;
        let bound = local(&first).map_err(ListenError::bind(addr))?;
        let inode = inode_of(&first).map_err(ListenError::bind(addr))?;
        let members = vec![Member {
            socket: first,
            inode,
            holder: None,
        }];
        let mut group = Self {
            bound,
            members,
            active: None,
            probe: None,
        };
        group.attach()?;
        Ok(group)
    }

    /// Takes the group back after another keeper's death: its spares are gone but for those that somebody has kept, its
    /// generations' sockets are not.
    ///
    /// The old program may name a place that means another socket by now, so it is replaced before a spare joins.
    pub(super) fn adopt(
        addr: SocketAddr,
        found: Vec<Adopted>,
        spares: Vec<(OwnedFd, u64)>,
        layout: &[u64],
        active: Option<u64>,
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
            bound: addr,
            members,
            active,
            probe: None,
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
            bound: addr,
            members: vec![Member {
                socket: found.socket,
                inode: found.inode,
                holder: Some(found.generation),
            }],
            active: Some(found.generation),
            probe: None,
        };
        group.add_spare().inspect_err(|_| {
            let _ = rustix::net::sockopt::set_socket_reuseport(&copy, false);
        })?;
        Ok(group)
    }

    pub(super) fn bound(&self) -> SocketAddr {
        self.bound
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
        if self.active.is_none() {
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
        let spare = join(self.bound).map_err(ListenError::bind(self.bound))?;
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
            let source = io::Error::other(format!("generation {generation} has no socket there"));
            return Err(ListenError::System {
                action: "steer",
                addr: self.bound.to_string(),
                source,
            });
        }
        let before = self.active.replace(generation);
        self.attach().inspect_err(|_| self.active = before)
    }

    /// New connections wait at the spare.
    pub(super) fn hold(&mut self, generation: u64) -> Result<(), ListenError> {
        if self.active != Some(generation) {
            return Ok(());
        }
        self.active = None;
        self.attach().inspect_err(|_| self.active = Some(generation))
    }

    /// The program follows the members and the active generation.
    fn attach(&mut self) -> Result<(), ListenError> {
        let last = self.members.len() - 1;
        let active = self
            .active
            .and_then(|generation| self.index(generation))
            .unwrap_or(last);
        bpf::attach(self.members[last].socket.as_fd(), active as u32, self.probe).map_err(|source| {
            ListenError::System {
                action: bpf::ATTACH,
                addr: self.bound.to_string(),
                source,
            }
        })
    }

    pub(super) fn probe(&mut self, generation: u64) -> io::Result<Route> {
        let index = self.index(generation).ok_or(io::ErrorKind::NotFound)?;
        let socket = new_tcp(self.bound)?;
        rustix::net::bind(&socket, &bpf::probe_source(self.bound))?;
        let addr = SocketAddr::try_from(rustix::net::getsockname(&socket)?).map_err(io::Error::other)?;
        self.probe = Some(Source {
            addr,
            index: index as u32,
        });
        self.attach().map_err(io::Error::other)?;
        let socket = connect_tcp(self.bound, Some(socket.as_fd()))?;
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
        if let Some(index) = self.index(generation) {
            self.members[index].holder = None;
        }
        let _ = self.attach();
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
            .position(|member| !listens(member.socket.as_fd()))
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
fn bind_alone(addr: SocketAddr) -> io::Result<OwnedFd> {
    let socket = new_listener(addr)?;
    // Without SO_REUSEPORT the kernel refuses an address that any other listener has, a group of the same user too.
    rustix::net::bind(&socket, &addr)?;
    rustix::net::sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// One more member, the last of the group.
fn join(addr: SocketAddr) -> io::Result<OwnedFd> {
    let socket = new_listener(addr)?;
    rustix::net::sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &addr)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
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
