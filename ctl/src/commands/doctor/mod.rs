//! `shipctl doctor`: what is wrong, here and in the fleet, and what to do about it.

mod machine;
mod privileges;

use std::path::Path;

use clap::Args;
use serde::Serialize;
use ship_proto::v1::{StatusReply, StatusRequest};

use self::machine::machine;
use super::Outcome;
use super::status::{LOST_ADVICE, lost_words};
use crate::args::Global;
use crate::client::Client;
use crate::clock::{Watch, now_ms};
use crate::context::Context;
use crate::dial::certificates;
use crate::error::{CommandError, Exit};
use crate::ui::{BAD, DOUBT, GOOD, Ui, paint};
use crate::words::{bytes, clean, duration, millis};

/// Look for what is wrong: context, certificates, store, clock, this machine's limits, every host
#[derive(Debug, Args)]
#[command(after_help = "\
Each finding says what to do about it. Exit 0 when nothing is broken, 1 when something
is; warnings are only told. Of each host, a line for each privilege that it lacks, with
what happens instead; with -o json, `host` and `lacks` name both. Examples:
  shipctl doctor
  shipctl doctor -o json | jq '.findings[] | select(.grade != \"good\")'")]
pub struct Doctor {}

/// Certificates that end sooner are told of.
const EXPIRES_SOON_MS: u64 = 14 * 86_400_000;
/// Clocks may differ so much.
const SKEW_MS: u64 = 2_000;
/// Free space below this share of a disk is told of.
const MIN_FREE_PERCENT: u64 = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Grade {
    Good,
    Doubt,
    Bad,
}

#[derive(Debug, Serialize)]
struct Finding {
    what: String,
    grade: Grade,
    found: String,
    /// What to do; empty when nothing is to be done.
    #[serde(rename = "do")]
    advice: String,
    /// The host it was found on; null: here, or the store.
    host: Option<String>,
    /// What that host lacks; null: it is about something else.
    lacks: Option<String>,
}

impl Finding {
    fn new(what: &str, grade: Grade, found: impl Into<String>, advice: &str) -> Self {
        let advice = if grade == Grade::Good { "" } else { advice };
        Self {
            what: what.to_owned(),
            grade,
            found: found.into(),
            advice: advice.to_owned(),
            host: None,
            lacks: None,
        }
    }

    fn on(self, host: &str) -> Self {
        Self {
            host: Some(host.to_owned()),
            ..self
        }
    }

    fn of(what: &str, error: &CommandError) -> Self {
        let mut found = error.message().to_owned();
        if let Some(cause) = error.causes().first() {
            found.push_str(": ");
            found.push_str(cause);
        }
        Self::new(what, Grade::Bad, found, &error.hints().join("; "))
    }
}

pub async fn run(_verb: Doctor, global: &Global, ui: &Ui) -> Outcome {
    let mut findings = Vec::new();
    match Context::read(global) {
        Ok(context) => {
            findings.push(Finding::new(
                "context",
                Grade::Good,
                context.path.display().to_string(),
                "",
            ));
            findings.push(certificate("certificate", &context.cert));
            findings.push(certificate("fleet's CA", &context.ca));
            findings.extend(store(&context).await);
        }
        Err(error) => findings.push(Finding::of("context", &error)),
    }
    findings.extend(machine());
    show(&findings, ui);
    Ok(match findings.iter().any(|finding| finding.grade == Grade::Bad) {
        true => Exit::Error,
        false => Exit::Done,
    })
}

fn show(findings: &[Finding], ui: &Ui) {
    if ui.is_json() {
        ui.json(&serde_json::json!({ "findings": findings }));
        return;
    }
    for finding in findings {
        let mark = match finding.grade {
            Grade::Good => paint(GOOD, "✓"),
            Grade::Doubt => paint(DOUBT, "!"),
            Grade::Bad => paint(BAD, "✗"),
        };
        ui.line(format!(
            "{mark} {:<16} {}",
            clean(&finding.what),
            clean(&finding.found)
        ));
        if !finding.advice.is_empty() {
            ui.line(format!("  {:<16} → {}", "", clean(&finding.advice)));
        }
    }
}

/// Until when it is good.
fn certificate(what: &str, path: &Path) -> Finding {
    let all = match certificates("certificate", path) {
        Ok(all) => all,
        Err(error) => return Finding::of(what, &CommandError::from(error)),
    };
    let Some((subject, ends_ms)) = all.first().and_then(|der| facts(der)) else {
        return Finding::new(
            what,
            Grade::Bad,
            format!("{} cannot be read", path.display()),
            "issue it anew: shipstore issue",
        );
    };
    let left = ends_ms.saturating_sub(now_ms());
    let grade = match left {
        0 => Grade::Bad,
        1..EXPIRES_SOON_MS => Grade::Doubt,
        _ => Grade::Good,
    };
    let found = match left {
        0 => format!("{subject}, expired"),
        left => format!("{subject}, good for {}", millis(left)),
    };
    Finding::new(
        what,
        grade,
        found,
        "issue a new one on the store's machine: shipstore issue",
    )
}

/// Whom it names, and when it ends.
fn facts(der: &[u8]) -> Option<(String, u64)> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let ends = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    let names = certificate.subject_alternative_name().ok().flatten();
    let uri = names.and_then(|names| {
        names.value.general_names.iter().find_map(|name| match name {
            x509_parser::extensions::GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        })
    });
    Some((
        uri.unwrap_or_else(|| certificate.subject().to_string()),
        ends.saturating_mul(1000),
    ))
}

