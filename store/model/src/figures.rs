//! Figures for graphs, as text that Prometheus and its kin read: OpenMetrics 1.0
//! (<https://prometheus.io/docs/specs/om/open_metrics_spec/>).
//!
//! One room writes them for agents and the store, so that a family means the same wherever it is scraped. What a page
//! may hold is bounded: of a family's lines those beyond [`MAX_LINES`] are left out, and their number is told.

use std::fmt::{self, Write as _};

use crate::name::{EnvName, HostName};
use crate::report::{AppReport, HostReport};

/// The `Content-Type` of a page.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Lines of one family on one page.
pub const MAX_LINES: usize = 5_000;

/// What a family's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until the process ends; its lines end in `_total`.
    Counter,
    Gauge,
}

/// A page that is being written.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
    left_out: u64,
}

impl Page {
    /// Writes one family, `name` without the counter's `_total`. Labels are written as they are given: names need no
    /// escaping, and nothing else is a label.
    pub fn family<L: fmt::Display>(
        &mut self,
        (name, kind): (&str, Kind),
        meaning: &str,
        lines: impl IntoIterator<Item = (L, u64)>,
    ) {
        let (word, end) = match kind {
            Kind::Counter => ("counter", "_total"),
            Kind::Gauge => ("gauge", ""),
        };
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "# TYPE {name} {word}\n# HELP {name} {meaning}");
        for (nth, (labels, value)) in lines.into_iter().enumerate() {
            if nth < MAX_LINES {
                let _ = writeln!(self.text, "{name}{end}{labels} {value}");
            } else {
                self.left_out += 1;
            }
        }
    }

    /// A family of one line without labels.
    pub fn single(&mut self, family: (&str, Kind), meaning: &str, value: u64) {
        self.family(family, meaning, [("", value)]);
    }

    /// The page as it is sent.
    pub fn end(mut self) -> String {
        let left_out = self.left_out;
        let meaning = "Lines that this page left out.";
        self.single(("ship_lines_left_out", Kind::Gauge), meaning, left_out);
        self.text.push_str("# EOF\n");
        self.text
    }
}

/// One host's newest report.
pub type Said<'a> = (&'a EnvName, &'a HostName, &'a HostReport);

