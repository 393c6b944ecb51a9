//! Answers as text or JSON on stdout, complaints on stderr.

use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::{Value, json};
use ship_keeper::protocol::Status;
use ship_model::path::escape;
use ship_model::report::AppReport;
use ship_proto::v1;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

use super::Output;
use crate::doctor::Finding;

/// Says what went wrong and what to type next; the exit code of an error.
pub fn failed(text: &str, hint: &str) -> ExitCode {
    let mut out = io::stderr().lock();
    // Without a stderr there is nobody to tell.
    writeln!(out, "error: {text}").ok();
    if !hint.is_empty() {
        writeln!(out, "  next: {hint}").ok();
    }
    ExitCode::FAILURE
}

/// Says what should be known, and stops nothing.
pub fn note(text: &str) {
    // Without a stderr there is nobody to tell.
    writeln!(io::stderr().lock(), "note: {text}").ok();
}

fn print_json(value: &Value) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{value:#}")
}

fn release(target: Option<&v1::Target>) -> String {
    target.map_or_else(|| "-".to_owned(), |target| target.number.to_string())
}

fn numbers(targets: &[v1::Target]) -> Vec<u64> {
    targets.iter().map(|target| target.number).collect()
}

fn phase(report: &v1::AppReport) -> &'static str {
    match report.phase() {
        v1::AppPhase::Idle => "idle",
        v1::AppPhase::Fetching => "fetching",
        v1::AppPhase::Staging => "staging",
        v1::AppPhase::Switching => "switching",
        v1::AppPhase::Soaking => "soaking",
        v1::AppPhase::Draining => "draining",
        v1::AppPhase::Reverting => "reverting",
        v1::AppPhase::Unspecified => "busy",
    }
}

/// The answer to `status`.
pub fn status(status: v1::LocalStatus, output: Output) -> io::Result<()> {
    let report = status.report.unwrap_or_default();
    if output == Output::Json {
        return print_json(&json!({
            "env": status.env,
            "host": status.host,
            "store": status.store,
            "store_connected": status.store_connected,
            "store_error": status.store_error,
            "classes": report.classes,
            "disk_free": report.disk_free,
            "disk_total": report.disk_total,
            "asset_url": report.asset_url,
            "agent_version": report.agent_version,
            "apps": report.apps.iter().map(app_json).collect::<Vec<_>>(),
        }));
    }
    let mut out = io::stdout().lock();
    let store = if status.store_connected {
        "connected".to_owned()
    } else {
        format!("not connected: {}", escape(status.store_error.as_bytes()))
    };
    writeln!(
        out,
        "host {} in {}, store {} {store}",
        status.host, status.env, status.store
    )?;
    if report.apps.is_empty() {
        return writeln!(out, "no app lies here");
    }
    writeln!(
        out,
        "{:16} {:>8} {:>8} {:>7}  {:10} HEALTH",
        "APP", "RELEASE", "PREVIOUS", "DEPLOY", "PHASE"
    )?;
    for app in &report.apps {
        let (mut running, previous) = (release(app.running.as_ref()), release(app.previous.as_ref()));
        // Somebody listens, and no release of ours: only a process that was adopted does so at rest.
        if app.running.is_none() && app.phase() == v1::AppPhase::Idle && !app.listen.is_empty() {
            "adopted".clone_into(&mut running);
        }
        let health = if app.healthy { "healthy" } else { "not healthy" };
        let phase = phase(app);
        writeln!(
            out,
            "{:16} {running:>8} {previous:>8} {:>7}  {phase:10} {health}",
            app.app, app.deploy
        )?;
        remarks(&mut out, app)?;
    }
    Ok(())
}