async fn store(context: &Context) -> Vec<Finding> {
    let time = Watch::start();
    let client = match Client::connect(context).await {
        Ok(client) => client,
        Err(error) => return vec![Finding::of("store", &error)],
    };
    let before = now_ms();
    let request = StatusRequest {
        env: context.env.to_string(),
        app: String::new(),
    };
    let reply = match client.fleet().status(request).await {
        Ok(reply) => reply.into_inner(),
        Err(status) => return vec![Finding::of("store", &status.into())],
    };
    let answered = duration(time.elapsed());
    let found = format!(
        "{} answers in {answered}, version {}",
        context.store, reply.store_version
    );
    let mut findings = vec![
        Finding::new("store", Grade::Good, found, ""),
        version(&reply.store_version),
        clock(before, now_ms(), reply.now_ms),
    ];
    findings.extend(content(&reply));
    findings.extend(routes(&reply));
    findings.extend(hosts(&reply));
    findings
}

/// What the store cannot give any more.
fn content(reply: &StatusReply) -> Vec<Finding> {
    if reply.lost.is_empty() {
        return vec![Finding::new(
            "store's content",
            Grade::Good,
            "nothing is lost",
            "",
        )];
    }
    let lost = reply.lost.iter();
    lost.map(|lost| {
        Finding::new(
            "store's content",
            Grade::Bad,
            format!("lost {}", lost_words(lost)),
            LOST_ADVICE,
        )
    })
    .collect()
}

/// Whom the store cannot tell of events.
fn routes(reply: &StatusReply) -> Vec<Finding> {
    let routes = reply.notify.iter();
    routes
        .map(|route| {
            let subject = format!("notify {}", clean(&route.name));
            if route.trouble_since_ms == 0 {
                return Finding::new(&subject, Grade::Good, "nothing waits", "");
            }
            let since = millis(reply.now_ms.saturating_sub(route.trouble_since_ms));
            Finding::new(
                &subject,
                Grade::Bad,
                format!("event {} waits for {since}: {}", route.seq, clean(&route.trouble)),
                "mend the sink, or store.toml; on the store's machine: shipstore notify --dir DIR NAME",
            )
        })
        .collect()
}

fn version(store: &str) -> Finding {
    let own = env!("CARGO_PKG_VERSION");
    let minor = |text: &str| -> Option<(u64, u64)> {
        let mut parts = text.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    };
    let near = match (minor(own), minor(store)) {
        (Some((a, b)), Some((c, d))) => a == c && b.abs_diff(d) <= 1,
        _ => false,
    };
    let grade = if near { Grade::Good } else { Grade::Doubt };
    let found = format!("shipctl {own}, store {store}");
    Finding::new(
        "versions",
        grade,
        found,
        "they may be one minor version apart, no more",
    )
}

/// The store's time must lie between the asking and the answer, give or take.
fn clock(before: u64, after: u64, store: u64) -> Finding {
    let skew = match store {
        _ if store < before => before - store,
        _ if store > after => store - after,
        _ => 0,
    };
    let grade = if skew > SKEW_MS { Grade::Doubt } else { Grade::Good };
    let found = format!("differs from the store's by {}", millis(skew));
    Finding::new(
        "clock",
        grade,
        found,
        "let both take their time from the same source (chrony, systemd-timesyncd)",
    )
}

fn hosts(reply: &StatusReply) -> Vec<Finding> {
    if reply.hosts.is_empty() {
        return vec![Finding::new(
            "hosts",
            Grade::Doubt,
            "none has reported",
            "start ship-agent on one, or: shipctl up",
        )];
    }
    let each = reply.hosts.iter().flat_map(|host| {
        let report = host.report.clone().unwrap_or_default();
        let free = percent(report.disk_free, report.disk_total);
        let away = matches!(host.state.as_str(), "uncertain" | "unavailable");
        let failed = report
            .apps
            .iter()
            .find_map(|app| app.failure.as_ref().map(|failure| (app, failure)));
        let (grade, advice) = match (away, failed, free) {
            (true, _, _) => (
                Grade::Doubt,
                "is it on, and does its agent run? ship-agent status, there".to_owned(),
            ),
            (_, Some((app, failure)), _) => (
                Grade::Doubt,
                format!(
                    "{} failed at {}: {}; shipctl why {}",
                    app.app, failure.step, failure.reason, host.host
                ),
            ),
            (_, _, Some(free)) if free < MIN_FREE_PERCENT => {
                (Grade::Doubt, "make room where releases lie".to_owned())
            }
            _ => (Grade::Good, String::new()),
        };
        let found = format!("{}, {} free", host.state, bytes(report.disk_free));
        let mut findings = vec![Finding::new(&host.host, grade, found, &advice).on(&host.host)];
        findings.extend(privileges::of(&host.host, report.privileges.as_ref()));
        findings
    });
    each.collect()
}

fn percent(part: u64, whole: u64) -> Option<u64> {
    u64::try_from(u128::from(part) * 100 / u128::from(whole.max(1)))
        .ok()
        .filter(|_| whole > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_judged_by_the_round_trip() {
        assert_eq!(clock(1_000, 1_100, 1_050).grade, Grade::Good);
        assert_eq!(clock(10_000, 10_100, 8_500).grade, Grade::Good);
        assert_eq!(clock(10_000, 10_100, 7_000).grade, Grade::Doubt);
        assert_eq!(clock(10_000, 10_100, 20_000).grade, Grade::Doubt);
    }

    #[test]
    fn one_minor_version_apart() {
        assert_eq!(version(env!("CARGO_PKG_VERSION")).grade, Grade::Good);
        assert_eq!(version("99.0.0").grade, Grade::Doubt);
        assert_eq!(version("").grade, Grade::Doubt);
    }

    #[test]
    fn shares_of_a_disk() {
        assert_eq!(percent(1, 10), Some(10));
        assert_eq!(percent(u64::MAX, u64::MAX), Some(100));
        assert_eq!(percent(0, 0), None);
    }
}
