//! What a run counts, and the shape of its reports.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::flight::Errand;
use crate::histogram::Histogram;
pub use crate::histogram::Quantiles;
use crate::websocket::{SocketReport, SocketTally};
pub use crate::windows::WindowReport;
use crate::windows::Windows;

/// Names of releases kept apart; any more are counted together.
const RELEASES: usize = 64;
/// Failures told in full.
const TOLD_FAILURES: usize = 20;

/// Everything that can go wrong with a request, each in one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// Nobody listens.
    Refused,
    ConnectTimeout,
    /// No way to the address.
    Unreachable,
    /// Reset before the first byte of the answer.
    ResetBeforeByte,
    ResetMid,
    /// Closed in order, but before the first byte of the answer.
    EofBeforeByte,
    EofMid,
    /// Connected, but the answer was not complete in time.
    Timeout,
    #[serde(rename = "status_5xx")]
    Status5xx,
    /// Neither 2xx, 304 nor 5xx.
    StatusOther,
    /// The bytes were no HTTP response.
    BadBody,
    /// One answer, or one connection, spoke for two releases.
    Mixed,
    /// A WebSocket was reset.
    SocketReset,
    /// A WebSocket's connection ended without a close frame.
    SocketEof,
    /// A WebSocket was closed with another code than 1001 or 1012.
    SocketClosed,
    /// The generator's own machine had no port or descriptor left.
    Local,
    /// Due, but too many requests were open already.
    NotSent,
}

impl Failure {
    pub const ALL: [Self; 17] = [
        Self::Refused,
        Self::ConnectTimeout,
        Self::Unreachable,
        Self::ResetBeforeByte,
        Self::ResetMid,
        Self::EofBeforeByte,
        Self::EofMid,
        Self::Timeout,
        Self::Status5xx,
        Self::StatusOther,
        Self::BadBody,
        Self::Mixed,
        Self::SocketReset,
        Self::SocketEof,
        Self::SocketClosed,
        Self::Local,
        Self::NotSent,
    ];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Population {
    /// A new connection for each request.
    Connection,
    /// Requests over connections that stay open and idle in between.
    KeepAlive,
    /// Answers that take long, each on a connection of its own.
    Stream,
    #[serde(rename = "websocket")]
    WebSocket,
}

/// One failed request, told in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldFailure {
    pub at_us: u64,
    pub class: Failure,
    pub target: String,
    pub population: Population,
    /// Whether the connection had carried a request before.
    pub reused: bool,
    pub release: String,
    pub detail: String,
}

/// How many answers one release gave; times in microseconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub answers: u64,
    pub first_us: u64,
    pub last_us: u64,
}

/// Counts of one population. `due` = `ok` + `failed` + what is still open.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PopulationReport {
    pub due: u64,
    pub ok: u64,
    pub failed: u64,
    /// From the scheduled time to the last byte of a complete answer.
    pub latency_ms: Quantiles,
    /// The same from when the generator really began: what remains when it was late itself.
    pub service_ms: Quantiles,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetReport {
    pub url: String,
    pub ok: u64,
    pub failed: u64,
    pub failures: BTreeMap<Failure, u64>,
    pub releases: BTreeMap<String, Seen>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Progress,
    Summary,
}

/// The state of a run, from its start until now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub kind: Kind,
    pub started_us: u64,
    pub at_us: u64,
    pub seconds: f64,
    /// Requests whose time has come.
    pub due: u64,
    /// Requests begun: `due` without those not sent.
    pub sent: u64,
    pub ok: u64,
    pub failed: u64,
    /// Every class, also those at zero.
    pub failures: BTreeMap<Failure, u64>,
    /// Answers by their `x-release`; without the header they count under "".
    pub releases: BTreeMap<String, Seen>,
    pub connection: PopulationReport,
    pub keep_alive: PopulationReport,
    /// `ok`: the answer came whole.
    pub stream: PopulationReport,
    /// Its failures are in `failed` and `failures` too; its messages are not in `due`, `sent` and `ok`.
    pub websocket: SocketReport,
    pub windows: BTreeMap<String, WindowReport>,
    /// Requests lost because a connection that looked idle was closed or reset under them; among `failed` too.
    pub keep_alive_cuts: u64,
    /// Idle connections that the server closed between requests; no request was lost.
    pub idle_closed: u64,
    pub connections_opened: u64,
    /// Requests the generator itself began more than 10 ms late.
    pub late_starts: u64,
    pub late_max_ms: f64,
    pub targets: Vec<TargetReport>,
    pub first_failures: Vec<ToldFailure>,
}

#[derive(Debug)]
struct Counts {
    due: u64,
    ok: u64,
    failed: u64,
    latency: Histogram,
    service: Histogram,
}

impl Counts {
    fn new() -> Self {
        Self {
            due: 0,
            ok: 0,
            failed: 0,
            latency: Histogram::new(),
            service: Histogram::new(),
        }
    }

    fn report(&self) -> PopulationReport {
        PopulationReport {
            due: self.due,
            ok: self.ok,
            failed: self.failed,
            latency_ms: self.latency.quantiles(),
            service_ms: self.service.quantiles(),
        }
    }
}

