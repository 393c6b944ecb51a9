//! `[hooks]`: commands of the release at the steps of a switch.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::spec::fields::{Fields, Found, Keys};
use crate::spec::process::program;
use crate::spec::values::duration_ms;

/// Most hooks at one step.
pub(super) const MAX_HOOKS: usize = 16;
const DEFAULT_TIMEOUT_MS: u64 = 60_000;

/// A step of a switch on a host that a command can be tied to.
///
/// What comes before users see the new release can refuse it; what comes after is told and nothing more. Stop hooks are
/// those of the release that stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookPoint {
    /// Before the new processes start. Failing fails the switch.
    BeforeStart,
    /// The new processes have answered and nobody is sent to them yet. Failing fails the switch.
    BeforeSwitch,
    /// New connections go to the new release.
    AfterSwitch,
    /// From the running release, before it is told to drain.
    BeforeStop,
    /// From the release that ran, when none of its processes is left.
    AfterStop,
    /// From the release that failed.
    AfterFailure,
}

impl HookPoint {
    /// Every step with its key.
    pub const ALL: [(&'static str, Self); 6] = [
        ("before_start", Self::BeforeStart),
        ("before_switch", Self::BeforeSwitch),
        ("after_switch", Self::AfterSwitch),
        ("before_stop", Self::BeforeStop),
        ("after_stop", Self::AfterStop),
        ("after_failure", Self::AfterFailure),
    ];

    /// Its key in a `ship.toml`, and what `SHIP_HOOK` says.
    pub fn name(self) -> &'static str {
        let found = Self::ALL.iter().find(|(_, point)| *point == self);
        found.map_or("", |(name, _)| name)
    }
}

/// A command tied to a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hook {
    /// As a process's: `command[0]` is relative to the release when it has a slash.
    pub command: Vec<String>,
    /// It is killed after so long, and has failed.
    pub timeout_ms: u64,
}

const KEYS: Keys = Keys::only(&[
    "before_start",
    "before_switch",
    "after_switch",
    "before_stop",
    "after_stop",
    "after_failure",
]);

/// Each is `["bin/warm", "--all"]`, or a list of `{ command = […], timeout = "2m" }`.
pub(super) fn read(fields: &Fields<'_>) -> BTreeMap<HookPoint, Vec<Hook>> {
    let mut hooks = BTreeMap::new();
    let Some(table) = fields.table("hooks", KEYS) else {
        return hooks;
    };
    for (key, point) in HookPoint::ALL {
        let Some(found) = table.get(key) else { continue };
        let is_tables = found
            .value
            .as_array()
            .is_some_and(|list| list.iter().any(|item| item.get_ref().is_table()));
        let read: Vec<Hook> = if is_tables {
            let tables = table.tables(key, Keys::only(&["command", "timeout"]));
            tables.iter().filter_map(hook).collect()
        } else {
            let words = words(&table, key, &found);
            words
                .map(|command| Hook {
                    command,
                    timeout_ms: DEFAULT_TIMEOUT_MS,
                })
                .into_iter()
                .collect()
        };
        if read.len() > MAX_HOOKS {
            found.bad(format!("has more than {MAX_HOOKS} hooks"));
        }
        hooks.insert(point, read);
    }
    hooks
}

fn hook(table: &Fields<'_>) -> Option<Hook> {
    let Some(found) = table.get("command") else {
        table.missing("command", "command = [\"bin/warm\"]");
        return None;
    };
    let timeout = table
        .text("timeout")
        .and_then(|text| text.parse(|text| duration_ms(text)));
    Some(Hook {
        command: words(table, "command", &found)?,
        timeout_ms: timeout.unwrap_or(DEFAULT_TIMEOUT_MS),
    })
}

/// A command in the words of a list; what is wrong with it is noted.
pub(super) fn words(
    fields: &Fields<'_>,
    key: &str,
    found: &Found<'_, &toml::de::DeValue<'_>>,
) -> Option<Vec<String>> {
    let words = fields.texts(key);
    match words.first() {
        None if found.value.as_array().is_some_and(|list| list.is_empty()) => {
            found.bad_with("must name a program", format!("{key} = [\"bin/program\"]"));
            None
        }
        None => None,
        Some(first) => {
            first.parse(|text| program(text))?;
            Some(words.iter().map(|word| word.value.to_owned()).collect())
        }
    }
}
