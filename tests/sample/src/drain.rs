//! The drain contract: when to ask clients to come back on a new connection, and when nothing more can come.

use std::env;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};

/// Watches the drain file and the stop signals.
#[derive(Debug)]
pub struct Drain {
    file: Option<PathBuf>,
    grace: Duration,
    since: Option<Instant>,
    stopped: bool,
}

impl Drain {
    /// `SHIP_DRAIN_FILE` names the file whose appearance starts the drain.
    pub fn from_environment(grace: Duration) -> Self {
        let file = env::var_os("SHIP_DRAIN_FILE")
            .filter(|path| !path.is_empty())
            .map(PathBuf::from);
        Self::new(file, grace)
    }

    fn new(file: Option<PathBuf>, grace: Duration) -> Self {
        Self {
            file,
            grace,
            since: None,
            stopped: false,
        }
    }

    /// Looks at the file. One that goes away again before the stop signal takes the app back into service: a revert
    /// may want this very generation.
    pub fn look(&mut self, now: Instant) {
        if self.stopped {
            return;
        }
        let asked = self.file.as_ref().is_some_and(|file| file.exists());
        match (asked, self.since) {
            (true, None) => self.since = Some(now),
            (false, Some(_)) => self.since = None,
            _ => {}
        }
    }

    /// The stop signal came. There is no way back from it.
    pub fn stop(&mut self, now: Instant) {
        self.stopped = true;
        self.since.get_or_insert(now);
    }

    pub fn watches_file(&self) -> bool {
        self.file.is_some() && !self.stopped
    }

    pub fn draining(&self) -> bool {
        self.since.is_some()
    }

    /// Until when a connection that was last active at `active` may still bring a request.
    pub fn patience_with(&self, active: Instant) -> Option<Instant> {
        self.since.map(|since| since.max(active) + self.grace)
    }

    /// Whether the accept queue may be emptied for the last time.
    pub fn over(&self, now: Instant) -> bool {
        self.since.is_some_and(|since| now >= since + self.grace)
    }
}

/// SIGTERM and SIGINT as something an event loop can wait for.
#[derive(Debug)]
pub struct Signals(pub UnixStream);

impl Signals {
    pub fn register() -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        signal_hook::low_level::pipe::register(SIGTERM, writer.try_clone()?)?;
        signal_hook::low_level::pipe::register(SIGINT, writer)?;
        Ok(Self(reader))
    }

    /// Whether a signal came since the last call.
    pub fn came(&mut self) -> bool {
        let mut bytes = [0; 64];
        matches!(self.0.read(&mut bytes), Ok(1..))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::*;
    use crate::clock;

    #[test]
    fn the_file_starts_a_drain_and_its_removal_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("drain");
        let mut drain = Drain::new(Some(file.clone()), Duration::from_secs(2));
        let now = clock::now();
        drain.look(now);
        assert!(!drain.draining());
        std::fs::File::create(&file).unwrap();
        drain.look(now);
        assert!(drain.draining());
        assert!(!drain.over(now + Duration::from_millis(1999)));
        assert!(drain.over(now + Duration::from_secs(2)));
        std::fs::remove_file(&file).unwrap();
        drain.look(now);
        assert!(!drain.draining());
    }

    #[test]
    fn a_stop_is_final_and_new_connections_get_the_whole_grace() {
        let mut drain = Drain::new(None, Duration::from_secs(2));
        let now = clock::now();
        drain.stop(now);
        drain.look(now);
        assert!(drain.draining());
        let late = now + Duration::from_secs(1);
        assert_eq!(drain.patience_with(late), Some(now + Duration::from_secs(3)));
    }
}
