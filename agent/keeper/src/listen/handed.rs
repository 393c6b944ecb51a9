//! Listeners handed over to the program that the keeper becomes: every socket, spares with those who wait there too.

use std::net::SocketAddr;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Address, Canary, Group, Listeners, OutsideGroup, Transport, path, shared, steered};
use crate::handed::{ClaimError, Claims, Given};

/// One group of sockets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupRecord {
    /// See [`Group::Steered`].
    Steered {
        /// What goes over it.
        #[serde(default)]
        transport: Transport,
        /// Where it is bound.
        bound: SocketAddr,
        /// In the kernel's order.
        members: Vec<MemberRecord>,
        /// Who gets new connections.
        active: Option<u64>,
        /// Who gets those of a share of the clients.
        #[serde(default)]
        canary: Option<Canary>,
    },
    /// See [`Group::Shared`].
    Shared {
        /// Where it is bound, in the words of an intent.
        at: String,
        /// The one socket.
        socket: RawFd,
        /// Generations that have it.
        holders: Vec<u64>,
        /// Why there is one for all.
        reason: String,
    },
    /// See [`Group::Path`].
    Path {
        /// Its name.
        path: PathBuf,
        /// One for each generation, and those where somebody waits.
        members: Vec<MemberRecord>,
        /// Whom the path names.
        active: Option<u64>,
    },
    /// See [`Group::Outside`].
    Outside {
        /// Where the app listens.
        addr: String,
        /// Generations that do.
        holders: Vec<u64>,
    },
}

/// One socket of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// Its descriptor.
    pub socket: RawFd,
    /// Its inode.
    pub inode: u64,
    /// The generation that has it; none for a spare.
    pub holder: Option<u64>,
}

impl Listeners {
    /// All groups, to be taken by [`Listeners::take_over`].
    pub fn hand_over(&self, given: &mut Given) -> Vec<(String, GroupRecord)> {
        let groups = self.iter();
        groups
            .map(|(key, group)| (key.clone(), group.hand_over(given)))
            .collect()
    }

    /// The groups of the program before.
    ///
    /// # Errors
    /// When a socket is not there.
    pub fn take_over(records: Vec<(String, GroupRecord)>, claims: &mut Claims) -> Result<Self, ClaimError> {
        let mut listeners = Self::default();
        for (key, record) in records {
            listeners.insert(key, Group::take_over(record, claims)?);
        }
        Ok(listeners)
    }
}

impl Group {
    fn hand_over(&self, given: &mut Given) -> GroupRecord {
        match self {
            Self::Steered(group) => group.hand_over(given),
            Self::Shared(group) => group.hand_over(given),
            Self::Path(group) => group.hand_over(given),
            Self::Outside(group) => GroupRecord::Outside {
                addr: group.address().to_string(),
                holders: group.holders.clone(),
            },
        }
    }

    fn take_over(record: GroupRecord, claims: &mut Claims) -> Result<Self, ClaimError> {
        Ok(match record {
            GroupRecord::Steered {
                transport,
                bound,
                members,
                active,
                canary,
            } => Self::Steered(steered::SteeredGroup {
                transport,
                bound,
                members: claimed(members, claims)?
                    .map(|(socket, inode, holder)| steered::Member {
                        socket,
                        inode,
                        holder,
                    })
                    .collect(),
                active,
                probe: None,
                canary,
            }),
            GroupRecord::Shared {
                at,
                socket,
                holders,
                reason,
            } => {
                let socket = claims.take(socket)?;
                let inode = super::inode_of(&socket).unwrap_or(0);
                Self::Shared(shared::SharedGroup {
                    at: address(&at),
                    socket,
                    inode,
                    holders,
                    reason,
                })
            }
            GroupRecord::Path {
                path,
                members,
                active,
            } => Self::Path(path::PathGroup {
                path,
                members: claimed(members, claims)?
                    .map(|(socket, inode, holder)| path::Member {
                        socket,
                        inode,
                        holder,
                    })
                    .collect(),
                active,
            }),
            GroupRecord::Outside { addr, holders } => {
                let mut group = OutsideGroup::new(address(&addr));
                group.holders = holders;
                Self::Outside(group)
            }
        })
    }
}

fn address(words: &str) -> Address {
    Address::parse(words).unwrap_or_else(|_| Address::Unix(words.into()))
}

fn claimed(
    members: Vec<MemberRecord>,
    claims: &mut Claims,
) -> Result<impl Iterator<Item = (OwnedFd, u64, Option<u64>)>, ClaimError> {
    let claimed: Vec<_> = members
        .into_iter()
        .map(|member| Ok((claims.take(member.socket)?, member.inode, member.holder)))
        .collect::<Result<_, ClaimError>>()?;
    Ok(claimed.into_iter())
}

impl steered::SteeredGroup {
    fn hand_over(&self, given: &mut Given) -> GroupRecord {
        let members = self.members.iter().map(|member| MemberRecord {
            socket: given.give(&member.socket),
            inode: member.inode,
            holder: member.holder,
        });
        GroupRecord::Steered {
            transport: self.transport,
            bound: self.bound,
            members: members.collect(),
            active: self.active,
            canary: self.canary,
        }
    }
}

impl shared::SharedGroup {
    fn hand_over(&self, given: &mut Given) -> GroupRecord {
        GroupRecord::Shared {
            at: self.at.to_string(),
            socket: given.give(&self.socket),
            holders: self.holders.clone(),
            reason: self.reason.clone(),
        }
    }
}

impl path::PathGroup {
    fn hand_over(&self, given: &mut Given) -> GroupRecord {
        let members = self.members.iter().map(|member| MemberRecord {
            socket: given.give(&member.socket),
            inode: member.inode,
            holder: member.holder,
        });
        GroupRecord::Path {
            path: self.path.clone(),
            members: members.collect(),
            active: self.active,
        }
    }
}
