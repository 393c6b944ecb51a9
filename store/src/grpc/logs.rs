//! Lines of many hosts as one stream.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::{self, SelectAll};
use ship_model::name::{EnvName, HostName};
use ship_proto::v1;
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use super::face::{Answers, Face};
use super::sessions::{Answers as HostAnswers, notice};

/// How long hosts may take to send what they have.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most lines that are held to be put in order.
const HELD: usize = 100_000;

/// Newest `query.lines` lines of `hosts` in order of time, or with `follow` every line as it comes.
pub async fn lines(
    face: &Face,
    env: &EnvName,
    hosts: Vec<HostName>,
    query: v1::LogsQuery,
) -> Answers<v1::LogLine> {
    let (mut silent, mut asked) = (Vec::new(), Vec::new());
    for host in hosts {
        match face.sessions.ask(env, &host, query.clone()) {
            Some(answers) => asked.push((host, answers)),
            None => silent.push(notice(
                &host,
                "not connected: its lines are missing here".to_owned(),
            )),
        }
    }
    if query.follow {
        return follow(face, silent, asked);
    }
    let mut lines = gather(asked).await;
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

fn follow(
    face: &Face,
    silent: Vec<v1::LogLine>,
    asked: Vec<(HostName, HostAnswers)>,
) -> Answers<v1::LogLine> {
    let mut all = SelectAll::new();
    for (host, answers) in asked {
        let replies = stream::unfold((host, answers, false), |(host, mut answers, over)| async move {
            if over {
                return None;
            }
            let (lines, over) = match answers.next().await {
                Some(reply) => {
                    let over = reply.done;
                    (worded(&host, reply), over)
                }
                None => (vec![notice(&host, "the connection was lost".to_owned())], true),
            };
            Some((stream::iter(lines), (host, answers, over)))
        });
        all.push(Box::pin(replies.flatten()));
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
