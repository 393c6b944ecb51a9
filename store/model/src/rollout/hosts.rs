//! What the fleet thinks of a host: silence only worsens it, only a report betters it.

use crate::host::{HostEvent, HostState};
use crate::name::{ClassName, HostName};
use crate::report::HostReport;
use crate::rollout::plan::ByteShare;

/// One host as a planner sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct HostView {
    pub name: HostName,
    pub state: HostState,
    pub classes: Vec<ClassName>,
    /// `linux/amd64`; none when the host has not said.
    pub platform: Option<String>,
    pub last_report: Option<HostReport>,
    /// Milliseconds since 1970, by the store's clock; none: never.
    pub last_seen_ms: Option<u64>,
    /// Out of rotation by an operator's word: kept up to date, after all others.
    pub drained: bool,
    /// What it would fetch for the release in question and what it has, where that is known.
    pub bytes: Option<ByteShare>,
}

impl HostView {
    pub fn has_class(&self, class: &ClassName) -> bool {
        self.classes.contains(class)
    }
}

/// After how much silence a host is what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    pub uncertain_ms: u64,
    pub unavailable_ms: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            uncertain_ms: 15_000,
            unavailable_ms: 60_000,
        }
    }
}

/// The state of a host that has been silent for `silent_ms`. Never better than `before`: a clock that
/// jumps back does not make a lost host healthy.
pub fn after_silence(before: HostState, silent_ms: u64, thresholds: Thresholds) -> HostState {
    let event = if silent_ms >= thresholds.unavailable_ms {
        HostEvent::Lost
    } else if silent_ms >= thresholds.uncertain_ms {
        HostEvent::FellSilent
    } else {
        return before;
    };
    before.after(event).unwrap_or(before)
}

/// The state of a host that has just reported: `on_target` when it runs what it should, `healthy` when
/// that is healthy.
pub fn after_report(before: HostState, on_target: bool, healthy: bool) -> HostState {
    let event = match (on_target, healthy) {
        (true, true) => HostEvent::Serves,
        (true, false) => HostEvent::Ails,
        (false, _) => HostEvent::Lags,
    };
    before.after(event).unwrap_or(before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use HostState::*;

    #[test]
    fn silence_only_worsens() {
        let thresholds = Thresholds::default();
        for before in HostState::ALL {
            for silent_ms in [0, 14_999] {
                assert_eq!(after_silence(before, silent_ms, thresholds), before);
            }
        }
        for (before, silent_ms, then) in [
            (Available, 15_000, Uncertain),
            (Upgrading, 59_999, Uncertain),
            (Available, 60_000, Unavailable),
            (Uncertain, 60_000, Unavailable),
            (Unavailable, 15_000, Unavailable),
            (Retired, 99_000, Retired),
        ] {
            let after = after_silence(before, silent_ms, thresholds);
            assert_eq!(after, then, "{before} after {silent_ms} ms");
        }
    }

    #[test]
    fn only_a_report_betters() {
        for (before, on_target, healthy, then) in [
            (Uncertain, true, true, Available),
            (Unavailable, true, true, Available),
            (Unavailable, true, false, Restarting),
            (Available, false, true, Upgrading),
            (Installing, false, false, Installing),
            (Installing, true, true, Available),
            (Retired, true, true, Retired),
        ] {
            let after = after_report(before, on_target, healthy);
            assert_eq!(after, then, "{before}, on target {on_target}, healthy {healthy}");
        }
    }
}
