//! What the WebSockets of a run count.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::histogram::{Histogram, Quantiles};
use crate::tally::{Failure, Population, ToldFailure};

/// Failures told in full.
const TOLD_FAILURES: usize = 20;
/// Close codes and releases kept apart.
const KEPT: usize = 64;

/// Counts of all sockets of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SocketReport {
    /// Connections that were upgraded.
    pub opened: u64,
    /// Messages whose time has come; each is `echoed`, failed or still open.
    pub due: u64,
    /// Messages that came back as they were sent.
    pub echoed: u64,
    /// Ends and openings that failed, by class below; a message lost with them is not counted again.
    pub failed: u64,
    /// Messages that had no answer when their connection failed.
    pub messages_lost: u64,
    /// Closed with 1001 or 1012 and open again on another connection.
    pub moved: u64,
    /// Every code that a server closed with.
    pub close_codes: BTreeMap<u16, u64>,
    pub failures: BTreeMap<Failure, u64>,
    /// Upgrades by their `x-release`.
    pub releases: BTreeMap<String, u64>,
    /// From the time a message was due to its echo, moves in between included.
    pub latency_ms: Quantiles,
    /// From the close frame to the next open connection.
    pub move_ms: Quantiles,
}

#[derive(Debug)]
pub(crate) struct SocketTally {
    report: SocketReport,
    pub due: u64,
    latency: Histogram,
    moves: Histogram,
    told: Vec<ToldFailure>,
}

impl SocketTally {
    pub fn new() -> Self {
        Self {
            report: SocketReport::default(),
            due: 0,
            latency: Histogram::new(),
            moves: Histogram::new(),
            told: Vec::new(),
        }
    }

    pub fn opened(&mut self, release: &str, moved: Option<Duration>) {
        self.report.opened += 1;
        if self.report.releases.contains_key(release) || self.report.releases.len() < KEPT {
            *self.report.releases.entry(release.to_owned()).or_default() += 1;
        }
        if let Some(time) = moved {
            self.report.moved += 1;
            self.moves.record(micros(time));
        }
    }

    pub fn echoed(&mut self, time: Duration) {
        self.report.echoed += 1;
        self.latency.record(micros(time));
    }

    pub fn closed(&mut self, code: u16) {
        let codes = &mut self.report.close_codes;
        if codes.contains_key(&code) || codes.len() < KEPT {
            *codes.entry(code).or_default() += 1;
        }
    }

    pub fn failed(&mut self, class: Failure, target: String, detail: String, lost: bool) {
        self.report.failed += 1;
        self.report.messages_lost += u64::from(lost);
        *self.report.failures.entry(class).or_default() += 1;
        if self.told.len() < TOLD_FAILURES {
            self.told.push(ToldFailure {
                at_us: clock::unix_micros(),
                class,
                target,
                population: Population::WebSocket,
                reused: false,
                release: String::new(),
                detail,
            });
        }
    }

    pub fn report(&self) -> (SocketReport, &[ToldFailure]) {
        let report = SocketReport {
            due: self.due,
            latency_ms: self.latency.quantiles(),
            move_ms: self.moves.quantiles(),
            ..self.report.clone()
        };
        (report, &self.told)
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
