//! What one program leaves to the next, as JSON in a sealed memory file. Descriptors are numbers.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::RawFd;
use std::path::PathBuf;

use rustix::fs::{MemfdFlags, SealFlags};
use serde::{Deserialize, Serialize};

use crate::control::ControlRecord;
use crate::keeper::Config;
use crate::keeper::store::StoredRecord;
use crate::keeper::watchdog::Watchdog;
use crate::listen::GroupRecord;
use crate::machine::{Process, State};

/// The version of [`Estate`] that is written. A field that an older program may ignore gets a default and no new number.
pub const HAND_OVER_VERSION: u32 = 1;
/// The longest one that is read, in bytes.
const MAX_BYTES: u64 = 16 << 20;

/// Everything the next program needs to go on as if it had always been there.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::keeper) struct Estate {
    pub version: u32,
    /// The version of the program that leaves it, for people.
    pub from: String,
    pub config: Config,
    pub state: State,
    pub unsaved: bool,
    pub revision: u64,
    pub notes: Vec<String>,
    /// Where the next program says that it has taken over; none while it is only asked.
    pub ready: Option<RawFd>,
    pub lock: RawFd,
    pub notify: RawFd,
    pub notify_path: PathBuf,
    pub control: ControlRecord,
    pub groups: Vec<(String, GroupRecord)>,
    pub running: Vec<RunningRecord>,
    pub mains: BTreeMap<u64, Vec<Process>>,
    pub streams: Vec<StreamRecord>,
    pub tails: BTreeMap<u64, Vec<String>>,
    pub stored: Vec<StoredRecord>,
    pub joins: Vec<JoinRecord>,
    pub relays: Vec<RelayRecord>,
    pub asked: Vec<((u64, usize), u64)>,
    pub cut: BTreeMap<u64, u64>,
    /// The app's own locks that the keeper has, of this generation.
    #[serde(default)]
    pub locks: Option<(u64, Vec<RawFd>)>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::keeper) struct RunningRecord {
    pub place: (u64, usize),
    pub process: Process,
    pub pidfd: RawFd,
    pub own_child: bool,
    pub said: String,
    pub stopping: bool,
    #[serde(default)]
    pub reloading: bool,
    pub errno: Option<i32>,
    pub watchdog: Watchdog,
    pub missed: Option<String>,
    #[serde(default)]
    pub memory_kills: u64,
    pub reload_asked_us: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::keeper) struct StreamRecord {
    pub place: (u64, usize),
    pub name: String,
    pub pipe: RawFd,
    pub partial: Vec<u8>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::keeper) struct JoinRecord {
    pub place: (u64, usize),
    pub notify: RawFd,
}

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::keeper) struct RelayRecord {
    pub ends: [RawFd; 2],
    pub finished: [bool; 2],
}

/// A file in memory that nobody can change any more, read from its beginning.
pub(super) fn seal(estate: &Estate) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(rustix::fs::memfd_create("ship-keeper", flags)?);
    let mut out = io::BufWriter::with_capacity(4096, &mut file);
    serde_json::to_writer(&mut out, estate)?;
    out.flush()?;
    drop(out);
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    file.rewind()?;
    Ok(file)
}

/// Reads what [`seal`] has written.
pub(super) fn read(file: File) -> Result<Estate, String> {
    let mut bytes = Vec::new();
    let mut file = file.take(MAX_BYTES);
    file.read_to_end(&mut bytes)
        .map_err(|error| format!("the state cannot be read: {error}"))?;
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Result<Estate, String> {
    #[derive(Deserialize)]
    struct Head {
        version: u32,
    }
    let words = |error: serde_json::Error| format!("the state cannot be understood: {error}");
    let head: Head = serde_json::from_slice(bytes).map_err(words)?;
    if head.version != HAND_OVER_VERSION {
        return Err(version_message(head.version));
    }
    serde_json::from_slice(bytes).map_err(words)
}

fn version_message(version: u32) -> String {
    format!("a state of version {version} is not known here, only {HAND_OVER_VERSION}")
}

/// Whether this program could go on from a state of this version, and from the one in `state` if there is one.
///
/// # Errors
/// Why not.
pub fn can_adopt(version: u32, state: File) -> Result<(), String> {
    if version != HAND_OVER_VERSION {
        return Err(version_message(version));
    }
    let mut bytes = Vec::new();
    state
        .take(MAX_BYTES)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("the state cannot be read: {error}"))?;
    match bytes.is_empty() {
        true => Ok(()),
        false => parse(&bytes).map(drop),
    }
}
