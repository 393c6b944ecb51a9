//! Waiting for whatever comes first, and turning it into events.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{WaitOptions, WaitStatus};

use super::count::pause_after;
use super::{Keeper, chain};
use crate::clock::now_ms;
use crate::log::Line;
use crate::machine::{Event, Leaving, RisingPhase};
use crate::notify::Notice;
use crate::probe::Progress;
use crate::processes;
use crate::relay::{MAX_RELAYS, Relay};

/// How often leaving generations are looked at.
const LOOK_MS: u64 = 50;

impl Keeper {
    /// Waits for the next thing to happen and handles it; true when the keeper was asked to leave.
    pub(super) fn wait(&mut self) -> io::Result<bool> {
        self.poll()?;
        let leave = self.signals.receive();
        self.read_streams();
        self.read_notices();
        self.look_at_starts();
        self.reap();
        self.look_at_adopted();
        self.advance_probes();
        self.look_at_listeners();
        self.advance_relays();
        self.look_at_leaving();
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
        self.probes
            .iter()
            .filter_map(|probe| probe.waits_on())
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
                if let Some(socket) = group.socket(generation.number) {
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
        let look = self.must_look().then_some(self.next_look);
        let next = self
            .state
            .next_deadline()
            .into_iter()
            .chain(probes)
            .chain(look)
            .chain(self.quiet_at)
            .min()?;
        let millis = next.saturating_sub(now);
        Some(Timespec {
            tv_sec: i64::try_from(millis / 1000).unwrap_or(3600),
            tv_nsec: (millis % 1000 * 1_000_000).cast_signed(),
        })
    }

    /// Whether something is to be looked at that wakes nobody.
    fn must_look(&self) -> bool {
        let clearing = matches!(
            self.state.rising.as_ref().map(|rising| rising.phase),
            Some(RisingPhase::Aborting | RisingPhase::Clearing(_))
        );
        clearing
            || self
                .state
                .retiring
                .iter()
                .any(|leaving| leaving.phase != Leaving::Warm)
    }

    pub(super) fn read_streams(&mut self) {
        for index in 0..self.streams.len() {
            self.read_stream(index);
        }
        let dropped = self.log.take_dropped();
        if dropped > 0 {
            self.state.counters.log_lines_dropped += dropped;
            self.revision += 1;
        }
    }

    pub(super) fn read_streams_of(&mut self, generation: u64) {
        for index in 0..self.streams.len() {
            if self.streams[index].generation == generation {
                self.read_stream(index);
            }
        }
    }

    fn read_stream(&mut self, index: usize) {
        let Self {
            streams,
            log,
            tails,
            state,
            config,
            running,
            chunk,
            ..
        } = self;
        let stream = &mut streams[index];
        let (number, slot, name) = (stream.generation, stream.slot, stream.name);
        let generation = state.generation(number);
        let pid = running
            .get(&(number, slot))
            .map_or(0, |running| running.process.pid);
        let spec = generation.and_then(|generation| generation.intent.processes.get(slot));
        let tail = tails.entry(number).or_default();
        let mut ts = String::new();
        stream.read(chunk, |text, more| {
            if ts.is_empty() {
                ts = crate::clock::rfc3339_now();
            }
            tail.push(text);
            log.write(&Line {
                ts: &ts,
                app: &config.app,
                host: &config.host,
                release: generation.map_or(0, |generation| generation.intent.release),
                deploy: generation.map_or(0, |generation| generation.intent.deploy),
                r#gen: number,
                process: spec.map_or("", |spec| &spec.name),
                pid,
                stream: name,
                line: text,
                more,
            });
        });
    }

    pub(super) fn close_streams(&mut self, generation: u64) {
        self.read_streams_of(generation);
        let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut self.streams)
            .into_iter()
            .partition(|stream| stream.generation == generation);
        self.streams = kept;
        for stream in gone {
            let mut last = Vec::new();
            stream.close(&mut self.chunk, |text, _| last.push(text.to_owned()));
            for text in last {
                self.tell(Some(generation), &text);
            }
        }
    }

    fn read_notices(&mut self) {
        while let Some(notice) = self.notify.receive() {
            match self.sender(&notice) {
                Some(place) => self.take_notice(place, notice),
                None => {
                    self.state.counters.strange_notifications += 1;
                    self.revision += 1;
                }
            }
        }
    }

