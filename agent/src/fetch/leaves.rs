//! The leaves by which bytes are checked that come from anywhere: asked of the store, and of others while it is away. They
//! hash to the object's digest, so it does not matter who tells them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use http::StatusCode;
use http_body_util::BodyExt;
use ship_model::leaves::{LONGEST_LIST, Leaves};
use ship_proto::v1;
use tokio::time::{sleep, timeout};

use super::lines::{Object, in_time};
use super::origin::Origin;
use super::{FetchError, Fetcher, answer, call, retried};

/// Lists kept in memory, each of at most half a mebibyte.
const KEPT: usize = 8;
/// For the store to tell, before others are asked as well.
const PATIENCE: Duration = Duration::from_secs(3);
/// For one of the others to tell.
const OTHERS: Duration = Duration::from_secs(5);

/// The last lists.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<VecDeque<(Object, Arc<Leaves>)>>);

impl Known {
    fn find(&self, object: Object) -> Option<Arc<Leaves>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.iter().find(|(of, _)| *of == object);
        found.map(|(_, leaves)| Arc::clone(leaves))
    }

    fn put(&self, object: Object, leaves: Leaves) -> Arc<Leaves> {
        let leaves = Arc::new(leaves);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(of, _)| *of != object);
        known.truncate(KEPT - 1);
        known.push_front((object, Arc::clone(&leaves)));
        leaves
    }
}

impl Fetcher {
    /// The leaves of `object`; none when nobody tells them, as an old store does not.
    pub async fn leaves(&self, object: Object) -> Option<Arc<Leaves>> {
        if let Some(known) = self.known.find(object) {
            return Some(known);
        }
        let mut store = std::pin::pin!(retried(|| self.ask_leaves(object)));
        let told = tokio::select! {
            told = &mut store => told,
            found = self.leaves_elsewhere(object) => return Some(self.known.put(object, found)),
        };
        let error = match told {
            Ok(leaves) => return Some(self.known.put(object, leaves)),
            Err(error) => error,
        };
        match timeout(OTHERS, self.ask_others(object)).await {
            Ok(Some(leaves)) => Some(self.known.put(object, leaves)),
            _ => {
                let error = crate::session::chain(&error);
                tracing::warn!(error, "parts cannot be checked: only the store is asked");
                None
            }
        }
    }

    /// Those that this host knows by itself.
    pub fn known_leaves(&self, object: Object) -> Option<Arc<Leaves>> {
        self.known.find(object)
    }

    async fn ask_leaves(&self, object: Object) -> Result<Leaves, FetchError> {
        use v1::leaves_request::Object as Asked;
        let what = || format!("the leaves of {}", object.path());
        let asked = match object {
            Object::Bundle(bundle) => Asked::Bundle(bundle.as_bytes().to_vec()),
            Object::Delta(delta) => Asked::Delta(delta.as_bytes().to_vec()),
        };
        let request = v1::LeavesRequest { object: Some(asked) };
        let reply = answer(&what, self.client().leaves(call(request))).await?;
        Leaves::read(*object.digest(), &reply.leaves).map_err(|source| FetchError::Leaves {
            object: object.path(),
            source,
        })
    }

    /// Waits for a while, then asks others until one tells.
    async fn leaves_elsewhere(&self, object: Object) -> Leaves {
        sleep(PATIENCE).await;
        match self.ask_others(object).await {
            Some(leaves) => leaves,
            // Then the store's answer is all there is.
            None => std::future::pending().await,
        }
    }

    async fn ask_others(&self, object: Object) -> Option<Leaves> {
        for origin in self.others(object) {
            if let Ok(Some(leaves)) = timeout(OTHERS, self.leaves_from(&origin, object)).await {
                return Some(leaves);
            }
        }
        None
    }

    async fn leaves_from(&self, origin: &Origin, object: Object) -> Option<Leaves> {
        let answer = self.ask(origin, &object.leaves_path(), None).await.ok()?;
        if answer.response.status() != StatusCode::OK {
            return None;
        }
        let (mut body, kept) = answer.into_body();
        let mut bytes = BytesMut::new();
        while let Some(frame) = in_time(body.frame()).await.ok()? {
            let piece = frame.ok()?.into_data().unwrap_or_default();
            self.took(origin, piece.len()).await;
            if bytes.len() + piece.len() > LONGEST_LIST {
                return None;
            }
            bytes.extend_from_slice(&piece);
        }
        self.keep(kept);
        Leaves::read(*object.digest(), &bytes).ok()
    }
}
