//! `shipctl logs`.

use std::cell::RefCell;
use std::collections::HashMap;

use clap::Args;
use ship_model::name::{AppName, HostName};
use ship_model::release::ReleaseRef;
use ship_proto::v1::{LogLine, LogsRequest};

use super::follow::{Said, follow};
use super::{Fleet, Outcome, subject};
use crate::args::Global;
use crate::ui::{DIM, DOUBT, Ui, paint};
use crate::words::{clean, rfc3339};

/// Lines of each host that are asked for again after the line broke; those that were shown are left out.
const CAUGHT_UP: u32 = 1_000;

/// Show what an app, its keeper and its agents wrote on all hosts
#[derive(Debug, Args)]
#[command(after_help = "\
Every line has app, host, pid, release and deploy, whatever the app itself writes. A host
that is not connected is named, since its lines are missing. -f goes on through restarts
of the store.
Examples:
  shipctl logs web -n 20
  shipctl logs web --host h2 --release 5 -f")]
pub struct Logs {
    /// App
    app: Option<AppName>,
    /// Only this host
    #[arg(long, value_name = "HOST")]
    host: Option<HostName>,
    /// Only what this release wrote
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    release: u64,
    /// Go on until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// How many of the last lines, of each host
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    lines: u32,
}

pub async fn run(verb: Logs, global: &Global, ui: &Ui) -> Outcome {
    let fleet = Fleet::reach(global).await?;
    let typed = verb.app.map(|app| ReleaseRef {
        app: Some(app),
        number: None,
    });
    let subject = subject::subject(typed.as_ref(), &fleet.context)?;
    let request = LogsRequest {
        env: fleet.context.env.to_string(),
        app: subject.app.to_string(),
        host: verb.host.map(|host| host.to_string()).unwrap_or_default(),
        lines: verb.lines,
        follow: verb.follow,
        release: verb.release,
    };
    let seen = RefCell::new(Seen::default());
    follow(
        verb.follow,
        ui,
        |again| {
            let mut request = request.clone();
            if again {
                request.lines = request.lines.max(CAUGHT_UP);
            }
            seen.borrow_mut().begin();
            let mut fleet = fleet.client.fleet();
            async move { fleet.logs(request).await }
        },
        |line: &LogLine| {
            if seen.borrow_mut().is_new(line) {
                show(line, ui);
            }
            match is_notice(line) {
                true => Said::Missing,
                false => Said::Item,
            }
        },
    )
    .await
}

/// Up to when each host's lines were shown: a stream that is begun again repeats some.
#[derive(Debug, Default)]
struct Seen {
    newest: HashMap<String, u64>,
    before: HashMap<String, u64>,
    /// What the store said last of a host whose lines are missing.
    notices: HashMap<String, String>,
}

/// The store's own word on a host, which has no time.
fn is_notice(line: &LogLine) -> bool {
    line.at_ms == 0
}

impl Seen {
    fn begin(&mut self) {
        self.before.clone_from(&self.newest);
    }

    fn is_new(&mut self, line: &LogLine) -> bool {
        if is_notice(line) {
            let last = self.notices.insert(line.host.clone(), line.line.clone());
            return last.is_none_or(|last| last != line.line);
        }
        self.notices.remove(&line.host);
        let newest = self.newest.entry(line.host.clone()).or_default();
        *newest = line.at_ms.max(*newest);
        self.before
            .get(&line.host)
            .is_none_or(|before| line.at_ms > *before)
    }
}

fn show(line: &LogLine, ui: &Ui) {
    if ui.is_json() {
        ui.json_line(&serde_json::json!({
            "at": rfc3339(line.at_ms), "app": line.app, "host": line.host, "pid": line.pid,
            "release": line.release, "deploy": line.deploy, "generation": line.generation,
            "stream": line.stream, "line": line.line,
        }));
        return;
    }
    if is_notice(line) {
        let notice = format!("{}: {}", clean(&line.host), clean(&line.line));
        ui.line(paint(DOUBT, notice));
        return;
    }
    ui.line(format!(
        "{} {}@{} {} {} {}",
        paint(DIM, ui.time(line.at_ms)),
        clean(&line.app),
        line.release,
        clean(&line.host),
        paint(DIM, format!("pid {} {}", line.pid, clean(&line.stream))),
        clean(&line.line)
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_is_begun_again_repeats_nothing() {
        let line = |host: &str, at_ms| LogLine {
            host: host.into(),
            at_ms,
            ..LogLine::default()
        };
        let mut seen = Seen::default();
        seen.begin();
        for (host, at) in [("h1", 5), ("h1", 5), ("h2", 3), ("h1", 4)] {
            assert!(seen.is_new(&line(host, at)), "a first stream is shown whole");
        }
        seen.begin();
        for (host, at, new) in [
            ("h1", 5, false),
            ("h2", 3, false),
            ("h2", 4, true),
            ("h3", 1, true),
            ("h1", 0, true),
            ("h1", 0, false),
            ("h1", 6, true),
            ("h1", 0, true),
        ] {
            assert_eq!(seen.is_new(&line(host, at)), new, "{host} {at}");
        }
    }
}
