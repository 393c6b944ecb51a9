//! Reloads: a signal makes a main process replace its workers, one reload after the other.

use super::{Keeper, LOOK_MS, signal};
use crate::clock::now_ms;
use crate::machine::Process;
use crate::processes::{self, Table};

/// Clock ticks of `/proc/PID/stat` take so long; the kernel has told them at 100 a second for as long as there is Linux.
const TICK_MS: u64 = 10;

/// A reload that nothing shows for so long is asked for again: a server that is busy with one may lose the next signal.
const RESEND_MS: u64 = 3_000;
/// So often, before it is taken for one that changed nothing, as after a mistake in a configuration.
const SENDS: u8 = 2;
/// A server that has started new workers takes a moment before it hears the next signal.
const SETTLE_MS: u64 = 300;

/// A reload that waits until the one before it shows: servers fold signals into one, and what a late one starts would be
/// taken for what an earlier one was to start.
#[derive(Debug)]
pub(in crate::keeper) struct Reloading {
    main: Process,
    signal: String,
    /// Whose it is, if it is not an earlier release's again.
    asked_for: Option<(u64, usize)>,
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
    shown_at: Option<u64>,
}

impl Reloaded {
    pub(in crate::keeper) fn is_over(&self, now: u64) -> bool {
        match self.shown_at {
            Some(at) => now >= at + SETTLE_MS,
            None => self.sends >= SENDS && now >= self.sent_at + RESEND_MS,
        }
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
        });
        self.look_at_reloads();
    }

    /// Looks what became of reloads, and sends the signals whose turn has come.
    pub(in crate::keeper) fn look_at_reloads(&mut self) {
        self.look_at_reloaded();
        let now = now_ms();
        for reloading in std::mem::take(&mut self.reloads) {
            let main = reloading.main;
            let behind = self.reloads.iter().any(|waiting| waiting.main == main);
            let busy = self
                .reloaded
                .iter()
                .any(|last| last.main == main && !last.is_over(now));
            if behind || busy {
                self.reloads.push(reloading);
                continue;
            }
            let since = now / TICK_MS;
            self.expect_reload(main);
            let sent = signal(main, &reloading.signal);
            self.reloaded.retain(|known| known.main != main);
            self.reloaded.push(Reloaded {
                main,
                signal: reloading.signal,
                since,
                sent_at: now,
                sends: 1,
                shown_at: None,
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
    }

    fn look_at_reloaded(&mut self) {
        let now = now_ms();
        self.reloaded.retain(|last| processes::is_alive(last.main));
        let watched = self
            .reloaded
            .iter_mut()
            .filter(|last| last.shown_at.is_none() && !last.is_over(now));
        for last in watched {
            let new = |pid: &u32| {
                *pid != last.main.pid && processes::start_ticks(*pid).is_some_and(|start| start >= last.since)
            };
            if Table::read().family(&[last.main], &[], &[]).iter().any(new) {
                last.shown_at = Some(now);
            } else if now >= last.sent_at + RESEND_MS {
                last.sent_at = now;
                last.sends += 1;
                let _ = signal(last.main, &last.signal);
            }
        }
    }

    /// When reloads are looked at again.
    pub(in crate::keeper) fn reloads_due(&self) -> Option<u64> {
        let now = now_ms();
        let busy = self.reloaded.iter().any(|last| !last.is_over(now));
        (busy || !self.reloads.is_empty()).then_some(now + LOOK_MS)
    }
}
