//! `strategy` and the keys that belong to it.

use std::collections::BTreeMap;

use crate::name::ProcessName;
use crate::spec::fields::{Fields, Found, Keys, nearest};
use crate::spec::hooks::words;
use crate::spec::process::{duration, parsed};
use crate::spec::restart::{SERVERS, Server};
use crate::spec::values::{pidfile, signal};
use crate::spec::{Canary, ListenAddr, ProcessSpec, Reexec, Reload, Restart, Standby, Strategy, Upgrade};

/// How long a standby is kept where nothing is said.
const HOLD_MS: u64 = 10 * 60_000;

/// What a process says of how it is replaced.
pub(super) struct Way {
    pub strategy: Strategy,
    pub restart: Option<Restart>,
    /// Where none is given.
    pub stop_signal: String,
}

pub(super) fn read(fields: &Fields<'_>, listen: &BTreeMap<String, ListenAddr>) -> Way {
    let strategy = strategy(fields);
    let server = server(fields);
    let restart = match strategy {
        Strategy::SignalReexec => reexec(fields, server).map(Restart::Reexec),
        Strategy::SignalReload => reload(fields, server).map(Restart::Reload),
        Strategy::Command => upgrade(fields).map(Restart::Command),
        Strategy::CutOver => Some(Restart::Standby(standby(fields))),
        _ => None,
    };
    refuse_strays(fields, strategy);
    if strategy == Strategy::BindJoin {
        check_joinable(fields, listen);
    }
    if matches!(
        strategy,
        Strategy::BindJoin | Strategy::Starter | Strategy::CutOver
    ) && listen.is_empty()
    {
        fields.missing("listen", "listen = { http = \"tcp:8080\" }");
    }
    Way {
        strategy,
        restart,
        stop_signal: server.map_or("TERM", |server| server.stop).to_owned(),
    }
}

/// A process that binds by itself must know where, and a Unix socket's path it would take from the running release.
fn check_joinable(fields: &Fields<'_>, listen: &BTreeMap<String, ListenAddr>) {
    let Some(found) = fields.get("listen") else { return };
    for (name, addr) in listen {
        let why = match addr {
            ListenAddr::Unix { .. } => "is a Unix socket, which cannot be joined",
            ListenAddr::Udp { .. } => "takes datagrams, and only TCP listeners can be joined",
            ListenAddr::Tcp { port: 0, .. } => "has port 0, which a process that binds by itself cannot know",
            ListenAddr::Tcp { .. } => continue,
        };
        found.bad_with(format!("{name} {why}"), "strategy = \"listen-fds\" hands it over");
    }
}

fn strategy(fields: &Fields<'_>) -> Strategy {
    let Some(text) = fields.text("strategy") else {
        return Strategy::ListenFds;
    };
    let found = Strategy::ALL.iter().find(|(name, _)| *name == text.value);
    match found {
        Some((_, strategy)) => *strategy,
        None => {
            let names = Strategy::ALL.map(|(name, _)| name);
            let hint = nearest(text.value, &names).map(|name| format!("did you mean {name:?}?"));
            let hint = hint.unwrap_or_else(|| "\"auto\" or \"listen-fds\"".to_owned());
            text.bad_with(format!("{:?} is no strategy", text.value), hint);
            Strategy::ListenFds
        }
    }
}