/// The counters of a run.
#[derive(Debug)]
pub(crate) struct Tally {
    started_us: u64,
    connection: Counts,
    keep_alive: Counts,
    stream: Counts,
    pub windows: Windows,
    targets: Vec<TargetReport>,
    told: Vec<ToldFailure>,
    pub keep_alive_cuts: u64,
    pub idle_closed: u64,
    pub connections_opened: u64,
    pub late_starts: u64,
    pub late_max_us: u64,
}

impl Tally {
    pub fn new(urls: impl Iterator<Item = String>, started_us: u64) -> Self {
        Self {
            started_us,
            connection: Counts::new(),
            keep_alive: Counts::new(),
            stream: Counts::new(),
            windows: Windows::new(),
            targets: urls
                .map(|url| TargetReport {
                    url,
                    ..TargetReport::default()
                })
                .collect(),
            told: Vec::new(),
            keep_alive_cuts: 0,
            idle_closed: 0,
            connections_opened: 0,
            late_starts: 0,
            late_max_us: 0,
        }
    }

    fn counts(&mut self, population: Population) -> &mut Counts {
        match population {
            Population::Connection => &mut self.connection,
            Population::KeepAlive => &mut self.keep_alive,
            Population::Stream | Population::WebSocket => &mut self.stream,
        }
    }

    pub fn due(&mut self, population: Population) {
        self.counts(population).due += 1;
    }

    pub fn answered(&mut self, target: usize, release: &str, at_us: u64) {
        let releases = &mut self.targets[target].releases;
        let known = releases.contains_key(release) || releases.len() < RELEASES;
        let name = if known { release } else { "(others)" };
        let seen = releases.entry(name.to_owned()).or_default();
        if seen.answers == 0 {
            seen.first_us = at_us;
        }
        seen.answers += 1;
        seen.last_us = at_us;
    }

    pub fn succeeded(&mut self, errand: &Errand, latency_us: u64, service_us: u64) {
        self.targets[errand.target].ok += 1;
        self.windows
            .succeeded(errand.window, errand.population, latency_us, service_us);
        let counts = self.counts(errand.population);
        counts.ok += 1;
        counts.latency.record(latency_us);
        counts.service.record(service_us);
    }

    pub fn failed(&mut self, errand: &Errand, told: ToldFailure) {
        self.windows.failed(errand.window);
        let report = &mut self.targets[errand.target];
        report.failed += 1;
        *report.failures.entry(told.class).or_default() += 1;
        self.counts(told.population).failed += 1;
        let cut = matches!(told.class, Failure::ResetBeforeByte | Failure::EofBeforeByte);
        self.keep_alive_cuts += u64::from(told.reused && cut);
        if self.told.len() < TOLD_FAILURES {
            self.told.push(told);
        }
    }

    pub fn report(&self, kind: Kind, at_us: u64, sockets: &SocketTally) -> Report {
        let (connection, keep_alive) = (self.connection.report(), self.keep_alive.report());
        let stream = self.stream.report();
        let (websocket, told) = sockets.report();
        let failures = self.failures(&websocket);
        let due = connection.due + keep_alive.due + stream.due;
        let mut first_failures = self.told.clone();
        first_failures.extend_from_slice(told);
        Report {
            kind,
            started_us: self.started_us,
            at_us,
            seconds: at_us.saturating_sub(self.started_us) as f64 / 1e6,
            due,
            sent: due - failures.get(&Failure::NotSent).unwrap_or(&0),
            ok: connection.ok + keep_alive.ok + stream.ok,
            failed: connection.failed + keep_alive.failed + stream.failed + websocket.failed,
            failures,
            releases: self.releases(),
            connection,
            keep_alive,
            stream,
            websocket,
            windows: self.windows.report(),
            keep_alive_cuts: self.keep_alive_cuts,
            idle_closed: self.idle_closed,
            connections_opened: self.connections_opened,
            late_starts: self.late_starts,
            late_max_ms: self.late_max_us as f64 / 1000.0,
            targets: self.targets.clone(),
            first_failures,
        }
    }

    fn failures(&self, sockets: &SocketReport) -> BTreeMap<Failure, u64> {
        let count = |class| -> u64 {
            let of_sockets = sockets.failures.get(class);
            self.targets
                .iter()
                .filter_map(|target| target.failures.get(class))
                .chain(of_sockets)
                .sum()
        };
        Failure::ALL.iter().map(|class| (*class, count(class))).collect()
    }

    fn releases(&self) -> BTreeMap<String, Seen> {
        let mut all: BTreeMap<String, Seen> = BTreeMap::new();
        for (name, seen) in self.targets.iter().flat_map(|target| &target.releases) {
            let sum = all.entry(name.clone()).or_insert_with(|| Seen {
                answers: 0,
                ..seen.clone()
            });
            sum.answers += seen.answers;
            sum.first_us = sum.first_us.min(seen.first_us);
            sum.last_us = sum.last_us.max(seen.last_us);
        }
        all
    }
}