fn remarks(out: &mut impl Write, app: &v1::AppReport) -> io::Result<()> {
    for (name, address) in &app.listen {
        writeln!(out, "  {name} listens on {address}")?;
    }
    for process in &app.processes {
        let said = match process.said.as_str() {
            "" => String::new(),
            said => format!(": {}", escape(said.as_bytes())),
        };
        if process.state != "up" || !said.is_empty() {
            let (name, state) = (&process.name, &process.state);
            writeln!(
                out,
                "  process {name} of release {} is {state}{said}",
                process.release
            )?;
        }
    }
    if !app.standby.is_empty() {
        writeln!(out, "  standby: {}", escape(app.standby.as_bytes()))?;
    }
    if let Some(waits) = &app.waits {
        writeln!(out, "  {}", waiting(waits))?;
    }
    for remark in &app.remarks {
        writeln!(out, "  note: {}", escape(remark.as_bytes()))?;
    }
    if let Some(held) = &app.held {
        let reason = escape(held.reason.as_bytes());
        let to = release(held.to.as_ref());
        writeln!(
            out,
            "  held at release {to} since {} by a revert on this host: {reason}",
            local_time(held.at_ms)
        )?;
    }
    if let Some(canary) = &app.canary {
        writeln!(
            out,
            "  release {} is a canary: {} % of the clients until {}",
            release(canary.release.as_ref()),
            canary.percent,
            local_time(canary.until_ms)
        )?;
    }
    for damaged in &app.damaged {
        let (number, reason) = (
            release(damaged.release.as_ref()),
            escape(damaged.reason.as_bytes()),
        );
        writeln!(out, "  release {number} is damaged on this host: {reason}")?;
    }
    if let Some(failure) = &app.failure {
        let again = if failure.transient { "; tried again" } else { "" };
        let (reason, number) = (
            escape(failure.reason.as_bytes()),
            release(failure.release.as_ref()),
        );
        writeln!(
            out,
            "  release {number} failed at {}: {reason}{again}",
            failure.step
        )?;
        for line in &failure.last_lines {
            writeln!(out, "    | {}", escape(line.as_bytes()))?;
        }
    }
    Ok(())
}

fn waiting(waits: &v1::AppWait) -> String {
    let left = waits
        .until_ms
        .saturating_sub(crate::clock::wall_ms())
        .div_ceil(1000);
    let then = if waits.overrules {
        "then it is replaced all the same"
    } else {
        "then the switch fails"
    };
    format!(
        "waiting for {}, {left} s left; {then}",
        escape(waits.on.as_bytes())
    )
}

fn app_json(app: &v1::AppReport) -> Value {
    let number = |target: &Option<v1::Target>| target.as_ref().map(|target| target.number);
    json!({
        "app": app.app,
        "release": number(&app.running),
        "previous": number(&app.previous),
        "deploy": app.deploy,
        "epoch": app.epoch,
        "healthy": app.healthy,
        "phase": phase(app),
        "staged": numbers(&app.staged),
        "assets": numbers(&app.assets),
        "listen": app.listen,
        "connections": app.connections,
        "restarts": app.restarts,
        "processes": app.processes.iter().map(|process| json!({
            "name": process.name,
            "release": process.release,
            "pid": process.pid,
            "state": process.state,
            "said": process.said,
        })).collect::<Vec<_>>(),
        "waits": app.waits.as_ref().map(|waits| json!({
            "on": waits.on,
            "until": utc(waits.until_ms),
            "overrules": waits.overrules,
        })),
        "standby": Some(&app.standby).filter(|words| !words.is_empty()),
        "remarks": app.remarks,
        "fetched_bytes": app.update.as_ref().map(|update| update.fetched_bytes),
        "fetched_from_mirrors": app.update.as_ref().map(|update| update.fetched_from_mirrors),
        "fetched_from_peers": app.update.as_ref().map(|update| update.fetched_from_peers),
        "delta_from": app.update.as_ref().and_then(|update| update.delta_from),
        "stage_ms": app.update.as_ref().map(|update| update.stage_ms),
        "switch_ms": app.update.as_ref().map(|update| update.switch_ms),
        "lost_requests": app.update.as_ref().map(|update| update.lost_requests),
        "damaged": app.damaged.iter().map(|damaged| json!({
            "release": number(&damaged.release),
            "reason": damaged.reason,
        })).collect::<Vec<_>>(),
        "canary": app.canary.as_ref().map(|canary| json!({
            "release": number(&canary.release),
            "percent": canary.percent,
            "until": utc(canary.until_ms),
        })),
        "failure": app.failure.as_ref().map(|failure| json!({
            "epoch": failure.epoch,
            "release": number(&failure.release),
            "step": failure.step,
            "reason": failure.reason,
            "last_lines": failure.last_lines,
            "transient": failure.transient,
        })),
        "held": app.held.as_ref().map(|held| json!({
            "epoch": held.epoch,
            "from": number(&held.from),
            "to": number(&held.to),
            "reason": held.reason,
            "at": utc(held.at_ms),
        })),
    })
}

/// The answer to `doctor`; what is missing is told and is no failure.
pub fn findings(findings: &[Finding], output: Output) -> ExitCode {
    let printed = match output {
        Output::Json => print_json(&json!({
            "findings": findings.iter().map(|finding| json!({
                "what": finding.what,
                "have": finding.have,
                "text": finding.text,
            })).collect::<Vec<_>>(),
        })),
        Output::Text => findings.iter().try_for_each(|finding| {
            let word = if finding.have { "have" } else { "MISSING" };
            writeln!(
                io::stdout().lock(),
                "{word:7}  {}: {}",
                finding.what,
                finding.text
            )
        }),
    };
    // Nobody is left to read it, as with `| head`.
    printed.ok();
    ExitCode::SUCCESS
}

