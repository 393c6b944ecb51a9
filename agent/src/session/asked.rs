//! Tells the store which fingerprinted assets this host was asked for, a part with each heartbeat.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ship_assets::Shelf;
use ship_proto::v1;

/// Digests told at once.
const MOST: usize = 4096;
/// What was told is told again after this long, if it is still asked for.
const ROUND: Duration = Duration::from_secs(30 * 60);

/// What was told, and what is on its way. One for the agent's life.
#[derive(Debug)]
pub struct Asked {
    /// None: this host has no asset port, so that it does not know who asks for what, and says nothing.
    shelf: Option<Arc<Shelf>>,
    run: u64,
    number: u64,
    on_its_way: bool,
    /// Something was said in this session.
    said: bool,
    /// The store of this session wants to know.
    wanted: bool,
    round: Instant,
}

impl Asked {
    /// `run` is another number in each life of the agent.
    pub fn new(shelf: Option<Arc<Shelf>>, run: u64, now: Instant) -> Self {
        Self {
            shelf,
            run,
            number: 0,
            on_its_way: false,
            said: false,
            wanted: false,
            round: now,
        }
    }

    /// A new session: what was on its way may be lost.
    pub fn connected(&mut self, wanted: bool) {
        (self.on_its_way, self.said, self.wanted) = (false, false, wanted);
        for (_, union) in self.shelf.iter().flat_map(|shelf| shelf.app_unions()) {
            union.tell_again();
        }
    }

    /// What to tell now, if anything. Walks over all names when somebody asked for one since the last time: some
    /// milliseconds for half a million.
    pub fn next(&mut self, now: Instant) -> Option<v1::AssetsAsked> {
        let shelf = self.shelf.as_ref().filter(|_| self.wanted && !self.on_its_way)?;
        let unions = shelf.app_unions();
        if now.saturating_duration_since(self.round) >= ROUND {
            self.round = now;
            unions.iter().for_each(|(_, union)| union.new_round());
        }
        let mut digests = Vec::new();
        for (_, union) in &unions {
            for digest in union.asked_for(MOST - digests.len() / 32) {
                digests.extend_from_slice(digest.as_bytes());
            }
        }
        if digests.is_empty() && self.said {
            return None;
        }
        self.number += 1;
        (self.on_its_way, self.said) = (true, true);
        Some(v1::AssetsAsked {
            number: self.number,
            run: self.run,
            digests,
        })
    }

    /// The store has noted it.
    pub fn taken(&mut self, taken: &v1::AskedTaken) {
        if !self.on_its_way || taken.number != self.number {
            return;
        }
        self.on_its_way = false;
        for (_, union) in self.shelf.iter().flat_map(|shelf| shelf.app_unions()) {
            union.told();
        }
    }
}
