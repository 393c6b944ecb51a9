//! Waiting for whatever comes first, and turning it into events.

use std::io;
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec};

use super::Keeper;
use super::asking::Asking;
use super::in_place::Birth;
use super::jobs::Job;
use crate::clock::now_ms;
use crate::relay::Relay;

impl Keeper {
    /// Waits for the next thing to happen and handles it; true when the keeper was asked to leave.
    pub(super) fn wait(&mut self) -> io::Result<bool> {
        self.poll()?;
        let leave = self.signals.receive();
        self.read_streams();
        self.read_notices();
        self.answer_binds();
        self.look_at_starts();
        self.reap();
        self.look_at_adopted();
        self.look_at_watchdogs();
        self.look_at_jobs();
        self.look_at_births();
        self.look_at_reloads();
        self.advance_probes();
        self.advance_askings();
        self.look_at_listeners();
        self.advance_relays();
        self.look_at_leaving();
        self.look_at_locks();
        self.answer_requests();
        Ok(leave)
    }

    fn poll(&self) -> io::Result<()> {
        let relaying = self.can_relay();
        let orphans: Vec<_> = self
            .listeners
            .iter()
            .flat_map(|(_, group)| group.orphans())
            .collect();
        let mut polled = Vec::new();
        let mut add = |fd, flags| polled.push(PollFd::from_borrowed_fd(fd, flags));
        add(self.signals.fd(), PollFlags::IN);
        add(self.notify.fd(), PollFlags::IN);
        self.control.waits_on().for_each(|(fd, flags)| add(fd, flags));
        self.streams
            .iter()
            .for_each(|stream| add(stream.fd(), PollFlags::IN));
        for running in self.running.values() {
            if !running.own_child {
                add(running.pidfd.as_fd(), PollFlags::IN);
            }
            if let Some(failure) = &running.failure {
                add(failure.as_fd(), PollFlags::IN);
            }
        }
        self.joins.iter().for_each(|join| add(join.fd(), PollFlags::IN));
        self.jobs.iter().for_each(|job| add(job.fd(), PollFlags::IN));
        self.probes
            .iter()
            .filter_map(|probe| probe.waits_on())
            .for_each(|(fd, flags)| add(fd, flags));
        self.askings
            .iter()
            .flat_map(Asking::waits_on)
            .for_each(|(fd, flags)| add(fd, flags));
        self.relays
            .iter()
            .flat_map(Relay::waits_on)
            .for_each(|(fd, flags)| add(fd, flags));
        for orphan in orphans {
            add(
                orphan,
                if relaying {
                    PollFlags::IN
                } else {
                    PollFlags::empty()
                },
            );
        }
        for (generation, _) in self.state.generations() {
            for (_, group) in self.listeners.iter() {
                if let Some(socket) = group.hangs_up(generation.number) {
                    // Nothing but the hang-up of a listener that was shut down.
                    add(socket, PollFlags::empty());
                }
            }
        }
        let timeout = self.timeout();
        match rustix::event::poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn timeout(&self) -> Option<Timespec> {
        let now = now_ms();
        let probes = self.probes.iter().map(|probe| probe.due(now));
        let askings = self.askings.iter().filter_map(|asking| asking.due(now));
        let jobs = self.jobs.iter().filter_map(Job::due);
        let births = self.births.iter().map(Birth::due);
        let look = self.must_look().then_some(self.next_look);
        let next = self
            .state
            .next_deadline()
            .into_iter()
            .chain(probes)
            .chain(askings)
            .chain(jobs)
            .chain(births)
            .chain(self.reloads_due())
            .chain(self.watchdogs_due())
            .chain(look)
            .chain(self.queues_due())
            .chain(self.lock_due())
            .chain(self.quiet_at)
            .chain(self.upgrade_due())
            .min()?;
        let millis = next.saturating_sub(now);
        Some(Timespec {
            tv_sec: i64::try_from(millis / 1000).unwrap_or(3600),
            tv_nsec: (millis % 1000 * 1_000_000).cast_signed(),
        })
    }

    fn answer_requests(&mut self) {
        for asked in self.control.receive() {
            self.work_off();
            self.quiet_at = Some(now_ms() + super::QUIET_MS);
            self.answer(asked);
        }
        // Nobody is told what a boot could undo.
        self.make_durable();
        self.control.flush();
    }
}
