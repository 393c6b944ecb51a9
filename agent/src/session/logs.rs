//! The store's questions for log lines, answered on the session they came by; each by a task that ends with it.

use std::collections::HashMap;
use std::time::Duration;

use ship_model::name::{AppName, HostName};
use ship_proto::v1;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::layout::HostLayout;
use crate::logs::{LogReader, Wanted};

/// Questions that may be open at once; a store that asks more is told so.
const MAX_OPEN: usize = 64;
/// Between two looks at a log that is followed.
const LOOK: Duration = Duration::from_millis(200);
/// Lines in one message; with lines of at most 16 KiB it stays below the message's limit.
const BATCH: usize = 200;

/// The open questions of one session.
#[derive(Debug)]
pub(super) struct Queries {
    layout: HostLayout,
    host: HostName,
    out: mpsc::Sender<v1::AgentMessage>,
    open: HashMap<u64, (CancellationToken, DropGuard)>,
}

impl Queries {
    pub fn new(layout: HostLayout, host: HostName, out: mpsc::Sender<v1::AgentMessage>) -> Self {
        Self {
            layout,
            host,
            out,
            open: HashMap::new(),
        }
    }

    /// Begins to answer, or ends the question that `query` names.
    pub fn hear(&mut self, query: v1::LogsQuery) {
        // Tasks that are through have called themselves off.
        self.open.retain(|_, (token, _)| !token.is_cancelled());
        if query.cancel {
            self.open.remove(&query.request);
            return;
        }
        let token = CancellationToken::new();
        let answer = Answer {
            request: query.request,
            out: self.out.clone(),
        };
        let full = self.open.len() >= MAX_OPEN;
        self.open
            .insert(query.request, (token.clone(), token.clone().drop_guard()));
        let reader = match query.app.parse::<AppName>() {
            _ if full => Err(format!(
                "host {} answers {MAX_OPEN} other questions for logs",
                self.host
            )),
            Err(error) => Err(error.to_string()),
            Ok(app) => Ok(LogReader::new(
                self.layout.app(&app).log(),
                Wanted {
                    lines: query.lines,
                    release: query.release,
                },
            )),
        };
        tokio::spawn(async move {
            let work = async {
                match reader {
                    Ok(reader) => answer.stream(reader, query.follow).await,
                    Err(error) => answer.end(error).await,
                }
            };
            tokio::select! { _ = work => {}, () = token.cancelled() => {} }
            token.cancel();
        });
    }
}

struct Answer {
    request: u64,
    out: mpsc::Sender<v1::AgentMessage>,
}

/// The session is over.
struct Over;

impl Answer {
    async fn stream(&self, reader: LogReader, follow: bool) -> Result<(), Over> {
        let mut next = read(reader, LogReader::last).await;
        loop {
            let (reader, lines) = match next {
                Ok(read) => read,
                Err(error) => return self.end(error).await,
            };
            for batch in lines.chunks(BATCH) {
                self.send(batch.to_vec(), false, String::new()).await?;
            }
            if !follow {
                return self.end(String::new()).await;
            }
            tokio::time::sleep(LOOK).await;
            next = read(reader, LogReader::more).await;
        }
    }

    async fn end(&self, error: String) -> Result<(), Over> {
        self.send(Vec::new(), true, error).await
    }

    async fn send(&self, lines: Vec<v1::LogLine>, done: bool, error: String) -> Result<(), Over> {
        let reply = v1::LogsReply {
            request: self.request,
            lines,
            done,
            error,
        };
        let message = v1::AgentMessage {
            message: Some(v1::agent_message::Message::Logs(reply)),
        };
        self.out.send(message).await.map_err(|_| Over)
    }
}

/// Reads on a thread that may block, and gives the reader back.
pub(crate) async fn read(
    mut reader: LogReader,
    step: impl FnOnce(&mut LogReader) -> std::io::Result<Vec<v1::LogLine>> + Send + 'static,
) -> Result<(LogReader, Vec<v1::LogLine>), String> {
    let done = tokio::task::spawn_blocking(move || {
        let lines = step(&mut reader);
        lines.map(|lines| (reader, lines))
    });
    match done.await {
        Ok(Ok(read)) => Ok(read),
        Ok(Err(error)) => Err(format!("cannot read the log: {error}")),
        Err(_) => Err("the reading of the log was broken off".to_owned()),
    }
}
