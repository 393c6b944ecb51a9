//! `/metrics`: the store's own figures, and what all hosts said of themselves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::header;
use ship_assets::serve::Assets;
use ship_model::figures::Kind::{Counter, Gauge};
use ship_model::figures::{self, Kind, Page};
use ship_model::rollout::EnvState;

use crate::bridge::Bridge;
use crate::desired::Board;
use crate::ledger::{Ledger, LedgerError};
use crate::listen::PortFigures;
use crate::locate::Places;
use crate::notify::{RouteState, Routes};
use crate::rollout::fleet::Fleet;
use crate::scrub::Findings;

/// Where figures come from.
#[derive(Debug, Clone)]
pub struct Metrics {
    pub ledger: Ledger,
    pub places: Arc<Places>,
    pub bridge: Bridge,
    pub board: Arc<Board>,
    pub fleet: Arc<Fleet>,
    pub port: Arc<PortFigures>,
    pub assets: Assets,
    pub findings: Arc<Findings>,
    pub routes: Arc<Routes>,
}

pub(super) async fn get(State(metrics): State<Metrics>) -> Response {
    let ledger = metrics.ledger.clone();
    let releases = metrics.bridge.run(move || newest_releases(&ledger)).await;
    let releases = releases.unwrap_or_else(|_| Ok(Vec::new())).unwrap_or_default();
    let kind = [(header::CONTENT_TYPE, figures::CONTENT_TYPE)];
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

fn render(metrics: &Metrics, releases: &[(String, u64)]) -> String {
    let mut page = Page::default();
    let newest = releases
        .iter()
        .map(|(app, number)| (format!("{{app=\"{app}\"}}"), *number));
    let meaning = "Number of an app's newest release.";
    page.family(("ship_release_newest", Gauge), meaning, newest);
    environments(&mut page, metrics);
    kept(&mut page, &metrics.places);
    scrubbed(&mut page, &metrics.findings);
    notified(&mut page, &metrics.routes);
    counters(&mut page, metrics);
    let fleet = metrics.fleet.all(None);
    let mut states: BTreeMap<String, u64> = BTreeMap::new();
    for (env, _, presence) in &fleet {
        let labels = format!("{{env=\"{env}\",state=\"{}\"}}", presence.state);
        *states.entry(labels).or_default() += 1;
    }
    page.family(("ship_hosts", Gauge), "Hosts by state.", states);
    let said: Vec<_> = fleet
        .iter()
        .filter_map(|(env, host, presence)| Some((env, host, presence.report.as_deref()?)))
        .collect();
    figures::hosts(&mut page, &said);
    page.end()
}

type OfEnvironment = (&'static str, Kind, &'static str, fn(&EnvState) -> u64);

const OF_ENVIRONMENTS: &[OfEnvironment] = &[
    (
        "ship_rollout_running",
        Gauge,
        "Whether a rollout is under way.",
        |state| u64::from(state.running().is_some()),
    ),
    (
        "ship_release_running",
        Gauge,
        "Number of the release that should run.",
        |state| state.current.map_or(0, |current| current.number.0),
    ),
    ("ship_deploys", Counter, "Deploys begun.", |state| {
        state.last_deploy.0
    }),
    (
        "ship_deploy_started_seconds",
        Gauge,
        "When the last deploy began, in seconds since 1970: a mark for graphs.",
        |state| {
            let last = state.rollout.as_ref();
            last.map_or(0, |rollout| rollout.started_ms / 1000)
        },
    ),
];

fn environments(page: &mut Page, metrics: &Metrics) {
    let states = metrics.board.states();
    for (name, kind, meaning, value) in OF_ENVIRONMENTS {
        let lines = states.iter().map(|state| {
            let labels = format!("{{env=\"{}\",app=\"{}\"}}", state.env, state.app);
            (labels, value(state))
        });
        page.family((name, *kind), meaning, lines);
    }
}

fn kept(page: &mut Page, places: &Places) {
    let (links, (bundles, _)) = (places.links(), places.len());
    let bytes = links.values().map(|link| link.bytes).sum();
    let broken = places.broken().len() as u64;
    for (name, meaning, value) in [
        ("ship_store_bundles", "Bundles that are offered.", bundles as u64),
        (
            "ship_store_kept",
            "Releases that are kept as deltas.",
            links.len() as u64,
        ),
        ("ship_store_kept_bytes", "Bytes of these deltas.", bytes),
        (
            "ship_store_kept_broken",
            "Kept releases that cannot be given, because something that they are made against is lost.",
            broken,
        ),
    ] {
        page.single((name, Gauge), meaning, value);
    }
}

fn scrubbed(page: &mut Page, findings: &Findings) {
    for (name, kind, meaning, value) in [
        (
            "ship_store_scrubbed_bytes",
            Counter,
            "Bytes of the store that were read again to find rot.",
            findings.read_bytes(),
        ),
        (
            "ship_store_scrubbed_seconds",
            Gauge,
            "When everything in the store was last read again, in seconds since 1970; 0: not yet.",
            findings.ended_ms() / 1000,
        ),
        (
            "ship_store_damaged",
            Counter,
            "Objects of the store that were found damaged.",
            findings.damaged(),
        ),
        (
            "ship_store_healed",
            Counter,
            "Damaged objects of which nothing is missing any more.",
            findings.healed(),
        ),
        (
            "ship_store_lost_releases",
            Gauge,
            "Releases that cannot be given whole, and that no mirror or host could heal.",
            findings.lost().len() as u64,
        ),
    ] {
        page.single((name, kind), meaning, value);
    }
}

type OfRoute = (&'static str, Kind, &'static str, fn(&RouteState) -> u64);

const OF_ROUTES: &[OfRoute] = &[
    (
        "ship_notify_told",
        Counter,
        "Messages of a [[notify]] that a sink took.",
        |route| route.told,
    ),
    (
        "ship_notify_failed",
        Counter,
        "Tries to hand a message to a sink that failed.",
        |route| route.failed,
    ),
    (
        "ship_notify_trouble",
        Gauge,
        "Whether no sink takes what is to be told.",
        |route| u64::from(route.trouble.is_some()),
    ),
];

fn notified(page: &mut Page, routes: &Routes) {
    let routes = routes.all();
    for (name, kind, meaning, value) in OF_ROUTES {
        let lines = routes
            .iter()
            .map(|(name, route)| (format!("{{route=\"{name}\"}}"), value(route)));
        page.family((name, *kind), meaning, lines);
    }
}

fn counters(page: &mut Page, metrics: &Metrics) {
    let (port, assets) = (&metrics.port, metrics.assets.figures());
    let of = |value: &AtomicU64| value.load(Ordering::Relaxed);
    for (name, meaning, value) in [
        (
            "ship_connections",
            "Connections on the TLS port.",
            of(&port.connections),
        ),
        (
            "ship_handshakes_refused",
            "Handshakes that failed.",
            of(&port.refused_handshakes),
        ),
        ("ship_requests", "Requests on the TLS port.", of(&port.requests)),
        (
            "ship_bundle_bytes",
            "Bytes of bundles and deltas sent.",
            of(&port.bundle_bytes),
        ),
        (
            "ship_asset_requests",
            "Requests for assets.",
            assets.asset_requests,
        ),
        ("ship_asset_bytes", "Bytes of assets sent.", assets.asset_bytes),
        (
            "ship_asset_not_found",
            "Requests for paths that nobody published (404).",
            assets.asset_not_found,
        ),
        (
            "ship_asset_expired",
            "Requests for assets that were published and that nothing keeps any more (404).",
            assets.asset_expired,
        ),
        (
            "ship_asset_broken",
            "Requests for published assets that could not be served (503).",
            assets.asset_broken,
        ),
        (
            "ship_asset_rotten",
            "Files of assets whose bytes were no longer what was published; not one was sent.",
            assets.asset_rotten,
        ),
        (
            "ship_asset_healed",
            "Assets that were missing or rotten and were made anew from bundles.",
            assets.asset_healed,
        ),
    ] {
        page.single((name, Counter), meaning, value);
    }
    let misses = metrics.assets.shelf.misses();
    let incidents = misses.map(|misses| misses.incidents()).unwrap_or_default();
    let lines = incidents.iter().map(|found| {
        let labels = format!("{{app=\"{}\",release=\"{}\"}}", found.app, found.release.number);
        (labels, found.count)
    });
    let meaning =
        "Requests for published assets that could not be served, by the release that first brought them.";
    page.family(("ship_asset_incidents", Counter), meaning, lines);
}
