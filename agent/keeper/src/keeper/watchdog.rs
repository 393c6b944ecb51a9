//! Watchdogs: a process that must say `WATCHDOG=1` every so often, and is ended when it does not. What follows is what
//! follows every crash. Time that the host sleeps does not count.

use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::Keeper;
use crate::clock::{monotonic_us, now_ms};
use crate::machine::SlotState;
use crate::notify::{Beat, Notice};
use crate::processes;

/// The watchdog of one process. A keeper that takes the process over from a dead one begins its
/// time anew.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub(super) struct Watchdog {
    /// How often it must be heard; none: it need not be.
    period_ms: Option<u64>,
    /// When it was last heard, or began to count.
    heard_at: Option<u64>,
    triggered: bool,
}

impl Watchdog {
    pub(super) fn new(period_ms: Option<u64>) -> Self {
        Self {
            period_ms,
            ..Self::default()
        }
    }

    pub(super) fn hear(&mut self, notice: &Notice) {
        self.hear_at(notice, monotonic_us() / 1000);
    }

    fn hear_at(&mut self, notice: &Notice, now: u64) {
        if notice.watchdog_ms.is_some() {
            self.period_ms = notice.watchdog_ms;
            self.heard_at = self.heard_at.map(|_| now);
        }
        match notice.watchdog {
            Some(Beat::Alive) => self.heard_at = Some(now),
            Some(Beat::Trigger) => self.triggered = true,
            None => {}
        }
    }

    /// Why it has been missed, if it has; the time runs from the first look.
    fn missed(&mut self, now: u64) -> Option<String> {
        if std::mem::take(&mut self.triggered) {
            return Some("triggered its own watchdog".to_owned());
        }
        let period = self.period_ms?;
        let heard = *self.heard_at.get_or_insert(now);
        (now >= heard + period).then(|| format!("missed its watchdog, silent for {period} ms"))
    }

    fn due(&self) -> Option<u64> {
        Some(self.heard_at? + self.period_ms?)
    }
}

impl Keeper {
    /// Ends processes that have missed their watchdog.
    pub(super) fn look_at_watchdogs(&mut self) {
        let now = monotonic_us() / 1000;
        let places: Vec<_> = self.running.keys().copied().collect();
        for place in places {
            let watched = self.is_watched(place);
            let Some(running) = self.running.get_mut(&place) else {
                continue;
            };
            if !watched {
                // Its time begins when it is up.
                running.watchdog.heard_at = None;
                continue;
            }
            let Some(missed) = running.watchdog.missed(now).filter(|_| running.missed.is_none()) else {
                continue;
            };
            let process = running.process;
            running.missed = Some(missed.clone());
            let words = format!("process {} {missed} and is ended", process.pid);
            self.tell(Some(place.0), &words);
            processes::send(process.pid, process.start, Signal::KILL);
        }
    }

    /// When a watchdog must be looked at again.
    pub(super) fn watchdogs_due(&self) -> Option<u64> {
        let watched = self
            .running
            .iter()
            .filter(|(place, running)| running.missed.is_none() && self.is_watched(**place));
        let due = watched.filter_map(|(_, running)| running.watchdog.due()).min()?;
        Some(now_ms() + due.saturating_sub(monotonic_us() / 1000))
    }

    /// One that is not up yet has its ready timeout, and one that was told to go has its deadlines.
    fn is_watched(&self, (generation, slot): (u64, usize)) -> bool {
        let leaves = self
            .state
            .retiring
            .iter()
            .any(|leaving| leaving.generation.number == generation && !leaving.phase.is_warm());
        let found = self.state.generation(generation);
        let up = found
            .and_then(|found| found.slots.get(slot))
            .is_some_and(|slot| slot.state == SlotState::Up);
        up && !leaves
    }
}

#[cfg(test)]
mod tests {
    use super::Watchdog;
    use crate::notify::Notice;

    #[test]
    fn is_missed_when_silent_for_its_period() {
        let beat = Notice::parse(1, b"WATCHDOG=1");
        let mut watchdog = Watchdog::new(Some(100));
        assert_eq!(watchdog.due(), None);
        assert_eq!(watchdog.missed(1000), None);
        assert_eq!(watchdog.due(), Some(1100));
        watchdog.hear_at(&beat, 1050);
        assert_eq!(watchdog.missed(1149), None);
        assert!(watchdog.missed(1150).is_some());
        watchdog.hear_at(&Notice::parse(1, b"WATCHDOG_USEC=500000"), 1150);
        assert_eq!(watchdog.due(), Some(1650));
        watchdog.hear_at(&Notice::parse(1, b"WATCHDOG=trigger"), 1160);
        assert!(watchdog.missed(1160).is_some());
        assert_eq!(Watchdog::new(None).missed(9999), None);
    }
}
