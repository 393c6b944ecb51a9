//! `/metrics`: figures as Prometheus reads them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::header;
use ship_assets::serve::Assets;

use crate::bridge::Bridge;
use crate::desired::Board;
use crate::ledger::{Ledger, LedgerError};
use crate::listen::PortFigures;
use crate::rollout::fleet::Fleet;

/// Where figures come from.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub ledger: Ledger,
    pub bridge: Bridge,
    pub board: Arc<Board>,
    pub fleet: Arc<Fleet>,
    pub port: Arc<PortFigures>,
    pub assets: Assets,
}

pub(super) async fn get(State(metrics): State<Metrics>) -> Response {
    let ledger = metrics.ledger.clone();
    let releases = metrics.bridge.run(move || newest_releases(&ledger)).await;
    let releases = releases.unwrap_or_else(|_| Ok(Vec::new())).unwrap_or_default();
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, render(&metrics, &releases)).into_response()
}

fn newest_releases(ledger: &Ledger) -> Result<Vec<(String, u64)>, LedgerError> {
    let mut newest = Vec::new();
    for app in ledger.apps()? {
        let release = ledger.newest_release(&app)?;
        newest.push((app.to_string(), release.map_or(0, |release| release.number.0)));
    }
    Ok(newest)
}

/// Writes one family; labels are names, which need no escaping.
fn family(out: &mut String, name: &str, kind: &str, meaning: &str, lines: &[(String, u64)]) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "# HELP {name} {meaning}\n# TYPE {name} {kind}");
    for (labels, value) in lines {
        let _ = writeln!(out, "{name}{labels} {value}");
    }
}

fn single(value: &AtomicU64) -> [(String, u64); 1] {
    [(String::new(), value.load(Ordering::Relaxed))]
}

fn render(metrics: &Metrics, releases: &[(String, u64)]) -> String {
    let mut out = String::new();
    let newest: Vec<_> = releases
        .iter()
        .map(|(app, number)| (format!("{{app=\"{app}\"}}"), *number))
        .collect();
    family(
        &mut out,
        "ship_release_newest",
        "gauge",
        "Number of an app's newest release.",
        &newest,
    );
    let mut hosts: BTreeMap<String, u64> = BTreeMap::new();
    for (env, _, presence) in metrics.fleet.all(None) {
        *hosts
            .entry(format!("{{env=\"{env}\",state=\"{}\"}}", presence.state))
            .or_default() += 1;
    }
    let hosts: Vec<_> = hosts.into_iter().collect();
    family(&mut out, "ship_hosts", "gauge", "Hosts by state.", &hosts);
    let states = metrics.board.states();
    let of = |value: &dyn Fn(&ship_model::rollout::EnvState) -> u64| -> Vec<(String, u64)> {
        let line = |state: &Arc<ship_model::rollout::EnvState>| {
            (
                format!("{{env=\"{}\",app=\"{}\"}}", state.env, state.app),
                value(state),
            )
        };
        states.iter().map(line).collect()
    };
    let running = of(&|state| u64::from(state.running().is_some()));
    family(
        &mut out,
        "ship_rollout_running",
        "gauge",
        "Whether a rollout is under way.",
        &running,
    );
    let release = of(&|state| state.current.map_or(0, |current| current.number.0));
    family(
        &mut out,
        "ship_release_running",
        "gauge",
        "Number of the release that should run.",
        &release,
    );
    let deploys = of(&|state| state.last_deploy.0);
    family(
        &mut out,
        "ship_deploys_total",
        "counter",
        "Deploys begun.",
        &deploys,
    );
    let began = of(&|state| {
        state
            .rollout
            .as_ref()
            .map_or(0, |rollout| rollout.started_ms / 1000)
    });
    family(
        &mut out,
        "ship_deploy_started_seconds",
        "gauge",
        "When the last deploy began, in seconds since 1970: a mark for graphs.",
        &began,
    );
    counters(&mut out, metrics);
    host_incidents(&mut out, metrics);
    out
}

/// What hosts told of published assets that they could not serve.
fn host_incidents(out: &mut String, metrics: &Metrics) {
    let mut lines = Vec::new();
    for (env, host, presence) in metrics.fleet.all(None) {
        let Some(report) = presence.report else { continue };
        for app in &report.apps {
            lines.extend(app.incidents.iter().map(|incident| {
                let release = incident.release.number;
                let labels = format!(
                    "{{env=\"{env}\",host=\"{host}\",app=\"{}\",release=\"{release}\"}}",
                    app.app
                );
                (labels, incident.count)
            }));
        }
    }
    family(
        out,
        "ship_host_asset_incidents_total",
        "counter",
        "Requests for published assets that a host could not serve, since its agent's start.",
        &lines,
    );
}

fn counters(out: &mut String, metrics: &Metrics) {
    let (port, assets) = (&metrics.port, &metrics.assets.counters);
    for (name, meaning, value) in [
        (
            "ship_connections_total",
            "Connections on the TLS port.",
            &port.connections,
        ),
        (
            "ship_handshakes_refused_total",
            "Handshakes that failed.",
            &port.refused_handshakes,
        ),
        ("ship_requests_total", "Requests on the TLS port.", &port.requests),
        (
            "ship_asset_requests_total",
            "Requests for assets.",
            &assets.requests,
        ),
        ("ship_asset_bytes_total", "Bytes of assets sent.", &assets.bytes),
        (
            "ship_asset_not_found_total",
            "Requests for assets that are not there.",
            &assets.not_found,
        ),
        (
            "ship_asset_expired_total",
            "Requests for assets that were published and that nothing keeps any more.",
            &assets.expired,
        ),
        (
            "ship_asset_broken_total",
            "Requests for assets whose file cannot be read.",
            &assets.broken,
        ),
        (
            "ship_asset_rotten_total",
            "Files of assets whose bytes were no longer what was published; not one was sent.",
            &assets.rotten,
        ),
    ] {
        family(out, name, "counter", meaning, &single(value));
    }
    let Some(misses) = metrics.assets.shelf.misses() else {
        return;
    };
    family(
        out,
        "ship_asset_healed_total",
        "counter",
        "Assets that were missing and were made anew from bundles.",
        &[(String::new(), misses.healed())],
    );
    let incidents: Vec<_> = misses.incidents();
    let incidents: Vec<_> = incidents
        .iter()
        .map(|found| {
            let labels = format!("{{app=\"{}\",release=\"{}\"}}", found.app, found.release.number);
            (labels, found.count)
        })
        .collect();
    family(
        out,
        "ship_asset_incidents_total",
        "counter",
        "Requests for published assets that could not be served, by the release that first brought them.",
        &incidents,
    );
}