    /// The slot whose process, or whose descendant, sent it.
    fn sender(&self, notice: &Notice) -> Option<(u64, usize)> {
        let main = self
            .running
            .iter()
            .find(|(_, running)| running.process.pid == notice.pid);
        if let Some((place, _)) = main {
            return Some(*place);
        }
        self.running.iter().find_map(|(place, running)| {
            let found = self.state.generation(place.0)?;
            let name = &found.intent.processes.get(place.1)?.name;
            let marks = self.marks(place.0, Some(name));
            processes::is_member(notice.pid, &[running.process], &marks).then_some(*place)
        })
    }

    fn take_notice(&mut self, (generation, slot): (u64, usize), notice: Notice) {
        if notice.ready {
            self.events.push_back(Event::Ready { generation, slot });
        }
        if let Some(by) = notice.extend_ms {
            self.events.push_back(Event::Extend { generation, by });
        }
        if let Some(running) = self.running.get_mut(&(generation, slot))
            && let Some(status) = notice.status.filter(|status| *status != running.said)
        {
            running.said = status;
            self.revision += 1;
        }
    }

    /// Learns which forked processes run their program.
    fn look_at_starts(&mut self) {
        let ready: Vec<_> = self
            .running
            .iter()
            .filter(|(_, running)| running.failure.as_ref().is_some_and(is_ready))
            .map(|(place, _)| *place)
            .collect();
        for (generation, slot) in ready {
            let Some(running) = self.running.get_mut(&(generation, slot)) else {
                continue;
            };
            let Some(failure) = running.failure.take() else {
                continue;
            };
            let ended = is_ready(&running.pidfd);
            match processes::read_failure(failure) {
                Some(failure) => {
                    let how = format!("could not be started: cannot {}: {}", failure.step, failure.error);
                    self.end(generation, slot, how);
                }
                // Killed before it got so far: its end says so.
                None if ended => {}
                None => self.events.push_back(Event::Started { generation, slot }),
            }
        }
    }

    fn end(&mut self, generation: u64, slot: usize, how: String) {
        if self.running.remove(&(generation, slot)).is_some() {
            self.tell(
                Some(generation),
                &format!("process of generation {generation} {how}"),
            );
            self.events.push_back(Event::Ended {
                generation,
                slot,
                how,
            });
        }
    }

