//! Telling who waits that records changed: what is lost to a slow listener is replaced by "look again".

use std::sync::Arc;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

/// Commits that a listener may lag behind before it is told to look at everything again.
const BACKLOG: usize = 1024;

/// What a watcher learns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// These keys changed in one commit; their values are read anew, since they may have changed again.
    Keys(Vec<String>),
    /// Some changes were lost: read the whole range again.
    Resync,
}

/// A listener to the changes below one prefix, from the moment it was made.
#[derive(Debug)]
pub struct Watch {
    prefix: String,
    commits: broadcast::Receiver<Arc<Vec<String>>>,
}

impl Watch {
    /// Waits for the next change; none when the engine is closed. Cancelling it loses nothing.
    pub async fn next(&mut self) -> Option<Seen> {
        loop {
            match self.commits.recv().await {
                Ok(keys) => {
                    if let Some(seen) = below(&self.prefix, &keys) {
                        return Some(seen);
                    }
                }
                Err(RecvError::Lagged(_)) => return Some(Seen::Resync),
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// The next change if there is one already.
    pub fn try_next(&mut self) -> Option<Seen> {
        loop {
            match self.commits.try_recv() {
                Ok(keys) => {
                    if let Some(seen) = below(&self.prefix, &keys) {
                        return Some(seen);
                    }
                }
                Err(TryRecvError::Lagged(_)) => return Some(Seen::Resync),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return None,
            }
        }
    }
}

fn below(prefix: &str, keys: &[String]) -> Option<Seen> {
    let keys: Vec<String> = keys
        .iter()
        .filter(|key| key.starts_with(prefix))
        .cloned()
        .collect();
    (!keys.is_empty()).then_some(Seen::Keys(keys))
}

/// The engine's end: announces the keys of each commit, after it is durable.
#[derive(Debug, Clone)]
pub(crate) struct Announcer {
    commits: broadcast::Sender<Arc<Vec<String>>>,
}

impl Announcer {
    pub(crate) fn new() -> Self {
        Self {
            commits: broadcast::Sender::new(BACKLOG),
        }
    }

    pub(crate) fn watch(&self, prefix: &str) -> Watch {
        Watch {
            prefix: prefix.to_owned(),
            commits: self.commits.subscribe(),
        }
    }

    pub(crate) fn announce(&self, keys: Vec<String>) {
        // Nobody may be listening, which is no error.
        let _ = self.commits.send(Arc::new(keys));
    }
}
