//! `[process.NAME]`.

use std::collections::BTreeMap;

use crate::name::{ClassName, ProcessName};
use crate::path::TreePath;
use crate::spec::fields::{Fields, Found, Keys};
use crate::spec::values::{duration_ms, listen_addr, signal, size, user};
use crate::spec::{Limits, ListenAddr, ProcessSpec, hooks, probe, strategy};

const KEYS: Keys = Keys::only(&[
    "command",
    "class",
    "listen",
    "strategy",
    "server",
    "signals",
    "pidfile",
    "upgrade",
    "force",
    "hold",
    "coexist",
    "overlap",
    "canary",
    "probe",
    "notify",
    "watchdog",
    "ready_timeout",
    "soak",
    "drain",
    "stop_signal",
    "stop_timeout",
    "lock_wait",
    "lock_deadline",
    "user",
    "no_new_privs",
    "limits",
    "env",
]);

/// Set for every process by Ship itself.
const RESERVED_ENV: [&str; 6] = [
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
];

/// Reads one process; what is wrong is noted and replaced by its default, so that reading goes on.
pub(super) fn read(name: &ProcessName, found: &Found<'_, &toml::de::DeValue<'_>>) -> Option<ProcessSpec> {
    let fields = found.table(Some(KEYS))?;
    let listen = listeners(&fields);
    let flag = |key: &str, default: bool| fields.flag(key).map_or(default, |flag| flag.value);
    let way = strategy::read(&fields, &listen);
    let coexist = coexist(&fields);
    let lock = lock(&fields);
    Some(ProcessSpec {
        command: command(&fields),
        class: class(&fields, name)?,
        strategy: way.strategy,
        restart: way.restart,
        coexist: coexist.0,
        must_coexist: coexist.1,
        overlap: flag("overlap", true),
        canary: strategy::canary(&fields, way.strategy, &listen, coexist.0),
        probe: probe::read(&fields, &listen),
        listen,
        notify: flag("notify", false),
        watchdog_ms: optional_duration(&fields, "watchdog", 100),
        ready_timeout_ms: duration(&fields, "ready_timeout", 30_000, 1),
        soak_ms: duration(&fields, "soak", 10_000, 0),
        drain_ms: duration(&fields, "drain", 30_000, 0),
        stop_signal: parsed(&fields, "stop_signal", signal).unwrap_or(way.stop_signal),
        stop_timeout_ms: duration(&fields, "stop_timeout", 10_000, 0),
        lock_wait_ms: lock.0,
        lock_overrule: lock.1,
        user: parsed(&fields, "user", user),
        no_new_privs: flag("no_new_privs", false),
        limits: limits(&fields),
        env: env(&fields),
    })
}

/// Whether two generations may run at once, and whether they must.
fn coexist(fields: &Fields<'_>) -> (bool, bool) {
    let Some(found) = fields.get("coexist") else {
        return (true, false);
    };
    match found.value.as_str() {
        Some("always") => (true, true),
        Some(_) => {
            found.bad_with("must be true, false or \"always\"", "coexist = true");
            (true, false)
        }
        None => (fields.flag("coexist").is_none_or(|flag| flag.value), false),
    }
}

/// How long the app's own lock is waited for, and whether it is overruled then.
fn lock(fields: &Fields<'_>) -> (Option<u64>, bool) {
    let wait = optional_duration(fields, "lock_wait", 1);
    let read = |text: &str| match text {
        "fail" => Ok(false),
        "go" => Ok(true),
        _ => Err("must be \"fail\" (the default) or \"go\"".to_owned()),
    };
    let overrule = parsed(fields, "lock_deadline", read).unwrap_or(false);
    match fields.get("lock_deadline") {
        Some(found) if fields.get("lock_wait").is_none() => {
            found.bad_with("means nothing without lock_wait", "lock_wait = \"10m\"");
            (None, false)
        }
        _ => (wait, overrule),
    }
}

pub(super) fn parsed<T>(
    fields: &Fields<'_>,
    key: &str,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    fields.text(key)?.parse(|text| read(text))
}

/// At least `least` milliseconds.
pub(super) fn duration(fields: &Fields<'_>, key: &str, default: u64, least: u64) -> u64 {
    optional_duration(fields, key, least).unwrap_or(default)
}

fn optional_duration(fields: &Fields<'_>, key: &str, least: u64) -> Option<u64> {
    let read = |text: &str| match duration_ms(text)? {
        ms if ms < least => Err(format!("must be at least {least}ms")),
        ms => Ok(ms),
    };
    parsed(fields, key, read)
}

fn command(fields: &Fields<'_>) -> Vec<String> {
    let Some(found) = fields.get("command") else {
        fields.missing("command", "command = [\"bin/server\"]");
        return Vec::new();
    };
    hooks::words(fields, "command", &found).unwrap_or_default()
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

fn limits(fields: &Fields<'_>) -> Limits {
    let Some(table) = fields.table("limits", Keys::only(&["nofile", "memory", "pids", "cpu"])) else {
        return Limits::default();
    };
    let memory = |text: &str| match size(text)? {
        bytes if bytes < 1 << 20 => Err("must be at least 1MiB".to_owned()),
        bytes => Ok(bytes),
    };
    Limits {
        nofile: table.number("nofile", 16..=1 << 30),
        memory: parsed(&table, "memory", memory),
        pids: table.number("pids", 1..=1 << 22),
        cpu: table.number("cpu", 1..=10_000),
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
