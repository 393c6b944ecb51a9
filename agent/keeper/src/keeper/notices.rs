//! What processes say on the notify socket.

use super::Keeper;
use crate::machine::Event;
use crate::notify::Notice;
use crate::processes;

impl Keeper {
    pub(super) fn read_notices(&mut self) {
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
}
