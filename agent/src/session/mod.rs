//! The line to the store: dials out, says what is, hears what should be, and heals by itself.
//!
//! It meets the rest of the agent in two watch channels: desired states go in, reports come out. That the line is down is
//! told, and changes nothing else: apps run on, and what was desired last stays desired.

mod asked;
mod give;
mod logs;

pub use asked::Asked;
pub(crate) use logs::read;

use std::sync::Arc;
use std::time::Duration;

use ship_model::desired::DesiredHost;
use ship_model::name::{EnvName, HostName};
use ship_model::report::HostReport;
use ship_proto::v1::agents_client::AgentsClient;
use ship_proto::{MAX_MESSAGE, WireError, v1};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status, Streaming};

use crate::clock;
use crate::dial::Dial;
use crate::fetch::{Backoff, Told, channel_to};
use crate::layout::HostLayout;

/// For the store to answer a call, and to take a message.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between reports, unless the store says otherwise.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Reports that come together leave together.
const GATHER: Duration = Duration::from_millis(10);

/// Whether the store is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreLink {
    pub connected: bool,
    /// Why not; empty when it is.
    pub error: String,
}

/// Why a session ended.
#[derive(Debug, Error)]
pub enum SessionError {
    #[error("the store cannot be reached")]
    Call(#[source] Box<Status>),
    #[error("the store did not answer within {} s", PATIENCE.as_secs())]
    Silent,
    #[error("the store takes no more messages")]
    Stuck,
    #[error("the store ended the session; another agent may have taken this host's place")]
    Ended,
    #[error("the store sent something malformed")]
    Wire(#[source] WireError),
}

/// Keeps one session after another.
#[derive(Debug)]
pub struct Session {
    pub env: EnvName,
    pub host: HostName,
    pub dial: Arc<Dial>,
    pub layout: HostLayout,
    pub desired: watch::Sender<Option<DesiredHost>>,
    /// Where content can be had besides the store.
    pub sources: watch::Sender<Told>,
    pub reports: watch::Receiver<HostReport>,
    pub link: watch::Sender<StoreLink>,
    pub asked: Asked,
}

impl Session {
    /// Runs until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = self.once(&mut backoff) => ended,
            };
            let pause = backoff.failed();
            self.tell(&ended, pause);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn tell(&self, ended: &SessionError, pause: Duration) {
        let error = chain(ended);
        let was = self.link.send_replace(StoreLink {
            connected: false,
            error: error.clone(),
        });
        // Said once, not at every try.
        if was.connected || was.error != error {
            tracing::warn!(error, store = %self.dial.store(), "no session with the store; apps run on");
        } else {
            tracing::debug!(
                error,
                pause_ms = pause.as_millis() as u64,
                "still no session with the store"
            );
        }
    }

    async fn once(&mut self, backoff: &mut Backoff) -> SessionError {
        match self.connect().await {
            Ok(line) => match self.talk(line, backoff).await {
                Ok(never) => match never {},
                Err(error) => error,
            },
            Err(error) => error,
        }
    }

    async fn connect(&self) -> Result<Line, SessionError> {
        let (out, messages) = mpsc::channel(16);
        let hello = v1::agent_message::Message::Hello(v1::Hello {
            env: self.env.to_string(),
            host: self.host.to_string(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        });
        send(&out, hello).await?;
        let mut client = AgentsClient::new(channel_to(&self.dial)).max_decoding_message_size(MAX_MESSAGE);
        let mut request = Request::new(ReceiverStream::new(messages));
        crate::fetch::name_protocol(&mut request);
        let answer = tokio::time::timeout(PATIENCE, client.session(request)).await;
        let answer = answer.map_err(|_| SessionError::Silent)?;
        let inbound = answer
            .map_err(|status| SessionError::Call(Box::new(status)))?
            .into_inner();
        Ok(Line { out, inbound })
    }

    async fn talk(
        &mut self,
        mut line: Line,
        backoff: &mut Backoff,
    ) -> Result<std::convert::Infallible, SessionError> {
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Until the store says that it wants to know.
        self.asked.connected(false);
        let gives = give::Gives::new(self.layout.clone(), Arc::clone(&self.dial));
        let mut logs = logs::Queries::new(self.layout.clone(), self.host.clone(), line.out.clone());
        loop {
            tokio::select! {
                _ = heartbeat.tick() => {
                    self.report(&line).await?;
                    self.tell_asked(&line).await?;
                }
                changed = self.reports.changed() => {
                    changed.map_err(|_| SessionError::Ended)?;
                    tokio::time::sleep(GATHER).await;
                    self.report(&line).await?;
                    heartbeat.reset();
                }
                message = line.inbound.message() => {
                    let message = message.map_err(|status| SessionError::Call(Box::new(status)))?;
                    match message.ok_or(SessionError::Ended)?.message {
                        Some(v1::store_message::Message::Welcome(welcome)) => {
                            heartbeat = self.welcomed(&welcome);
                            self.asked.connected(welcome.hears_asked);
                        }
                        Some(v1::store_message::Message::Desired(desired)) => {
                            self.take(desired)?;
                            backoff.succeeded();
                        }
                        Some(v1::store_message::Message::Logs(query)) => logs.hear(query),
                        Some(v1::store_message::Message::Taken(taken)) => self.asked.taken(&taken),
                        Some(v1::store_message::Message::Sources(told)) => {
                            self.sources.send_replace(told.into());
                        }
                        Some(v1::store_message::Message::Wanted(wanted)) => gives.hear(&wanted),
                        // A newer store may say more than this version understands.
                        None => {}
                    }
                }
            }
        }
    }

    fn welcomed(&self, welcome: &v1::Welcome) -> tokio::time::Interval {
        let every = match welcome.heartbeat_ms {
            0 => HEARTBEAT,
            ms => Duration::from_millis(ms.clamp(50, 60_000)),
        };
        self.link.send_replace(StoreLink {
            connected: true,
            error: String::new(),
        });
        tracing::info!(store = %self.dial.store(), version = welcome.store_version, "session with the store");
        let mut heartbeat = tokio::time::interval(every);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        heartbeat
    }

    async fn report(&mut self, line: &Line) -> Result<(), SessionError> {
        let report = self.reports.borrow_and_update().clone();
        send(&line.out, v1::agent_message::Message::Report(report.into())).await
    }

    async fn tell_asked(&mut self, line: &Line) -> Result<(), SessionError> {
        match self.asked.next(clock::now()) {
            Some(asked) => send(&line.out, v1::agent_message::Message::Asked(asked)).await,
            None => Ok(()),
        }
    }

    fn take(&self, desired: v1::DesiredHost) -> Result<(), SessionError> {
        let desired = DesiredHost::try_from(desired).map_err(SessionError::Wire)?;
        self.desired.send_if_modified(|known| {
            let new = known.as_ref() != Some(&desired);
            *known = Some(desired);
            new
        });
        Ok(())
    }
}

struct Line {
    out: mpsc::Sender<v1::AgentMessage>,
    inbound: Streaming<v1::StoreMessage>,
}

async fn send(
    out: &mpsc::Sender<v1::AgentMessage>,
    message: v1::agent_message::Message,
) -> Result<(), SessionError> {
    let message = v1::AgentMessage {
        message: Some(message),
    };
    match tokio::time::timeout(PATIENCE, out.send(message)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(SessionError::Ended),
        Err(_) => Err(SessionError::Stuck),
    }
}

/// An error with all its sources, for one line of text.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let said = source.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = source.source();
    }
    text
}
