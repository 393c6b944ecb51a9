//! `probe = { … }`: what proves that a new generation serves.

use std::collections::BTreeMap;

use crate::spec::fields::{Fields, Found, Keys};
use crate::spec::hooks::words;
use crate::spec::process::{duration, parsed};
use crate::spec::values::{grpc_service, http_path};
use crate::spec::{ListenAddr, Probe, ProbeKind};

const KEYS: Keys = Keys::only(&[
    "http", "tcp", "grpc", "command", "listener", "times", "interval", "timeout",
]);
const KINDS: [&str; 4] = ["http", "tcp", "grpc", "command"];
const EXAMPLE: &str = "probe = { http = \"/healthz\" }";

pub(super) fn read(fields: &Fields<'_>, listen: &BTreeMap<String, ListenAddr>) -> Option<Probe> {
    let found = fields.get("probe")?;
    if found.value.is_str() {
        found.bad_with("must be a table", EXAMPLE);
        return None;
    }
    let table = found.table(Some(KEYS))?;
    let kind = kind(&table, &found);
    let needs_listener = !matches!(kind, Some(ProbeKind::Command { .. }) | None);
    if needs_listener && listen.is_empty() && fields.get("listen").is_none() {
        found.bad("needs a listener to ask");
    }
    let listener = table.text("listener");
    if let Some(name) = listener.as_ref().filter(|name| !listen.contains_key(name.value)) {
        name.bad(format!("{:?} is not one of this process's listeners", name.value));
    }
    let asked: Vec<_> = listen
        .iter()
        .filter(|(name, _)| listener.as_ref().is_none_or(|wanted| wanted.value == *name))
        .collect();
    let datagrams = asked.iter().all(|(_, addr)| !addr.takes_connections());
    if needs_listener && !asked.is_empty() && datagrams {
        found.bad_with(
            "needs a listener that takes connections, and this one takes datagrams",
            "probe = { command = [\"bin/check\"] } asks any",
        );
    }
    Some(Probe {
        kind: kind?,
        listener: listener.map(|name| name.value.to_owned()),
        times: table
            .number("times", 1..=100)
            .and_then(|times| times.try_into().ok())
            .unwrap_or(3),
        interval_ms: duration(&table, "interval", 200, 1),
        timeout_ms: duration(&table, "timeout", 1000, 1),
    })
}

fn kind(table: &Fields<'_>, found: &Found<'_, &toml::de::DeValue<'_>>) -> Option<ProbeKind> {
    let given: Vec<_> = KINDS
        .into_iter()
        .filter(|kind| table.get(kind).is_some())
        .collect();
    match given[..] {
        [] => {
            found.bad_with("must have http, tcp, grpc or command", EXAMPLE);
            None
        }
        ["http"] => parsed(table, "http", http_path).map(|path| ProbeKind::Http { path }),
        ["tcp"] => {
            let flag = table.flag("tcp")?;
            if !flag.value {
                flag.bad("must be true, or left out");
            }
            Some(ProbeKind::Tcp)
        }
        ["grpc"] => parsed(table, "grpc", grpc_service).map(|service| ProbeKind::Grpc { service }),
        ["command"] => {
            let value = table.get("command")?;
            words(table, "command", &value).map(|words| ProbeKind::Command { words })
        }
        _ => {
            found.bad(format!("must have one of {}, not more", given.join(", ")));
            None
        }
    }
}
