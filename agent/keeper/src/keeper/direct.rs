//! Where new connections go: sockets for a generation, the one they are steered to, and listeners that an app gave up.

use ship_durable::fault;

use super::{Keeper, chain};
use crate::listen;
use crate::machine::{Event, RisingPhase};
use crate::processes;
use crate::relay::{MAX_RELAYS, Relay};

impl Keeper {
    pub(super) fn bind(&mut self, generation: u64) {
        let sockets = self.take_sockets(generation).map_err(|error| chain(&error));
        self.events.push_back(Event::Bound { generation, sockets });
    }

    /// Sockets for every listener of the generation, as inodes per slot.
    pub(super) fn take_sockets(&mut self, generation: u64) -> Result<Vec<Vec<u64>>, listen::ListenError> {
        let Some(intent) = self
            .state
            .generation(generation)
            .map(|found| found.intent.clone())
        else {
            return Ok(Vec::new());
        };
        self.listeners
            .prepare(&intent, &self.state.bound, self.config.steering)?;
        let mut sockets = Vec::new();
        for process in &intent.processes {
            let mut inodes = Vec::new();
            for listener in &process.listen {
                let key = listen::key(process, listener);
                let Some(group) = self.listeners.get_mut(&key) else {
                    continue;
                };
                inodes.extend(group.take(generation)?);
                self.state.bound.insert(key, group.bound());
            }
            sockets.push(inodes);
        }
        self.remember_layout();
        Ok(sockets)
    }

    /// The kernel's order of sockets goes to the journal with the next state.
    pub(super) fn remember_layout(&mut self) {
        self.state.layout = self
            .listeners
            .iter()
            .map(|(key, group)| (key.clone(), group.layout()))
            .collect();
    }

    pub(super) fn steer(&mut self, generation: u64) -> Result<(), String> {
        let Some(intent) = self
            .state
            .generation(generation)
            .map(|found| found.intent.clone())
        else {
            return Err(format!("generation {generation} is gone"));
        };
        for (process, listener) in listen::listeners_of(&intent) {
            let Some(group) = self.listeners.get_mut(&listen::key(process, listener)) else {
                continue;
            };
            group.steer(generation).map_err(|error| chain(&error))?;
            let _ = fault::point("keeper.steer.one");
        }
        Ok(())
    }

    pub(super) fn hold(&mut self, generation: u64) {
        self.begin_holding();
        for (_, group) in self.listeners.iter_mut() {
            if let Err(error) = group.hold(generation) {
                self.notes.push_back(chain(&error));
            }
        }
    }

    /// Notices listeners that their app has shut down.
    pub(super) fn look_at_listeners(&mut self) {
        let active = self.state.active.as_ref().map_or(0, |active| active.number);
        let before = self.state.layout.clone();
        // What a holder still has would stay in its group where it is closed here only.
        let proven = self.state.rising.is_none() && self.state.holder.is_none();
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

    pub(super) fn can_relay(&self) -> bool {
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

    pub(super) fn advance_relays(&mut self) {
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
}
