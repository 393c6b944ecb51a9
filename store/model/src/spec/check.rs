//! The same rules for a spec that did not come from a `ship.toml` read here: a manifest may have been made
//! by anybody, and what stands in it becomes paths, URLs and processes on every host.

use crate::name::ProcessName;
use crate::path::{TreePath, escape};
use crate::spec::assets::{MAX_ROOTS, asset_url, overlap};
use crate::spec::hooks::MAX_HOOKS;
use crate::spec::pattern::MAX_PATTERNS;
use crate::spec::process::{env_name, program};
use crate::spec::read::MAX_SHARED;
use crate::spec::strategy::against_standby;
use crate::spec::values::{MAX_DURATION_MS, grpc_service, http_path, pidfile, signal, unix_path, user};
use crate::spec::{HookPoint, ListenAddr, ProbeKind, ProcessSpec, ReleaseSpec, Restart, Strategy};

/// What no `ship.toml` can mean.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} is not what a ship.toml can say: {reason}")]
pub struct SpecDefect {
    pub key: String,
    pub reason: String,
}

type Checked = Result<(), SpecDefect>;

fn must(holds: bool, key: impl Into<String>, reason: impl Into<String>) -> Checked {
    if holds {
        return Ok(());
    }
    Err(SpecDefect {
        key: escape(key.into().as_bytes()),
        reason: reason.into(),
    })
}

/// `read` gives the same text back: the value is in its canonical form.
fn canonical(key: &str, text: &str, read: impl FnOnce(&str) -> Result<String, String>) -> Checked {
    match read(text) {
        Ok(same) => must(same == text, key, "it is not in its canonical form"),
        Err(reason) => must(false, key, reason),
    }
}

impl ReleaseSpec {
    /// Checks what types alone do not.
    pub fn check(&self) -> Result<(), SpecDefect> {
        for (name, process) in &self.processes {
            check_process(name, process)?;
        }
        if let Some((name, _, reason)) = against_standby(&self.processes).next() {
            must(false, format!("process.{name}.strategy"), reason)?;
        }
        must(self.assets.len() <= MAX_ROOTS, "assets", "it has too many roots")?;
        for (at, root) in self.assets.iter().enumerate() {
            let key = format!("assets[{at}]");
            canonical(&format!("{key}.url"), &root.url, asset_url)?;
            must(
                root.private.len() <= MAX_PATTERNS,
                format!("{key}.private"),
                "it has too many patterns",
            )?;
            let others = &self.assets[..at];
            must(
                !others.iter().any(|other| other.overlaps(&root.root)),
                &key,
                "it overlaps with another root",
            )?;
            must(
                root.root.is_some() || self.is_static(),
                &key,
                "it would hand out the program",
            )?;
            must(
                !others.iter().any(|other| other.url == root.url),
                &key,
                "another root has its URL",
            )?;
        }
        check_hooks(self)?;
        check_shared(self.shared.dirs.iter().chain(&self.shared.files))?;
        let absolute = |link: &String| link.starts_with('/') && !link.contains('\0');
        must(
            self.external_links.iter().all(absolute),
            "links.external",
            "it is not an absolute path",
        )?;
        must(
            self.keep.is_none_or(|keep| (1..=1000).contains(&keep)),
            "retention.keep",
            "it is not from 1 to 1000",
        )
    }
}

fn check_shared<'a>(paths: impl Iterator<Item = &'a TreePath>) -> Checked {
    let paths: Vec<_> = paths.collect();
    must(paths.len() <= MAX_SHARED, "shared", "it has too many paths")?;
    for (at, path) in paths.iter().enumerate() {
        let clear = !paths[..at].iter().any(|other| overlap(other, path));
        must(clear, "shared", "two of its paths overlap")?;
    }
    Ok(())
}

fn check_command(words: &[String], key: &str) -> Checked {
    let clean = words.iter().all(|word| !word.contains('\0'));
    must(clean, key, "it has a NUL byte")?;
    match words.first() {
        None => must(false, key, "it names no program"),
        Some(first) => must(program(first).is_ok(), key, "it leaves the release, or is empty"),
    }
}

fn check_hooks(spec: &ReleaseSpec) -> Checked {
    for (name, point) in HookPoint::ALL {
        let hooks = spec.hooks.get(&point).map(Vec::as_slice).unwrap_or_default();
        let key = format!("hooks.{name}");
        must(hooks.len() <= MAX_HOOKS, &key, "it has too many hooks")?;
        for hook in hooks {
            check_command(&hook.command, &key)?;
            must(
                hook.timeout_ms <= MAX_DURATION_MS,
                &key,
                "a timeout is longer than a day",
            )?;
        }
    }
    Ok(())
}

