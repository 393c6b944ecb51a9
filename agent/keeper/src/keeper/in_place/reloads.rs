//! Reloads: a signal makes a main process replace its workers, one reload after the other.

use std::path::PathBuf;

use super::workers::{self, Phased};
use super::{Keeper, LOOK_MS, signal};
use crate::clock::now_ms;
use crate::machine::{Cause, Event, Process};
use crate::processes;

/// Clock ticks of `/proc/PID/stat` take so long; the kernel has told them at 100 a second for as long as there is Linux.
const TICK_MS: u64 = 10;

/// A reload that nothing shows for so long is asked for again: a server that is busy with one may lose the next signal.
const RESEND_MS: u64 = 3_000;
/// So often, before it is taken for one that changed nothing, as after a mistake in a configuration.
const SENDS: u8 = 2;
/// A server that has started new workers takes a moment before it hears the next signal.
const SETTLE_MS: u64 = 300;
/// One that replaces its workers one after the other has got stuck when no further one comes for so long. It waits for each
/// old one to finish, and for each new one to boot.
const STUCK_MS: u64 = 60_000;
/// So often, one that waits for its turn is given its time anew.
const EXTEND_MS: u64 = 1_000;

/// A reload that waits until the one before it is over: servers fold signals into one, and what a late one starts would be
/// taken for what an earlier one was to start.
#[derive(Debug)]
pub(in crate::keeper) struct Reloading {
    main: Process,
    signal: String,
    /// Whose it is, if it is not an earlier release's again.
    asked_for: Option<(u64, usize)>,
    extended_at: u64,
}

/// The last reload of a main process.
#[derive(Debug)]
pub(in crate::keeper) struct Reloaded {
    main: Process,
    signal: String,
    /// What starts from this clock tick on, it started.
    since: u64,
    sent_at: u64,
    sends: u8,
    /// When all that it was to start was there.
    shown_at: Option<u64>,
    phases: Option<Phases>,
}

/// How far one is that replaces its workers one after the other.
#[derive(Debug)]
struct Phases {
    /// How many workers there were.
    before: usize,
    /// What `current` named when the signal was sent.
    dir: Option<PathBuf>,
    new: usize,
    /// When the last new one came.
    new_at: u64,
}

impl Reloaded {
    pub(in crate::keeper) fn is_over(&self, now: u64) -> bool {
        match (self.shown_at, &self.phases) {
            (Some(at), _) => now >= at + SETTLE_MS,
            (None, Some(phases)) => now >= phases.new_at.max(self.sent_at) + STUCK_MS,
            (None, None) => self.sends >= SENDS && now >= self.sent_at + RESEND_MS,
        }
    }

    /// Whether another signal may be sent. `back`: to what was good, from what may never get its workers to boot; that waits
    /// only until the server is known to have heard the last one.
    fn may_be_followed(&self, now: u64, back: bool) -> bool {
        let heard = |phases: &Phases| match phases.new {
            0 => now >= self.sent_at + RESEND_MS,
            _ => now >= phases.new_at + SETTLE_MS,
        };
        self.is_over(now) || back && self.phases.as_ref().is_some_and(heard)
    }

    /// Looks how far it is; true when it is to be asked for again.
    fn look(&mut self, releases: &std::path::Path, current: Option<PathBuf>, now: u64) -> bool {
        match &mut self.phases {
            Some(phases) => {
                let Some(found) = Phased::look(self.main, releases) else {
                    return false;
                };
                let dirs: Vec<_> = phases.dir.clone().into_iter().chain(current).collect();
                let new = found.count_new(self.since, &dirs);
                if new > phases.new {
                    (phases.new, phases.new_at) = (new, now);
                }
                let over = found.all_new(self.since, &dirs, phases.before);
                self.shown_at = over.then(|| self.shown_at.unwrap_or(now));
                if phases.new > 0 || self.sends >= SENDS {
                    return false;
                }
            }
            None => {
                let new = |pid: &u32| {
                    *pid != self.main.pid
                        && processes::start_ticks(*pid).is_some_and(|start| start >= self.since)
                };
                if workers::family(self.main).iter().any(new) {
                    self.shown_at = Some(now);
                    return false;
                }
            }
        }
        now >= self.sent_at + RESEND_MS
    }
}

impl Keeper {
    /// Asks the slot's main process, in its turn, to reload.
    pub(super) fn reload(&mut self, main: Process, signal: &str, place: (u64, usize)) {
        self.queue_reload(main, signal, Some(place));
    }

    /// One that has not had its turn is never sent; any other is followed by one more, for what the links name now.
    pub(super) fn take_back_reload(&mut self, main: Process, signal: &str, place: (u64, usize)) {
        let before = self.reloads.len();
        self.reloads.retain(|waiting| waiting.asked_for != Some(place));
        if self.reloads.len() == before {
            self.queue_reload(main, signal, None);
        }
    }

