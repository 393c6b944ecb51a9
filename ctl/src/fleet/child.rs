//! One long-running child: started again when it dies, its words in a bounded file, ended in order.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::log::{LastLines, Log};
use super::process::ProcessId;
use super::record::Book;
use crate::clock::Watch;

/// Before a dead child is started again: first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));
/// A child that lived this long starts anew with the first pause.
const STEADY: Duration = Duration::from_secs(30);
/// How long a child may take to end when asked.
const PATIENCE: Duration = Duration::from_secs(12);
/// Longest line that is kept whole.
const MAX_LINE: usize = 16 << 10;

/// What to run.
#[derive(Debug, Clone)]
pub struct ChildPlan {
    /// `store`, `h1`: names its log and its place in the record.
    pub name: String,
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    pub log: PathBuf,
}

/// What is worth telling of a child.
#[derive(Debug)]
pub struct Ended {
    pub name: String,
    /// How it ended, or why it could not be started.
    pub how: String,
    pub last_lines: Vec<String>,
    /// Until it is started again.
    pub pause: Duration,
}

/// A child that is looked after.
#[derive(Debug)]
pub struct Tended {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Tended {
    /// Starts it, and again whenever it dies.
    pub fn start(plan: ChildPlan, book: Arc<Book>, news: mpsc::Sender<Ended>) -> Self {
        let (stop, stopped) = watch::channel(false);
        Self {
            stop,
            task: tokio::spawn(tend(plan, book, news, stopped)),
        }
    }

    /// Asks it to end, and returns when it has.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        // A task that was lost has dropped its child, which kills it.
        let _ = self.task.await;
    }
}

async fn tend(plan: ChildPlan, book: Arc<Book>, news: mpsc::Sender<Ended>, mut stop: watch::Receiver<bool>) {
    let mut pause = PAUSE.0;
    while !*stop.borrow() {
        let time = Watch::start();
        let (how, last_lines) = match run(&plan, &book, &mut stop).await {
            Ok(Some((status, last))) => (words(status), last.get()),
            Ok(None) => return,
            Err(error) => (format!("could not be started: {error}"), Vec::new()),
        };
        if time.elapsed() >= STEADY {
            pause = PAUSE.0;
        }
        let ended = Ended {
            name: plan.name.clone(),
            how,
            last_lines,
            pause,
        };
        // Nobody listens any more when everything is being stopped; news that finds no room is old news.
        let _ = news.try_send(ended);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stop.changed() => {}
        }
        pause = (pause * 2).min(PAUSE.1);
    }
}

fn words(status: ExitStatus) -> String {
    match status.code() {
        Some(code) => format!("ended with exit code {code}"),
        None => format!("ended: {status}"),
    }
}

/// One life of it; none when it was asked to end.
async fn run(
    plan: &ChildPlan,
    book: &Book,
    stop: &mut watch::Receiver<bool>,
) -> std::io::Result<Option<(ExitStatus, LastLines)>> {
    let mut log = Log::open(plan.log.clone())?;
    let last = log.last_lines();
    let mut child = spawn(plan)?;
    let id = child.id().and_then(ProcessId::of);
    note(book, &plan.name, id);
    let lines = (child.stdout.take(), child.stderr.take());
    let copying = tokio::spawn(async move {
        if let (Some(out), Some(err)) = lines {
            copy(out, err, &mut log).await;
        }
    });
    let status = tokio::select! {
        status = child.wait() => Some(status?),
        _ = stop.changed() => None,
    };
    if status.is_none() {
        end(&mut child, id).await;
    }
    // Grandchildren may hold the pipes open: what is said after the end is not waited for.
    let _ = tokio::time::timeout(Duration::from_millis(300), copying).await;
    note(book, &plan.name, None);
    Ok(status.map(|status| (status, last)))
}

fn spawn(plan: &ChildPlan) -> std::io::Result<Child> {
    Command::new(&plan.program)
        .args(&plan.arguments)
        .env_remove("NOTIFY_SOCKET")
        .env_remove("LISTEN_FDS")
        .env_remove("LISTEN_PID")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // Ctrl-C goes to the whole foreground group: only this process shall hear it, and end the others in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// Remembers which process is ours, so that the next `up` can end it should this one be killed.
fn note(book: &Book, name: &str, id: Option<ProcessId>) {
    let changed = book.change(|record| {
        match id {
            Some(id) => record.processes.insert(name.to_owned(), id),
            None => record.processes.remove(name),
        };
    });
    // A full disk must not stop the fleet; the folder's own locks still keep two from running.
    drop(changed);
}

async fn end(child: &mut Child, id: Option<ProcessId>) {
    if let Some(id) = id {
        id.signal(Signal::TERM);
    }
    if tokio::time::timeout(PATIENCE, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

/// Copies both streams, line by line, until both have ended.
async fn copy(out: impl AsyncRead + Unpin, err: impl AsyncRead + Unpin, log: &mut Log) {
    let (mut out, mut err) = (BufReader::new(out), BufReader::new(err));
    let (mut out_line, mut err_line) = (Vec::new(), Vec::new());
    let (mut out_open, mut err_open) = (true, true);
    while out_open || err_open {
        tokio::select! {
            open = take(&mut out, &mut out_line), if out_open => { out_open = open; flush(&mut out_line, log); }
            open = take(&mut err, &mut err_line), if err_open => { err_open = open; flush(&mut err_line, log); }
        }
    }
}

/// Reads on until a line is whole or very long; false at the end. What was read stays in `line` when this is
/// dropped half-way.
async fn take(from: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> bool {
    loop {
        let Ok(bytes) = from.fill_buf().await else {
            return false;
        };
        if bytes.is_empty() {
            return false;
        }
        let newline = bytes.iter().position(|byte| *byte == b'\n');
        let length = newline.map_or(bytes.len(), |at| at + 1);
        line.extend_from_slice(&bytes[..newline.unwrap_or(bytes.len())]);
        from.consume(length);
        if newline.is_some() || line.len() >= MAX_LINE {
            return true;
        }
    }
}

fn flush(line: &mut Vec<u8>, log: &mut Log) {
    if !line.is_empty() {
        log.line(line);
        line.clear();
    }
}
