//! From the text of a `ship.ENV.toml` to its checked meaning.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use toml::de::{DeTable, DeValue};

use super::{After, Environment, PolicyWords, gates};
use crate::name::{ClassName, EnvName, HostName};
use crate::rollout::{Amount, Gate, Profile, WayStep};
use crate::spec::SpecError;
use crate::spec::fields::{Fields, Found, Keys, Mistakes, nearest};
use crate::spec::values::duration_ms;

/// The form of the file; another is refused.
const VERSION: u64 = 1;
/// Largest file in bytes.
pub const MAX_TEXT: usize = 64 << 10;
/// Most steps of a way.
const MAX_STEPS: usize = 64;
/// Most labels, and most names of one label.
const MAX_LABELS: usize = 256;
const MAX_NAMES: usize = 1000;
/// Longest name of a step or a label, in bytes; a host's name is no longer than a pattern may be.
const MAX_NAME: usize = 64;
const MAX_PATTERN: usize = 63;

const KEYS: Keys = Keys::only(&[
    "version", "env", "after", "labels", "step", "gate", "policy", "profile",
]);
const AFTER: Keys = Keys::only(&["env", "soak"]);
const STEP: Keys = Keys::only(&["name", "hosts", "class", "label", "soak", "gates"]);
const POLICY: Keys = Keys::only(&[
    "max_unavailable",
    "min_healthy",
    "wave",
    "soak",
    "progress_deadline",
    "prefetch_deadline",
    "barrier_deadline",
    "switch_deadline",
    "auto_revert",
    "keep",
    "optional_asset_hosts",
]);
const PROFILE: Keys = Keys::only(&[
    "max_unavailable",
    "min_healthy",
    "wave",
    "soak",
    "progress_deadline",
    "prefetch_deadline",
    "barrier_deadline",
    "switch_deadline",
    "auto_revert",
    "keep",
    "optional_asset_hosts",
    "steps",
    "gates",
]);

/// Every mistake of an environment's file, in the order of the file; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct EnvironmentErrors(pub Vec<SpecError>);

impl fmt::Display for EnvironmentErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mistakes = if self.0.len() == 1 { "mistake" } else { "mistakes" };
        write!(f, "the environment's file has {} {mistakes}:", self.0.len())?;
        self.0.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}

/// Reads a `ship.ENV.toml`.
///
/// Every mistake is reported at once, in the order of the file, with line, column and the key's full name.
pub fn read_environment(text: &str) -> Result<Environment, EnvironmentErrors> {
    let mistakes = Mistakes::new(text);
    if text.len() > MAX_TEXT {
        mistakes.add(
            0,
            "",
            format!("the file is longer than {} KiB", MAX_TEXT >> 10),
            None,
        );
        return Err(found(mistakes));
    }
    let (table, syntax) = DeTable::parse_recoverable(text);
    for error in &syntax {
        let at = error.span().map_or(0, |span| span.start);
        let message = error.message().lines().collect::<Vec<_>>().join("; ");
        mistakes.add(at, "", message, None);
    }
    // What could not be read may be half of a table: its keys would be called missing or unknown wrongly.
    let read = syntax
        .is_empty()
        .then(|| read(&mistakes, table.get_ref()))
        .flatten();
    let errors = mistakes.into_errors();
    match (errors, read) {
        (None, Some(environment)) => Ok(environment),
        (errors, _) => Err(EnvironmentErrors(
            errors.map(|errors| errors.0).unwrap_or_default(),
        )),
    }
}

fn found(mistakes: Mistakes<'_>) -> EnvironmentErrors {
    EnvironmentErrors(mistakes.into_errors().map(|errors| errors.0).unwrap_or_default())
}

fn read<'t>(mistakes: &'t Mistakes<'t>, table: &'t DeTable<'t>) -> Option<Environment> {
    let fields = Fields::open(mistakes, "", table, 0..0, KEYS);
    match fields.get("version") {
        None => fields.missing("version", "version = 1"),
        Some(_) => drop(fields.number("version", VERSION..=VERSION)),
    }
    let env = match fields.text("env") {
        Some(found) => found.parse(|text| EnvName::new(text)),
        None if fields.get("env").is_some() => None,
        None => {
            fields.missing("env", "env = \"production\"");
            None
        }
    };
    let labels = labels(&fields);
    let gates = gates::gates(&fields);
    let policy = fields.table("policy", POLICY).map(|fields| policy(&fields));
    let read = Environment {
        after: after(&fields),
        steps: steps(&fields, &labels, &gates),
        policy: policy.unwrap_or_default(),
        profiles: profiles(&fields),
        env: env?,
    };
    let used = read.steps.iter().flat_map(|step| &step.gates);
    gates::check_used(&fields, &gates, &used.map(|gate| gate.name.as_str()).collect());
    check_profiles(&fields, &read);
    let itself = read.after.as_ref().filter(|after| after.env == read.env);
    if itself.is_some()
        && let Some(after) = fields.get("after")
    {
        after.bad("names the environment itself");
    }
    Some(read)
}

