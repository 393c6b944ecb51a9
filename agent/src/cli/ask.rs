//! Asking the agent by its socket, and doing without it when it is dead.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use ship_bundle::stage::Depth;
use ship_model::name::AppName;
use ship_model::release::ReleaseRef;
use ship_proto::v1::local_client::LocalClient;
use ship_proto::v1::{self, FailureKind};
use ship_proto::{MAX_MESSAGE, failure_of};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::{Host, Output, show};
use crate::config::Config;
use crate::converge::known_apps;
use crate::layout::HostLayout;
use crate::logs::{LogReader, Wanted};
use crate::revert::RevertError;
use crate::session::{chain, read};
use crate::{local, offline};

/// Nothing was changed.
pub const REFUSED: u8 = 4;
/// For the agent to take the connection.
const CONNECT: Duration = Duration::from_secs(5);
/// An agent that dies while it is asked may have a successor, which is asked as well.
const ASKED: usize = 2;
/// Between two looks at a log that is followed.
const LOOK: Duration = Duration::from_millis(200);

/// Who is asked.
pub enum Asked {
    Agent(LocalClient<Channel>),
    /// Nobody listens: the files and the keepers are asked.
    Files(Box<Config>, HostLayout),
}

/// A revert as it was typed.
pub struct Wish {
    pub release: ReleaseRef,
    pub message: String,
    pub force: bool,
}

/// Why a word was not done.
pub enum Failed {
    /// Text, hint, and the exit code.
    Said(String, String, u8),
    /// Nothing is left to print to, as when `| head` has what it wanted.
    Output,
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        let failure = failure_of(&status).unwrap_or_default();
        let refused = matches!(
            failure.kind(),
            FailureKind::Refused | FailureKind::Damaged | FailureKind::Fenced
        );
        Self::Said(
            status.message().to_owned(),
            failure.hint,
            if refused { REFUSED } else { 1 },
        )
    }
}

impl From<std::io::Error> for Failed {
    fn from(_: std::io::Error) -> Self {
        Self::Output
    }
}

impl From<RevertError> for Failed {
    fn from(error: RevertError) -> Self {
        let code = match error {
            RevertError::Nothing { .. } | RevertError::Runs { .. } | RevertError::Damaged { .. } => REFUSED,
            _ => 1,
        };
        Self::Said(chain(&error), "ship-agent status".to_owned(), code)
    }
}

pub fn said(text: String) -> Failed {
    Failed::Said(text, String::new(), 1)
}

/// Finds who is to be asked, asks, and turns what comes of it into an exit code.
pub fn answer<F>(host: &Host, ask: impl FnOnce(Asked) -> F) -> ExitCode
where
    F: Future<Output = Result<(), Failed>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return show::failed(&format!("no runtime: {error}"), ""),
    };
    code(runtime.block_on(async { ask(find(host).await?).await }))
}

/// The exit code, after the complaint was printed.
pub fn code(done: Result<(), Failed>) -> ExitCode {
    match done {
        Ok(()) | Err(Failed::Output) => ExitCode::SUCCESS,
        Err(Failed::Said(text, hint, code)) => {
            show::failed(&text, &hint);
            ExitCode::from(code)
        }
    }
}

pub async fn find(host: &Host) -> Result<Asked, Failed> {
    if let Some(socket) = &host.socket {
        let reached = reach(socket).await;
        return reached.map(Asked::Agent).map_err(|error| {
            let hint = "with --config instead of --socket this works while the agent is dead";
            Failed::Said(
                format!("no agent answers at {}: {error}", socket.display()),
                hint.to_owned(),
                1,
            )
        });
    }
    let (config, layout) = files_of(host)?;
    match reach(&layout.socket()).await {
        Ok(client) => Ok(Asked::Agent(client)),
        Err(_) => Ok(Asked::Files(config, layout)),
    }
}

fn files_of(host: &Host) -> Result<(Box<Config>, HostLayout), Failed> {
    let config = Config::read(&host.config).map_err(|error| said(chain(&error)))?;
    let layout =
        HostLayout::of(&config).map_err(|error| said(format!("cannot tell the current folder: {error}")))?;
    Ok((Box::new(config), layout))
}

