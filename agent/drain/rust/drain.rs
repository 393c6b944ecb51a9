//! Ship's drain contract for hyper (and axum, which runs on it). Copy this file into the application.
//!
//! While `SHIP_DRAIN_FILE` exists, every answer over HTTP/1 carries `Connection: close`: [`Drain::mark`].
//! Do not call a connection's `graceful_shutdown` for that: over HTTP/1 it closes idle connections at once, and cuts requests
//! that are on their way. Over HTTP/2 it is right, for there it says GOAWAY: call it when [`Drain::begun`] returns. WebSockets
//! wait for [`Drain::begun`], then for [`spread`], then close with 1001. Outside of Ship it does nothing.

use std::path::PathBuf;
use std::time::Duration;

use hyper::header::{CONNECTION, HeaderValue};
use hyper::{Response, Version};
use tokio::sync::watch;

/// Tells whether the drain is on; cheap to clone.
#[derive(Debug, Clone)]
pub struct Drain(watch::Receiver<bool>);

impl Drain {
    /// Watches the file that the environment names: one look every 100 ms, not one per request. It may go away again;
    /// then all is as before.
    pub fn from_environment() -> Self {
        let (tell, hear) = watch::channel(false);
        let file = std::env::var_os("SHIP_DRAIN_FILE").filter(|file| !file.is_empty());
        if let Some(file) = file.map(PathBuf::from) {
            tokio::spawn(async move {
                while !tell.is_closed() {
                    tell.send_if_modified(|draining| std::mem::replace(draining, file.exists()) != *draining);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            });
        }
        Self(hear)
    }

    /// Asks the client to come back on a new connection, when the drain is on.
    pub fn mark<Body>(&self, version: Version, answer: &mut Response<Body>) {
        if *self.0.borrow() && version < Version::HTTP_2 {
            answer
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }

    /// Waits until a drain has begun; without Ship, for ever.
    pub async fn begun(&self) {
        let mut hear = self.0.clone();
        if hear.wait_for(|draining| *draining).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// How long a WebSocket waits before it leaves, so that not all of them come back at once.
pub fn spread(most: Duration) -> Duration {
    use std::hash::{BuildHasher, Hasher};
    let dice = std::hash::RandomState::new().build_hasher().finish();
    most.mul_f64((dice >> 11) as f64 / (1_u64 << 53) as f64)
}