fn after(fields: &Fields<'_>) -> Option<After> {
    let after = fields.table("after", AFTER)?;
    let Some(env) = after.text("env") else {
        if after.get("env").is_none() {
            after.missing("env", "env = \"staging\"");
        }
        return None;
    };
    Some(After {
        env: env.parse(|text| EnvName::new(text))?,
        soak_ms: duration(&after, "soak").unwrap_or_default(),
    })
}

fn labels(fields: &Fields<'_>) -> BTreeMap<String, Vec<String>> {
    let Some(table) = fields.free_table("labels") else {
        return BTreeMap::new();
    };
    let mut labels = BTreeMap::new();
    for (label, _) in table.entries().filter(|(label, _)| !label.starts_with("x-")) {
        let key = table.key(label);
        if labels.len() == MAX_LABELS {
            key.bad(format!("more than {MAX_LABELS} labels"));
            break;
        }
        if !is_word(label) {
            key.bad("a label is made of letters, digits, '-', '_' and '.', at most 64");
            continue;
        }
        let names = table.texts(label);
        if names.is_empty() {
            key.bad_with("names no host", "name one: [\"web-1\"], or several: [\"web-*\"]");
        }
        if names.len() > MAX_NAMES {
            key.bad(format!("more than {MAX_NAMES} names"));
        }
        let names = names
            .iter()
            .take(MAX_NAMES)
            .filter_map(|name| name.parse(|text| pattern(text)));
        labels.insert(label.to_owned(), names.collect());
    }
    labels
}

fn pattern(text: &str) -> Result<String, String> {
    let plain =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.' | b'*');
    if !text.is_empty() && text.len() <= MAX_PATTERN && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("is no host's name: a-z, 0-9, '-', '_', '.', and '*' for any of them".to_owned())
    }
}

pub(super) fn is_word(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !text.is_empty() && text.len() <= MAX_NAME && text.bytes().all(plain)
}

fn steps(
    fields: &Fields<'_>,
    labels: &BTreeMap<String, Vec<String>>,
    gates: &BTreeMap<String, Gate>,
) -> Vec<WayStep> {
    let tables = fields.tables("step", STEP);
    if tables.len() > MAX_STEPS
        && let Some(found) = fields.get("step")
    {
        found.bad(format!("more than {MAX_STEPS} steps"));
    }
    let mut names = BTreeSet::new();
    let read = tables.iter().take(MAX_STEPS).filter_map(|table| {
        let step = step(table, labels, gates)?;
        if !names.insert(step.name.clone()) {
            table.key("name").bad("another step has this name");
        }
        Some(step)
    });
    read.collect()
}

fn step(
    table: &Fields<'_>,
    labels: &BTreeMap<String, Vec<String>>,
    gates: &BTreeMap<String, Gate>,
) -> Option<WayStep> {
    let name = match table.text("name") {
        Some(name) => name.parse(|text| step_name(text)),
        None => {
            if table.get("name").is_none() {
                table.missing("name", "name = \"one host\"");
            }
            None
        }
    };
    let until = match table.get("hosts") {
        Some(found) => amount(&found),
        None => {
            table.missing("hosts", "hosts = 1, \"25%\" or \"100%\"");
            None
        }
    };
    let class = table
        .text("class")
        .and_then(|found| found.parse(|text| ClassName::new(text)));
    let names = match table.text("label") {
        None => Vec::new(),
        Some(label) => match labels.get(label.value) {
            Some(names) => names.clone(),
            None => {
                let known: Vec<&str> = labels.keys().map(String::as_str).collect();
                let near = nearest(label.value, &known).map(|near| format!("did you mean {near:?}?"));
                label.bad_with(
                    "no such label",
                    near.unwrap_or_else(|| "say in [labels] which hosts have it".to_owned()),
                );
                Vec::new()
            }
        },
    };
    let soak_ms = duration(table, "soak");
    let gates = gates::of_step(table, gates);
    Some(WayStep {
        name: name?,
        until: until?,
        class,
        names,
        soak_ms,
        gates,
    })
}

