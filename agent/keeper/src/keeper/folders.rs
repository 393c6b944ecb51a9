//! Where a keeper lives: its folders, and a notify socket whose path an app can name.

use std::io;
use std::path::{Path, PathBuf};

use super::{Config, Keeper, StartError};
use crate::machine::State;
use crate::notify::NotifySocket;

impl Keeper {
    pub(super) fn log_folder(&self) -> PathBuf {
        self.config.run.join("log")
    }

    /// Where the slot's process was born.
    pub(super) fn home(&self, generation: u64, slot: usize) -> (u64, usize) {
        let found = self.state.generation(generation);
        found.map_or((generation, slot), |found| found.home(slot))
    }

    pub(super) fn drain_file(&self, generation: u64) -> PathBuf {
        self.config.run.join("drain").join(generation.to_string())
    }

    /// Entries in the environment that only this generation's processes have; with a process's name, only that one's.
    pub(super) fn marks(&self, generation: u64, process: Option<&str>) -> Vec<String> {
        let mut marks = vec![format!(
            "SHIP_DRAIN_FILE={}",
            self.drain_file(generation).display()
        )];
        marks.extend(process.map(|name| format!("SHIP_PROCESS={name}")));
        marks
    }
}

pub(super) fn make_folders(config: &Config) -> Result<(), StartError> {
    let folders = [
        config.run.clone(),
        config.run.join("log"),
        config.run.join("drain"),
        config.run.join("lock"),
        config.state.join("logs"),
    ];
    for path in folders {
        std::fs::create_dir_all(&path).map_err(|source| StartError::SetUp { path, source })?;
    }
    Ok(())
}

/// The socket in the run folder, or in a short private one where an app could not name that.
pub(super) fn bind_notify(config: &Config, state: &mut State) -> Result<NotifySocket, StartError> {
    let usual = config.run.join("notify.sock");
    let path = if usual.as_os_str().len() <= crate::unix::MAX_SOCKET_PATH {
        usual
    } else {
        short_folder(state)
            .map_err(|source| StartError::SetUp { path: usual, source })?
            .join("notify.sock")
    };
    NotifySocket::bind(&path).map_err(|source| StartError::SetUp { path, source })
}

/// A folder with a short name that stays the same over this keeper's death: apps keep the path they were given.
fn short_folder(state: &mut State) -> io::Result<PathBuf> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    let own = rustix::process::geteuid().as_raw();
    let is_ours = |folder: &Path| {
        std::fs::symlink_metadata(folder).is_ok_and(|found| found.is_dir() && found.uid() == own)
    };
    if let Some(folder) = state.notify_folder.clone().filter(|folder| is_ours(folder)) {
        return Ok(folder);
    }
    // Only root's apps run as others, who must be able to pass through it.
    let mode = if own == 0 { 0o711 } else { 0o700 };
    for base in [Path::new("/run/ship"), &std::env::temp_dir(), Path::new("/tmp")] {
        let mut random = [0_u8; 8];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        let folder = base.join(format!("ship-n-{:016x}", u64::from_le_bytes(random)));
        let fits = folder.as_os_str().len() + "/notify.sock".len() <= crate::unix::MAX_SOCKET_PATH;
        if fits && std::fs::DirBuilder::new().mode(mode).create(&folder).is_ok() {
            state.notify_folder = Some(folder.clone());
            return Ok(folder);
        }
    }
    Err(io::Error::other(
        "no folder with a short name can be made for the notify socket",
    ))
}
