//! The calls of the local face.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use ship_bundle::stage::Depth;
use ship_model::name::AppName;
use ship_model::release::ReleaseNumber;
use ship_proto::refuse;
use ship_proto::v1::local_server::{Local as LocalFace, LocalServer};
use ship_proto::v1::{self, FailureKind};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status};

use crate::config::Config;
use crate::converge::Converge;
use crate::layout::HostLayout;
use crate::logs::{LogReader, Wanted};
use crate::revert::RevertError;
use crate::session::{StoreLink, read};

/// A cold revert takes as long as the app takes to boot and to be probed.
const REVERT_PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at a log that is followed.
const LOOK: Duration = Duration::from_millis(200);

/// What the face answers from.
#[derive(Debug, Clone)]
pub struct Local {
    pub config: Arc<Config>,
    pub layout: HostLayout,
    pub converge: Arc<Converge>,
    pub link: watch::Receiver<StoreLink>,
}

/// Serves until `stop`.
///
/// # Errors
/// When the transport fails as a whole.
pub async fn serve(
    local: Local,
    listener: UnixListener,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let service = LocalServer::with_interceptor(local, check_peer);
    Server::builder()
        .add_service(service)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stop.cancelled_owned())
        .await
}

/// Only root and our own user may speak, whatever the socket's permissions became.
fn check_peer(request: Request<()>) -> Result<Request<()>, Status> {
    let peer = request.extensions().get::<UdsConnectInfo>();
    let uid = peer.and_then(|peer| peer.peer_cred).map(|cred| cred.uid());
    let own = rustix::process::geteuid().as_raw();
    match uid {
        Some(uid) if uid == 0 || uid == own => Ok(request),
        Some(uid) => Err(refuse(
            FailureKind::Denied,
            format!("user {uid} may not speak to this agent"),
            "agent.sock",
            "ask as root, or as the agent's own user",
        )),
        None => Err(refuse(
            FailureKind::Denied,
            "who asks cannot be told",
            "agent.sock",
            "",
        )),
    }
}

fn app_name(text: &str) -> Result<AppName, Status> {
    text.parse().map_err(|error: ship_model::name::NameError| {
        refuse(FailureKind::Invalid, error.to_string(), text, "")
    })
}

#[tonic::async_trait]
impl LocalFace for Local {
    async fn status(&self, _: Request<v1::LocalStatusRequest>) -> Result<Response<v1::LocalStatus>, Status> {
        self.converge.reporter.refresh();
        let report = self.converge.reporter.subscribe().borrow().clone();
        let link = self.link.borrow().clone();
        Ok(Response::new(v1::LocalStatus {
            env: self.config.env.to_string(),
            host: self.config.host.to_string(),
            report: Some(report.into()),
            store_connected: link.connected,
            store: self.config.store.to_string(),
            store_error: link.error,
        }))
    }

    async fn revert(
        &self,
        request: Request<v1::LocalRevertRequest>,
    ) -> Result<Response<v1::AppReport>, Status> {
        let request = request.into_inner();
        let app = app_name(&request.app)?;
        let to = (request.number > 0).then_some(ReleaseNumber(request.number));
        let reverted = self
            .converge
            .revert(&app, to, request.reason, request.force, REVERT_PATIENCE)
            .await;
        match reverted {
            Ok(report) => Ok(Response::new(report.into())),
            Err(error) => Err(refusal(&error, &request.app)),
        }
    }

    async fn verify(
        &self,
        request: Request<v1::LocalVerifyRequest>,
    ) -> Result<Response<v1::LocalVerifyReply>, Status> {
        let request = request.into_inner();
        let apps = match request.app.as_str() {
            "" => self.converge.apps(),
            name => vec![app_name(name)?],
        };
        let depth = if request.full { Depth::Full } else { Depth::Quick };
        let layout = self.layout.clone();
        let converge = Arc::clone(&self.converge);
        let work = tokio::task::spawn_blocking(move || {
            let mut releases = Vec::new();
            for app in apps {
                releases.extend(crate::verify::app(&layout.app(&app), depth));
                converge.recheck(&app);
            }
            releases
        });
        let releases = work.await.map_err(|_| {
            refuse(
                FailureKind::Internal,
                "the look at the releases broke down",
                &request.app,
                "",
            )
        })?;
        Ok(Response::new(v1::LocalVerifyReply { releases }))
    }

    type LogsStream = Pin<Box<dyn Stream<Item = Result<v1::LogLine, Status>> + Send>>;

    async fn logs(
        &self,
        request: Request<v1::LocalLogsRequest>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        let request = request.into_inner();
        let app = app_name(&request.app)?;
        let wanted = Wanted {
            lines: request.lines,
            release: request.release,
        };
        let reader = LogReader::new(self.layout.app(&app).log(), wanted);
        let (out, lines) = mpsc::channel(256);
        tokio::spawn(async move {
            if let Err(error) = send_lines(reader, request.follow, &out).await {
                // A reader that hung up needs no error.
                out.send(Err(refuse(FailureKind::Internal, error, &request.app, "")))
                    .await
                    .ok();
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(lines))))
    }
}

async fn send_lines(
    reader: LogReader,
    follow: bool,
    out: &mpsc::Sender<Result<v1::LogLine, Status>>,
) -> Result<(), String> {
    let (mut reader, mut lines) = read(reader, LogReader::last).await?;
    loop {
        for line in lines {
            if out.send(Ok(line)).await.is_err() {
                return Ok(());
            }
        }
        if !follow {
            return Ok(());
        }
        tokio::select! {
            () = out.closed() => return Ok(()),
            () = tokio::time::sleep(LOOK) => {}
        }
        (reader, lines) = read(reader, LogReader::more).await?;
    }
}

/// A revert's error as a status.
fn refusal(error: &RevertError, app: &str) -> Status {
    let (kind, hint) = match error {
        RevertError::UnknownApp { .. } => (FailureKind::NotFound, "ship-agent status"),
        RevertError::NotHere { .. } => (FailureKind::NotFound, "ship-agent status"),
        RevertError::Nothing { .. } | RevertError::Runs { .. } => (FailureKind::Refused, "ship-agent status"),
        RevertError::Damaged { .. } => (FailureKind::Damaged, "ship-agent verify --full"),
        RevertError::Busy { .. } => (FailureKind::Busy, ""),
        RevertError::Slow { .. } => (FailureKind::Unavailable, "ship-agent status"),
        RevertError::Failed { .. } => (FailureKind::Internal, "ship-agent logs"),
        RevertError::Record { .. }
        | RevertError::Note { .. }
        | RevertError::Keeper { .. }
        | RevertError::Start { .. }
        | RevertError::Switch { .. }
        | RevertError::Rotation { .. } => (FailureKind::Internal, ""),
    };
    refuse(kind, crate::session::chain(error), app, hint)
}
