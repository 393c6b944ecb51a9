//! One Unix socket per generation; the path that users know is a name for the one that gets new connections.
//!
//! Each generation's socket is bound under a hidden name beside the path (`.NAME.ship-7`); steering is a hard link and a
//! rename over the path, so there is no moment without a socket there. Connections queued at the old one stay with it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode};
use rustix::net::SocketType;

use super::{Adopted, BACKLOG, ListenError, Route, inode_of};

#[derive(Debug)]
pub(super) struct Member {
    pub(super) socket: OwnedFd,
    pub(super) inode: u64,
    pub(super) holder: u64,
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

    pub(super) fn adopt(path: &Path, found: Vec<Adopted>) -> Self {
        let members = found
            .into_iter()
            .map(|found| Member {
                socket: found.socket,
                inode: found.inode,
                holder: found.generation,
            })
            .collect();
        Self {
            path: path.to_owned(),
            members,
            active: None,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn hidden(&self, generation: u64) -> PathBuf {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        self.path.with_file_name(format!(".{name}.ship-{generation}"))
    }

    fn member(&self, generation: u64) -> Option<&Member> {
        self.members.iter().find(|member| member.holder == generation)
    }

    pub(super) fn take(&mut self, generation: u64) -> Result<u64, ListenError> {
        if let Some(member) = self.member(generation) {
            return Ok(member.inode);
        }
        let hidden = self.hidden(generation);
        let bind = || {
            let _ = std::fs::remove_file(&hidden);
            let socket = crate::unix::bind(&hidden, SocketType::STREAM)?;
            // Who may connect is for the folder to say, as with other servers' sockets.
            rustix::fs::chmodat(
                CWD,
                &hidden,
                Mode::from_raw_mode(0o666),
                rustix::fs::AtFlags::empty(),
            )?;
            rustix::net::listen(&socket, BACKLOG)?;
            let inode = inode_of(&socket)?;
            Ok(Member {
                socket,
                inode,
                holder: generation,
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
        let staged = self.path.with_file_name(format!(
            ".{}.ship-next",
            self.path.file_name().unwrap_or_default().to_string_lossy()
        ));
        let name = || {
            let _ = std::fs::remove_file(&staged);
            std::fs::hard_link(self.hidden(generation), &staged)?;
            // A name in a run folder: gone with the boot, so nothing is synced.
            #[expect(clippy::disallowed_methods, reason = "durability is not wanted here")]
            std::fs::rename(&staged, &self.path)
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
        let _ = std::fs::remove_file(self.hidden(generation));
        self.members.retain(|member| member.holder != generation);
        if self.active == Some(generation) || self.members.is_empty() {
            self.active = None;
            let _ = std::fs::remove_file(&self.path);
        }
    }

    pub(super) fn is_unused(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn probe(&self, generation: u64) -> io::Result<Route> {
        Ok(Route {
            socket: crate::unix::connect_nonblocking(&self.hidden(generation))?,
            exclusive: true,
        })
    }

    pub(super) fn orphans(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }
}
