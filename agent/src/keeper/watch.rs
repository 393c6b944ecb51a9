//! The newest word of an app's keeper, kept current by a thread of its own.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ship_keeper::protocol::Status;
use ship_keeper::{AskError, Client};

/// Between two looks for a keeper that is not there.
const ABSENT: Duration = Duration::from_millis(200);
/// For one wait, so that a watch nobody wants any more ends.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is known of a keeper right now.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Seen {
    /// Not asked yet.
    #[default]
    Unknown,
    /// Nobody listens on its socket.
    Gone,
    Here(Arc<Status>),
}

impl Seen {
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Here(status) => Some(status),
            Self::Unknown | Self::Gone => None,
        }
    }
}

/// Follows one keeper as long as it is held.
#[derive(Debug)]
pub struct KeeperWatch {
    stop: Arc<AtomicBool>,
    /// That the keeper is gone was the last word.
    told_gone: Arc<AtomicBool>,
}

impl KeeperWatch {
    /// Begins to follow the keeper whose run folder is `run`, and tells `hear` of every change.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn begin(run: &Path, hear: impl Fn(Seen) + Send + 'static) -> io::Result<Self> {
        let client = Client::new(run, PATIENCE);
        let stop = Arc::new(AtomicBool::new(false));
        let told_gone = Arc::new(AtomicBool::new(false));
        let (stopped, told) = (Arc::clone(&stop), Arc::clone(&told_gone));
        std::thread::Builder::new()
            .name("keeper-watch".to_owned())
            .spawn(move || follow(&client, &hear, &stopped, &told))?;
        Ok(Self { stop, told_gone })
    }

    /// Another one found the keeper. Should it be gone again before the next look, that is told once more; without this
    /// its second death would look like the first, and nobody would hear of it.
    pub fn found(&self) {
        self.told_gone.store(false, Ordering::Relaxed);
    }
}

impl Drop for KeeperWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn follow(client: &Client, hear: &dyn Fn(Seen), stop: &AtomicBool, told_gone: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if let Ok(statuses) = client.watch() {
            for status in statuses {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                match status {
                    Ok(status) => {
                        told_gone.store(false, Ordering::Relaxed);
                        hear(Seen::Here(Arc::new(status)));
                    }
                    Err(error) if is_patience(&error) => {}
                    Err(_) => break,
                }
            }
        }
        if !told_gone.swap(true, Ordering::Relaxed) {
            hear(Seen::Gone);
        }
        std::thread::sleep(ABSENT);
    }
}

fn is_patience(error: &AskError) -> bool {
    matches!(error, AskError::Talk { source, .. }
        if matches!(source.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::*;

    #[test]
    fn a_keeper_that_dies_again_before_it_was_looked_at_is_told_again() {
        let run = tempfile::tempdir().unwrap();
        let (tell, told) = std::sync::mpsc::sync_channel(8);
        let watch = KeeperWatch::begin(run.path(), move |seen| tell.send(seen).unwrap()).unwrap();
        let patience = Duration::from_secs(20);
        assert_eq!(told.recv_timeout(patience), Ok(Seen::Gone));
        watch.found();
        assert_eq!(told.recv_timeout(patience), Ok(Seen::Gone));
    }
}
