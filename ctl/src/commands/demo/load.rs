//! Users: the load generator and the follower of pages, as children.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error::{CommandError, Exit};

/// For the generator to say that something happened.
const PATIENCE: Duration = Duration::from_secs(20);

/// One release's answers; microseconds since 1970.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct Seen {
    pub answers: u64,
    pub first_us: u64,
    pub last_us: u64,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct Quantiles {
    #[serde(default)]
    pub p99: f64,
}

#[derive(Debug, Clone, Default, Deserialize)]
pub struct Population {
    #[serde(default)]
    pub latency_ms: Quantiles,
}

/// What matters here of a report.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Report {
    #[serde(default)]
    pub sent: u64,
    #[serde(default)]
    pub ok: u64,
    #[serde(default)]
    pub failed: u64,
    #[serde(default)]
    pub failures: BTreeMap<String, u64>,
    #[serde(default)]
    pub releases: BTreeMap<String, Seen>,
    #[serde(default)]
    pub connection: Population,
    #[serde(default)]
    pub keep_alive: Population,
    #[serde(default)]
    pub late_starts: u64,
}

impl Report {
    pub fn of(&self, release: u64) -> Seen {
        self.releases
            .get(&release.to_string())
            .copied()
            .unwrap_or_default()
    }
}

/// Users who ask without pause, until told to stop.
#[derive(Debug)]
pub struct Users {
    child: Child,
    /// Closed, they stop.
    stdin: Option<ChildStdin>,
    reports: watch::Receiver<Report>,
    reading: JoinHandle<()>,
}

impl Users {
    /// `rate` requests per second of each kind, over all `targets` in turn.
    pub fn start(ship_load: &Path, targets: &[String], rate: u32) -> Result<Self, CommandError> {
        let mut command = Command::new(ship_load);
        command.args(["run", "--json", "--progress", "100ms", "--rate"]);
        command
            .arg(rate.to_string())
            .arg("--keep-alive-rate")
            .arg(rate.to_string());
        for target in targets {
            command.arg("--target").arg(target);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| CommandError::internal("start ship-load", source))?;
        let stdin = child.stdin.take();
        let (tell, reports) = watch::channel(Report::default());
        let out = child.stdout.take();
        let reading = tokio::spawn(async move {
            let Some(out) = out else { return };
            let mut lines = BufReader::new(out).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if let Ok(report) = serde_json::from_str(&line) {
                    tell.send_replace(report);
                }
            }
        });
        Ok(Self {
            child,
            stdin,
            reports,
            reading,
        })
    }

    pub fn reports(&self) -> watch::Receiver<Report> {
        self.reports.clone()
    }

    /// Waits until a report says so.
    pub async fn until(&mut self, what: &str, says: impl FnMut(&Report) -> bool) -> Result<(), CommandError> {
        let waiting = tokio::time::timeout(PATIENCE, self.reports.wait_for(says)).await;
        match waiting {
            Ok(Ok(_)) => Ok(()),
            _ => Err(CommandError::new(
                Exit::Error,
                format!(
                    "the load generator did not see {what} within {} s",
                    PATIENCE.as_secs()
                ),
            )),
        }
    }

    /// Sends the users home; every request that was begun is waited for.
    pub async fn stop(mut self) -> Result<Report, CommandError> {
        drop(self.stdin.take());
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        if !matches!(ended, Ok(Ok(_))) {
            return Err(CommandError::new(Exit::Error, "the load generator did not end"));
        }
        let _ = self.reading.await;
        Ok(self.reports.borrow().clone())
    }
}

/// What the follower found.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Followed {
    pub pages: u64,
    pub assets_asked: u64,
    pub missing: u64,
    pub changed: u64,
    #[serde(default)]
    pub bad: u64,
    #[serde(default)]
    pub failed: Vec<FailedAsset>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct FailedAsset {
    pub url: String,
    #[serde(default)]
    pub detail: String,
}

/// Follows `pages` to their assets, at their own host and at every base, and asks for all of `history` again.
pub async fn follow(
    ship_load: &Path,
    pages: &[String],
    bases: &[String],
    history: &Path,
) -> Result<Followed, CommandError> {
    let mut command = Command::new(ship_load);
    command.arg("follow").arg("--history").arg(history);
    for (flag, urls) in [("--page", pages), ("--asset-base", bases)] {
        for url in urls {
            command.arg(flag).arg(url);
        }
    }
    let output = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|source| CommandError::internal("start ship-load", source))?;
    serde_json::from_slice(&output.stdout).map_err(|source| {
        CommandError::internal("understand the follower of pages", source)
            .with_last_lines(String::from_utf8_lossy(&output.stderr).lines())
    })
}
