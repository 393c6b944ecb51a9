//! `shipctl logs`.

use clap::Args;
use ship_model::name::{AppName, HostName};
use ship_model::release::ReleaseRef;
use ship_proto::v1::{LogLine, LogsRequest};

use super::{Fleet, Outcome, subject};
use crate::args::Global;
use crate::error::Exit;
use crate::ui::{DIM, Ui, paint};
use crate::words::{clean, rfc3339};

/// Show what an app, its keeper and its agents wrote on all hosts
#[derive(Debug, Args)]
#[command(after_help = "\
Every line has app, host, pid, release and deploy, whatever the app itself writes.
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
    let mut lines = fleet.client.fleet().logs(request).await?.into_inner();
    loop {
        let next = tokio::select! {
            next = lines.message() => next?,
            _ = tokio::signal::ctrl_c() => None,
        };
        let Some(line) = next.filter(|_| !ui.is_deaf()) else {
            return Ok(Exit::Done);
        };
        show(&line, ui);
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
