//! The links `current` and `previous`.

use std::path::Path;

use super::{Keeper, chain};

impl Keeper {
    /// `previous` first: a crash between the two leaves a way back that is too early, never a wrong `current`.
    pub(super) fn link(&self, current: Option<&Path>, previous: Option<&Path>) -> Result<(), String> {
        let home = &self.config.home;
        let relative = |dir: &Path| dir.strip_prefix(home).unwrap_or(dir).to_owned();
        let point = |name: &str, dir: &Path| {
            ship_durable::replace_symlink(&home.join(name), &relative(dir)).map_err(|error| chain(&error))
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
        std::fs::remove_file(&link)
            .map_err(|error| format!("cannot remove link {}: {error}", link.display()))?;
        ship_durable::sync_dir(&self.config.home).map_err(|error| chain(&error))
    }
}
