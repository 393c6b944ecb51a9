//! `shipctl gc`.

use clap::Args;
use serde::Serialize;
use ship_proto::v1::{CollectLine, CollectRequest};

use super::{Fleet, Outcome};
use crate::args::Global;
use crate::error::{CommandError, Exit};
use crate::ui::{Table, Ui};
use crate::words::{bytes, clean, count, parse_duration, rfc3339};

/// Remove from the store the content of releases that nothing keeps
///
/// A release keeps its content while hosts, rollouts or reverts may need it, while it is pinned, young, or among the newest
/// (the table content of store.toml). What nothing needs is marked; what was marked for long enough, and is needed by nothing still, goes.
/// Releases stay in the list for ever, flagged as collected. Assets have a rule of their own and outlive them: `shipctl asset gc`.
/// The store does this by itself once a day.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  shipctl gc --dry-run                       every release and object, and every reason to keep it
  shipctl gc --dry-run -o json | jq '.lines[] | select(.fate != \"kept\")'
  shipctl gc                                 mark, and remove what was marked long enough ago
  shipctl gc --wait 10m                      what was marked ten minutes ago may go, too")]
pub struct Gc {
    /// Only tell what keeps each release and object, and what would go
    #[arg(long)]
    dry_run: bool,
    /// How long something must have been marked, 30m or 0s; without it as store.toml says. What is used, or is being published,
    /// stays whatever it is
    #[arg(long, value_name = "TIME", conflicts_with = "dry_run")]
    wait: Option<String>,
}

#[derive(Debug, Serialize)]
struct Reason {
    kind: String,
    words: String,
    until: Option<String>,
}

#[derive(Debug, Serialize)]
struct Line {
    /// `release`, `manifest`, `bundle`, `delta`.
    kind: String,
    name: String,
    bytes: u64,
    /// `kept`, `marked`, `unmarked`, `gone`.
    fate: String,
    since: Option<String>,
    reasons: Vec<Reason>,
}

impl From<&CollectLine> for Line {
    fn from(line: &CollectLine) -> Self {
        let time = |ms: u64| (ms > 0).then(|| rfc3339(ms)).flatten();
        let reasons = line.reasons.iter().map(|reason| Reason {
            kind: reason.kind.clone(),
            words: reason.words.clone(),
            until: time(reason.until_ms),
        });
        Self {
            kind: line.kind.clone(),
            name: line.name.clone(),
            bytes: line.bytes,
            fate: line.fate.clone(),
            since: time(line.since_ms),
            reasons: reasons.collect(),
        }
    }
}

/// How many of one fate, and what the objects among them take.
#[derive(Debug, Default, Serialize)]
struct Total {
    releases: u64,
    objects: u64,
    bytes: u64,
}

pub async fn run(verb: Gc, global: &Global, ui: &Ui) -> Outcome {
    let wait_ms = verb.wait.as_deref().map(wait_ms).transpose()?;
    let fleet = Fleet::reach(global).await?;
    let request = CollectRequest {
        dry_run: verb.dry_run,
        wait_ms,
    };
    let mut answers = fleet.client.releases().collect(request).await?.into_inner();
    let mut lines = Vec::new();
    while let Some(line) = answers.message().await? {
        lines.push(line);
    }
    let (kept, gone) = (total(&lines, &["kept"]), total(&lines, &["gone"]));
    let free = total(&lines, &["marked", "unmarked"]);
    if ui.is_json() {
        let lines: Vec<_> = lines.iter().map(Line::from).collect();
        let all = serde_json::json!({ "lines": lines, "kept": kept, "free": free, "gone": gone });
        ui.json(&all);
        return Ok(Exit::Done);
    }
    if !lines.is_empty() {
        table(&lines, ui).print(ui);
    }
    if verb.dry_run {
        ui.say(format!(
            "kept: {}; free: {}; nothing was changed",
            told(&kept),
            told(&free)
        ));
    } else {
        ui.say(format!(
            "gone: {}; marked, and not long enough yet: {}",
            told(&gone),
            told(&free)
        ));
    }
    Ok(Exit::Done)
}

fn wait_ms(text: &str) -> Result<u64, CommandError> {
    let wait = parse_duration(text).map_err(|error| CommandError::usage(error.to_string()))?;
    u64::try_from(wait.as_millis()).map_err(|_| CommandError::usage("that is too long to wait"))
}

fn total(lines: &[CollectLine], fates: &[&str]) -> Total {
    let mut total = Total::default();
    for line in lines.iter().filter(|line| fates.contains(&&*line.fate)) {
        if line.kind == "release" {
            total.releases += 1;
        } else {
            total.objects += 1;
            total.bytes += line.bytes;
        }
    }
    total
}

fn told(total: &Total) -> String {
    format!(
        "{}, {} of {}",
        count(total.releases, "release"),
        count(total.objects, "object"),
        bytes(total.bytes)
    )
}

fn table(lines: &[CollectLine], ui: &Ui) -> Table {
    let mut table = Table::new(&["fate", "what", ">size", "why"]);
    for line in lines {
        let name: String = match line.kind.as_str() {
            "release" => line.name.clone(),
            _ => line.name.chars().take(12).collect(),
        };
        let reasons: Vec<&str> = line.reasons.iter().map(|reason| &*reason.words).collect();
        let why = match line.since_ms {
            0 => reasons.join("; "),
            since_ms => format!("needed by nothing since {}", ui.time(since_ms)),
        };
        table.row([
            clean(&line.fate),
            format!("{} {}", clean(&line.kind), clean(&name)),
            bytes(line.bytes),
            clean(&why),
        ]);
    }
    table
}
