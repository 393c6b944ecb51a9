//! Leftovers: temporary entries that a killed process left behind, and how they are named.

use std::io;
use std::path::Path;

/// Every temporary entry made by this crate has a name that starts so.
pub const LEFTOVER_PREFIX: &str = ".tmp-";

/// A fresh name for a temporary entry; 64 random bits, so two processes do not meet.
pub(crate) fn temporary_name() -> io::Result<String> {
    let mut random = [0_u8; 8];
    let mut filled = 0;
    while filled < random.len() {
        filled += rustix::rand::getrandom(&mut random[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(format!("{LEFTOVER_PREFIX}{:016x}", u64::from_le_bytes(random)))
}

/// Removes the leftovers directly inside `dir` (files, links and whole folders), and returns how many there were.
///
/// The caller must hold whatever lock keeps other writers out of `dir`: a temporary file in use looks the same. Nothing
/// is synced; a leftover that comes back after a power cut is swept the next time.
///
/// # Errors
/// When the folder cannot be read or a leftover cannot be removed. An absent folder has no leftovers.
pub fn sweep_leftovers(dir: &Path) -> io::Result<usize> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut swept = 0;
    for entry in entries {
        let entry = entry?;
        if !entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(LEFTOVER_PREFIX.as_bytes())
        {
            continue;
        }
        crate::remove_tree(&entry.path()).map_err(io::Error::other)?;
        swept += 1;
    }
    Ok(swept)
}
