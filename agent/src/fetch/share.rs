//! What this host shares with others of its group: who owns which piece, and what was fetched lately.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use ship_assets::serve::Throttle;
use ship_model::leaves::Leaves;
use ship_model::name::HostName;
use ship_model::spread::{PIECE, owners};
use tokio::sync::OwnedMutexGuard;

use super::cache::Cache;
use super::lines::Object;
use super::origin::{Origin, Told};
use crate::config::PeerSettings;

/// A piece of an object: as many whole leaves as are shared together.
pub(super) type Piece = (Object, u64);

/// This host's part in its group.
#[derive(Debug)]
pub struct Share {
    host: HostName,
    pub(super) cache: Arc<Cache>,
    /// Held by whoever gets a piece from the store or a mirror, so that nobody on this host does it twice.
    getting: Mutex<HashMap<Piece, Arc<tokio::sync::Mutex<()>>>>,
    /// How fast bytes are given to others.
    pub limit: Option<Throttle>,
    served: AtomicU64,
}

/// Leaves of a piece of an object that is cut into such.
pub fn leaves_a_piece(leaves: &Leaves) -> usize {
    (PIECE / leaves.leaf_len()).max(1) as usize
}

/// Which piece a run of leaves lies in; none when it lies in several.
pub fn piece_of(leaves: &Leaves, run: &Range<usize>) -> Option<u64> {
    let each = leaves_a_piece(leaves);
    let piece = run.start / each;
    (run.start < run.end && run.end <= leaves.count() && (run.end - 1) / each == piece)
        .then_some(piece as u64)
}

/// Cuts a run of leaves where pieces end.
pub fn cut(leaves: &Leaves, run: Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
    let each = leaves_a_piece(leaves);
    let mut at = run.start;
    std::iter::from_fn(move || {
        let end = ((at / each + 1) * each).min(run.end);
        let cut = at..end;
        at = end;
        (!cut.is_empty()).then_some(cut)
    })
}

impl Share {
    /// Begins with nothing: what an earlier agent kept in `folder` is taken away.
    ///
    /// # Errors
    /// When the folder cannot be made anew.
    pub fn begin(host: HostName, settings: &PeerSettings, folder: &Path) -> io::Result<Self> {
        Ok(Self {
            host,
            cache: Arc::new(Cache::begin(folder, settings.cache)?),
            getting: Mutex::default(),
            limit: settings.limit.map(Throttle::new),
            served: AtomicU64::new(0),
        })
    }

    /// Who is asked for a piece before the store: its owner, then the one that would own it next. Nobody, when this host
    /// owns it.
    pub(super) fn owners(&self, told: &Told, piece: &Piece) -> Vec<Origin> {
        let (first, second) = self.ranked(told, piece);
        let others = [first, second].into_iter().flatten();
        let mut others = others.map(|(host, address)| Origin::Peer(host, address));
        match others.next() {
            Some(Origin::Peer(host, _)) if host == self.host => Vec::new(),
            Some(first) => {
                let second =
                    others.filter(|peer| !matches!(peer, Origin::Peer(host, _) if *host == self.host));
                std::iter::once(first).chain(second).collect()
            }
            None => Vec::new(),
        }
    }

    /// Whether others may ask this host for a piece that it has not got yet.
    pub fn owns(&self, told: &Told, object: Object, piece: u64) -> bool {
        let (first, second) = self.ranked(told, &(object, piece));
        [first, second]
            .into_iter()
            .flatten()
            .any(|(host, _)| host == self.host)
    }

    fn ranked(&self, told: &Told, piece: &Piece) -> (Option<Peer>, Option<Peer>) {
        let hosts: Vec<HostName> = told.peers.iter().map(|(host, _)| host.clone()).collect();
        let (first, second) = owners(piece.0.digest(), piece.1, &hosts);
        let peer = |place: Option<usize>| told.peers.get(place?).cloned();
        (peer(first), peer(second))
    }

    /// Waits until nobody else on this host gets this piece.
    pub(super) async fn alone(&self, piece: Piece) -> OwnedMutexGuard<()> {
        let lock = {
            let mut getting = self.getting.lock().unwrap_or_else(PoisonError::into_inner);
            getting.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(getting.entry(piece).or_default())
        };
        lock.lock_owned().await
    }

    /// Leaves that were fetched lately, if all of the run were. What rotted on the disk meanwhile is none.
    pub async fn find(&self, object: Object, leaves: &Arc<Leaves>, run: &Range<usize>) -> Option<Vec<Bytes>> {
        let (cache, leaves, run) = (Arc::clone(&self.cache), Arc::clone(leaves), run.clone());
        let found = tokio::task::spawn_blocking(move || cache.read(object, &leaves, &run));
        found.await.ok().flatten()
    }

    /// Keeps leaves that were checked.
    pub(super) async fn keep(&self, object: Object, leaves: &Arc<Leaves>, first: usize, got: &[Bytes]) {
        let (cache, leaves, got) = (Arc::clone(&self.cache), Arc::clone(leaves), got.to_vec());
        let kept = tokio::task::spawn_blocking(move || cache.write(object, &leaves, first, &got));
        if let Ok(Err(error)) = kept.await {
            tracing::warn!(%error, "a piece is not kept for other hosts");
        }
    }

    /// Counts what was given.
    pub fn gave(&self, bytes: usize) {
        self.served.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Bytes given to others since the start.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }
}

type Peer = (HostName, std::net::SocketAddr);
