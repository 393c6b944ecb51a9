//! Where new connections go: sockets for a generation, the one they are steered to, and listeners that an app gave up.

use ship_durable::fault;

use super::{Keeper, chain};
use crate::listen;
use crate::machine::{Event, RisingPhase};
use crate::protocol::ProcessSpec;
use crate::relay::{MAX_RELAYS, Relay};

impl Keeper {
    pub(super) fn bind(&mut self, generation: u64) {
        let sockets = self.take_sockets(generation).map_err(|error| chain(&error));
        let remarks = self.remarks(generation);
        let rising = self.state.rising.as_ref().map(|rising| &rising.generation);
        let rising = rising.filter(|rising| rising.number == generation);
        let tight = rising.and_then(|rising| self.tight(rising));
        self.events.push_back(Event::Bound {
            generation,
            sockets,
            remarks,
            tight,
        });
    }

    /// Listeners of the generation that are less than they could be.
    fn remarks(&self, generation: u64) -> Vec<(usize, String)> {
        let found = self.state.generation(generation);
        let processes = found.into_iter().flat_map(|found| &found.intent.processes);
        let remark = |(slot, process): (usize, &ProcessSpec)| {
            let remarks = process.listen.iter().filter_map(move |listener| {
                let group = self.listeners.get(&listen::key(process, listener))?;
                Some((slot, format!("listener {}: {}", listener.name, group.remark()?)))
            });
            remarks.collect::<Vec<_>>()
        };
        processes.enumerate().flat_map(remark).collect()
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