async fn reach(socket: &Path) -> Result<LocalClient<Channel>, String> {
    let path: PathBuf = socket.to_owned();
    let connector = tower::service_fn(move |_: http::Uri| {
        let path = path.clone();
        async move { local::connect(&path).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://agent.ship.internal").connect_timeout(CONNECT);
    let channel = endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|error| chain(&error))?;
    Ok(LocalClient::new(channel).max_decoding_message_size(MAX_MESSAGE))
}

/// What the host says of itself; by the agent, or by files and keepers when it dies before it has answered.
pub async fn status(host: &Host, who: Asked, output: Output) -> Result<(), Failed> {
    let mut who = who;
    for _ in 0..ASKED {
        let Asked::Agent(mut agent) = who else { break };
        who = match agent.status(v1::LocalStatusRequest {}).await {
            Ok(told) => return Ok(show::status(told.into_inner(), output)?),
            Err(status) if host.socket.is_none() && broke_off(&status) => find(host).await?,
            Err(status) => return Err(status.into()),
        };
    }
    let (config, layout) = match who {
        Asked::Files(config, layout) => (config, layout),
        // One after the other has died.
        Asked::Agent(_) => files_of(host)?,
    };
    Ok(show::status(read_status(&config, &layout), output)?)
}

fn read_status(config: &Config, layout: &HostLayout) -> v1::LocalStatus {
    let apps = known_apps(layout);
    let reports = apps
        .iter()
        .map(|app| offline::report(layout, app).into())
        .collect();
    v1::LocalStatus {
        env: config.env.to_string(),
        host: config.host.to_string(),
        report: Some(v1::HostReport {
            classes: config.classes.iter().map(ToString::to_string).collect(),
            apps: reports,
            ..v1::HostReport::default()
        }),
        store_connected: false,
        store: config.store.to_string(),
        store_error: "the agent does not run; this was read from its files and asked of the keepers"
            .to_owned(),
    }
}

/// Whether the line broke before an answer came. An agent's own refusals say what they are.
pub fn broke_off(status: &Status) -> bool {
    let lost = matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled
    );
    lost && failure_of(status).is_none()
}

pub async fn verify(who: Asked, app: Option<AppName>, full: bool, output: Output) -> Result<(), Failed> {
    let releases = match who {
        Asked::Agent(mut agent) => {
            let app = app.map(|app| app.to_string()).unwrap_or_default();
            let reply = agent.verify(v1::LocalVerifyRequest { app, full }).await?;
            reply.into_inner().releases
        }
        Asked::Files(_, layout) => {
            let _lock = offline::lock(&layout).map_err(|error| said(chain(&error)))?;
            let apps = app.map_or_else(|| known_apps(&layout), |app| vec![app]);
            let depth = if full { Depth::Full } else { Depth::Quick };
            let looked = apps
                .iter()
                .flat_map(|app| crate::verify::app(&layout.app(app), depth));
            looked.collect()
        }
    };
    let damaged = releases
        .iter()
        .filter(|release| !release.damage.is_empty())
        .count();
    show::verified(&releases, output)?;
    match damaged {
        0 => Ok(()),
        count => Err(Failed::Said(
            format!("{count} of {} releases are damaged", releases.len()),
            "a damaged release is not switched to; promote or revert to another".to_owned(),
            1,
        )),
    }
}

pub async fn logs(
    who: Asked,
    app: AppName,
    wanted: Wanted,
    follow: bool,
    output: Output,
) -> Result<(), Failed> {
    match who {
        Asked::Agent(mut agent) => {
            let request = v1::LocalLogsRequest {
                app: app.to_string(),
                lines: wanted.lines,
                follow,
                release: wanted.release,
            };
            let mut lines = agent.logs(request).await?.into_inner();
            while let Some(line) = lines.message().await? {
                show::log_line(&line, output)?;
            }
            Ok(())
        }
        Asked::Files(_, layout) => {
            let reader = LogReader::new(layout.app(&app).log(), wanted);
            let (mut reader, mut lines) = read(reader, LogReader::last).await.map_err(said)?;
            loop {
                for line in &lines {
                    show::log_line(line, output)?;
                }
                if !follow {
                    return Ok(());
                }
                tokio::time::sleep(LOOK).await;
                (reader, lines) = read(reader, LogReader::more).await.map_err(said)?;
            }
        }
    }
}
