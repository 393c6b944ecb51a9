//! Hosts over numbered parts, and what is checked of each whatever the rest of the world does.

use std::collections::HashMap;
use std::rc::Rc;

use ship_model::converge::Action;
use ship_model::desired::DesiredApp;
use ship_model::release::Target;

use crate::host::{AgentGuard, Did, Host};
use crate::intern::Interner;
use crate::properties::{Property, Verdict, Violation, must};
use crate::rules::{check, may_switch, nothing_needed};

/// What happens on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OnHost {
    /// This desired state arrives.
    Hears(u32),
    /// One meant for another environment arrives.
    HearsForeign(u32),
    /// The agent does the next thing.
    Works,
    SwitchEnds {
        well: bool,
    },
    AgentCrashes,
    AppCrashes,
    /// What runs answers its probe no longer, or again.
    FallsIll,
    RevertedByHand,
    /// An operator started something: what hands did before is no longer the last word.
    OperatorStarts,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Became {
    pub host: u32,
    /// The keeper was asked to switch to this.
    pub ordered: Option<Target>,
}

type Answer = Result<Option<Became>, Rc<Violation>>;

/// See the module.
#[derive(Default)]
pub struct Hosts {
    pub all: Interner<Host>,
    pub without: Option<AgentGuard>,
    known: HashMap<(u32, OnHost), Answer>,
}

impl Hosts {
    /// Answers given so far are asked for again.
    pub fn forget(&mut self) {
        self.known.clear();
    }

    /// None when nothing came of it.
    pub fn after(
        &mut self,
        host: u32,
        happens: OnHost,
        words: &Interner<DesiredApp>,
    ) -> Result<Option<Became>, Violation> {
        let key = (host, happens);
        if !self.known.contains_key(&key) {
            let answer = self.answer(host, happens, words).map_err(Rc::new);
            self.known.insert(key, answer);
        }
        self.known[&key].clone().map_err(|wrong| Violation::clone(&wrong))
    }

    fn answer(
        &mut self,
        id: u32,
        happens: OnHost,
        words: &Interner<DesiredApp>,
    ) -> Result<Option<Became>, Violation> {
        let before = self.all.get(id);
        let mut host = Host::clone(&before);
        let mut ordered = None;
        match happens {
            OnHost::Hears(word) => {
                let word = words.get(word);
                one_content(&host, &word)?;
                host.hear(&word, self.without);
            }
            OnHost::HearsForeign(word) => {
                let mut word = DesiredApp::clone(&words.get(word));
                word.env = ship_model::name::EnvName::new("elsewhere").expect("a name");
                word.epoch.0 += 100;
                host.hear(&word, self.without);
            }
            OnHost::Works => {
                let action = host.decide(0, self.without);
                if let Action::Switch(target) = action {
                    may_switch(&host, target)?;
                    ordered = Some(target);
                }
                if let Did::Removed(old) = host.perform(action) {
                    nothing_needed(&before, &old)?;
                }
            }
            OnHost::SwitchEnds { well } => host.switch_ends(well),
            OnHost::AgentCrashes => host.agent_restarts(),
            OnHost::AppCrashes => host.app_crashes(),
            OnHost::FallsIll => host.healthy = !host.healthy,
            OnHost::RevertedByHand => drop(host.revert()),
            OnHost::OperatorStarts => host.ghost.taken_away = None,
        }
        if host == *before {
            return Ok(None);
        }
        check(&host)?;
        reverts_alone(&host)?;
        Ok(Some(Became {
            host: self.all.id(host),
            ordered,
        }))
    }
}

fn one_content(host: &Host, word: &DesiredApp) -> Verdict {
    let taken = host.memory.desired.as_ref();
    let same = taken.is_none_or(|taken| taken.epoch != word.epoch || taken == word);
    must(Property::OneContentPerEpoch, same, || {
        format!("epoch {} wants two things", word.epoch)
    })
}

/// With nobody else there, a word on the host takes it back.
fn reverts_alone(host: &Host) -> Verdict {
    let Some(to) = host.previous.filter(|to| host.running != Some(*to)) else {
        return Ok(());
    };
    let mut host = host.clone();
    host.revert();
    for _ in 0..8 {
        if host.switching.is_some() {
            host.switch_ends(true);
        }
        let action = host.decide(0, None);
        host.perform(action);
    }
    must(Property::RevertsAlone, host.running == Some(to), || {
        format!("stays at {:?} instead of {to:?}", host.running)
    })
}
