//! Keepers outlive agents on purpose. Whoever made the whole fleet also ends them: by their own sockets, and what a dead
//! one left running by its journal.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde::Deserialize;

use super::orphans::{orphans, signal_group};
use super::process::ProcessId;
use crate::clock::Watch;

/// For one question.
const ANSWER: Duration = Duration::from_secs(2);
/// For an app to drain and stop.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(20);
/// Largest answer that is read.
const MAX_ANSWER: u64 = 1 << 20;

/// What matters here of a keeper's status.
#[derive(Debug, Deserialize)]
struct Reply {
    status: Option<Status>,
}

#[derive(Debug, Deserialize)]
struct Status {
    pid: u32,
    #[serde(default)]
    generations: Vec<Generation>,
}

#[derive(Debug, Deserialize)]
struct Generation {
    #[serde(default)]
    processes: Vec<Process>,
}

#[derive(Debug, Deserialize)]
struct Process {
    pid: Option<u32>,
    #[serde(default)]
    start_ticks: u64,
}

/// Stops every keeper of `hosts`, which are the hosts' folders, all at once, and their apps with them.
pub async fn stop(hosts: Vec<PathBuf>) {
    let stopping = hosts
        .into_iter()
        .map(|host| tokio::task::spawn_blocking(move || stop_host(&host)));
    futures::future::join_all(stopping).await;
}

fn stop_host(host: &Path) {
    std::thread::scope(|scope| {
        for socket in sockets(&host.join("run")) {
            scope.spawn(move || stop_one(&socket));
        }
    });
    let folders = std::fs::read_dir(host.join("state/keeper"))
        .into_iter()
        .flatten()
        .flatten();
    let left: Vec<ProcessId> = folders.flat_map(|folder| orphans(&folder.path())).collect();
    left.iter().for_each(|id| signal_group(*id, Signal::TERM));
    if !have_ended(&left) {
        left.iter().for_each(|id| signal_group(*id, Signal::KILL));
    }
}

/// Waits for all of them; false when one is still there.
fn have_ended(ids: &[ProcessId]) -> bool {
    let time = Watch::start();
    while ids.iter().any(|id| id.is_alive()) {
        if time.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(LOOK);
    }
    true
}

fn sockets(run: &Path) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(run).into_iter().flatten().flatten();
    folders
        .map(|folder| folder.path().join("keeper.sock"))
        .filter(|socket| std::fs::symlink_metadata(socket).is_ok())
        .collect()
}

fn stop_one(socket: &Path) {
    // Nobody listens: the keeper has ended before.
    let Ok(line) = ask(socket, "status") else { return };
    let ours = processes(&line);
    // Were it not to answer, the wait below ends it.
    drop(ask(socket, "stop"));
    if !have_ended(&ours) {
        ours.iter().for_each(|id| id.signal(Signal::KILL));
    }
}

/// The keeper first, then what it started.
fn processes(line: &str) -> Vec<ProcessId> {
    let status = serde_json::from_str::<Reply>(line)
        .ok()
        .and_then(|reply| reply.status);
    let Some(status) = status else {
        return Vec::new();
    };
    let apps = status
        .generations
        .iter()
        .flat_map(|generation| &generation.processes);
    let apps = apps.filter_map(|process| {
        Some(ProcessId {
            pid: process.pid?,
            start_ticks: process.start_ticks,
        })
    });
    ProcessId::of(status.pid).into_iter().chain(apps).collect()
}

fn ask(socket: &Path, op: &str) -> io::Result<String> {
    let mut stream = connect(socket)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    writeln!(stream, "{{\"v\":1,\"op\":\"{op}\"}}")?;
    let mut line = String::new();
    BufReader::new(stream.take(MAX_ANSWER)).read_line(&mut line)?;
    Ok(line)
}

/// Through the folder's descriptor, since a socket's own path has room for 107 bytes only.
fn connect(socket: &Path) -> io::Result<UnixStream> {
    let folder = std::fs::File::open(socket.parent().unwrap_or(Path::new(".")))?;
    let name = socket.file_name().unwrap_or_default();
    let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
    UnixStream::connect(short)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn long_paths_and_absent_keepers() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("d".repeat(120)).join("web");
        std::fs::create_dir_all(&run).unwrap();
        let handle = std::fs::File::open(&run).unwrap();
        let listener =
            UnixListener::bind(format!("/proc/self/fd/{}/keeper.sock", handle.as_raw_fd())).unwrap();
        let answering = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap())
                .read_line(&mut line)
                .unwrap();
            writeln!(stream, "{{\"v\":1,\"reply\":\"accepted\"}}").unwrap();
            line
        });
        let socket = sockets(run.parent().unwrap()).remove(0);
        assert!(ask(&socket, "stop").unwrap().contains("accepted"));
        assert_eq!(answering.join().unwrap(), "{\"v\":1,\"op\":\"stop\"}\n");
        assert!(ask(&socket, "stop").is_err(), "nobody listens any more");
    }

    #[test]
    fn who_is_named_in_a_status() {
        let me = std::process::id();
        let line = format!(
            "{{\"v\":1,\"reply\":\"status\",\"status\":{{\"pid\":{me},\"x\":1,\"generations\":[{{\"processes\":[{{\"pid\":7,\"start_ticks\":9}},{{\"pid\":null}}]}}]}}}}"
        );
        let found = processes(&line);
        assert_eq!(found.len(), 2);
        assert_eq!(
            found[1],
            ProcessId {
                pid: 7,
                start_ticks: 9
            }
        );
        assert!(processes("{\"v\":1,\"reply\":\"accepted\"}").is_empty());
    }
}
