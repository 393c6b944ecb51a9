//! An agent's session: it says who it is and what its host does; it hears what the host should run.

use std::time::Duration;

use prost::Message as _;
use ship_model::desired::DesiredHost;
use ship_model::digest::BlobDigest;
use ship_model::name::{EnvName, HostName};
use ship_model::report::HostReport;
use ship_proto::v1::agents_server::Agents;
use ship_proto::v1::{self, FailureKind, agent_message, store_message};
use ship_proto::{refuse, require};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::access::has_left;
use super::face::{Answers, Face, caller};
use super::sessions::Seat;
use super::sources::Giving;
use super::{given, status};
use crate::identity::Caller;

/// How long an agent may take to say hello, and to take a message in.
const PATIENCE: Duration = Duration::from_secs(20);
/// Largest report in bytes: an app's takes some hundred.
const REPORT: usize = 512 << 10;
/// Digests that an agent tells at once.
const MOST_ASKED: usize = 4096;
/// Messages that wait for the agent to read them.
const OUTGOING: usize = 8;

#[derive(Debug, Clone)]
pub struct AgentsFace(pub Face);

#[tonic::async_trait]
impl Agents for AgentsFace {
    type SessionStream = Answers<v1::StoreMessage>;

    async fn session(
        &self,
        request: Request<Streaming<v1::AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let caller = caller(&request)?;
        let (out, answers) = mpsc::channel(OUTGOING);
        let session = Session {
            face: self.0.clone(),
            caller,
            messages: request.into_inner(),
            out,
        };
        tokio::spawn(session.run());
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn give(
        &self,
        request: Request<Streaming<v1::GiveChunk>>,
    ) -> Result<Response<v1::GiveReply>, Status> {
        let caller = caller(&request)?;
        let given = given::give(&self.0, caller, request.into_inner());
        given.await.map(Response::new)
    }
}

struct Session {
    face: Face,
    caller: Caller,
    messages: Streaming<v1::AgentMessage>,
    out: mpsc::Sender<Result<v1::StoreMessage, Status>>,
}

/// How a session ended.
enum End {
    /// The agent is gone, or does not read.
    Gone,
    /// The agent is told why.
    Refused(Box<Status>),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

impl Session {
    async fn run(mut self) {
        if let Err(End::Refused(status)) = self.speak().await {
            tracing::info!(caller = %self.caller, reason = status.message(), "session ended");
            let _ = timeout(PATIENCE, self.out.send(Err(*status))).await;
        }
    }

    async fn speak(&mut self) -> Result<(), End> {
        let (env, host) = self.hello().await?;
        let mut seat = self.face.sessions.sit(&env, &host);
        let mut giving = self.face.sources.enter(&env, &host);
        let mut desired = self.face.board.listen(&env, &host);
        tracing::info!(%env, host = %host, "agent connected");
        self.send(store_message::Message::Welcome(v1::Welcome {
            heartbeat_ms: self.face.heartbeat_ms,
            store_version: env!("CARGO_PKG_VERSION").to_owned(),
            hears_asked: true,
        }))
        .await?;
        self.tell_desired(&mut desired).await?;
        let ended = self
            .listen(&env, &host, &mut seat, &mut giving, &mut desired)
            .await;
        tracing::info!(%env, host = %host, "agent disconnected");
        ended
    }

    async fn listen(
        &mut self,
        env: &EnvName,
        host: &HostName,
        seat: &mut Seat,
        giving: &mut Giving,
        desired: &mut watch::Receiver<DesiredHost>,
    ) -> Result<(), End> {
        let now = self.face.clock.now_ms();
        let expiry = tokio::time::sleep(Duration::from_millis(
            self.caller.not_after_ms.saturating_sub(now),
        ));
        tokio::pin!(expiry);
        let mut asked = self.face.wants.listen();
        asked.mark_changed();
        loop {
            tokio::select! {
                message = self.messages.message() => match message {
                    Ok(Some(message)) => self.take(env, host, seat, giving, message).await?,
                    Ok(None) | Err(_) => return Err(End::Gone),
                },
                changed = desired.changed() => {
                    changed.map_err(|_| End::Gone)?;
                    self.tell_desired(desired).await?;
                }
                asked_anew = asked.changed() => {
                    asked_anew.map_err(|_| End::Gone)?;
                    if let Some(wanted) = given::asked(&mut asked, env, host) {
                        self.send(store_message::Message::Wanted(wanted)).await?;
                    }
                }
                question = seat.questions.recv() => {
                    // The newer session took the place of this one, and with it the questions' other end.
                    let question = question.ok_or_else(|| replaced(host))?;
                    self.send(store_message::Message::Logs(question)).await?;
                }
                () = seat.replaced.cancelled() => return Err(replaced(host).into()),
                () = &mut expiry => return Err(expired(&self.caller).into()),
                () = self.face.stop.cancelled() => {
                    return Err(status::unavailable("the store is ending; dial again").into());
                }
            }
        }
    }

