//! `shipctl hosts`.

use clap::Args;
use ship_proto::v1::HostStatus;

use super::{Fleet, Outcome, host, shape, status};
use crate::args::Global;
use crate::error::Exit;
use crate::ui::{Table, Ui, state_cell};
use crate::words::{bytes, clean, millis, rfc3339};

/// List the hosts of the environment: state, classes, what they run, disk
#[derive(Debug, Args)]
#[command(after_help = "\
States: installing, available, restarting, upgrading, uncertain (silent for a while:
neither healthy nor dead), unavailable, retiring, retired, archived, terminated; a host that
operators keep out of rotation is marked as drained beside its state.
Examples:
  shipctl hosts
  shipctl hosts --state uncertain")]
pub struct Hosts {
    /// Only hosts in this state
    #[arg(long, value_name = "STATE")]
    state: Option<String>,
    /// Also hosts that are archived, or whose machines are gone
    #[arg(long)]
    all: bool,
}

pub async fn run(verb: Hosts, global: &Global, ui: &Ui) -> Outcome {
    let fleet = Fleet::reach(global).await?;
    let reply = status::ask(&fleet, None).await?;
    let listed = |host: &HostStatus| verb.all || !matches!(host.state.as_str(), "archived" | "terminated");
    let wanted = |host: &&HostStatus| match &verb.state {
        Some(state) => *state == host.state,
        None => listed(host),
    };
    let hosts: Vec<&HostStatus> = reply.hosts.iter().filter(wanted).collect();
    if ui.is_json() {
        let hosts: Vec<_> = hosts.into_iter().map(json).collect();
        ui.json(&serde_json::json!({ "hosts": hosts }));
        return Ok(Exit::Done);
    }
    if hosts.is_empty() {
        ui.say(format!("no such host in {}", fleet.context.env));
        return Ok(Exit::Done);
    }
    table(&hosts, reply.now_ms).print(ui);
    Ok(Exit::Done)
}

pub(super) fn json(host: &HostStatus) -> serde_json::Value {
    let report = host.report.clone().unwrap_or_default();
    let apps = report.apps.iter().map(|app| {
        serde_json::json!({
            "app": app.app, "release": shape::number(app.running.as_ref()), "healthy": app.healthy,
            "phase": shape::phase(app.phase()),
        })
    });
    let apps: Vec<_> = apps.collect();
    let figures = report.figures.unwrap_or_default();
    let faults = report.faults.iter().map(|fault| {
        serde_json::json!({
            "source": clean(&fault.source), "reason": clean(&fault.reason), "at": rfc3339(fault.at_ms),
        })
    });
    let faults: Vec<_> = faults.collect();
    let fetched_from = shape::FetchedFrom::new(
        figures.fetched_bytes,
        figures.fetched_from_mirrors,
        figures.fetched_from_peers,
    );
    serde_json::json!({
        "host": host.host, "env": host.env, "state": host.state, "last_seen": rfc3339(host.last_seen_ms),
        "classes": report.classes, "apps": apps, "disk_free": report.disk_free,
        "disk_total": report.disk_total, "asset_url": report.asset_url, "agent_version": report.agent_version,
        "fetched_bytes": figures.fetched_bytes, "fetched_from": fetched_from,
        "served_to_peers": figures.served_to_peers, "peer_address": report.peer_address, "source_faults": faults,
        "standing": host::standing(host),
    })
}

/// The state, and that operators keep it out of rotation where that is so.
fn state(host: &HostStatus) -> String {
    let drained = host
        .standing
        .as_ref()
        .is_some_and(|standing| standing.duty == "drained");
    match drained {
        true => format!("{}, drained", host.state),
        false => host.state.clone(),
    }
}

fn table(hosts: &[&HostStatus], now_ms: u64) -> Table {
    let mut table = Table::new(&[
        "host",
        "state",
        "seen",
        "classes",
        "runs",
        ">disk free",
        "assets",
        "agent",
    ]);
    for host in hosts {
        let report = host.report.clone().unwrap_or_default();
        let seen = match host.last_seen_ms {
            0 => "never".to_owned(),
            seen => format!("{} ago", millis(now_ms.saturating_sub(seen))),
        };
        let runs = report.apps.iter().filter_map(|app| {
            let running = app.running.as_ref()?;
            Some(format!("{}@{}", clean(&app.app), running.number))
        });
        table.row([
            clean(&host.host).into(),
            state_cell(&state(host)),
            seen.into(),
            clean(&report.classes.join(", ")).into(),
            runs.collect::<Vec<_>>().join(" ").into(),
            bytes(report.disk_free).into(),
            clean(&report.asset_url.unwrap_or_default()).into(),
            clean(&report.agent_version).into(),
        ]);
    }
    table
}
