//! How long assets are kept: `ls --expired`, `why` and `gc --dry-run`. What `gc` removes is in `sweep`.

use serde::Serialize;
use ship_model::assets::canonical_url;
use ship_model::name::AppName;
use ship_model::release::ReleaseRef;
use ship_proto::v1::{AssetLine, AssetReason, LookAssetsRequest};
use tonic::Streaming;

use super::super::{Fleet, Outcome, subject};
use super::check_path;
use crate::error::{CommandError, Exit};
use crate::ui::{DIM, Table, Ui, paint};
use crate::words::{bytes, clean, count, full_id, rfc3339, short_id};

#[derive(Debug, Serialize)]
struct Reason {
    /// `reachable`, `young`, `requested`, `not-counted-yet`, `uncounted`.
    kind: String,
    words: String,
    release: Option<u64>,
    until: Option<String>,
}

#[derive(Debug, Serialize)]
struct Line {
    url: String,
    digest: String,
    bytes: u64,
    releases: Vec<u64>,
    kept: bool,
    reasons: Vec<Reason>,
    expired_since: Option<String>,
    asked_at: Option<String>,
    asked_of: Option<String>,
    /// When it was given up.
    removed_at: Option<String>,
}

/// A time that is told; 0 is none.
fn time(ms: u64) -> Option<String> {
    (ms > 0).then(|| rfc3339(ms)).flatten()
}

impl From<&AssetReason> for Reason {
    fn from(reason: &AssetReason) -> Self {
        Self {
            kind: reason.kind.clone(),
            words: reason.words.clone(),
            release: (reason.release > 0).then_some(reason.release),
            until: time(reason.until_ms),
        }
    }
}

impl From<&AssetLine> for Line {
    fn from(line: &AssetLine) -> Self {
        Self {
            url: line.url.clone(),
            digest: full_id(&line.digest).unwrap_or_default(),
            bytes: line.bytes,
            releases: line.releases.clone(),
            kept: line.expired_ms == 0 && !line.reasons.is_empty(),
            reasons: line.reasons.iter().map(Reason::from).collect(),
            expired_since: time(line.collectable_since_ms),
            asked_at: time(line.asked_ms),
            asked_of: Some(line.asked_of.clone()).filter(|of| !of.is_empty()),
            removed_at: time(line.expired_ms),
        }
    }
}

/// What all lines come to.
#[derive(Debug, Default, Serialize)]
struct Totals {
    assets: u64,
    bytes: u64,
    expired: u64,
    expired_bytes: u64,
}

impl Totals {
    fn add(&mut self, line: &AssetLine) {
        self.assets += 1;
        self.bytes += line.bytes;
        if line.reasons.is_empty() {
            self.expired += 1;
            self.expired_bytes += line.bytes;
        }
    }
}

async fn look(
    app: &AppName,
    path: &str,
    collectable: bool,
    fleet: &Fleet,
) -> Result<Streaming<AssetLine>, CommandError> {
    let request = LookAssetsRequest {
        app: app.to_string(),
        path: path.to_owned(),
        collectable,
    };
    Ok(fleet.client.assets().look(request).await?.into_inner())
}

/// Assets of all releases that no reason keeps.
pub async fn expired(typed: Option<&ReleaseRef>, fleet: &Fleet, ui: &Ui) -> Outcome {
    let subject = subject::subject(typed, &fleet.context)?;
    if subject.number.is_some() {
        return Err(CommandError::usage(
            "--expired looks at the assets of all releases: name the app alone",
        ));
    }
    let mut lines = look(&subject.app, "", true, fleet).await?;
    let mut found = Vec::new();
    while let Some(line) = lines.message().await? {
        found.push(line);
    }
    if ui.is_json() {
        let assets: Vec<Line> = found.iter().map(Line::from).collect();
        ui.json(&serde_json::json!({ "app": subject.app, "assets": assets }));
        return Ok(Exit::Done);
    }
    if found.is_empty() {
        ui.say("every asset is kept for some reason: shipctl asset gc --dry-run tells them");
        return Ok(Exit::Done);
    }
    let mut table = Table::new(&["url", ">size", "releases", "since", "digest"]);
    for line in &found {
        table.row([
            clean(&line.url),
            bytes(line.bytes),
            releases(&line.releases),
            ui.time(line.collectable_since_ms),
            short_id(&line.digest),
        ]);
    }
    table.print(ui);
    Ok(Exit::Done)
}

/// Every reason to keep one asset.
pub async fn why(path: &str, fleet: &Fleet, ui: &Ui) -> Outcome {
    check_path(path)?;
    let subject = subject::subject(None, &fleet.context)?;
    // As the store writes it, whatever is quoted in the address that somebody copied.
    let url = canonical_url(path).unwrap_or_else(|| path.to_owned());
    let mut lines = look(&subject.app, &url, false, fleet).await?;
    let Some(line) = lines.message().await? else {
        let message = format!(
            "no release of {} ever had a fingerprinted asset {url}",
            subject.app
        );
        return Err(CommandError::new(Exit::Error, message).hint(
            "files without a fingerprint are not kept: `shipctl asset ls` lists what a release has; another app: -a APP",
        ));
    };
    if ui.is_json() {
        let mut shown = serde_json::json!({ "app": subject.app, "stands_on": line.stands_on });
        if let (Some(shown), Ok(serde_json::Value::Object(line))) =
            (shown.as_object_mut(), serde_json::to_value(Line::from(&line)))
        {
            shown.extend(line);
        }
        ui.json(&shown);
        return Ok(Exit::Done);
    }
    tell(&line, &subject.app, ui);
    Ok(Exit::Done)
}

