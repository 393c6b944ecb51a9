//! The links `current` and `previous`.
//!
//! They are seen at once, and synced with the next [`Keeper::make_durable`]: before anybody is told, and before the keeper
//! waits, but not before users are led to the new release. When the machine goes down in between, it comes up on what the link
//! names then, the one release or the other, and nobody who was served is there any more.

use std::path::Path;

use super::{Keeper, chain};

impl Keeper {
    /// `previous` first: a crash between the two leaves a way back that is too early, never a wrong `current`.
    pub(super) fn link(&mut self, current: Option<&Path>, previous: Option<&Path>) -> Result<(), String> {
        self.unsynced_links = true;
        let home = &self.config.home;
        let relative = |dir: &Path| dir.strip_prefix(home).unwrap_or(dir).to_owned();
        let point = |name: &str, dir: &Path| {
            let swapped = ship_durable::swap_symlink(&home.join(name), &relative(dir)).map(drop);
            swapped.map_err(|error| chain(&error))
        };
        match previous {
            Some(previous) => point("previous", previous)?,
            None => self.remove_previous()?,
        }
        current.map_or(Ok(()), |current| point("current", current))
    }

    fn remove_previous(&self) -> Result<(), String> {
        let link = self.config.home.join("previous");
        let is_link = std::fs::symlink_metadata(&link).is_ok_and(|found| found.file_type().is_symlink());
        if !is_link {
            return Ok(());
        }
        std::fs::remove_file(&link).map_err(|error| format!("cannot remove link {}: {error}", link.display()))
    }

    /// Makes links that were moved outlive the machine.
    pub(super) fn sync_links(&mut self) {
        if !std::mem::take(&mut self.unsynced_links) {
            return;
        }
        if let Err(error) = ship_durable::sync_dir(&self.config.home) {
            self.note(format!("after a boot the links may be older: {}", chain(&error)));
        }
    }
}