/// Shown in plans as it is.
fn step_name(text: &str) -> Result<String, String> {
    let plain = |c: char| !c.is_control();
    if !text.trim().is_empty() && text.len() <= MAX_NAME && text.chars().all(plain) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "a step's name is a word or a few, at most {MAX_NAME} bytes"
        ))
    }
}

fn profiles(fields: &Fields<'_>) -> BTreeMap<Profile, PolicyWords> {
    let Some(table) = fields.free_table("profile") else {
        return BTreeMap::new();
    };
    let names = Profile::ALL.map(Profile::as_str);
    let mut profiles = BTreeMap::new();
    for (name, _) in table.entries().filter(|(name, _)| !name.starts_with("x-")) {
        let Ok(profile) = name.parse::<Profile>() else {
            let near = nearest(name, &names).map(|near| format!("did you mean {near:?}?"));
            let hint = near.unwrap_or_else(|| format!("there are {}", names.join(", ")));
            table.key(name).bad_with("no such profile", hint);
            continue;
        };
        if let Some(words) = table.table(name, PROFILE) {
            profiles.insert(profile, policy(&words));
        }
    }
    profiles
}

/// A profile that leaves out steps must not leave out their gates without a word.
fn check_profiles(fields: &Fields<'_>, read: &Environment) {
    let gated = read.steps.iter().any(|step| !step.gates.is_empty());
    let Some(table) = fields.free_table("profile") else {
        return;
    };
    for (profile, words) in &read.profiles {
        if gated && words.steps == Some(false) && words.gates != Some(false) {
            table.key(profile.as_str()).bad_with(
                "leaves out the steps that end with gates",
                "say gates = false as well",
            );
        }
    }
}

fn policy(fields: &Fields<'_>) -> PolicyWords {
    let of = |key: &str| fields.get(key).and_then(|found| amount(&found));
    let wave = of("wave");
    if wave.is_some_and(|wave| matches!(wave, Amount::Count(0) | Amount::Percent(0))) {
        fields.key("wave").bad("a wave has one host at least");
    }
    PolicyWords {
        max_unavailable: of("max_unavailable"),
        min_healthy: of("min_healthy"),
        wave,
        soak_ms: duration(fields, "soak"),
        progress_deadline_ms: deadline(fields, "progress_deadline"),
        prefetch_deadline_ms: deadline(fields, "prefetch_deadline"),
        barrier_deadline_ms: deadline(fields, "barrier_deadline"),
        switch_deadline_ms: deadline(fields, "switch_deadline"),
        auto_revert: fields.flag("auto_revert").map(|found| found.value),
        keep: fields
            .number("keep", 1..=1000)
            .and_then(|keep| u32::try_from(keep).ok()),
        optional_asset_hosts: fields.get("optional_asset_hosts").is_some().then(|| {
            let hosts = fields.texts("optional_asset_hosts");
            let hosts = hosts.iter().take(MAX_NAMES);
            hosts
                .filter_map(|host| host.parse(|text| HostName::new(text)))
                .collect()
        }),
        steps: fields.flag("steps").map(|found| found.value),
        gates: fields.flag("gates").map(|found| found.value),
    }
}

/// `3`, or `"25%"`.
fn amount(found: &Found<'_, &DeValue<'_>>) -> Option<Amount> {
    let text = match found.value {
        DeValue::String(text) => text.as_ref().to_owned(),
        DeValue::Integer(number) if number.radix() == 10 => number.as_str().replace('_', ""),
        _ => {
            found.bad("must be a number of hosts, 3, or a share of them, \"25%\"");
            return None;
        }
    };
    found.parse(|_| text.parse::<Amount>())
}

fn duration(fields: &Fields<'_>, key: &str) -> Option<u64> {
    fields.text(key)?.parse(|text| duration_ms(text))
}

/// A time as the file spells it.
pub(super) fn words_of(ms: u64) -> String {
    match ms {
        0 => "0s".to_owned(),
        _ if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) => format!("{}m", ms / 60_000),
        _ if ms.is_multiple_of(1000) => format!("{}s", ms / 1000),
        _ => format!("{ms}ms"),
    }
}

/// A time to give up after: nothing is done in none.
fn deadline(fields: &Fields<'_>, key: &str) -> Option<u64> {
    let ms = duration(fields, key)?;
    if ms < 1000 {
        fields.key(key).bad("must be 1s at least");
    }
    Some(ms)
}
