//! What one datagram says: lines of `KEY=VALUE`, as sd_notify(3) has them. Unknown keys mean nothing.

/// What one datagram says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notice {
    /// Who sent it, as the kernel vouches.
    pub pid: u32,
    /// `READY=1`.
    pub ready: bool,
    /// `RELOADING=1`.
    pub reloading: bool,
    /// `MONOTONIC_USEC=`: when that reload began, in microseconds of CLOCK_MONOTONIC.
    pub monotonic_us: Option<u64>,
    /// `STOPPING=1`.
    pub stopping: bool,
    /// `STATUS=`.
    pub status: Option<String>,
    /// `ERRNO=`: the number of the error that it fails with.
    pub errno: Option<i32>,
    /// `MAINPID=`.
    pub main_pid: Option<u32>,
    /// `EXTEND_TIMEOUT_USEC=`, in milliseconds.
    pub extend_ms: Option<u64>,
    /// `WATCHDOG=`.
    pub watchdog: Option<Beat>,
    /// `WATCHDOG_USEC=`: its watchdog's time from now on, in milliseconds; at least 1.
    pub watchdog_ms: Option<u64>,
    /// `FDSTORE=1`, or `FDSTOREREMOVE=1`.
    pub store: Option<Store>,
    /// `FDNAME=`, if that is a name.
    pub fd_name: Option<String>,
    /// `FDPOLL=0`: the descriptors are kept also when their other side hangs up.
    pub fd_keep: bool,
    /// `BARRIER=1`: the descriptor that came with it is closed when all before it is done.
    pub barrier: bool,
}

/// A word to the watchdog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// It is well.
    Alive,
    /// It is as if it had been silent for too long.
    Trigger,
}

/// A word to the store of descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// Keep those that came with this.
    Keep,
    /// Drop those with this name.
    Remove,
}

/// Characters of a status kept.
const MAX_STATUS: usize = 200;
/// Characters of a descriptor's name.
const MAX_NAME: usize = 255;

impl Notice {
    /// Reads a datagram of process `pid`. What cannot be read is as if it were not there.
    #[must_use]
    pub fn parse(pid: u32, bytes: &[u8]) -> Self {
        let mut notice = Self {
            pid,
            ..Self::default()
        };
        for line in bytes.split(|byte| *byte == b'\n') {
            let pair = std::str::from_utf8(line)
                .ok()
                .and_then(|line| line.split_once('='));
            if let Some((key, value)) = pair {
                notice.take(key, value);
            }
        }
        notice
    }

    fn take(&mut self, key: &str, value: &str) {
        let micros = || value.parse::<u64>().ok();
        match (key, value) {
            ("READY", "1") => self.ready = true,
            ("RELOADING", "1") => self.reloading = true,
            ("MONOTONIC_USEC", _) => self.monotonic_us = micros(),
            ("STOPPING", "1") => self.stopping = true,
            ("STATUS", text) => self.status = Some(text.chars().take(MAX_STATUS).collect()),
            ("ERRNO", number) => self.errno = number.parse().ok(),
            ("MAINPID", pid) => self.main_pid = pid.parse().ok(),
            ("EXTEND_TIMEOUT_USEC", _) => self.extend_ms = micros().map(|micros| micros / 1000),
            ("WATCHDOG", "1") => self.watchdog = Some(Beat::Alive),
            ("WATCHDOG", "trigger") => self.watchdog = Some(Beat::Trigger),
            ("WATCHDOG_USEC", _) => self.watchdog_ms = micros().map(|micros| (micros / 1000).max(1)),
            ("FDSTORE", "1") => self.store = Some(Store::Keep),
            ("FDSTOREREMOVE", "1") => self.store = Some(Store::Remove),
            ("FDNAME", name) if is_name(name) => self.fd_name = Some(name.to_owned()),
            ("FDPOLL", "0") => self.fd_keep = true,
            ("BARRIER", "1") => self.barrier = true,
            _ => {}
        }
    }
}

/// As systemd has it: what can stand in LISTEN_FDNAMES.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME
        && name
            .bytes()
            .all(|byte| byte.is_ascii() && !byte.is_ascii_control() && byte != b':')
}

#[cfg(test)]
mod tests {
    use super::{Beat, Notice, Store};

    #[test]
    fn reads_known_lines_and_skips_the_rest() {
        let bytes =
            b"READY=1\nSTATUS=all well\nX=1\n\xff\xfe=\nEXTEND_TIMEOUT_USEC=5000000\nMAINPID=7\nERRNO=13\n";
        let expected = Notice {
            pid: 3,
            ready: true,
            status: Some("all well".to_owned()),
            main_pid: Some(7),
            extend_ms: Some(5000),
            errno: Some(13),
            ..Notice::default()
        };
        assert_eq!(Notice::parse(3, bytes), expected);
        let nothing = Notice {
            pid: 3,
            ..Notice::default()
        };
        for empty in [&b""[..], b"=", b"READY", b"READY=0", b"MAINPID=-1", b"\n\n\0"] {
            assert_eq!(Notice::parse(3, empty), nothing);
        }
    }

    #[test]
    fn reads_reloads_watchdogs_and_stored_descriptors() {
        let reload = Notice::parse(1, b"RELOADING=1\nMONOTONIC_USEC=12");
        assert!(reload.reloading && !reload.ready);
        assert_eq!(reload.monotonic_us, Some(12));
        let beat = |text: &[u8]| Notice::parse(1, text).watchdog;
        assert_eq!(beat(b"WATCHDOG=1"), Some(Beat::Alive));
        assert_eq!(beat(b"WATCHDOG=trigger"), Some(Beat::Trigger));
        assert_eq!(beat(b"WATCHDOG=2"), None);
        assert_eq!(Notice::parse(1, b"WATCHDOG_USEC=0").watchdog_ms, Some(1));
        let store = Notice::parse(1, b"FDSTORE=1\nFDNAME=cache\nFDPOLL=0");
        assert_eq!(store.store, Some(Store::Keep));
        assert_eq!(store.fd_name.as_deref(), Some("cache"));
        assert!(store.fd_keep);
        assert!(Notice::parse(1, b"BARRIER=1").barrier);
        for bad in ["a:b", "", "a\tb", "\u{fc}"] {
            assert_eq!(Notice::parse(1, format!("FDNAME={bad}").as_bytes()).fd_name, None);
        }
    }
}
