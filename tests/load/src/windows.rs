//! Latencies apart by window: whoever watches the run names the stretch of time it is in, such as `steady` or `switch`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::histogram::{Histogram, Quantiles};
use crate::tally::Population;

/// The window a run begins in.
pub const FIRST: &str = "steady";
/// Windows kept apart; any more are counted together.
const WINDOWS: usize = 16;

/// What was asked within one window, however late it was answered. Latencies count from the scheduled time.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WindowReport {
    pub ok: u64,
    pub failed: u64,
    pub connection_ms: Quantiles,
    pub keep_alive_ms: Quantiles,
    /// The same from when the request was really begun.
    pub connection_service_ms: Quantiles,
    pub keep_alive_service_ms: Quantiles,
}

#[derive(Debug)]
struct Window {
    name: String,
    ok: u64,
    failed: u64,
    /// Latency and service, of each of the two populations.
    times: [[Histogram; 2]; 2],
}

impl Window {
    fn new(name: &str) -> Self {
        let pair = || [Histogram::new(), Histogram::new()];
        Self {
            name: name.to_owned(),
            ok: 0,
            failed: 0,
            times: [pair(), pair()],
        }
    }

    fn report(&self) -> WindowReport {
        WindowReport {
            ok: self.ok,
            failed: self.failed,
            connection_ms: self.times[0][0].quantiles(),
            keep_alive_ms: self.times[1][0].quantiles(),
            connection_service_ms: self.times[0][1].quantiles(),
            keep_alive_service_ms: self.times[1][1].quantiles(),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Windows {
    all: Vec<Window>,
    current: usize,
}

impl Windows {
    pub fn new() -> Self {
        Self {
            all: vec![Window::new(FIRST)],
            current: 0,
        }
    }

    pub fn enter(&mut self, name: &str) {
        let known = |name: &str, all: &[Window]| all.iter().position(|window| window.name == name);
        let name = if known(name, &self.all).is_some() || self.all.len() < WINDOWS {
            name
        } else {
            "(others)"
        };
        self.current = known(name, &self.all).unwrap_or_else(|| {
            self.all.push(Window::new(name));
            self.all.len() - 1
        });
    }

    /// The window that a request begun now belongs to.
    pub fn current(&self) -> usize {
        self.current
    }

    pub fn succeeded(&mut self, window: usize, population: Population, latency_us: u64, service_us: u64) {
        let Some(window) = self.all.get_mut(window) else {
            return;
        };
        window.ok += 1;
        let place = match population {
            Population::Connection => 0,
            Population::KeepAlive => 1,
            Population::Stream | Population::WebSocket => return,
        };
        window.times[place][0].record(latency_us);
        window.times[place][1].record(service_us);
    }

    pub fn failed(&mut self, window: usize) {
        if let Some(window) = self.all.get_mut(window) {
            window.failed += 1;
        }
    }

    pub fn report(&self) -> BTreeMap<String, WindowReport> {
        let reports = self
            .all
            .iter()
            .map(|window| (window.name.clone(), window.report()));
        reports.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_in_the_window_it_was_begun_in() {
        let mut windows = Windows::new();
        let before = windows.current();
        windows.enter("switch");
        let within = windows.current();
        windows.succeeded(before, Population::Connection, 1_000, 500);
        windows.succeeded(within, Population::KeepAlive, 9_000, 9_000);
        windows.failed(within);
        windows.enter(FIRST);
        assert_eq!(windows.current(), before);
        let report = windows.report();
        assert_eq!((report[FIRST].ok, report[FIRST].failed), (1, 0));
        assert_eq!((report["switch"].ok, report["switch"].failed), (1, 1));
        assert!(report["switch"].keep_alive_ms.max > report[FIRST].connection_ms.max);
    }

    #[test]
    fn too_many_windows_are_counted_together() {
        let mut windows = Windows::new();
        (0..100).for_each(|number| windows.enter(&format!("w{number}")));
        assert_eq!(windows.report().len(), WINDOWS + 1);
    }
}
