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
}

impl KeeperWatch {
    /// Begins to follow the keeper whose run folder is `run`, and tells `hear` of every change.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn begin(run: &Path, hear: impl Fn(Seen) + Send + 'static) -> io::Result<Self> {
        let client = Client::new(run, PATIENCE);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        std::thread::Builder::new()
            .name("keeper-watch".to_owned())
            .spawn(move || follow(&client, &hear, &stopped))?;
        Ok(Self { stop })
    }
}

impl Drop for KeeperWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn follow(client: &Client, hear: &dyn Fn(Seen), stop: &AtomicBool) {
    let mut gone = false;
    while !stop.load(Ordering::Relaxed) {
        if let Ok(statuses) = client.watch() {
            for status in statuses {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                match status {
                    Ok(status) => {
                        gone = false;
                        hear(Seen::Here(Arc::new(status)));
                    }
                    Err(error) if is_patience(&error) => {}
                    Err(_) => break,
                }
            }
        }
        if !gone {
            gone = true;
            hear(Seen::Gone);
        }
        std::thread::sleep(ABSENT);
    }
}

fn is_patience(error: &AskError) -> bool {
    matches!(error, AskError::Talk { source, .. }
        if matches!(source.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut))
}
