//! The agents that are connected now, and the questions asked of them: one live session per host, the newest.
//!
//! Answers travel through the session's own stream, so whoever asked must never hold it up: a listener that is slow
//! loses lines and is told how many.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ship_model::name::{EnvName, HostName};
use ship_proto::v1;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

/// Messages that wait for one listener at most.
const BACKLOG: usize = 64;
/// Questions that wait for one agent at most.
const QUESTIONS: usize = 32;
/// How often a host that is connected and takes no more questions is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// Every live session.
#[derive(Debug, Default)]
pub struct Sessions {
    live: Mutex<BTreeMap<(EnvName, HostName), Live>>,
    next: AtomicU64,
    /// Somebody took a seat.
    sat: Notify,
}

#[derive(Debug, Clone)]
struct Live {
    id: u64,
    replaced: CancellationToken,
    questions: mpsc::Sender<v1::LogsQuery>,
    listeners: Listeners,
}

type Listeners = Arc<Mutex<HashMap<u64, Listener>>>;

#[derive(Debug)]
struct Listener {
    lines: mpsc::Sender<v1::LogsReply>,
    lost: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One agent's side: held by its session while that lives.
#[derive(Debug)]
pub struct Seat {
    sessions: Arc<Sessions>,
    key: (EnvName, HostName),
    id: u64,
    listeners: Listeners,
    /// Cancelled when a newer session of the same host takes over.
    pub replaced: CancellationToken,
    /// Questions to pass on to the agent.
    pub questions: mpsc::Receiver<v1::LogsQuery>,
}

/// One listener's side: what an agent answers to one question.
#[derive(Debug)]
pub struct Answers {
    request: u64,
    questions: mpsc::Sender<v1::LogsQuery>,
    listeners: Listeners,
    replies: mpsc::Receiver<v1::LogsReply>,
}

impl Sessions {
    /// Takes the seat of `host`; a session that sits there is told to go.
    pub fn sit(self: &Arc<Self>, env: &EnvName, host: &HostName) -> Seat {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, questions) = mpsc::channel(QUESTIONS);
        let live = Live {
            id,
            replaced: CancellationToken::new(),
            questions: sender,
            listeners: Listeners::default(),
        };
        let key = (env.clone(), host.clone());
        let (replaced, listeners) = (live.replaced.clone(), Arc::clone(&live.listeners));
        if let Some(older) = lock(&self.live).insert(key.clone(), live) {
            older.replaced.cancel();
        }
        self.sat.notify_waiters();
        Seat {
            sessions: Arc::clone(self),
            key,
            id,
            listeners,
            replaced,
            questions,
        }
    }

    pub fn is_live(&self, env: &EnvName, host: &HostName) -> bool {
        lock(&self.live).contains_key(&(env.clone(), host.clone()))
    }

    pub fn count(&self) -> usize {
        lock(&self.live).len()
    }

    /// Asks a host for lines; none when it is not connected, or has too many questions open.
    pub fn ask(&self, env: &EnvName, host: &HostName, mut query: v1::LogsQuery) -> Option<Answers> {
        let live = lock(&self.live).get(&(env.clone(), host.clone())).cloned()?;
        let request = self.next.fetch_add(1, Ordering::Relaxed);
        query.request = request;
        let (lines, replies) = mpsc::channel(BACKLOG);
        lock(&live.listeners).insert(request, Listener { lines, lost: 0 });
        let answers = Answers {
            request,
            questions: live.questions.clone(),
            listeners: live.listeners,
            replies,
        };
        // On failure the answers are dropped here, and with them the listener.
        live.questions.try_send(query).ok().map(|()| answers)
    }

