//! Lines of many hosts as one stream.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{self, SelectAll};
use ship_model::name::{EnvName, HostName};
use ship_proto::v1;
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use super::face::{Answers, Face};
use super::sessions::{Answers as HostAnswers, Sessions, notice};

/// How long hosts may take to send what they have.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most lines that are held to be put in order.
const HELD: usize = 100_000;
/// Lines asked of a host that comes back; those that were passed on are left out.
const CAUGHT_UP: u32 = 1_000;

/// Newest `query.lines` lines of `hosts` in order of time, or with `follow` every line as it comes.
pub async fn lines(
    face: &Face,
    env: &EnvName,
    hosts: Vec<HostName>,
    query: v1::LogsQuery,
) -> Answers<v1::LogLine> {
    let (mut silent, mut asked) = (Vec::new(), Vec::new());
    for host in hosts {
        let answers = face.sessions.ask(env, &host, query.clone());
        if answers.is_none() {
            silent.push(notice(
                &host,
                "not connected: its lines are missing here".to_owned(),
            ));
        }
        asked.push((host, answers));
    }
    if query.follow {
        let followed = asked.into_iter().map(|(host, answers)| Followed {
            sessions: Arc::clone(&face.sessions),
            env: env.clone(),
            host,
            query: query.clone(),
            answers,
            newest_ms: 0,
            from_ms: 0,
            over: false,
        });
        return follow(face, silent, followed.collect());
    }
    let asked = asked
        .into_iter()
        .filter_map(|(host, answers)| Some((host, answers?)));
    let mut lines = gather(asked.collect()).await;
    lines.sort_by_key(|line| line.at_ms);
    let skip = lines.len().saturating_sub(query.lines as usize);
    let newest = lines.into_iter().skip(skip);
    let all: Vec<Result<_, Status>> = silent.into_iter().chain(newest).map(Ok).collect();
    Box::pin(stream::iter(all))
}

async fn gather(asked: Vec<(HostName, HostAnswers)>) -> Vec<v1::LogLine> {
    let deadline = Instant::now() + PATIENCE;
    let mut lines = Vec::new();
    for (host, mut answers) in asked {
        loop {
            match timeout_at(deadline, answers.next()).await {
                Ok(Some(reply)) => {
                    let done = reply.done;
                    lines.extend(worded(&host, reply));
                    if done || lines.len() > HELD {
                        break;
                    }
                }
                Ok(None) => {
                    lines.push(notice(
                        &host,
                        "the connection was lost: lines are missing here".to_owned(),
                    ));
                    break;
                }
                Err(_) => {
                    lines.push(notice(
                        &host,
                        "no answer in time: lines are missing here".to_owned(),
                    ));
                    break;
                }
            }
        }
    }
    lines
}

/// One host whose lines are followed, through whatever becomes of its connection.
struct Followed {
    sessions: Arc<Sessions>,
    env: EnvName,
    host: HostName,
    query: v1::LogsQuery,
    /// None while it is not connected.
    answers: Option<HostAnswers>,
    /// Of the newest line that was passed on.
    newest_ms: u64,
    /// Asked again, it repeats lines up to here.
    from_ms: u64,
    over: bool,
}

impl Followed {
    /// What comes next; none when the host has no more to say.
    async fn next(mut self) -> Option<(Vec<v1::LogLine>, Self)> {
        if self.over {
            return None;
        }
        let Some(mut answers) = self.answers.take() else {
            let asked = self.sessions.ask_when_there(&self.env, &self.host, &self.query);
            self.answers = Some(asked.await);
            return Some((Vec::new(), self));
        };
        let lines = match answers.next().await {
            Some(reply) => {
                self.over = reply.done;
                self.answers = Some(answers);
                self.unseen(reply)
            }
            None => {
                self.query.lines = self.query.lines.max(CAUGHT_UP);
                self.from_ms = self.newest_ms;
                vec![notice(&self.host, "the connection was lost".to_owned())]
            }
        };
        Some((lines, self))
    }

    fn unseen(&mut self, reply: v1::LogsReply) -> Vec<v1::LogLine> {
        let mut lines = worded(&self.host, reply);
        lines.retain(|line| line.at_ms == 0 || line.at_ms > self.from_ms);
        let newest = lines.iter().map(|line| line.at_ms).max();
        self.newest_ms = self.newest_ms.max(newest.unwrap_or(0));
        lines
    }
}

fn follow(face: &Face, silent: Vec<v1::LogLine>, hosts: Vec<Followed>) -> Answers<v1::LogLine> {
    let mut all = SelectAll::new();
    for host in hosts {
        let lines = stream::unfold(host, Followed::next).map(stream::iter);
        all.push(Box::pin(lines.flatten()));
    }
    let stop = face.stop.clone();
    let lines = stream::iter(silent).chain(all).map(Ok);
    Box::pin(lines.take_until(async move { stop.cancelled().await }))
}

/// A reply's lines; what went wrong on the host is one more.
fn worded(host: &HostName, reply: v1::LogsReply) -> Vec<v1::LogLine> {
    let mut lines = reply.lines;
    if !reply.error.is_empty() {
        lines.push(notice(host, reply.error));
    }
    lines
}
