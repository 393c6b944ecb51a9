//! The gates of a `ship.ENV.toml`: `[gate.NAME]`, named by the steps that they end.

use std::collections::{BTreeMap, BTreeSet};

use toml::de::DeValue;

use super::read::{is_word, words_of};
use crate::rollout::gates::{Ask, Expect, Figure, Gate, JsonTest, Pace};
use crate::spec::fields::{Fields, Found, Keys, nearest};
use crate::spec::values::duration_ms;

/// Most gates of a file, and of one step.
const MAX_GATES: usize = 64;
const MAX_GATES_OF_A_STEP: usize = 16;
/// Most operators that one approval asks for or names.
const MAX_PEOPLE: u64 = 20;
/// Most words of a command.
const MAX_ARGV: usize = 32;
/// Longest text of a manual gate, word of a command, or name of an operator, in bytes.
const MAX_WORD: usize = 500;
const MAX_URL: usize = 2000;
const SECOND: u64 = 1000;
const HOUR: u64 = 3_600_000;

const APPROVAL: Keys = Keys::only(&["approval", "others", "by"]);
const MANUAL: Keys = Keys::only(&["manual"]);
const COMMAND: Keys = Keys::only(&["command", "every", "for", "timeout", "fails"]);
const HTTP: Keys = Keys::only(&[
    "http", "status", "json", "at_least", "at_most", "equals", "every", "for", "timeout", "fails",
]);
/// What a gate asks of whom; each gate has one of these.
const KINDS: [(&str, Keys); 4] = [
    ("approval", APPROVAL),
    ("manual", MANUAL),
    ("command", COMMAND),
    ("http", HTTP),
];

/// All gates of the file by their names.
pub(super) fn gates(fields: &Fields<'_>) -> BTreeMap<String, Gate> {
    let Some(table) = fields.free_table("gate") else {
        return BTreeMap::new();
    };
    let mut gates = BTreeMap::new();
    for (name, found) in table.entries().filter(|(name, _)| !name.starts_with("x-")) {
        let key = table.key(name);
        if gates.len() == MAX_GATES {
            key.bad(format!("more than {MAX_GATES} gates"));
            break;
        }
        if !is_word(name) {
            key.bad("a gate's name is made of letters, digits, '-', '_' and '.', at most 64");
            continue;
        }
        if let Some(ask) = ask(&table, name, &found) {
            let name = name.to_owned();
            gates.insert(name.clone(), Gate { name, ask });
        }
    }
    gates
}

fn ask<'t>(table: &Fields<'t>, name: &str, found: &Found<'t, &'t DeValue<'t>>) -> Option<Ask> {
    let open = found.table(None)?;
    let given: Vec<_> = KINDS
        .iter()
        .filter(|(kind, _)| open.get(kind).is_some())
        .collect();
    let [(kind, keys)] = given[..] else {
        table.key(name).bad_with(
            "a gate asks for one thing",
            "approval = 1, manual = \"TEXT\", command = [\"NAME\"] or http = \"URL\"",
        );
        return None;
    };
    let gate = found.table(Some(*keys))?;
    match *kind {
        "approval" => approval(&gate),
        "manual" => Some(Ask::Manual {
            text: gate.text("manual")?.parse(|text| line(text))?,
        }),
        "command" => command(&gate),
        _ => http(&gate),
    }
}

fn approval(gate: &Fields<'_>) -> Option<Ask> {
    let by: BTreeSet<String> = gate
        .texts("by")
        .iter()
        .take(MAX_PEOPLE as usize)
        .filter_map(|name| name.parse(|text| line(text)))
        .collect();
    let count = u32::try_from(gate.number("approval", 1..=MAX_PEOPLE)?).ok()?;
    if !by.is_empty() && by.len() < count as usize {
        gate.key("by").bad("names fewer operators than must approve");
    }
    Some(Ask::Approval {
        count,
        others: gate.flag("others").is_some_and(|flag| flag.value),
        by,
    })
}

fn command(gate: &Fields<'_>) -> Option<Ask> {
    let words = gate.texts("command");
    if words.len() > MAX_ARGV {
        gate.key("command").bad(format!("more than {MAX_ARGV} words"));
        return None;
    }
    let argv: Option<Vec<String>> = words.iter().map(|word| word.parse(|text| line(text))).collect();
    let argv = argv?;
    let Some(program) = argv.first() else {
        gate.key("command").bad("names no program");
        return None;
    };
    if !is_word(program) || program.starts_with('.') {
        gate.key("command").bad_with(
            format!("{program:?} is no program's name"),
            "name a file of the folder that the store's [gates] programs tells, without its path",
        );
        return None;
    }
    let pace = pace(gate);
    Some(Ask::Command { argv, pace })
}

fn http(gate: &Fields<'_>) -> Option<Ask> {
    let url = gate.text("http")?.parse(|text| address(text))?;
    let json = gate
        .text("json")
        .map(|pointer| pointer.parse(|text| json_pointer(text)));
    let (at_least, at_most) = (figure(gate, "at_least"), figure(gate, "at_most"));
    let equals = gate.text("equals").and_then(|text| text.parse(|text| line(text)));
    let limited = at_least.is_some() || at_most.is_some() || equals.is_some();
    let json = match json {
        None if limited => {
            gate.missing(
                "json",
                "json = \"/data/value\": where the value stands in the answer",
            );
            return None;
        }
        None => None,
        Some(_) if !limited => {
            gate.key("json")
                .bad("nothing is said of the value: at_least, at_most or equals");
            return None;
        }
        Some(pointer) => Some(JsonTest {
            pointer: pointer?,
            at_least,
            at_most,
            equals,
        }),
    };
    let status = match gate.get("status") {
        None => 200,
        Some(_) => u16::try_from(gate.number("status", 100..=599)?).ok()?,
    };
    Some(Ask::Http {
        url,
        expect: Expect { status, json },
        pace: pace(gate),
    })
}