/// The data of a strategy is there when it needs any, and is what that strategy takes.
fn check_restart(process: &ProcessSpec, key: &str) -> Checked {
    match (process.strategy, &process.restart) {
        (Strategy::SignalReexec, Some(Restart::Reexec(reexec))) => {
            let signals = [
                Some(&reexec.upgrade),
                reexec.pause.as_ref(),
                reexec.resume.as_ref(),
            ];
            for name in signals.into_iter().flatten() {
                canonical(key, name, signal)?;
            }
            reexec
                .pidfile
                .as_ref()
                .map_or(Ok(()), |path| canonical(key, path, pidfile))
        }
        (Strategy::SignalReload, Some(Restart::Reload(reload))) => canonical(key, &reload.signal, signal),
        (Strategy::Command, Some(Restart::Command(upgrade))) => {
            check_command(&upgrade.install, key)?;
            for words in [&upgrade.permanent, &upgrade.back] {
                if !words.is_empty() {
                    check_command(words, key)?;
                }
            }
            must(
                upgrade.timeout_ms <= MAX_DURATION_MS,
                key,
                "its timeout is longer than a day",
            )
        }
        (Strategy::CutOver, Some(Restart::Standby(standby))) => must(
            standby.hold_ms.is_none_or(|ms| ms <= MAX_DURATION_MS),
            key,
            "its standby is held longer than a day",
        ),
        (Strategy::CutOver, None) => must(false, key, "its strategy needs to know how"),
        (strategy, None) => must(!strategy.is_in_place(), key, "its strategy needs to know how"),
        (_, Some(_)) => must(false, key, "it does not belong to its strategy"),
    }
}

fn check_process(name: &ProcessName, process: &ProcessSpec) -> Checked {
    let key = |field: &str| format!("process.{name}.{field}");
    check_command(&process.command, &key("command"))?;
    for (listener, addr) in &process.listen {
        must(
            ProcessName::new(listener).is_ok(),
            key("listen"),
            "a listener's name is no name",
        )?;
        if let ListenAddr::Unix { path } = addr {
            must(
                unix_path(path).is_some(),
                key("listen"),
                "a socket's path is not tame",
            )?;
        }
    }
    for ms in [
        process.ready_timeout_ms,
        process.soak_ms,
        process.drain_ms,
        process.stop_timeout_ms,
    ] {
        must(ms <= MAX_DURATION_MS, key("timeouts"), "one is longer than a day")?;
    }
    let optional = [
        process.watchdog_ms,
        process.lock_wait_ms,
        process.canary.map(|canary| canary.hold_ms),
    ];
    must(
        optional.into_iter().flatten().all(|ms| ms <= MAX_DURATION_MS),
        key("timeouts"),
        "one is longer than a day",
    )?;
    must(
        process.lock_wait_ms.is_some() || !process.lock_overrule,
        key("lock_deadline"),
        "there is no lock to wait for",
    )?;
    must(
        process.coexist || !process.must_coexist,
        key("coexist"),
        "it is both refused and wanted",
    )?;
    let canary = process
        .canary
        .is_none_or(|canary| (1..=50).contains(&canary.percent) && !process.listen.is_empty());
    must(
        canary,
        key("canary"),
        "it is not from 1 to 50, or has no listener",
    )?;
    check_restart(process, &key("restart"))?;
    canonical(&key("stop_signal"), &process.stop_signal, signal)?;
    if let Some(name) = &process.user {
        canonical(&key("user"), name, user)?;
    }
    for (variable, value) in &process.env {
        must(
            env_name(variable).is_ok(),
            key("env"),
            "a variable's name is not allowed",
        )?;
        must(!value.contains('\0'), key("env"), "a value has a NUL byte")?;
    }
    check_probe(process, &key("probe"))
}

fn check_probe(process: &ProcessSpec, key: &str) -> Checked {
    let Some(probe) = &process.probe else {
        return Ok(());
    };
    let listener = match &probe.listener {
        Some(listener) => process.listen.get(listener),
        None => process.listen.values().find(|addr| addr.takes_connections()),
    };
    let command = matches!(probe.kind, ProbeKind::Command { .. });
    let listener = listener.is_some_and(|listener| command || listener.takes_connections());
    must(
        listener || (command && probe.listener.is_none()),
        key,
        "it has no listener to ask",
    )?;
    must(
        (1..=100).contains(&probe.times),
        key,
        "times is not from 1 to 100",
    )?;
    let times = [probe.interval_ms, probe.timeout_ms];
    let fit = times.iter().all(|ms| (1..=MAX_DURATION_MS).contains(ms));
    must(fit, key, "interval or timeout is nothing, or longer than a day")?;
    match &probe.kind {
        ProbeKind::Http { path } => canonical(key, path, http_path),
        ProbeKind::Tcp => Ok(()),
        ProbeKind::Grpc { service } => canonical(key, service, grpc_service),
        ProbeKind::Command { words } => check_command(words, key),
    }
}