fn server(fields: &Fields<'_>) -> Option<&'static Server> {
    let text = fields.text("server")?;
    let found = SERVERS.iter().find(|server| server.name == text.value);
    if found.is_none() {
        let names: Vec<_> = SERVERS.iter().map(|server| server.name).collect();
        text.bad_with(
            format!("{:?} is not one of {}", text.value, names.join(", ")),
            "leave it out, and name the signals: signals = { reload = \"HUP\" }",
        );
    }
    found
}

/// A signal of `signals`, or the server's own.
fn signal_of(table: Option<&Fields<'_>>, key: &str, server: Option<&'static str>) -> Option<String> {
    let given = table.and_then(|table| parsed(table, key, signal));
    given.or_else(|| server.map(str::to_owned))
}

const SIGNALS: Keys = Keys::only(&["upgrade", "pause", "resume", "reload"]);

fn reexec(fields: &Fields<'_>, server: Option<&Server>) -> Option<Reexec> {
    let signals = fields.table("signals", SIGNALS);
    let signals = signals.as_ref();
    let upgrade = signal_of(signals, "upgrade", server.and_then(|server| server.upgrade));
    if upgrade.is_none() {
        fields.missing(
            "signals.upgrade",
            "server = \"unicorn\", or signals = { upgrade = \"USR2\" }",
        );
    }
    let pidfile = parsed(fields, "pidfile", pidfile);
    let notify = fields.flag("notify").is_some_and(|flag| flag.value);
    if pidfile.is_none() && !notify && fields.get("pidfile").is_none() {
        fields.missing(
            "pidfile",
            "pidfile = \"web.pid\" (below SHIP_RUN_DIR), or notify = true where the server says MAINPID=",
        );
    }
    Some(Reexec {
        upgrade: upgrade?,
        pause: signal_of(signals, "pause", server.and_then(|server| server.pause)),
        resume: signal_of(signals, "resume", server.and_then(|server| server.resume)),
        pidfile,
    })
}

fn reload(fields: &Fields<'_>, server: Option<&Server>) -> Option<Reload> {
    let signals = fields.table("signals", SIGNALS);
    let signal = signal_of(
        signals.as_ref(),
        "reload",
        server.and_then(|server| server.reload),
    );
    if signal.is_none() {
        fields.missing(
            "signals.reload",
            "server = \"nginx\", or signals = { reload = \"HUP\" }",
        );
    }
    let forced = fields.flag("force").is_some_and(|flag| flag.value);
    if let Some((server, risk)) = server.and_then(|server| Some((server, server.reload_risk?)))
        && !forced
    {
        let found = fields.get("strategy");
        let hint = "\"listen-fds\" loses nothing; force = true takes the loss";
        let message = format!("signal-reload of {} is refused: {risk}", server.name);
        if let Some(found) = found {
            found.bad_with(message, hint);
        }
    }
    Some(Reload { signal: signal? })
}

fn upgrade(fields: &Fields<'_>) -> Option<Upgrade> {
    let Some(table) = fields.table(
        "upgrade",
        Keys::only(&["install", "permanent", "back", "timeout"]),
    ) else {
        fields.missing("upgrade", "upgrade = { install = [\"bin/app\", \"upgrade\"] }");
        return None;
    };
    let command = |key: &str| {
        let found: Found<'_, _> = table.get(key)?;
        words(&table, key, &found)
    };
    if table.get("install").is_none() {
        table.missing("install", "install = [\"bin/app\", \"upgrade\"]");
    }
    Some(Upgrade {
        install: command("install")?,
        permanent: command("permanent").unwrap_or_default(),
        back: command("back").unwrap_or_default(),
        timeout_ms: duration(&table, "timeout", 60_000, 1),
    })
}

/// `hold = "10m"`, or `hold = "keep"` until the next switch.
fn standby(fields: &Fields<'_>) -> Standby {
    let kept = fields.get("hold").and_then(|found| found.value.as_str()) == Some("keep");
    Standby {
        hold_ms: (!kept).then(|| duration(fields, "hold", HOLD_MS, 1)),
    }
}

/// Why a process cannot stand by complete: what was ended, or became another release, is not there to go back to.
pub(super) fn no_standby(process: &ProcessSpec) -> Option<&'static str> {
    if !process.coexist {
        Some("coexist = false ends the old one first")
    } else if !process.overlap {
        Some("overlap = false ends the old one first")
    } else if process.strategy == Strategy::StopStart {
        Some("\"stop-start\" ends the old one first")
    } else if process.strategy.is_in_place() {
        Some("its strategy leaves nothing of the old release")
    } else {
        None
    }
}

/// For each process that is cut over to, the process of the same class that keeps the old release from standing by, and why.
pub(super) fn against_standby(
    processes: &BTreeMap<ProcessName, ProcessSpec>,
) -> impl Iterator<Item = (&ProcessName, &ProcessName, &'static str)> {
    let cut_over = processes
        .iter()
        .filter(|(_, process)| process.strategy == Strategy::CutOver);
    cut_over.filter_map(|(name, process)| {
        let mut beside = processes.iter().filter(|(_, other)| other.class == process.class);
        beside.find_map(|(other, spec)| Some((name, other, no_standby(spec)?)))
    })
}

/// A key that its strategy has no use for is a misunderstanding.
fn refuse_strays(fields: &Fields<'_>, strategy: Strategy) {
    let uses: [(&str, &[Strategy]); 5] = [
        ("signals", &[Strategy::SignalReexec, Strategy::SignalReload]),
        ("pidfile", &[Strategy::SignalReexec]),
        ("upgrade", &[Strategy::Command]),
        ("force", &[Strategy::SignalReload]),
        ("hold", &[Strategy::CutOver]),
    ];
    for (key, strategies) in uses {
        if let Some(found) = fields.get(key).filter(|_| !strategies.contains(&strategy)) {
            let names: Vec<_> = strategies.iter().map(|strategy| strategy.name()).collect();
            found.bad(format!(
                "has no meaning with strategy {:?}, only with {}",
                strategy.name(),
                names.join(" or ")
            ));
        }
    }
}

/// `canary = 5`, or `canary = { percent = 5, hold = "30s" }`.
pub(super) fn canary(
    fields: &Fields<'_>,
    strategy: Strategy,
    listen: &BTreeMap<String, ListenAddr>,
    coexist: bool,
) -> Option<Canary> {
    let found = fields.get("canary")?;
    if strategy.is_in_place() || strategy == Strategy::StopStart || !coexist || listen.is_empty() {
        found.bad("needs a listener, and a strategy that runs two generations side by side");
        return None;
    }
    let unix = |addr: &ListenAddr| matches!(addr, ListenAddr::Unix { .. });
    if listen.values().all(unix) {
        found.bad(
            "needs a TCP or UDP listener: the clients of a Unix socket have no addresses to be told apart by",
        );
        return None;
    }
    let (percent, hold_ms) = if found.value.is_table() {
        let table = found.table(Some(Keys::only(&["percent", "hold"])))?;
        if table.get("percent").is_none() {
            table.missing("percent", "percent = 5");
        }
        (
            table.number("percent", 1..=50)?,
            duration(&table, "hold", 30_000, 1),
        )
    } else {
        (fields.number("canary", 1..=50)?, 30_000)
    };
    Some(Canary {
        percent: percent.try_into().ok()?,
        hold_ms,
    })
}