    async fn hello(&mut self) -> Result<(EnvName, HostName), End> {
        let first = timeout(PATIENCE, self.messages.message()).await;
        let first = first.map_err(|_| status::invalid("no hello came", "hello"))?;
        let Ok(Some(first)) = first else {
            return Err(End::Gone);
        };
        let Some(agent_message::Message::Hello(hello)) = first.message else {
            return Err(status::invalid("the first message of a session must be a hello", "hello").into());
        };
        let (env, host) =
            require(self.caller.host.clone(), "host").map_err(|error| status::bad_message(&error))?;
        if hello.env != env.as_str() || hello.host != host.as_str() {
            return Err(other_host(&hello, &env, &host).into());
        }
        Ok((env, host))
    }

    async fn take(
        &self,
        env: &EnvName,
        host: &HostName,
        seat: &Seat,
        giving: &mut Giving,
        message: v1::AgentMessage,
    ) -> Result<(), End> {
        match message.message {
            Some(agent_message::Message::Report(report)) => {
                let len = report.encoded_len();
                if len > REPORT {
                    let message = format!("a report of {len} bytes is refused: at most {REPORT} are allowed");
                    return Err(status::invalid(message, host.as_str()).into());
                }
                let report = HostReport::try_from(report).map_err(|error| status::bad_message(&error))?;
                let sources = giving.heard(&report.classes, report.peer_address.as_deref());
                self.face.controller.hear(env, host, report).await;
                if let Some(left) = self.face.fleet.left(&self.caller) {
                    return Err(has_left(&left).into());
                }
                match sources {
                    Some(sources) => self.send(store_message::Message::Sources(sources)).await,
                    None => Ok(()),
                }
            }
            Some(agent_message::Message::Logs(reply)) => {
                seat.answer(reply);
                Ok(())
            }
            Some(agent_message::Message::Asked(asked)) => {
                let digests = asked_for(&asked).map_err(|status| End::from(*status))?;
                let (name, now_ms) = (format!("{env}/{host}"), self.face.clock.now_ms());
                if !self.face.evidence.hear(&name, asked.run, digests, now_ms) {
                    // The host tells it again, to the store's next life.
                    return Ok(());
                }
                let number = asked.number;
                self.send(store_message::Message::Taken(v1::AskedTaken { number }))
                    .await
            }
            // A second hello, or a message of a later version.
            Some(agent_message::Message::Hello(_)) | None => Ok(()),
        }
    }

    async fn tell_desired(&self, desired: &mut watch::Receiver<DesiredHost>) -> Result<(), End> {
        let newest = desired.borrow_and_update().clone();
        self.send(store_message::Message::Desired(newest.into())).await
    }

    /// An agent that does not read holds up its own session only, and not for long.
    async fn send(&self, message: store_message::Message) -> Result<(), End> {
        let message = v1::StoreMessage {
            message: Some(message),
        };
        match timeout(PATIENCE, self.out.send(Ok(message))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(End::Gone),
        }
    }
}

/// The contents that a host was asked for.
fn asked_for(asked: &v1::AssetsAsked) -> Result<Vec<BlobDigest>, Box<Status>> {
    let (digests, rest) = asked.digests.as_chunks::<32>();
    if !rest.is_empty() || digests.len() > MOST_ASKED {
        let message = format!(
            "{} bytes are not digests of 32 bytes each, {MOST_ASKED} at most",
            asked.digests.len()
        );
        return Err(Box::new(status::invalid(message, "asked")));
    }
    Ok(digests.iter().copied().map(BlobDigest::from_bytes).collect())
}

fn other_host(hello: &v1::Hello, env: &EnvName, host: &HostName) -> Status {
    let named: String = format!("{}/{}", hello.env, hello.host)
        .chars()
        .take(200)
        .collect();
    refuse(
        FailureKind::Denied,
        format!("this certificate is for {env}/{host}, the agent says it is {named:?}"),
        &named,
        "set env and host in agent.toml as the certificate names them, or have one issued for this host",
    )
}

fn replaced(host: &HostName) -> Status {
    refuse(
        FailureKind::Busy,
        format!("a newer session of {host} took over"),
        host.as_str(),
        "if two agents run with one certificate, stop one of them",
    )
}

fn expired(caller: &Caller) -> Status {
    refuse(
        FailureKind::Denied,
        format!("the certificate of {caller} has expired"),
        &caller.to_string(),
        "have a new one issued: `shipstore issue`",
    )
}