/// The answer to `revert`.
pub fn reverted(report: &v1::AppReport, output: Output) -> io::Result<()> {
    if output == Output::Json {
        return print_json(&app_json(report));
    }
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{} runs release {} on this host",
        report.app,
        release(report.running.as_ref())
    )?;
    if AppReport::try_from(report.clone()).is_ok_and(|report| report.held.is_some()) {
        writeln!(
            out,
            "it stays there until the environment is changed again; the store is told"
        )?;
    }
    Ok(())
}

/// The answer to `keeper upgrade`.
pub fn upgraded(app: &str, status: &Status, output: Output) -> io::Result<()> {
    if output == Output::Json {
        return print_json(&json!({
            "app": app,
            "pid": status.pid,
            "program": status.program,
            "version": status.version,
        }));
    }
    let (version, program, pid) = (&status.version, &status.program, status.pid);
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{app}: keeper {version} ({program}) goes on in process {pid}"
    )
}

/// The answer to `adopt`.
pub fn adopted(app: &str, pid: u32, status: &Status, output: Output) -> io::Result<()> {
    let listeners = super::keepers::listeners(status);
    if output == Output::Json {
        return print_json(&json!({ "app": app, "pid": pid, "listen": listeners }));
    }
    let mut out = io::stdout().lock();
    let (first, all) = (listeners.first(), listeners.join(", "));
    writeln!(
        out,
        "{app}: process {pid} is looked after; it serves {all} as before"
    )?;
    for note in &status.notes {
        writeln!(out, "  {}", escape(note.as_bytes()))?;
    }
    let first = first.map_or("", String::as_str);
    writeln!(
        out,
        "  next: shipctl promote {app}, with `listen = {{ http = \"{first}\" }}` in its ship.toml; that replaces it without a gap"
    )
}

/// The answer to `verify`.
pub fn verified(releases: &[v1::VerifiedRelease], output: Output) -> io::Result<()> {
    if output == Output::Json {
        let releases: Vec<_> = releases
            .iter()
            .map(|line| {
                json!({
                    "app": line.app,
                    "release": line.release.as_ref().map(|target| target.number),
                    "files": line.files,
                    "bytes_read": line.bytes_read,
                    "damage": line.damage,
                    "extra": line.extra,
                })
            })
            .collect();
        return print_json(&json!({ "releases": releases }));
    }
    let mut out = io::stdout().lock();
    for line in releases {
        let word = if line.damage.is_empty() {
            "whole"
        } else {
            "DAMAGED"
        };
        let number = release(line.release.as_ref());
        writeln!(
            out,
            "{}@{number} {word}: {} names, {} bytes read",
            line.app, line.files, line.bytes_read
        )?;
        for damage in &line.damage {
            writeln!(out, "  {damage}")?;
        }
        for extra in &line.extra {
            writeln!(out, "  {extra} (harmless: no revert minds it)")?;
        }
    }
    if releases.is_empty() {
        writeln!(out, "no release lies here")?;
    }
    Ok(())
}

/// One line of `logs`.
pub fn log_line(line: &v1::LogLine, output: Output) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if output == Output::Json {
        let value = json!({
            "ts": utc(line.at_ms),
            "app": line.app,
            "host": line.host,
            "pid": line.pid,
            "release": line.release,
            "deploy": line.deploy,
            "generation": line.generation,
            "stream": line.stream,
            "line": line.line,
        });
        return writeln!(out, "{value}");
    }
    let text = escape(line.line.as_bytes());
    let at = local_time(line.at_ms);
    let (host, pid) = (&line.host, line.pid);
    writeln!(
        out,
        "{at} {}@{} {host} {pid} {} {} {text}",
        line.app, line.release, line.deploy, line.stream
    )
}

fn at(ms: u64) -> OffsetDateTime {
    let nanoseconds = i128::from(ms) * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn utc(ms: u64) -> String {
    at(ms).format(&Rfc3339).unwrap_or_default()
}

fn local_time(ms: u64) -> String {
    let offset = UtcOffset::current_local_offset().unwrap_or(UtcOffset::UTC);
    let format = time::macros::format_description!(
        "[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:3]"
    );
    at(ms).to_offset(offset).format(&format).unwrap_or_default()
}
