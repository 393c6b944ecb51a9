//! Where everything of an app lies on this host, and who may touch it.
//!
//! ```text
//! <apps_dir>/<app>/current -> releases/455-0123456789ab      the running release
//!                  previous -> releases/454-…                what a revert goes to
//!                  releases/455-…  455-….manifest  .stamps   complete trees, read-only
//!                  shared/         shared/env (0600)         the app's own, never touched by a switch
//!                  assets/         assets.records/           the union of fingerprinted assets
//! <state_dir>/agent.lock           one agent per host
//!             reserve              room for a revert on a full disk
//!             apps/<app>.json      what the agent must not forget of an app
//!             encoded/             assets in other codings, all of them derived
//!             keeper/<app>/        the keeper's own, its logs among it
//! <run_dir>/agent.sock  <app>/keeper.sock
//! ```

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ship_model::name::AppName;
use ship_model::release::Target;
use thiserror::Error;

use crate::config::Config;

/// Bytes of the reserve: a record and two links fit many times.
const RESERVE: usize = 256 << 10;

/// A folder could not be made or its permissions not be set.
#[derive(Debug, Error)]
#[error("cannot prepare the folder {}", path.display())]
pub struct PrepareError {
    pub path: PathBuf,
    pub source: io::Error,
}

/// The host's folders.
#[derive(Debug, Clone)]
pub struct HostLayout {
    pub apps: PathBuf,
    pub state: PathBuf,
    pub run: PathBuf,
}

impl HostLayout {
    /// The folders that `config` names, absolute, so that a keeper with another working folder finds them.
    ///
    /// # Errors
    /// When the current folder cannot be told.
    pub fn of(config: &Config) -> io::Result<Self> {
        Ok(Self {
            apps: std::path::absolute(&config.apps_dir)?,
            state: std::path::absolute(&config.state_dir)?,
            run: std::path::absolute(&config.run_dir)?,
        })
    }

    /// Makes the host's folders; state and sockets are the agent's user's alone.
    ///
    /// # Errors
    /// [`PrepareError`] naming the folder.
    pub fn prepare(&self) -> Result<(), PrepareError> {
        make(&self.apps, 0o755)?;
        make(&self.state, 0o700)?;
        make(&self.records(), 0o700)?;
        make(&self.keepers(), 0o700)?;
        make(&self.run, 0o711)?;
        // On a disk that is full already there is none; what runs must not be kept from running by that.
        if !self.reserve().is_file() {
            ship_durable::write_private_file(&self.reserve(), &[0x5a; RESERVE]).ok();
        }
        Ok(())
    }

    pub fn lock(&self) -> PathBuf {
        self.state.join("agent.lock")
    }

    pub fn socket(&self) -> PathBuf {
        self.run.join("agent.sock")
    }

    /// Room kept free for the one record that a revert needs, on a disk that is full to the last byte.
    pub fn reserve(&self) -> PathBuf {
        self.state.join("reserve")
    }

    /// The folder of what the agent remembers of each app.
    pub fn records(&self) -> PathBuf {
        self.state.join("apps")
    }

    /// The folder of assets in other codings.
    pub fn encoded(&self) -> PathBuf {
        self.state.join("encoded")
    }

    /// The folder of pieces that are kept for other hosts, while the agent runs.
    pub fn pieces(&self) -> PathBuf {
        self.state.join("pieces")
    }

    /// The folder of what keepers remember.
    pub fn keepers(&self) -> PathBuf {
        self.state.join("keeper")
    }

    pub fn app(&self, app: &AppName) -> AppLayout {
        AppLayout {
            app: app.clone(),
            home: self.apps.join(app.as_str()),
            record: self.records().join(format!("{app}.json")),
            reserve: self.reserve(),
            keeper_state: self.keepers().join(app.as_str()),
            run: self.run.join(app.as_str()),
        }
    }
}

/// One app's folders.
#[derive(Debug, Clone)]
pub struct AppLayout {
    pub app: AppName,
    pub home: PathBuf,
    pub record: PathBuf,
    /// See [`HostLayout::reserve`].
    pub reserve: PathBuf,
    pub keeper_state: PathBuf,
    pub run: PathBuf,
}

impl AppLayout {
    pub fn current(&self) -> PathBuf {
        self.home.join("current")
    }

    pub fn previous(&self) -> PathBuf {
        self.home.join("previous")
    }

    pub fn releases(&self) -> PathBuf {
        self.home.join("releases")
    }

    pub fn release(&self, target: &Target) -> PathBuf {
        self.releases().join(target.folder())
    }

    pub fn shared(&self) -> PathBuf {
        self.home.join("shared")
    }

    /// Secrets for the app's processes: `KEY=VALUE` lines, mode 0600.
    pub fn env_file(&self) -> PathBuf {
        self.shared().join("env")
    }

    pub fn assets(&self) -> PathBuf {
        self.home.join("assets")
    }

    pub fn asset_records(&self) -> PathBuf {
        self.home.join("assets.records")
    }

    /// Where the keeper writes what the app says; older files are `app.log.1`, `app.log.2`.
    pub fn log(&self) -> PathBuf {
        self.keeper_state.join("logs").join("app.log")
    }

    /// Makes the app's folders, and an empty `shared/env` that only its owner can read.
    ///
    /// # Errors
    /// [`PrepareError`] naming the folder.
    pub fn prepare(&self) -> Result<(), PrepareError> {
        for folder in [
            &self.home,
            &self.releases(),
            &self.shared(),
            &self.assets(),
            &self.asset_records(),
        ] {
            make(folder, 0o755)?;
        }
        let env = self.env_file();
        if env.symlink_metadata().is_ok() {
            return Ok(());
        }
        ship_durable::write_private_file(&env, b"").map_err(|error| PrepareError {
            path: env,
            source: io::Error::other(error),
        })
    }
}

/// Makes `path` with `mode`; an existing folder keeps its own permissions, since somebody chose them.
pub fn make(path: &Path, mode: u32) -> Result<(), PrepareError> {
    let failed = |source| PrepareError {
        path: path.to_owned(),
        source,
    };
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => return Err(failed(io::ErrorKind::NotADirectory.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(failed)?;
    // The umask may have taken bits away that others need.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use super::*;

    #[test]
    fn secrets_are_private_and_stay_what_they_are() {
        let home = tempfile::tempdir().unwrap();
        let layout = HostLayout {
            apps: home.path().join("apps"),
            state: home.path().join("state"),
            run: home.path().join("run"),
        };
        layout.prepare().unwrap();
        let app = layout.app(&"web".parse().unwrap());
        app.prepare().unwrap();
        let mode = std::fs::metadata(app.env_file()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        ship_durable::write_private_file(&app.env_file(), b"KEY=1\n").unwrap();
        app.prepare().unwrap();
        assert_eq!(std::fs::read(app.env_file()).unwrap(), b"KEY=1\n");
        let mode = std::fs::metadata(&layout.state).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
