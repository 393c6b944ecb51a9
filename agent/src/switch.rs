//! The switch of a static release: two links, moved in an order that is right wherever it is cut.
//!
//! The journal says what is being done before the first link moves, so that a restarted agent ends what was begun. `current`
//! always exists once it did; each link moves by one rename.

use std::io;
use std::path::{Path, PathBuf};

use ship_durable::{FileError, LinkError, fault};
use ship_model::release::Target;
use thiserror::Error;

use crate::journal::{Journal, LinkSwitch, SaveError};
use crate::layout::AppLayout;

/// Why the links could not be moved. What was begun is ended at the next try.
#[derive(Debug, Error)]
pub enum SwitchError {
    #[error("cannot note the switch to release {release}")]
    Journal { release: String, source: SaveError },
    #[error("cannot switch to release {release}")]
    Link { release: String, source: LinkError },
    #[error("cannot take the link {} away", path.display())]
    Unlink { path: PathBuf, source: io::Error },
    #[error("cannot make the links durable")]
    Sync(#[source] FileError),
    #[error("the switch was broken off")]
    Fault(#[source] io::Error),
}

/// The folder names that `current` and `previous` lead to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Links {
    pub current: Option<String>,
    pub previous: Option<String>,
}

impl Links {
    pub fn read(layout: &AppLayout) -> Self {
        Self {
            current: folder_behind(&layout.current()),
            previous: folder_behind(&layout.previous()),
        }
    }
}

/// `455-…` for a link to `releases/455-…`; none for anything else.
fn folder_behind(link: &Path) -> Option<String> {
    let target = std::fs::read_link(link).ok()?;
    let folder = target.strip_prefix("releases").ok()?.to_str()?;
    (!folder.is_empty() && !folder.contains('/')).then(|| folder.to_owned())
}

/// Moves `previous` and `current` as `order` says.
///
/// # Errors
/// [`SwitchError`]; see there.
pub fn switch(layout: &AppLayout, journal: &mut Journal, order: LinkSwitch) -> Result<(), SwitchError> {
    let noted = |source| SwitchError::Journal {
        release: order.to.folder(),
        source,
    };
    fault::point("agent.switch.journal.before").map_err(SwitchError::Fault)?;
    journal
        .change(|record| record.switching = Some(order))
        .map_err(noted)?;
    fault::point("agent.switch.journal.after").map_err(SwitchError::Fault)?;
    move_links(layout, &order)?;
    fault::point("agent.switch.links.after").map_err(SwitchError::Fault)?;
    journal.change(|record| record.switching = None).map_err(noted)
}

fn move_links(layout: &AppLayout, order: &LinkSwitch) -> Result<(), SwitchError> {
    let onward = order
        .previous
        .is_some_and(|previous| Links::read(layout).current == Some(previous.folder()));
    if onward {
        // The way back stands before the new release does.
        point(&layout.previous(), order.previous.as_ref())?;
        fault::point("agent.switch.previous.after").map_err(SwitchError::Fault)?;
        point(&layout.current(), Some(&order.to))
    } else {
        // Going back, users come first.
        point(&layout.current(), Some(&order.to))?;
        fault::point("agent.switch.current.after").map_err(SwitchError::Fault)?;
        point(&layout.previous(), order.previous.as_ref())
    }
}

fn point(link: &Path, to: Option<&Target>) -> Result<(), SwitchError> {
    match to {
        Some(target) => ship_durable::replace_symlink(link, &Path::new("releases").join(target.folder()))
            .map_err(|source| SwitchError::Link {
                release: target.folder(),
                source,
            }),
        None => take_away(link),
    }
}

/// Removes a link; an absent one is fine.
///
/// # Errors
/// [`SwitchError::Unlink`]; also when something else than a link is there.
pub fn take_away(link: &Path) -> Result<(), SwitchError> {
    let failed = |source| SwitchError::Unlink {
        path: link.to_owned(),
        source,
    };
    match std::fs::symlink_metadata(link) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.is_symlink() => return Err(failed(io::ErrorKind::InvalidInput.into())),
        Ok(_) => std::fs::remove_file(link).map_err(failed)?,
    }
    let folder = link.parent().unwrap_or(Path::new("/"));
    ship_durable::sync_dir(folder).map_err(SwitchError::Sync)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use ship_model::digest::ReleaseId;
    use ship_model::release::ReleaseNumber;

    use super::*;
    use crate::layout::HostLayout;

    fn release(number: u64) -> Target {
        Target {
            number: ReleaseNumber(number),
            id: ReleaseId::of(&number.to_le_bytes()),
        }
    }

    #[test]
    fn onward_and_back() {
        let home = tempfile::tempdir().unwrap();
        let host = HostLayout {
            apps: home.path().join("apps"),
            state: home.path().join("state"),
            run: home.path().join("run"),
        };
        host.prepare().unwrap();
        let app = host.app(&"web".parse().unwrap());
        app.prepare().unwrap();
        let mut journal = Journal::open(&app.record).unwrap().journal;
        let mut go = |to: u64, previous: Option<u64>| {
            let order = LinkSwitch {
                to: release(to),
                previous: previous.map(release),
            };
            switch(&app, &mut journal, order).unwrap();
            let links = Links::read(&app);
            let number = |folder: Option<String>| folder.map(|f| f.split('-').next().unwrap().to_owned());
            (number(links.current).unwrap(), number(links.previous))
        };
        let text = |n: &str| n.to_owned();
        assert_eq!(go(1, None), (text("1"), None));
        assert_eq!(go(2, Some(1)), (text("2"), Some(text("1"))));
        assert_eq!(go(3, Some(2)), (text("3"), Some(text("2"))));
        assert_eq!(go(2, Some(1)), (text("2"), Some(text("1"))));
        assert_eq!(go(1, None), (text("1"), None));
    }

    #[test]
    fn only_our_own_links_are_followed() {
        let home = tempfile::tempdir().unwrap();
        let link = home.path().join("current");
        for (target, folder) in [
            ("releases/1-a", Some("1-a")),
            ("/releases/1-a", None),
            ("releases/../etc", None),
            ("elsewhere", None),
            ("releases", None),
        ] {
            ship_durable::replace_symlink(&link, Path::new(target)).unwrap();
            assert_eq!(folder_behind(&link).as_deref(), folder, "{target}");
        }
    }
}
