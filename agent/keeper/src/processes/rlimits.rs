//! Whether a limit can be set at all, asked before anything begins.

use rustix::process::{Resource, getrlimit};
use thiserror::Error;

use crate::protocol::Limits;

/// The bit of CAP_SYS_RESOURCE.
const CAP_SYS_RESOURCE: u64 = 1 << 24;

/// A limit that a process cannot be given here.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("limits.{key} = {wanted} is above {most}, {why}")]
pub struct LimitError {
    key: &'static str,
    wanted: u64,
    most: u64,
    why: &'static str,
}

/// Whether this keeper can give a process these limits.
///
/// # Errors
/// [`LimitError`] names the first that it cannot, what it could, and what has to be raised.
pub fn check_limits(limits: &Limits) -> Result<(), LimitError> {
    let may_raise = may_raise();
    let hard = |resource| getrlimit(resource).maximum.filter(|_| !may_raise);
    let cases = [
        ("nofile", limits.nofile, hard(Resource::Nofile)),
        ("memory", limits.memory, hard(Resource::As)),
    ];
    for (key, wanted, most) in cases {
        check(
            key,
            wanted,
            most,
            "the hard limit of the keeper; raise it where the keeper is started (systemd: LimitNOFILE, LimitAS)",
        )?;
    }
    let kernel = "the kernel's own limit; raise fs.nr_open by sysctl";
    check("nofile", limits.nofile, most_files(), kernel)
}

fn check(
    key: &'static str,
    wanted: Option<u64>,
    most: Option<u64>,
    why: &'static str,
) -> Result<(), LimitError> {
    match (wanted, most) {
        (Some(wanted), Some(most)) if wanted > most => Err(LimitError {
            key,
            wanted,
            most,
            why,
        }),
        _ => Ok(()),
    }
}

fn most_files() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/sys/fs/nr_open").ok()?;
    text.trim().parse().ok()
}

fn may_raise() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut lines = status.lines();
    let effective = lines.find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    bits.is_some_and(|bits| bits & CAP_SYS_RESOURCE != 0)
}

#[cfg(test)]
mod tests {
    use super::{check, check_limits, most_files};
    use crate::protocol::Limits;

    #[test]
    fn names_what_cannot_be_set() {
        assert_eq!(check("nofile", Some(10), Some(10), "why"), Ok(()));
        assert_eq!(check("nofile", None, Some(10), "why"), Ok(()));
        assert_eq!(check("nofile", Some(11), None, "why"), Ok(()));
        let refused =
            check("nofile", Some(11), Some(10), "the hard limit").map_err(|error| error.to_string());
        assert_eq!(
            refused,
            Err("limits.nofile = 11 is above 10, the hard limit".to_owned())
        );
        assert_eq!(check_limits(&Limits::default()), Ok(()));
        let all = most_files().map(|most| Limits {
            nofile: Some(most + 1),
            ..Limits::default()
        });
        assert!(all.is_some_and(|limits| check_limits(&limits).is_err()));
    }
}
