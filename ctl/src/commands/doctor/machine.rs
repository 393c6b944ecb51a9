//! What is asked of the machine that `doctor` runs on.

use super::{Finding, Grade, MIN_FREE_PERCENT, percent};
use crate::words::bytes;

const MIN_FILES: u64 = 4_096;

/// What this machine would do to a fleet on it.
pub(super) fn machine() -> Vec<Finding> {
    let mut findings = vec![files()];
    findings.extend(kernel());
    findings.extend(ports());
    findings.extend(migrate());
    findings.push(disk());
    findings
}

fn files() -> Finding {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let (enough, found) = match limit.current {
        Some(files) => (files >= MIN_FILES, files.to_string()),
        None => (true, "unlimited".to_owned()),
    };
    let grade = if enough { Grade::Good } else { Grade::Doubt };
    Finding::new(
        "open files",
        grade,
        found,
        "ulimit -n 65536, or LimitNOFILE= in the unit",
    )
}

fn read(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn kernel() -> Option<Finding> {
    let release = read("/proc/sys/kernel/osrelease")?;
    let mut parts = release
        .split(['.', '-'])
        .map_while(|part| part.parse::<u64>().ok());
    let new = (parts.next()?, parts.next()?) >= (5, 14);
    let grade = if new { Grade::Good } else { Grade::Doubt };
    Some(Finding::new(
        "kernel",
        grade,
        release,
        "hosts need Linux 5.14 or newer",
    ))
}

fn ports() -> Option<Finding> {
    let range = read("/proc/sys/net/ipv4/ip_local_port_range")?;
    let (low, high) = range.split_once(' ')?;
    let count = high.parse::<u64>().ok()?.checked_sub(low.parse().ok()?)?;
    let grade = if count >= 10_000 {
        Grade::Good
    } else {
        Grade::Doubt
    };
    Some(Finding::new(
        "local ports",
        grade,
        range,
        "a busy host runs out of them: sysctl net.ipv4.ip_local_port_range",
    ))
}

fn migrate() -> Option<Finding> {
    let on = read("/proc/sys/net/ipv4/tcp_migrate_req")?;
    let found = match on.as_str() {
        "1" => "on: the kernel itself saves connections that a closing listener holds",
        _ => "off: keepers steer so that it is not needed",
    };
    Some(Finding::new("tcp_migrate_req", Grade::Good, found, ""))
}

fn disk() -> Finding {
    match rustix::fs::statvfs(".") {
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let share = percent(free, disk.f_blocks.saturating_mul(disk.f_frsize)).unwrap_or(100);
            let grade = if share < MIN_FREE_PERCENT {
                Grade::Doubt
            } else {
                Grade::Good
            };
            Finding::new(
                "disk here",
                grade,
                format!("{} free, {share} %", bytes(free)),
                "make room",
            )
        }
        Err(error) => Finding::new(
            "disk here",
            Grade::Doubt,
            error.to_string(),
            "look at the folder you stand in",
        ),
    }
}
