//! `[process.NAME]`.

use std::collections::BTreeMap;

use crate::name::{ClassName, ProcessName};
use crate::path::TreePath;
use crate::spec::fields::{Fields, Found, Keys, nearest};
use crate::spec::values::{duration_ms, http_path, listen_addr, size, stop_signal, user};
use crate::spec::{Limits, ListenAddr, Probe, ProbeKind, ProcessSpec, Strategy};

const KEYS: Keys = Keys::only(&[
    "command",
    "class",
    "listen",
    "strategy",
    "coexist",
    "overlap",
    "probe",
    "notify",
    "ready_timeout",
    "soak",
    "drain",
    "stop_signal",
    "stop_timeout",
    "user",
    "limits",
    "env",
]);

const PROBE_KEYS: Keys = Keys {
    known: &["http", "tcp", "listener", "times", "interval", "timeout"],
    later: &[
        ("command", "probes by a command"),
        ("grpc", "probes by gRPC's health service"),
    ],
};

/// Strategies by name; those without a meaning here come later.
const STRATEGIES: [(&str, Option<Strategy>); 9] = [
    ("auto", Some(Strategy::ListenFds)),
    ("listen-fds", Some(Strategy::ListenFds)),
    ("bind-join", None),
    ("starter", None),
    ("signal-reexec", None),
    ("signal-reload", None),
    ("command", None),
    ("stop-start", None),
    ("cut-over", None),
];

/// Set for every process by Ship itself.
const RESERVED_ENV: [&str; 4] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET"];

/// Reads one process; what is wrong is noted and replaced by its default, so that reading goes on.
pub(super) fn read(name: &ProcessName, found: &Found<'_, &toml::de::DeValue<'_>>) -> Option<ProcessSpec> {
    let fields = found.table(Some(KEYS))?;
    let listen = listeners(&fields);
    refuse_later(&fields);
    Some(ProcessSpec {
        command: command(&fields),
        class: class(&fields, name)?,
        strategy: strategy(&fields),
        coexist: true,
        probe: probe(&fields, &listen),
        listen,
        notify: fields.flag("notify").is_some_and(|flag| flag.value),
        ready_timeout_ms: duration(&fields, "ready_timeout", 30_000, 1),
        soak_ms: duration(&fields, "soak", 10_000, 0),
        drain_ms: duration(&fields, "drain", 30_000, 0),
        stop_signal: parsed(&fields, "stop_signal", stop_signal).unwrap_or_else(|| "TERM".to_owned()),
        stop_timeout_ms: duration(&fields, "stop_timeout", 10_000, 0),
        user: parsed(&fields, "user", user),
        limits: limits(&fields),
        env: env(&fields),
    })
}

fn parsed<T>(fields: &Fields<'_>, key: &str, read: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
    fields.text(key)?.parse(|text| read(text))
}

/// At least `least` milliseconds.
fn duration(fields: &Fields<'_>, key: &str, default: u64, least: u64) -> u64 {
    let read = |text: &str| match duration_ms(text)? {
        ms if ms < least => Err(format!("must be at least {least}ms")),
        ms => Ok(ms),
    };
    parsed(fields, key, read).unwrap_or(default)
}

fn refuse_later(fields: &Fields<'_>) {
    let later = [
        (
            "coexist",
            "releases whose generations must not serve at the same time",
        ),
        (
            "overlap",
            "processes whose old generation stops before the new one starts",
        ),
    ];
    for (key, what) in later {
        if let Some(flag) = fields.flag(key).filter(|flag| !flag.value) {
            flag.bad_with(format!("not yet: {what}"), "leave it out, or true");
        }
    }
}

fn command(fields: &Fields<'_>) -> Vec<String> {
    let words = fields.texts("command");
    match (fields.get("command"), words.first()) {
        (None, _) => fields.missing("command", "command = [\"bin/server\"]"),
        (Some(found), None) if found.value.as_array().is_some_and(|list| list.is_empty()) => {
            found.bad_with("must name a program", "command = [\"bin/server\"]");
        }
        (_, Some(first)) => drop(first.parse(|text| program(text))),
        _ => {}
    }
    words.iter().map(|word| word.value.to_owned()).collect()
}