fn pace(gate: &Fields<'_>) -> Pace {
    let normal = Pace::default();
    let within = |key: &str, least: u64, most: u64, normal: u64| {
        let Some(ms) = gate
            .text(key)
            .and_then(|text| text.parse(|text| duration_ms(text)))
        else {
            return normal;
        };
        if !(least..=most).contains(&ms) {
            gate.key(key)
                .bad(format!("must be from {}s to {}s", least / SECOND, most / SECOND));
        }
        ms
    };
    let fails = gate.get("fails").and_then(|_| gate.number("fails", 1..=100));
    Pace {
        every_ms: within("every", SECOND, HOUR, normal.every_ms),
        for_ms: within("for", 0, 24 * HOUR, normal.for_ms),
        timeout_ms: within("timeout", SECOND, 300 * SECOND, normal.timeout_ms),
        fails: fails
            .and_then(|fails| u32::try_from(fails).ok())
            .unwrap_or(normal.fails),
    }
}

/// `0.01`, or `"0.01"`.
fn figure(gate: &Fields<'_>, key: &str) -> Option<Figure> {
    let found = gate.get(key)?;
    let text = match found.value {
        DeValue::String(text) => text.as_ref().to_owned(),
        DeValue::Integer(number) if number.radix() == 10 => number.as_str().replace('_', ""),
        DeValue::Float(number) => number.as_str().replace('_', ""),
        _ => {
            found.bad("must be a number");
            return None;
        }
    };
    found.parse(|_| Figure::new(&text))
}

/// One line that can be shown as it is.
fn line(text: &str) -> Result<String, String> {
    if !text.trim().is_empty() && text.len() <= MAX_WORD && !text.chars().any(char::is_control) {
        Ok(text.to_owned())
    } else {
        Err(format!("must be one line of at most {MAX_WORD} bytes"))
    }
}

fn address(text: &str) -> Result<String, String> {
    let rest = text
        .strip_prefix("http://")
        .or_else(|| text.strip_prefix("https://"));
    let plain = |byte: u8| byte.is_ascii_graphic();
    match rest {
        Some(rest) if !rest.is_empty() && text.len() <= MAX_URL && text.bytes().all(plain) => {
            Ok(text.to_owned())
        }
        _ => Err(format!(
            "must be http://… or https://…, at most {MAX_URL} bytes, without spaces"
        )),
    }
}

fn json_pointer(text: &str) -> Result<String, String> {
    let text = line(text)?;
    match text.starts_with('/') {
        true => Ok(text),
        false => Err("must be a JSON pointer: /data/value".to_owned()),
    }
}

/// The gates that a step names.
pub(super) fn of_step(step: &Fields<'_>, known: &BTreeMap<String, Gate>) -> Vec<Gate> {
    let named = step.texts("gates");
    if named.len() > MAX_GATES_OF_A_STEP {
        step.key("gates")
            .bad(format!("more than {MAX_GATES_OF_A_STEP} gates"));
    }
    let mut gates: Vec<Gate> = Vec::new();
    for name in named.iter().take(MAX_GATES_OF_A_STEP) {
        let Some(gate) = known.get(name.value) else {
            let names: Vec<&str> = known.keys().map(String::as_str).collect();
            let near = nearest(name.value, &names).map(|near| format!("did you mean {near:?}?"));
            name.bad_with(
                "no such gate",
                near.unwrap_or_else(|| format!("say in [gate.{}] what it asks for", name.value)),
            );
            continue;
        };
        if gates.iter().any(|known| known.name == gate.name) {
            name.bad("the step has this gate already");
            continue;
        }
        gates.push(gate.clone());
    }
    gates
}

/// A gate that ends no step would never be asked.
pub(super) fn check_used(fields: &Fields<'_>, gates: &BTreeMap<String, Gate>, used: &BTreeSet<&str>) {
    let Some(table) = fields.free_table("gate") else {
        return;
    };
    for name in gates.keys().filter(|name| !used.contains(name.as_str())) {
        table
            .key(name)
            .bad_with("no step has this gate", format!("gates = [{name:?}] in a step"));
    }
}

/// A gate as a difference tells it.
pub(super) fn told(gate: &Gate) -> String {
    let Some(pace) = gate.pace() else {
        return gate.asks();
    };
    let mut words = format!(
        "{}; every {}, for {}, timeout {}, fails at {}",
        gate.asks(),
        words_of(pace.every_ms),
        words_of(pace.for_ms),
        words_of(pace.timeout_ms),
        pace.fails
    );
    if let Ask::Http { expect, .. } = &gate.ask {
        words.push_str(&format!("; status {}", expect.status));
        if let Some(test) = &expect.json {
            words.push_str(&format!(", {}", test.pointer));
            let limits = [("≥", &test.at_least), ("≤", &test.at_most)];
            for (sign, limit) in limits {
                if let Some(limit) = limit {
                    words.push_str(&format!(" {sign} {limit}"));
                }
            }
            if let Some(equals) = &test.equals {
                words.push_str(&format!(" = {equals:?}"));
            }
        }
    }
    words
}