    /// Takes the exit status of children, orphans among them.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get().cast_unsigned();
            let place = self
                .running
                .iter()
                .find(|(_, running)| running.process.pid == pid && running.own_child);
            let Some((&(generation, slot), _)) = place else {
                continue;
            };
            // Its report may have come in the same moment.
            self.look_at_starts();
            self.end(generation, slot, how_ended(status));
        }
    }

    fn look_at_adopted(&mut self) {
        let ended: Vec<_> = self
            .running
            .iter()
            .filter(|(_, running)| !running.own_child && is_ready(&running.pidfd))
            .map(|(place, _)| *place)
            .collect();
        for (generation, slot) in ended {
            self.end(
                generation,
                slot,
                "ended (it was started by an earlier keeper, so how is not known)".to_owned(),
            );
        }
    }

    fn advance_probes(&mut self) {
        let now = now_ms();
        let mut probes = std::mem::take(&mut self.probes);
        let mut listeners = std::mem::take(&mut self.listeners);
        let mut events = Vec::new();
        probes.retain_mut(|probe| {
            let (generation, slot) = (probe.generation, probe.slot);
            let Some(group) = listeners.get_mut(&probe.key) else {
                return false;
            };
            let owned = |client, server| self.owns(generation, client, server);
            match probe.advance(group, now, owned) {
                Progress::Asking => true,
                Progress::Passed(first_answer_at) => {
                    events.push(Event::Probed {
                        generation,
                        slot,
                        first_answer_at,
                    });
                    false
                }
                Progress::Failed(reason) => {
                    events.push(Event::ProbeFailed {
                        generation,
                        slot,
                        reason,
                    });
                    false
                }
            }
        });
        self.listeners = listeners;
        self.events.extend(events);
        self.probes = probes;
    }

    /// Notices listeners that their app has shut down.
    fn look_at_listeners(&mut self) {
        let active = self.state.active.as_ref().map_or(0, |active| active.number);
        let before = self.state.layout.clone();
        let proven = self.state.rising.is_none();
        let mut lost = Vec::new();
        for (key, group) in self.listeners.iter_mut() {
            let had = group.socket(active).is_some();
            if group.inspect(active, proven) && had {
                lost.push(key.clone());
            }
        }
        self.remember_layout();
        if self.state.layout != before {
            self.revision += 1;
        }
        for key in lost {
            self.note(format!(
                "generation {active} shut its listener {key} down; its process is started again"
            ));
            self.kill_active();
        }
    }

    /// The active generation cannot serve any more: its processes end and are started again.
    fn kill_active(&mut self) {
        let Some(active) = self.state.active.as_ref().map(|active| active.number) else {
            return;
        };
        for ((generation, _), running) in &self.running {
            if *generation == active {
                processes::send(
                    running.process.pid,
                    running.process.start,
                    rustix::process::Signal::KILL,
                );
            }
        }
    }

    fn can_relay(&self) -> bool {
        let clearing = matches!(
            self.state.rising.as_ref().map(|rising| rising.phase),
            Some(RisingPhase::Clearing(_))
        );
        let up = self
            .state
            .active
            .as_ref()
            .is_some_and(crate::machine::Generation::is_whole);
        up && !clearing && self.relays.len() < MAX_RELAYS
    }

    fn advance_relays(&mut self) {
        if self.can_relay() {
            self.accept_strays();
        }
        self.relays.retain_mut(Relay::advance);
    }

    fn accept_strays(&mut self) {
        let mut relays = Vec::new();
        for (_, group) in self.listeners.iter() {
            for orphan in group.orphans() {
                while self.relays.len() + relays.len() < MAX_RELAYS && crate::listen::has_queue(orphan) {
                    let flags = rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK;
                    let Ok(client) = rustix::net::accept_with(orphan, flags) else {
                        break;
                    };
                    let Ok(server) = group.connect() else { break };
                    relays.push(Relay::new(client, server));
                }
            }
        }
        self.state.counters.relayed += relays.len() as u64;
        self.relays.extend(relays);
    }

    /// Tells the machine which leaving generations are idle or gone.
    fn look_at_leaving(&mut self) {
        let now = now_ms();
        if !self.must_look() || now < self.next_look {
            return;
        }
        for (generation, stage) in self.leaving() {
            if stage == Leaving::Draining {
                let queued = self
                    .listeners
                    .iter()
                    .any(|(_, group)| group.has_queue(generation));
                if !queued && self.count_connections(generation) == 0 {
                    self.events.push_back(Event::Idle { generation });
                }
            }
            self.look_whether_gone(generation);
        }
        self.next_look = pause_after(now, LOOK_MS);
    }

    /// Generations on their way out, with how far they are.
    fn leaving(&self) -> Vec<(u64, Leaving)> {
        let retiring = self
            .state
            .retiring
            .iter()
            .filter(|leaving| leaving.phase != Leaving::Warm);
        let mut all: Vec<_> = retiring
            .map(|leaving| (leaving.generation.number, leaving.phase))
            .collect();
        if let Some(rising) = &self.state.rising {
            match (rising.phase, &self.state.active) {
                (RisingPhase::Aborting, _) => all.push((rising.generation.number, Leaving::Killing)),
                (RisingPhase::Clearing(stage), Some(active)) => all.push((active.number, stage)),
                _ => {}
            }
        }
        all
    }

    fn look_whether_gone(&mut self, generation: u64) {
        if self.running.keys().any(|(number, _)| *number == generation) {
            return;
        }
        let mains = self.mains.get(&generation).cloned().unwrap_or_default();
        if processes::members(&mains, &self.marks(generation, None)).is_empty() {
            let cut = self.cut.get(&generation).copied().unwrap_or(0);
            self.events.push_back(Event::Gone { generation, cut });
        }
    }

    fn answer_requests(&mut self) {
        for asked in self.control.receive() {
            self.work_off();
            self.quiet_at = Some(now_ms() + super::QUIET_MS);
            self.answer(asked);
        }
        self.control.flush();
    }

    pub(super) fn take_pidfd(pid: u32) -> Result<OwnedFd, String> {
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).ok_or("no such process")?;
        rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
            .map_err(|error| chain(&io::Error::from(error)))
    }
}

fn is_ready(fd: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(fd, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    rustix::event::poll(&mut polled, Some(&now)).is_ok_and(|ready| ready > 0)
}

fn how_ended(status: WaitStatus) -> String {
    if let Some(code) = status.exit_status() {
        return format!("ended with status {code}");
    }
    match status.terminating_signal() {
        Some(signal) => format!("was ended by signal {signal}"),
        None => "ended".to_owned(),
    }
}
