//! What a release cannot carry, each with what to do about it.

use std::io;

use rustix::fs::FileType;
use ship_model::path::{PathError, TreePath};

use crate::scan::{Found, Unlisted};

/// One thing in a tree that keeps it from becoming a release.
#[derive(Debug, thiserror::Error)]
pub enum Offence {
    #[error(
        "\"{path}\" is {kind}; a release holds files, folders and links: remove it, or publish a folder without it"
    )]
    Kind { path: TreePath, kind: &'static str },
    #[error("\"{path}\" is {bits}; a release carries no such rights: chmod a-s,-t \"{path}\"")]
    Rights { path: TreePath, bits: &'static str },
    #[error("\"{path}\" has file capabilities; a release carries no such rights: setcap -r \"{path}\"")]
    Capabilities { path: TreePath },
    /// The error stands in the line itself: many offences share one chain of sources.
    #[error(
        "\"{path}\" cannot be read ({error}): let the publishing user read it, or publish a folder without it"
    )]
    Unreadable { path: TreePath, error: io::Error },
    #[error("{0}: rename it")]
    Name(PathError),
    #[error("\"{path}\" changed while it was read: publish when the build is done")]
    Changed { path: TreePath },
}

impl Offence {
    /// The escaped path, by which offences are sorted.
    pub(super) fn path(&self) -> String {
        match self {
            Self::Kind { path, .. }
            | Self::Rights { path, .. }
            | Self::Capabilities { path }
            | Self::Unreadable { path, .. }
            | Self::Changed { path } => path.to_string(),
            Self::Name(error) => error.path.clone(),
        }
    }

    /// What can be told without opening the file.
    pub(super) fn of_kind(found: &Found) -> Option<Self> {
        let kind = match found.kind() {
            FileType::RegularFile => return Self::of_rights(found),
            FileType::Symlink | FileType::Directory => return None,
            FileType::Fifo => "a FIFO",
            FileType::Socket => "a socket",
            FileType::CharacterDevice | FileType::BlockDevice => "a device",
            _ => "of an unknown kind",
        };
        Some(Self::Kind {
            path: found.path.clone(),
            kind,
        })
    }

    fn of_rights(found: &Found) -> Option<Self> {
        let bits = match found.mode & 0o7000 {
            0 => return None,
            bits if bits & 0o4000 != 0 => "setuid",
            bits if bits & 0o2000 != 0 => "setgid",
            _ => "sticky",
        };
        Some(Self::Rights {
            path: found.path.clone(),
            bits,
        })
    }

    pub(super) fn unreadable(found: &Found) -> impl FnOnce(io::Error) -> Self {
        let path = found.path.clone();
        move |source| match source.kind() {
            // It was there a moment ago, and as another kind of thing.
            io::ErrorKind::NotFound => Self::Changed { path },
            _ => Self::Unreadable { path, error: source },
        }
    }
}

impl From<Unlisted> for Offence {
    fn from(unlisted: Unlisted) -> Self {
        match unlisted {
            Unlisted::Name(error) => Self::Name(error),
            Unlisted::Io { path, source } => Self::Unreadable { path, error: source },
        }
    }
}

/// One line for each, and one for those that were left out.
pub(super) fn lines(offences: &[Offence], more: usize) -> String {
    let mut text: String = offences.iter().map(|offence| format!("\n  {offence}")).collect();
    if more > 0 {
        text.push_str(&format!("\n  and {more} more"));
    }
    text
}