    /// Asks a host for lines as soon as it is connected.
    pub async fn ask_when_there(&self, env: &EnvName, host: &HostName, query: &v1::LogsQuery) -> Answers {
        loop {
            // Made before the question, so that who comes between the two is not missed.
            let sat = self.sat.notified();
            if let Some(answers) = self.ask(env, host, query.clone()) {
                return answers;
            }
            tokio::select! {
                () = sat => {}
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }
}

impl Seat {
    /// Hands an answer to whoever asked; never waits.
    pub fn answer(&self, mut reply: v1::LogsReply) {
        let (request, done) = (reply.request, reply.done);
        let mut listeners = lock(&self.listeners);
        let Some(listener) = listeners.get_mut(&request) else {
            return;
        };
        let lines = reply.lines.len() as u64;
        if listener.lost > 0 {
            reply.lines.insert(0, lost_notice(&self.key.1, listener.lost));
        }
        match listener.lines.try_send(reply) {
            Ok(()) => listener.lost = 0,
            Err(_) => listener.lost += lines,
        }
        if done {
            listeners.remove(&request);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut live = lock(&self.sessions.live);
        if live.get(&self.key).is_some_and(|live| live.id == self.id) {
            live.remove(&self.key);
        }
        drop(live);
        // Whoever waits for an answer learns that none will come.
        lock(&self.listeners).clear();
    }
}

impl Answers {
    /// The next answer; none when the agent said it was done, or is gone.
    pub async fn next(&mut self) -> Option<v1::LogsReply> {
        self.replies.recv().await
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        if lock(&self.listeners).remove(&self.request).is_some() {
            // A full queue loses the cancellation: the agent's lines are then dropped as they come.
            let _ = self.questions.try_send(v1::LogsQuery {
                request: self.request,
                cancel: true,
                ..v1::LogsQuery::default()
            });
        }
    }
}

fn lost_notice(host: &HostName, lost: u64) -> v1::LogLine {
    notice(
        host,
        format!("{lost} lines were left out: the reader was too slow"),
    )
}

/// A line of the store's own among a host's.
pub fn notice(host: &HostName, line: String) -> v1::LogLine {
    v1::LogLine {
        host: host.to_string(),
        stream: "store".to_owned(),
        line,
        ..v1::LogLine::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    fn names() -> (EnvName, HostName) {
        ("dev".parse().unwrap(), "h1".parse().unwrap())
    }

    fn reply(request: u64, lines: usize, done: bool) -> v1::LogsReply {
        v1::LogsReply {
            request,
            lines: vec![v1::LogLine::default(); lines],
            done,
            error: String::new(),
        }
    }

    #[tokio::test]
    async fn the_newest_session_of_a_host_wins() {
        let sessions = Arc::new(Sessions::default());
        let (env, host) = names();
        let first = sessions.sit(&env, &host);
        let second = sessions.sit(&env, &host);
        assert!(first.replaced.is_cancelled() && !second.replaced.is_cancelled());
        drop(first);
        assert!(
            sessions.is_live(&env, &host),
            "an old session takes nobody's seat along"
        );
        drop(second);
        assert!(!sessions.is_live(&env, &host));
    }

    #[tokio::test]
    async fn a_slow_reader_loses_lines_and_is_told() {
        let sessions = Arc::new(Sessions::default());
        let (env, host) = names();
        assert!(sessions.ask(&env, &host, v1::LogsQuery::default()).is_none());
        let mut seat = sessions.sit(&env, &host);
        let mut answers = sessions.ask(&env, &host, v1::LogsQuery::default()).unwrap();
        let request = seat.questions.recv().await.unwrap().request;
        for _ in 0..BACKLOG + 5 {
            seat.answer(reply(request, 2, false));
        }
        for _ in 0..BACKLOG {
            assert_eq!(answers.next().await.unwrap().lines.len(), 2);
        }
        seat.answer(reply(request, 1, true));
        let last = answers.next().await.unwrap();
        assert!(
            last.lines[0].line.starts_with("10 lines were left out"),
            "{last:?}"
        );
        assert!(answers.next().await.is_none());
    }

    #[tokio::test]
    async fn a_reader_who_leaves_cancels_its_question() {
        let sessions = Arc::new(Sessions::default());
        let (env, host) = names();
        let mut seat = sessions.sit(&env, &host);
        let answers = sessions.ask(&env, &host, v1::LogsQuery::default()).unwrap();
        let request = seat.questions.recv().await.unwrap().request;
        drop(answers);
        let cancel = seat.questions.recv().await.unwrap();
        assert!(cancel.cancel && cancel.request == request);
        let mut answers = sessions.ask(&env, &host, v1::LogsQuery::default()).unwrap();
        drop(seat);
        assert!(
            answers.next().await.is_none(),
            "a dead session leaves nobody waiting"
        );
    }
}
