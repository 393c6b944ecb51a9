//! The atomic swap of a symbolic link.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::{FileError, fault, file::parent_of, sweep::temporary_name, sync_dir};

/// Why a link could not be replaced.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The path has no last component.
    #[error("cannot replace link {}: it does not name a link", link.display())]
    NoName {
        /// The path as given.
        link: PathBuf,
    },
    /// A real folder or file stands where the link should be; it is left untouched.
    #[error("cannot replace link {}: it is not a symbolic link; move it away first", link.display())]
    NotALink {
        /// The path of the folder or file.
        link: PathBuf,
    },
    /// The new link could not be made or renamed; the old one stands.
    #[error("cannot point link {} at {}", link.display(), target.display())]
    Swap {
        /// The link.
        link: PathBuf,
        /// Where it should have pointed.
        target: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The link is swapped, but its folder could not be synced.
    #[error("cannot make link {} durable", link.display())]
    Sync {
        /// The link.
        link: PathBuf,
        /// What failed.
        source: FileError,
    },
}

/// Makes `link` a symbolic link to `target` (stored as given, relative or absolute), replacing an older link.
///
/// There is no moment at which `link` does not exist. When it returns the new link is synced; after a crash it is the old
/// or the new one, and perhaps a leftover link lies beside it. The target is neither checked nor synced. A link that
/// already points there is only synced.
///
/// # Errors
/// [`LinkError`]; the old link stands, except after [`LinkError::Sync`].
pub fn replace_symlink(link: &Path, target: &Path) -> Result<(), LinkError> {
    let dir = swap_symlink(link, target)?;
    sync_dir(dir).map_err(|source| LinkError::Sync {
        link: link.to_owned(),
        source,
    })
}

/// As [`replace_symlink`], but nothing is synced: until the folder it gives is, the link may be the old one again after a
/// crash of the machine.
///
/// # Errors
/// [`LinkError`]; the old link stands.
pub fn swap_symlink<'a>(link: &'a Path, target: &Path) -> Result<&'a Path, LinkError> {
    let dir = parent_of(link).ok_or_else(|| LinkError::NoName {
        link: link.to_owned(),
    })?;
    let swap_error = |source| LinkError::Swap {
        link: link.to_owned(),
        target: target.to_owned(),
        source,
    };
    match std::fs::symlink_metadata(link) {
        Ok(found) if !found.file_type().is_symlink() => {
            return Err(LinkError::NotALink {
                link: link.to_owned(),
            });
        }
        Ok(_) | Err(_) => {}
    }
    if std::fs::read_link(link).ok().as_deref() != Some(target) {
        swap(dir, link, target).map_err(swap_error)?;
    }
    fault::point("durable.link.swap.after").map_err(swap_error)?;
    Ok(dir)
}

fn swap(dir: &Path, link: &Path, target: &Path) -> io::Result<()> {
    let temporary = dir.join(temporary_name()?);
    fault::point("durable.link.create.before")?;
    std::os::unix::fs::symlink(target, &temporary)?;
    let swapped = fault::point("durable.link.swap.before").and_then(|()| std::fs::rename(&temporary, link));
    if swapped.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    swapped
}
