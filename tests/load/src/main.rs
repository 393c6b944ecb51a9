//! `ship-load`: sends load and tells what became of every request, or follows pages to their assets.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use ship_load::follow::{FollowPlan, FollowReport, follow};
use ship_load::run::{Plan, run};
use ship_load::stop::Stop;
use ship_load::tally::Report;
use ship_load::target::Target;

#[derive(Debug, Parser)]
#[command(
    name = "ship-load",
    version,
    about = "Open-loop HTTP load that names every failure"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send requests at fixed times, whatever the server does. Exit 1 when any failed.
    Run(RunArguments),
    /// Fetch pages and every asset they lead to. Exit 1 when anything is missing or wrong.
    Follow(FollowArguments),
}

#[derive(Debug, clap::Args)]
struct RunArguments {
    /// What to ask; several are asked in turn.
    #[arg(long = "target", required_unless_present_any = ["streams", "websockets"], value_name = "URL")]
    targets: Vec<Target>,
    /// Ask targets with POST and a small body, which nobody on the way may send twice.
    #[arg(long)]
    post: bool,
    /// Requests per second that each open a connection.
    #[arg(long, default_value_t = 100, value_name = "N")]
    rate: u32,
    /// Requests per second over connections that stay open.
    #[arg(long, default_value_t = 100, value_name = "N")]
    keep_alive_rate: u32,
    /// Connections per target that keep-alive requests take turns on.
    #[arg(long, default_value_t = 8, value_name = "N")]
    connections: usize,
    /// An answer that takes long, each on a connection of its own; several are asked for in turn.
    #[arg(long = "stream", value_name = "URL")]
    streams: Vec<Target>,
    /// Streams begun per second.
    #[arg(long, default_value_t = 1, value_name = "N")]
    stream_rate: u32,
    /// How long one stream may take.
    #[arg(long, value_parser = duration, default_value = "2m", value_name = "TIME")]
    stream_timeout: Duration,
    /// Where WebSockets are opened that expect their text back, written http://.
    #[arg(long = "websocket", value_name = "URL")]
    websockets: Vec<Target>,
    /// WebSockets open at once, over all their URLs.
    #[arg(long, default_value_t = 8, value_name = "N")]
    sockets: usize,
    /// Between two messages of one WebSocket.
    #[arg(long, value_parser = duration, default_value = "200ms", value_name = "TIME")]
    message_every: Duration,
    /// How long to send, such as 500ms, 10s or 2m; without it, until SIGTERM, SIGINT or the end of a piped input.
    /// A line `window NAME` there begins a stretch of time whose latencies are told apart.
    #[arg(long, value_parser = duration, value_name = "TIME")]
    duration: Option<Duration>,
    /// How long one request may take.
    #[arg(long, value_parser = duration, default_value = "10s", value_name = "TIME")]
    timeout: Duration,
    /// How long connecting may take.
    #[arg(long, value_parser = duration, default_value = "5s", value_name = "TIME")]
    connect_timeout: Duration,
    /// Requests open at once; what is due beyond it counts as not sent.
    #[arg(long, default_value_t = 4000, value_name = "N")]
    max_open: usize,
    /// One JSON object per line: progress, and at the end the summary.
    #[arg(long)]
    json: bool,
    /// How often to tell progress.
    #[arg(long, value_parser = duration, value_name = "TIME")]
    progress: Option<Duration>,
}