fn tell(line: &AssetLine, app: &AppName, ui: &Ui) {
    ui.line(format!(
        "{}  {}  {}",
        clean(&line.url),
        bytes(line.bytes),
        short_id(&line.digest)
    ));
    ui.line(format!(
        "  {} {app} {}",
        paint(DIM, "named by:"),
        releases(&line.releases)
    ));
    let asked = match line.asked_ms {
        0 => "never, as far as was told".to_owned(),
        ms => format!("{} of {}", ui.time(ms), clean(&line.asked_of)),
    };
    ui.line(format!("  {} {asked}", paint(DIM, "last asked for:")));
    if line.expired_ms > 0 {
        ui.line(format!(
            "  expired and removed {}; a promote or publish of a release that names it brings it back",
            ui.time(line.expired_ms)
        ));
        return;
    }
    ui.line(format!(
        "  {} {}",
        paint(DIM, "stands on:"),
        clean(&line.stands_on.join(", "))
    ));
    if line.reasons.is_empty() {
        ui.line(format!(
            "  nothing keeps it since {}",
            ui.time(line.collectable_since_ms)
        ));
    }
    for reason in &line.reasons {
        let until = match reason.until_ms {
            0 => String::new(),
            ms => format!(", until {}", ui.time(ms)),
        };
        ui.line(format!("  kept: {}{until}", clean(&reason.words)));
    }
}

/// Names, numbers and text: all of it has a JSON form.
fn as_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// Every asset of an app, what keeps it, and what could go. One object also as JSON, written line by line: there may be
/// half a million.
pub async fn all(app: Option<AppName>, fleet: &Fleet, ui: &Ui) -> Outcome {
    let typed = app.map(|app| ReleaseRef {
        app: Some(app),
        number: None,
    });
    let app = subject::subject(typed.as_ref(), &fleet.context)?.app;
    let mut lines = look(&app, "", false, fleet).await?;
    let mut totals = Totals::default();
    if ui.is_json() {
        ui.line(format!("{{\"app\":{},\"assets\":[", as_json(&app)));
    }
    while let Some(line) = lines.message().await? {
        match (ui.is_json(), totals.assets) {
            (true, 0) => ui.line(as_json(&Line::from(&line))),
            (true, _) => ui.line(format!(",{}", as_json(&Line::from(&line)))),
            (false, _) => ui.line(one_line(&line, ui)),
        }
        totals.add(&line);
        if ui.is_deaf() {
            return Ok(Exit::Done);
        }
    }
    if ui.is_json() {
        ui.line(format!("],\"totals\":{}}}", as_json(&totals)));
        return Ok(Exit::Done);
    }
    ui.say(format!(
        "{} of {}, {} in all; no reason keeps {}, {}. Nothing was removed.",
        count(totals.assets, "asset"),
        app,
        bytes(totals.bytes),
        totals.expired,
        bytes(totals.expired_bytes)
    ));
    Ok(Exit::Done)
}

/// The asset and its first reason; `why` tells all of them.
fn one_line(line: &AssetLine, ui: &Ui) -> String {
    let verdict = match line.reasons.split_first() {
        None => format!("expired  since {}", ui.time(line.collectable_since_ms)),
        Some((first, [])) => format!("kept     {}", clean(&first.words)),
        Some((first, more)) => format!("kept     {} (and {} more)", clean(&first.words), more.len()),
    };
    format!("{:>9}  {}  {verdict}", bytes(line.bytes), clean(&line.url))
}

/// `3 to 7` reads better than all of them.
fn releases(numbers: &[u64]) -> String {
    match numbers {
        [] => String::new(),
        [one] => one.to_string(),
        [first, .., last] => format!("{first} to {last} ({})", numbers.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_the_names_that_scripts_rely_on() {
        let line = AssetLine {
            url: "/static/main.3f9a12bc.js".into(),
            digest: vec![7; 32],
            bytes: 5,
            releases: vec![1, 2],
            reasons: vec![AssetReason {
                kind: "young".into(),
                words: "release 2 was published or left less than min_age ago".into(),
                until_ms: 1_760_000_000_000,
                release: 2,
            }],
            ..AssetLine::default()
        };
        let shown = serde_json::to_value(Line::from(&line)).unwrap_or_default();
        for key in [
            "url",
            "digest",
            "bytes",
            "releases",
            "kept",
            "reasons",
            "expired_since",
            "asked_at",
            "asked_of",
        ] {
            assert!(shown.get(key).is_some(), "{key}");
        }
        assert_eq!(shown["kept"], true);
        assert_eq!(shown["expired_since"], serde_json::Value::Null);
        assert_eq!(shown["reasons"][0]["kind"], "young");
        let mut totals = Totals::default();
        totals.add(&line);
        totals.add(&AssetLine {
            bytes: 3,
            ..AssetLine::default()
        });
        assert_eq!(
            (totals.assets, totals.bytes, totals.expired, totals.expired_bytes),
            (2, 8, 1, 3)
        );
        assert_eq!(releases(&[1, 2, 7]), "1 to 7 (3)");
    }
}
