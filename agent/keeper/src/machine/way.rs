//! What a process does about its listeners: under `auto` that decides its strategy, under `bind-join` it must come.

use ship_model::spec::Strategy;

use super::step::Turn;
use super::{Slot, Way};
use crate::protocol::{ProcessSpec, Rung};

impl ProcessSpec {
    fn waits_for_a_bind(&self) -> bool {
        self.strategy.joins() && !self.listen.is_empty()
    }
}

impl Turn {
    /// The process did something about its listeners. One that has joined stays so, whatever else it binds.
    pub(super) fn went(&mut self, generation: u64, slot: usize, way: &Way) {
        let Some(found) = self.state.generation_mut(generation) else {
            return;
        };
        let Some(spec) = found.intent.processes.get(slot).cloned() else {
            return;
        };
        let Some(found) = found.slots.get_mut(slot).filter(|found| !has_joined(found)) else {
            return;
        };
        found.way = Some(way.clone());
        if way.strategy == Some(Strategy::StopStart) && self.begin_alone(generation, slot, &way.reason) {
            return;
        }
        // A cut-over stays one, whichever way it came to its sockets.
        let told = way
            .strategy
            .filter(|strategy| *strategy != spec.strategy && spec.strategy != Strategy::CutOver);
        let Some(strategy) = told else { return };
        let rung = Rung {
            process: spec.name,
            strategy,
            reason: way.reason.clone(),
        };
        if let Some(rising) = self.rising(generation) {
            rising
                .rungs
                .retain(|known| known.process != rung.process || known.strategy != strategy);
            rising.rungs.push(rung);
        }
    }

    /// The process has answered its probe. If it has bound nothing, it did so on what it was handed.
    pub(super) fn answered(&mut self, generation: u64, slot: usize) {
        let undecided = self.rising(generation).is_some_and(|rising| {
            let spec = rising.generation.intent.processes.get(slot);
            let found = rising.generation.slots.get(slot);
            spec.is_some_and(|spec| spec.strategy.takes_either() && spec.waits_for_a_bind())
                && found.is_some_and(|found| found.way.as_ref().is_none_or(|way| way.strategy.is_none()))
        });
        if undecided {
            let way = Way {
                strategy: Some(Strategy::ListenFds),
                reason: "it answers on the socket it was handed as LISTEN_FDS".to_owned(),
            };
            self.went(generation, slot, &way);
        }
    }

    /// The reason of a failure, with what processes did not do about their listeners.
    pub(super) fn with_ways(&self, reason: &str) -> String {
        let mut words = reason.to_owned();
        let rising = self.state.rising.iter().map(|rising| &rising.generation);
        for (spec, found) in
            rising.flat_map(|generation| generation.intent.processes.iter().zip(&generation.slots))
        {
            if spec.waits_for_a_bind() && !has_joined(found) && !found.probed {
                words.push_str(&format!("; process {} {}", spec.name, did_not(spec, found)));
            }
        }
        words
    }
}

fn has_joined(found: &Slot) -> bool {
    found
        .way
        .as_ref()
        .is_some_and(|way| way.strategy == Some(Strategy::BindJoin))
}

/// What it did not do, and why, as far as that is known.
fn did_not(spec: &ProcessSpec, found: &Slot) -> String {
    let addresses: Vec<_> = spec
        .listen
        .iter()
        .map(|listener| listener.addr.as_str())
        .collect();
    let addresses = addresses.join(", ");
    let did_not = match (spec.strategy, &found.way) {
        // It was not watched, so what it did is not known.
        (_, Some(way)) if way.strategy.is_some() => String::new(),
        (Strategy::BindJoin, _) => format!("has not bound {addresses}"),
        _ => format!(
            "has not bound {addresses} by itself, and does not answer on the socket it was handed as LISTEN_FDS"
        ),
    };
    match &found.way {
        Some(way) if did_not.is_empty() => format!("runs as under {:?}: {}", "listen-fds", way.reason),
        Some(way) => format!("{did_not}: {}", way.reason),
        None => did_not,
    }
}