#[derive(Debug, clap::Args)]
struct FollowArguments {
    /// Page to fetch; may be given several times.
    #[arg(long = "page", required = true, value_name = "URL")]
    pages: Vec<Target>,
    /// Another origin that must serve every asset; may be given several times.
    #[arg(long = "asset-base", value_name = "URL")]
    asset_bases: Vec<Target>,
    /// Remember every immutable asset in this file, and ask for all of them again.
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// The names carry fingerprints of another kind than BLAKE3.
    #[arg(long)]
    any_fingerprint: bool,
    /// How long one page or asset may take.
    #[arg(long, value_parser = duration, default_value = "10s", value_name = "TIME")]
    timeout: Duration,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run(arguments) => run_load(arguments),
        Command::Follow(arguments) => follow_pages(arguments),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run_load(arguments: RunArguments) -> anyhow::Result<bool> {
    let plan = Plan {
        post: arguments.post,
        rate: arguments.rate,
        keep_alive_rate: arguments.keep_alive_rate,
        connections: arguments.connections,
        streams: arguments.streams,
        stream_rate: arguments.stream_rate,
        stream_timeout: arguments.stream_timeout,
        websockets: arguments.websockets,
        sockets: arguments.sockets,
        message_every: arguments.message_every,
        duration: arguments.duration,
        timeout: arguments.timeout,
        connect_timeout: arguments.connect_timeout,
        max_open: arguments.max_open,
        progress: arguments.progress,
        ..Plan::new(arguments.targets)
    };
    let mut stop = Stop::new().context("set up the ways to stop")?;
    stop.on_signals().context("watch for signals")?;
    if plan.duration.is_none() {
        stop.on_end_of_input();
    }
    let handle = stop.handle();
    let json = arguments.json;
    let mut told = Ok(());
    let summary = run(&plan, &mut stop, &mut |report| {
        if told.is_ok() {
            told = tell(json, report);
        }
        if told.is_err() {
            // Whoever read the progress is gone, and with it the reason to go on.
            handle.stop();
        }
    })?;
    told.and_then(|()| tell(json, &summary))
        .context("write the report")?;
    Ok(summary.failed == 0)
}

fn follow_pages(arguments: FollowArguments) -> anyhow::Result<bool> {
    let plan = FollowPlan {
        asset_bases: arguments.asset_bases,
        history: arguments.history,
        check_fingerprints: !arguments.any_fingerprint,
        timeout: arguments.timeout,
        ..FollowPlan::new(arguments.pages)
    };
    let report: FollowReport = follow(&plan)?;
    write_line(&serde_json::to_string(&report)?).context("write the report")?;
    Ok(report.sound())
}

fn tell(json: bool, report: &Report) -> io::Result<()> {
    if json {
        write_line(&serde_json::to_string(report)?)
    } else {
        write_line(&sentence(report))
    }
}

fn write_line(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// A report in one line for people.
fn sentence(report: &Report) -> String {
    let failures: Vec<String> = report
        .failures
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(class, count)| format!("{count} {class:?}"))
        .collect();
    let releases: Vec<String> = report
        .releases
        .iter()
        .map(|(name, seen)| format!("{name}: {}", seen.answers))
        .collect();
    let mut sentence = format!(
        "{:.1} s: {} due, {} ok, {} failed [{}]; answered by [{}]; p99 {:.1} / {:.1} ms, {} keep-alive cuts, {} late starts",
        report.seconds,
        report.due,
        report.ok,
        report.failed,
        failures.join(", "),
        releases.join(", "),
        report.connection.latency_ms.p99,
        report.keep_alive.latency_ms.p99,
        report.keep_alive_cuts,
        report.late_starts
    );
    if report.stream.due > 0 {
        let stream = &report.stream;
        sentence += &format!("; streams: {} whole, {} cut", stream.ok, stream.failed);
    }
    if report.websocket.due > 0 {
        let sockets = &report.websocket;
        sentence += &format!(
            "; WebSockets: {} opened, {} moved, {} cut; {} of {} messages echoed",
            sockets.opened, sockets.moved, sockets.failed, sockets.echoed, sockets.due
        );
    }
    sentence
}

/// `500ms`, `10s`, `2m`, or bare seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("{text:?} is no time; write 500ms, 10s or 2m"))?;
    match &text[digits.len()..] {
        "ms" => Ok(Duration::from_millis(number)),
        "s" | "" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        _ => Err(format!("{text:?} is no time; write 500ms, 10s or 2m")),
    }
}
