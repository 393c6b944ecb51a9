//! One Unix socket per generation; the path that users know is a name for the one that gets new connections.
//!
//! Each generation's socket is bound under a hidden name beside the path (`.NAME.ship-7`); steering is a hard link and a
//! rename over the path, so there is no moment without a socket there. Connections queued at the old one stay with it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{CWD, Mode};
use rustix::net::SocketType;

use super::{Adopted, BACKLOG, ListenError, Route, inode_of};

#[derive(Debug)]
pub(super) struct Member {
    pub(super) socket: OwnedFd,
    pub(super) inode: u64,
    /// None: its generation accepts nothing more, and it is here for those who wait.
    pub(super) holder: Option<u64>,
}

/// See the module.
#[derive(Debug)]
pub struct PathGroup {
    pub(super) path: PathBuf,
    pub(super) members: Vec<Member>,
    pub(super) active: Option<u64>,
}

impl PathGroup {
    /// Refuses a path where somebody else listens, or where something else than a socket is.
    pub(super) fn bind(path: &Path) -> Result<Self, ListenError> {
        let addr = || format!("unix:{}", path.display());
        if crate::unix::is_listening(path) {
            return Err(ListenError::Taken { addr: addr() });
        }
        match std::fs::symlink_metadata(path) {
            Ok(_) if !crate::unix::is_socket(path) => {
                let source = io::Error::other("something that is no socket has that name");
                Err(ListenError::System {
                    action: "listen on",
                    addr: addr(),
                    source,
                })
            }
            _ => Ok(Self {
                path: path.to_owned(),
                members: Vec::new(),
                active: None,
            }),
        }
    }

    /// Whether its path can be made a name for one of several sockets.
    pub(super) fn try_out(&self) -> io::Result<()> {
        let (one, other) = (hidden(&self.path, "trial"), hidden(&self.path, "next"));
        let _ = std::fs::remove_file(&one);
        let _ = std::fs::remove_file(&other);
        let tried = crate::unix::bind(&one, SocketType::STREAM).and_then(|_socket| {
            std::fs::hard_link(&one, &other)?;
            rename(&other, &one)
        });
        let _ = std::fs::remove_file(&one);
        let _ = std::fs::remove_file(&other);
        tried
    }

    /// Whether these are sockets of such a group.
    pub(super) fn is_of(path: &Path, found: &[Adopted]) -> bool {
        let known = |found: &Adopted| {
            hidden(path, &found.generation.to_string())
                .symlink_metadata()
                .is_ok()
        };
        found.iter().all(known)
    }

    /// `spares` are sockets of generations that are gone: only those where somebody waits are kept.
    pub(super) fn adopt(
        path: &Path,
        found: Vec<Adopted>,
        spares: Vec<(OwnedFd, u64)>,
        active: Option<u64>,
    ) -> Self {
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
        let mut group = Self {
            path: path.to_owned(),
            members,
            active,
        };
        group.close_empty();
        group
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn hidden(&self, generation: u64) -> PathBuf {
        hidden(&self.path, &generation.to_string())
    }

    fn member(&self, generation: u64) -> Option<&Member> {
        self.members
            .iter()
            .find(|member| member.holder == Some(generation))
    }

    pub(super) fn take(&mut self, generation: u64) -> Result<u64, ListenError> {
        if let Some(member) = self.member(generation) {
            return Ok(member.inode);
        }
        let hidden = self.hidden(generation);
        let bind = || {
            let _ = std::fs::remove_file(&hidden);
            let socket = crate::unix::bind(&hidden, SocketType::STREAM)?;
            open_to_all(&hidden)?;
            rustix::net::listen(&socket, BACKLOG)?;
            let inode = inode_of(&socket)?;
            Ok(Member {
                socket,
                inode,
                holder: Some(generation),
            })
        };
        let member = bind().map_err(ListenError::bind(format!("unix:{}", hidden.display())))?;
        let inode = member.inode;
        self.members.push(member);
        Ok(inode)
    }

    pub(super) fn socket(&self, generation: u64) -> Option<BorrowedFd<'_>> {
        self.member(generation).map(|member| member.socket.as_fd())
    }

    pub(super) fn steer(&mut self, generation: u64) -> Result<(), ListenError> {
        let staged = hidden(&self.path, "next");
        let name = || {
            self.member(generation).ok_or(io::ErrorKind::NotFound)?;
            let _ = std::fs::remove_file(&staged);
            std::fs::hard_link(self.hidden(generation), &staged)?;
            rename(&staged, &self.path)
        };
        name().map_err(|source| ListenError::System {
            action: "steer",
            addr: format!("unix:{}", self.path.display()),
            source,
        })?;
        self.active = Some(generation);
        Ok(())
    }

    pub(super) fn release(&mut self, generation: u64) {
        self.abandon(generation);
        if self.active == Some(generation) || self.is_unused() {
            self.active = None;
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// Nobody new finds it; who waits there is to be led on.
    pub(super) fn abandon(&mut self, generation: u64) {
        let _ = std::fs::remove_file(self.hidden(generation));
        let its = |member: &&mut Member| member.holder == Some(generation);
        if let Some(member) = self.members.iter_mut().find(its) {
            member.holder = None;
        }
        self.close_empty();
    }

    fn close_empty(&mut self) {
        self.members
            .retain(|member| member.holder.is_some() || super::has_queue(member.socket.as_fd()));
    }

    pub(super) fn orphans(&self) -> Vec<BorrowedFd<'_>> {
        let orphans = self.members.iter().filter(|member| member.holder.is_none());
        orphans.map(|member| member.socket.as_fd()).collect()
    }

    pub(super) fn is_unused(&self) -> bool {
        self.members.iter().all(|member| member.holder.is_none())
    }

    pub(super) fn probe(&self, generation: u64) -> io::Result<Route> {
        Ok(Route {
            socket: crate::unix::connect_nonblocking(&self.hidden(generation))?,
            exclusive: true,
        })
    }

    /// Looks which sockets were shut down, lets them go, and answers whether `generation`'s is among them or gone.
    pub(super) fn inspect(&mut self, generation: u64) -> bool {
        self.members.retain(|member| !is_shut_down(member.socket.as_fd()));
        self.close_empty();
        let lost = self.member(generation).is_none();
        // Who comes now is refused where the path still leads, so another socket takes its place at once.
        if lost && self.active == Some(generation) {
            let _ = self.take(generation).and_then(|_| self.steer(generation));
        }
        lost
    }
}

/// A name beside the path that no user looks for.
pub(super) fn hidden(path: &Path, mark: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.ship-{mark}"))
}

/// Who may connect is for the folder to say, as with other servers' sockets.
pub(super) fn open_to_all(path: &Path) -> io::Result<()> {
    let all = Mode::from_raw_mode(0o666);
    Ok(rustix::fs::chmodat(CWD, path, all, rustix::fs::AtFlags::empty())?)
}

/// A name in a run folder: gone with the boot, so nothing is synced.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "durability is not wanted here")]
    std::fs::rename(from, to)
}

/// `listen` does not revive such a one.
fn is_shut_down(socket: BorrowedFd<'_>) -> bool {
    let mut polled = [PollFd::new(&socket, PollFlags::empty())];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    rustix::event::poll(&mut polled, Some(&now)).is_ok_and(|ready| ready > 0)
        && polled[0].revents().contains(PollFlags::HUP)
}
