//! Two environments compared, key by key.

use std::collections::BTreeMap;

use super::read::words_of as span;
use super::{Environment, PolicyWords, gates};
use crate::rollout::WayStep;

/// One key of which the two say something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// `policy.soak`, `step[2]`.
    pub key: String,
    /// None: nothing was said.
    pub was: Option<String>,
    pub is: Option<String>,
}

/// What changes when `new` takes the place of `old`, in the order of the keys; none: no file was applied before.
pub fn difference(old: Option<&Environment>, new: &Environment) -> Vec<Difference> {
    let (was, is) = (old.map(said).unwrap_or_default(), said(new));
    let mut keys: Vec<&String> = was.keys().chain(is.keys()).collect();
    keys.sort();
    keys.dedup();
    let differs = keys.into_iter().filter(|key| was.get(*key) != is.get(*key));
    differs
        .map(|key| Difference {
            key: key.clone(),
            was: was.get(key).cloned(),
            is: is.get(key).cloned(),
        })
        .collect()
}

/// All that an environment says, each by its key.
fn said(environment: &Environment) -> BTreeMap<String, String> {
    let mut said = BTreeMap::new();
    if let Some(after) = &environment.after {
        let words = format!("{}, for {}", after.env, span(after.soak_ms));
        said.insert("after".to_owned(), words);
    }
    for (nth, step) in (1..).zip(&environment.steps) {
        said.insert(format!("step[{nth}]"), step_words(step));
    }
    for gate in environment.steps.iter().flat_map(|step| &step.gates) {
        said.insert(format!("gate.{}", gate.name), gates::told(gate));
    }
    policy_words("policy", &environment.policy, &mut said);
    for (profile, words) in &environment.profiles {
        policy_words(&format!("profile.{profile}"), words, &mut said);
    }
    said
}

fn step_words(step: &WayStep) -> String {
    let mut words = format!("{}: {} of", step.name, step.until);
    match &step.class {
        Some(class) => words.push_str(&format!(" class {class}")),
        None => words.push_str(" the hosts"),
    }
    if !step.names.is_empty() {
        words.push_str(&format!(" named {}", step.names.join(", ")));
    }
    if let Some(soak) = step.soak_ms {
        words.push_str(&format!("; soak {}", span(soak)));
    }
    if !step.gates.is_empty() {
        let gates: Vec<_> = step.gates.iter().map(|gate| gate.name.as_str()).collect();
        words.push_str(&format!("; then gates {}", gates.join(", ")));
    }
    words
}

fn policy_words(name: &str, words: &PolicyWords, said: &mut BTreeMap<String, String>) {
    let mut say = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            said.insert(format!("{name}.{key}"), value);
        }
    };
    say(
        "max_unavailable",
        words.max_unavailable.map(|amount| amount.to_string()),
    );
    say("min_healthy", words.min_healthy.map(|amount| amount.to_string()));
    say("wave", words.wave.map(|amount| amount.to_string()));
    say("soak", words.soak_ms.map(span));
    say("progress_deadline", words.progress_deadline_ms.map(span));
    say("prefetch_deadline", words.prefetch_deadline_ms.map(span));
    say("barrier_deadline", words.barrier_deadline_ms.map(span));
    say("switch_deadline", words.switch_deadline_ms.map(span));
    say("auto_revert", words.auto_revert.map(|set| set.to_string()));
    say("keep", words.keep.map(|count| count.to_string()));
    say("steps", words.steps.map(|set| set.to_string()));
    say("gates", words.gates.map(|set| set.to_string()));
    let hosts = words.optional_asset_hosts.as_ref();
    say(
        "optional_asset_hosts",
        hosts.map(|hosts| {
            hosts
                .iter()
                .map(|host| host.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        }),
    );
}
