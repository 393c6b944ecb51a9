//! Limits of a group, in the words of both kinds of hierarchies.

use std::io;
use std::path::Path;

use super::Controller;
use super::folder::{Version, write};

/// The weight of processor time that everybody has.
const USUAL_WEIGHT: u64 = 100;
/// What version 1 calls that.
const USUAL_SHARES: u64 = 1024;

/// Sets one limit of a group.
pub(super) fn set(group: &Path, version: Version, controller: Controller, limit: u64) -> io::Result<()> {
    let set = |file: &str, value: u64| write(&group.join(file), &value.to_string());
    match (version, controller) {
        (Version::Two, Controller::Memory) => {
            set("memory.max", limit)?;
            // Shortly before, the kernel takes back what it can, so that a burst is slowed down before anything is killed.
            set("memory.high", limit - limit / 16)
        }
        (Version::One, Controller::Memory) => set("memory.limit_in_bytes", limit),
        (_, Controller::Pids) => set("pids.max", limit),
        (Version::Two, Controller::Cpu) => set("cpu.weight", limit),
        (Version::One, Controller::Cpu) => set(
            "cpu.shares",
            (limit.saturating_mul(USUAL_SHARES) / USUAL_WEIGHT).max(2),
        ),
    }
}

/// How many processes of the group were killed for want of memory.
pub(super) fn memory_kills(group: &Path, version: Version) -> Option<u64> {
    let file = match version {
        Version::Two => "memory.events",
        Version::One => "memory.oom_control",
    };
    let text = std::fs::read_to_string(group.join(file)).ok()?;
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "))?;
    count.trim().parse().ok()
}

/// What falls back where a limit cannot be held by a group.
pub(super) fn unheld(controller: Controller, reason: &str) -> String {
    let instead = match controller {
        Controller::Memory => "limits the address space of each process, not the memory of all together",
        Controller::Pids | Controller::Cpu => "is not held",
    };
    format!("limits.{} {instead}: {reason}", controller.name())
}

/// Bytes in words, as a ship.toml has them where that is exact: `1 GiB`, `512 MiB`, `1.5 GiB`.
#[must_use]
pub fn amount(bytes: u64) -> String {
    let units = [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let Some((name, unit)) = units.into_iter().find(|(_, unit)| bytes >= *unit) else {
        return format!("{bytes} bytes");
    };
    let tenths = (bytes % unit) * 10 / unit;
    match tenths {
        0 => format!("{} {name}", bytes / unit),
        tenths => format!("{}.{tenths} {name}", bytes / unit),
    }
}

#[cfg(test)]
mod tests {
    use super::amount;

    #[test]
    fn amounts_read_as_people_write_them() {
        for (bytes, text) in [
            (1 << 30, "1 GiB"),
            (3 << 29, "1.5 GiB"),
            (512 << 20, "512 MiB"),
            (1500, "1.4 KiB"),
            (12, "12 bytes"),
        ] {
            assert_eq!(amount(bytes), text);
        }
    }
}