/// A program inside the release must stay inside.
pub(super) fn program(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("must not be empty".to_owned());
    }
    if text.contains('/') && !text.starts_with('/') {
        let inside = text.strip_prefix("./").unwrap_or(text);
        TreePath::new(inside.as_bytes()).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// The process's own name where no class is given.
fn class(fields: &Fields<'_>, name: &ProcessName) -> Option<ClassName> {
    match fields.text("class") {
        Some(text) => text
            .parse(|text| ClassName::new(text))
            .or_else(|| ClassName::new("web").ok()),
        None => ClassName::new(name.as_str()).ok(),
    }
}

fn strategy(fields: &Fields<'_>) -> Strategy {
    let Some(text) = fields.text("strategy") else {
        return Strategy::ListenFds;
    };
    match STRATEGIES.iter().find(|(name, _)| *name == text.value) {
        Some((_, Some(strategy))) => return *strategy,
        Some((name, None)) => text.bad_with(format!("not yet: strategy {name:?}"), "\"listen-fds\" works"),
        None => {
            let names = STRATEGIES.map(|(name, _)| name);
            let hint = nearest(text.value, &names).map(|name| format!("did you mean {name:?}?"));
            let hint = hint.unwrap_or_else(|| "\"auto\" or \"listen-fds\"".to_owned());
            text.bad_with(format!("{:?} is no strategy", text.value), hint);
        }
    }
    Strategy::ListenFds
}

fn listeners(fields: &Fields<'_>) -> BTreeMap<String, ListenAddr> {
    let mut listen = BTreeMap::new();
    let Some(found) = fields.get("listen") else {
        return listen;
    };
    if found.value.is_str() {
        found.bad_with(
            "must be a table of named addresses",
            "listen = { http = \"tcp:8080\" }",
        );
        return listen;
    }
    let Some(table) = found.table(None) else {
        return listen;
    };
    for (name, value) in table.entries() {
        // systemd's rules for descriptor names are wider; ours are those of every name.
        if ProcessName::new(name).is_err() {
            table
                .key(name)
                .bad("is not a listener's name: use 1 to 63 of a-z, 0-9, '-', '_' and '.'");
        }
        if let Some(addr) = value.text().and_then(|text| text.parse(|text| listen_addr(text))) {
            listen.insert(name.to_owned(), addr);
        }
    }
    listen
}

fn probe(fields: &Fields<'_>, listen: &BTreeMap<String, ListenAddr>) -> Option<Probe> {
    let found = fields.get("probe")?;
    if found.value.is_str() {
        found.bad_with("must be a table", "probe = { http = \"/healthz\" }");
        return None;
    }
    let table = found.table(Some(PROBE_KEYS))?;
    let kind = probe_kind(&table, &found);
    if listen.is_empty() && fields.get("listen").is_none() {
        found.bad("needs a listener to ask");
    }
    let listener = table.text("listener");
    if let Some(name) = listener.as_ref().filter(|name| !listen.contains_key(name.value)) {
        name.bad(format!("{:?} is not one of this process's listeners", name.value));
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

fn probe_kind(table: &Fields<'_>, found: &Found<'_, &toml::de::DeValue<'_>>) -> Option<ProbeKind> {
    let http = table.get("http").is_some();
    let tcp = table.flag("tcp");
    if let Some(flag) = tcp.as_ref().filter(|flag| !flag.value) {
        flag.bad("must be true, or left out");
    }
    match (http, tcp) {
        (true, Some(_)) => {
            found.bad("must have http or tcp, not both");
            None
        }
        (true, None) => parsed(table, "http", http_path).map(|path| ProbeKind::Http { path }),
        (false, Some(_)) => Some(ProbeKind::Tcp),
        // A kind that comes later was named already.
        (false, None)
            if ["command", "grpc", "tcp"]
                .iter()
                .any(|key| table.get(key).is_some()) =>
        {
            None
        }
        (false, None) => {
            found.bad_with("must have http or tcp", "probe = { http = \"/healthz\" }");
            None
        }
    }
}

fn limits(fields: &Fields<'_>) -> Limits {
    let Some(table) = fields.table("limits", Keys::only(&["nofile", "memory"])) else {
        return Limits::default();
    };
    let memory = |text: &str| match size(text)? {
        bytes if bytes < 1 << 20 => Err("must be at least 1MiB".to_owned()),
        bytes => Ok(bytes),
    };
    Limits {
        nofile: table.number("nofile", 16..=1 << 30),
        memory: parsed(&table, "memory", memory),
    }
}

fn env(fields: &Fields<'_>) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    let Some(table) = fields.free_table("env") else {
        return env;
    };
    for (name, value) in table.entries() {
        table.key(name).parse(|()| env_name(name));
        if let Some(text) = value.text() {
            env.insert(name.to_owned(), text.value.to_owned());
        }
    }
    env
}

pub(super) fn env_name(name: &str) -> Result<(), &'static str> {
    let shaped = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic() && b != b'=');
    if !shaped {
        Err("is not a variable's name")
    } else if RESERVED_ENV.contains(&name) || name.starts_with("SHIP_") {
        Err("is set by Ship itself")
    } else {
        Ok(())
    }
}
