//! What processes say on the notify socket.

use std::os::fd::OwnedFd;

use super::{Keeper, Running};
use crate::clock::monotonic_us;
use crate::machine::Event;
use crate::notify::{Notice, Store};
use crate::processes;

/// Datagrams read before others get their turn: one that never stops talking must not stop the keeper.
const TURN: usize = 256;

impl Keeper {
    pub(super) fn read_notices(&mut self) {
        for _ in 0..TURN {
            let Some(datagram) = self.notify.receive() else {
                return;
            };
            let (notice, descriptors) = (datagram.notice, datagram.descriptors);
            if notice.barrier {
                // Dropped, which is the answer, only when all that was said before has been acted on.
                self.barriers.extend(descriptors);
                continue;
            }
            match self.sender(&notice) {
                Some(place) => self.take_notice(place, notice, descriptors),
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
            let marks = self.marks(self.home(place.0, place.1).0, Some(name));
            processes::is_member(notice.pid, &[running.process], &marks).then_some(*place)
        })
    }

    fn take_notice(&mut self, place: (u64, usize), notice: Notice, descriptors: Vec<OwnedFd>) {
        let (generation, slot) = place;
        if let Some(pid) = notice.main_pid {
            self.take_main_pid(place, pid);
        }
        if let Some(by) = notice.extend_ms {
            self.events.push_back(Event::Extend { generation, by });
        }
        if let Some(store) = notice.store {
            self.store_descriptors(
                place,
                store,
                notice.fd_name.as_deref(),
                notice.fd_keep,
                descriptors,
            );
        }
        let Some(running) = self.running.get_mut(&place) else {
            return;
        };
        running.watchdog.hear(&notice);
        if notice.reloading {
            running.begins_reload(notice.monotonic_us);
        }
        if notice.ready && running.may_be_ready() {
            self.events.push_back(Event::Ready { generation, slot });
        }
        if running.says(notice) {
            self.revision += 1;
        }
    }

    /// It was sent the signal to reload: what it says of being ready is of no worth before it has begun to.
    pub(super) fn expect_reload(&mut self, process: crate::machine::Process) {
        let asked = monotonic_us();
        let found = self
            .running
            .values_mut()
            .find(|running| running.process == process);
        if let Some(running) = found {
            running.reload_asked_us = Some(asked);
        }
    }

    /// Stores descriptors for the next process of the sender's name, or drops stored ones.
    fn store_descriptors(
        &mut self,
        (generation, slot): (u64, usize),
        store: Store,
        name: Option<&str>,
        keep: bool,
        descriptors: Vec<OwnedFd>,
    ) {
        let found = self.state.generation(generation);
        let spec = found.and_then(|found| found.intent.processes.get(slot));
        let Some(process) = spec.map(|spec| spec.name.clone()) else {
            return;
        };
        match store {
            Store::Keep => {
                if let Err(error) = self.store.keep(&process, name, keep, descriptors) {
                    self.note(format!("process {process}: {error}"));
                }
            }
            Store::Remove => self.store.remove(&process, name),
        }
    }
}

impl Running {
    /// A reload that began before the signal was sent is another one.
    fn begins_reload(&mut self, at_us: Option<u64>) {
        let awaited = self.reload_asked_us;
        if awaited.is_some_and(|asked| at_us.is_none_or(|at| at >= asked)) {
            self.reload_asked_us = None;
        }
    }

    fn may_be_ready(&self) -> bool {
        self.reload_asked_us.is_none()
    }

    /// Remembers what it says of itself; true when that is news.
    fn says(&mut self, notice: Notice) -> bool {
        let before = (self.said.clone(), self.errno, self.stopping, self.reloading);
        self.stopping |= notice.stopping;
        self.reloading = notice.reloading || (self.reloading && !notice.ready);
        self.errno = notice.errno.filter(|errno| *errno > 0).or(self.errno);
        if let Some(status) = notice.status {
            self.said = status;
        }
        before != (self.said.clone(), self.errno, self.stopping, self.reloading)
    }

    /// What it told of its end before that came, for people.
    pub(super) fn last_words(&self) -> String {
        let mut words = String::new();
        if let Some(missed) = &self.missed {
            words.push_str(&format!(" after it {missed}"));
        }
        if let Some(errno) = self.errno {
            let error = std::io::Error::from_raw_os_error(errno);
            words.push_str(&format!("; it told of an error: {error}"));
        }
        words
    }
}