    fn queue_reload(&mut self, main: Process, signal: &str, asked_for: Option<(u64, usize)>) {
        self.reloads.push(Reloading {
            main,
            signal: signal.to_owned(),
            asked_for,
            extended_at: now_ms(),
        });
        self.look_at_reloads();
    }

    /// Looks what became of reloads, and sends the signals whose turn has come.
    pub(in crate::keeper) fn look_at_reloads(&mut self) {
        self.look_at_reloaded();
        let now = now_ms();
        for mut reloading in std::mem::take(&mut self.reloads) {
            let main = reloading.main;
            let back = self.goes_back(&reloading);
            let behind = self.reloads.iter().any(|waiting| waiting.main == main);
            let busy = self
                .reloaded
                .iter()
                .any(|last| last.main == main && !last.may_be_followed(now, back));
            if behind || busy {
                self.extend_reload(&mut reloading, now);
                self.reloads.push(reloading);
            } else {
                self.send_reload(reloading, now);
            }
        }
    }

    /// Whether it is to bring back what was good.
    fn goes_back(&self, reloading: &Reloading) -> bool {
        let Some((generation, _)) = reloading.asked_for else {
            return true;
        };
        let rising = self.state.rising.as_ref();
        let rising = rising.filter(|rising| rising.generation.number == generation);
        rising.is_some_and(|rising| matches!(rising.cause, Cause::Revert(_) | Cause::Fallback(_)))
    }

    /// Its time to get ready begins with its turn.
    fn extend_reload(&mut self, reloading: &mut Reloading, now: u64) {
        let Some((generation, slot)) = reloading.asked_for else {
            return;
        };
        if now < reloading.extended_at + EXTEND_MS {
            return;
        }
        reloading.extended_at = now;
        let found = self.state.generation(generation);
        if let Some(spec) = found.and_then(|found| found.intent.processes.get(slot)) {
            let by = spec.ready_timeout_ms;
            self.events.push_back(Event::Extend { generation, by });
        }
    }

    fn send_reload(&mut self, reloading: Reloading, now: u64) {
        let main = reloading.main;
        let since = now / TICK_MS;
        let phases = self.phases_of(main, now);
        self.expect_reload(main);
        let sent = signal(main, &reloading.signal);
        self.reloaded
            .retain(|known| known.main != main && processes::is_alive(known.main));
        self.reloaded.push(Reloaded {
            main,
            signal: reloading.signal,
            since,
            sent_at: now,
            sends: 1,
            shown_at: None,
            phases,
        });
        match (reloading.asked_for, sent) {
            (Some(place), Ok(())) => {
                self.asked.insert(place, since);
                self.answer_asked(place, Ok(None));
            }
            (Some(place), Err(reason)) => self.answer_asked(place, Err(reason)),
            (None, Ok(())) => {}
            (None, Err(reason)) => self.note(format!("a reload could not be taken back: {reason}")),
        }
    }

    /// What there is before the signal. Some may be missing while the last reload is not over.
    fn phases_of(&self, main: Process, now: u64) -> Option<Phases> {
        let found = Phased::look(main, &self.releases())?;
        let last = self.reloaded.iter().find(|last| last.main == main);
        let last = last.filter(|last| !last.is_over(now));
        let missing = last.and_then(|last| last.phases.as_ref());
        Some(Phases {
            before: found.count().max(missing.map_or(0, |last| last.before)),
            dir: self.current(),
            new: 0,
            new_at: now,
        })
    }

    fn look_at_reloaded(&mut self) {
        let now = now_ms();
        if self.reloaded.iter().all(|last| last.is_over(now)) {
            return;
        }
        self.reloaded.retain(|last| processes::is_alive(last.main));
        let (releases, current) = (self.releases(), self.current());
        let watched = self
            .reloaded
            .iter_mut()
            .filter(|last| (last.phases.is_some() || last.shown_at.is_none()) && !last.is_over(now));
        for last in watched {
            if last.look(&releases, current.clone(), now) {
                last.sent_at = now;
                last.sends += 1;
                let _ = signal(last.main, &last.signal);
            }
        }
    }

    /// The folder that has those of all releases.
    pub(super) fn releases(&self) -> PathBuf {
        self.config.home.join("releases")
    }

    /// When reloads are looked at again.
    pub(in crate::keeper) fn reloads_due(&self) -> Option<u64> {
        let now = now_ms();
        let busy = self.reloaded.iter().any(|last| !last.is_over(now));
        (busy || !self.reloads.is_empty()).then_some(now + LOOK_MS)
    }
}