/// Writes what hosts say of themselves: the same families of an agent's own page and of the store's page of all.
pub fn hosts(page: &mut Page, said: &[Said<'_>]) {
    for (name, kind, meaning, value) in OF_HOSTS {
        let lines = said.iter().map(|(env, host, report)| {
            let labels = format!("{{env=\"{env}\",host=\"{host}\"}}");
            (labels, value(report))
        });
        page.family((name, *kind), meaning, lines);
    }
    for (name, kind, meaning, value) in OF_APPS {
        page.family(
            (name, *kind),
            meaning,
            of_apps(said, |app| vec![(String::new(), value(app))]),
        );
    }
    let asked = of_apps(said, |app| {
        let asked = app.asked.iter().flat_map(|asked| {
            let line = |answer: &str| format!(",release=\"{}\",answer=\"{answer}\"", asked.release);
            [(line("found"), asked.found), (line("unknown"), asked.unknown)]
        });
        asked.collect()
    });
    let meaning = "Requests for assets by the release that ran on the host when they came.";
    page.family(
        ("ship_host_release_asset_requests", Kind::Counter),
        meaning,
        asked,
    );
    let incidents = of_apps(said, |app| {
        let incidents = app.incidents.iter();
        incidents
            .map(|incident| {
                (
                    format!(",release=\"{}\"", incident.release.number),
                    incident.count,
                )
            })
            .collect()
    });
    let meaning =
        "Requests for published assets that a host could not serve, by the release that first brought them.";
    page.family(("ship_host_asset_incidents", Kind::Counter), meaning, incidents);
    let marks = of_apps(said, |app| {
        let mark = app.running.map(|running| {
            let labels = format!(",release=\"{}\",deploy=\"{}\"", running.number, app.deploy);
            (labels, app.switched_ms / 1000)
        });
        mark.into_iter().collect()
    });
    let meaning = "When the running release went live on a host, in seconds since 1970: a mark for graphs.";
    page.family(("ship_host_switched_seconds", Kind::Gauge), meaning, marks);
}

type OfHost = (&'static str, Kind, &'static str, fn(&HostReport) -> u64);

const OF_HOSTS: &[OfHost] = &[
    (
        "ship_host_asset_requests",
        Kind::Counter,
        "Requests for assets.",
        |host| host.figures.asset_requests,
    ),
    (
        "ship_host_asset_bytes",
        Kind::Counter,
        "Bytes of assets sent.",
        |host| host.figures.asset_bytes,
    ),
    (
        "ship_host_asset_not_found",
        Kind::Counter,
        "Requests for paths that nobody published (404).",
        |host| host.figures.asset_not_found,
    ),
    (
        "ship_host_asset_expired",
        Kind::Counter,
        "Requests for assets that were published and that nothing keeps any more (404).",
        |host| host.figures.asset_expired,
    ),
    (
        "ship_host_asset_broken",
        Kind::Counter,
        "Requests for published assets that could not be served (503).",
        |host| host.figures.asset_broken,
    ),
    (
        "ship_host_asset_rotten",
        Kind::Counter,
        "Files of assets that were found rotten; not a byte was sent.",
        |host| host.figures.asset_rotten,
    ),
    (
        "ship_host_asset_healed",
        Kind::Counter,
        "Assets that were missing or rotten and were made anew.",
        |host| host.figures.asset_healed,
    ),
    (
        "ship_host_fetched_bytes",
        Kind::Counter,
        "Bytes of releases that came from the store, from mirrors and from other hosts.",
        |host| host.figures.fetched_bytes,
    ),
    (
        "ship_host_fetched_from_mirrors_bytes",
        Kind::Counter,
        "Bytes of releases that came from mirrors.",
        |host| host.figures.fetched_from_mirrors,
    ),
    (
        "ship_host_fetched_from_peers_bytes",
        Kind::Counter,
        "Bytes of releases that came from other hosts.",
        |host| host.figures.fetched_from_peers,
    ),
    (
        "ship_host_served_to_peers_bytes",
        Kind::Counter,
        "Bytes of releases that were given to other hosts.",
        |host| host.figures.served_to_peers,
    ),
    (
        "ship_host_disk_free_bytes",
        Kind::Gauge,
        "Bytes free where releases lie.",
        |host| host.disk_free,
    ),
    (
        "ship_host_disk_size_bytes",
        Kind::Gauge,
        "Bytes of the disk where releases lie.",
        |host| host.disk_total,
    ),
];

type OfApp = (&'static str, Kind, &'static str, fn(&AppReport) -> u64);

const OF_APPS: &[OfApp] = &[
    (
        "ship_host_healthy",
        Kind::Gauge,
        "Whether what runs answered its probe, and every process is alive.",
        |app| u64::from(app.healthy),
    ),
    (
        "ship_host_generations",
        Kind::Gauge,
        "Generations of the app that live.",
        |app| app.generations,
    ),
    (
        "ship_host_restarts",
        Kind::Counter,
        "Processes that the keeper started again.",
        |app| app.restarts,
    ),
    (
        "ship_host_connections",
        Kind::Gauge,
        "Connections that all generations hold.",
        |app| app.connections,
    ),
    (
        "ship_host_older_connections",
        Kind::Gauge,
        "Connections that older generations hold.",
        |app| app.older_connections,
    ),
    (
        "ship_host_cut_connections",
        Kind::Gauge,
        "Connections that a deadline cut in the last switch.",
        |app| app.update.lost_requests,
    ),
];

fn of_apps<'a>(
    said: &'a [Said<'a>],
    lines: impl Fn(&AppReport) -> Vec<(String, u64)> + 'a,
) -> impl Iterator<Item = (String, u64)> + 'a {
    said.iter().flat_map(move |(env, host, report)| {
        let mut all = Vec::new();
        for app in &report.apps {
            for (more, value) in lines(app) {
                all.push((
                    format!("{{env=\"{env}\",host=\"{host}\",app=\"{}\"{more}}}", app.app),
                    value,
                ));
            }
        }
        all
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use crate::report::AssetsAsked;

    #[test]
    fn a_page_says_what_a_host_counted_and_ends() {
        let mut app = AppReport::of("web".parse().unwrap());
        app.asked = vec![AssetsAsked {
            release: 7,
            found: 3,
            unknown: 2,
        }];
        let mut report = HostReport {
            apps: vec![app],
            ..HostReport::default()
        };
        report.figures.asset_not_found = 2;
        let (env, host) = ("prod".parse().unwrap(), "h1".parse().unwrap());
        let mut page = Page::default();
        hosts(&mut page, &[(&env, &host, &report)]);
        let text = page.end();
        for line in [
            "# TYPE ship_host_asset_not_found counter",
            "ship_host_asset_not_found_total{env=\"prod\",host=\"h1\"} 2",
            "ship_host_release_asset_requests_total{env=\"prod\",host=\"h1\",app=\"web\",release=\"7\",answer=\"unknown\"} 2",
            "ship_lines_left_out 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn what_is_too_much_is_left_out_and_told() {
        let mut page = Page::default();
        let lines = (0..MAX_LINES as u64 + 3).map(|n| (format!("{{n=\"{n}\"}}"), n));
        page.family(("ship_x", Kind::Gauge), "X.", lines);
        let text = page.end();
        assert!(text.contains("ship_lines_left_out 3\n"));
        assert_eq!(text.matches("\nship_x{").count(), MAX_LINES);
    }
}
