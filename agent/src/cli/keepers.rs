//! Words to the keepers themselves: take in what was started by hand, become a newer program.

use std::path::PathBuf;
use std::time::Duration;

use ship_keeper::protocol::{Intent, ProcessSpec, Status};
use ship_keeper::{AskError, Client, Taken};
use ship_model::name::AppName;
use ship_model::release::ReleaseNumber;

use super::ask::{Failed, REFUSED, said};
use super::{Host, Output, show};
use crate::config::Config;
use crate::converge::KEEPER_PATIENCE;
use crate::keeper::{self, Order};
use crate::layout::{AppLayout, HostLayout};
use crate::session::chain;
use crate::stage::{self, Here};

/// For a switch under way to end before an upgrade.
const SWITCH_PATIENCE: Duration = Duration::from_secs(60);

/// A process to be taken in, as it was typed.
pub struct Stranger {
    pub pid: u32,
    pub app: AppName,
    /// The release whose `ship.toml` says how it listens, drains and stops.
    pub release: Option<ReleaseNumber>,
    pub stop_signal: Option<String>,
    pub drain_s: Option<u64>,
}

struct Scene {
    config: Config,
    layout: AppLayout,
    client: Client,
}

impl Scene {
    fn of(host: &Host, app: &AppName) -> Result<Self, Failed> {
        let config = Config::read(&host.config).map_err(|error| said(chain(&error)))?;
        let layout = HostLayout::of(&config)
            .map_err(|error| said(format!("cannot tell the current folder: {error}")))?
            .app(app);
        let client = Client::new(&layout.run, KEEPER_PATIENCE);
        Ok(Self {
            config,
            layout,
            client,
        })
    }
}

pub fn upgrade(host: &Host, app: &AppName, program: Option<PathBuf>, output: Output) -> Result<(), Failed> {
    let scene = Scene::of(host, app)?;
    let program = program.or_else(|| ship_keeper::find::program(keeper::PROGRAM));
    let program = program.ok_or(keeper::UpgradeError::NoProgram);
    let program = program.and_then(|program| {
        let absolute = std::path::absolute(&program).unwrap_or(program);
        keeper::upgrade(&scene.client, &absolute, SWITCH_PATIENCE)
    });
    match program {
        Ok(status) => Ok(show::upgraded(app.as_str(), &status, output)?),
        Err(error) => {
            let code = match &error {
                keeper::UpgradeError::Failed { .. } => REFUSED,
                keeper::UpgradeError::Ask(AskError::Refused { .. }) => REFUSED,
                _ => 1,
            };
            let hint = "the app is untouched; `ship-agent status` tells that it runs".to_owned();
            Err(Failed::Said(chain(&error), hint, code))
        }
    }
}

pub fn adopt(host: &Host, stranger: &Stranger, output: Output) -> Result<(), Failed> {
    let scene = Scene::of(host, &stranger.app)?;
    let spec = manners(&scene, stranger)?;
    scene.layout.prepare().map_err(|error| said(chain(&error)))?;
    if scene.client.status().is_err() {
        keeper::start(&scene.layout, &scene.config.host, &scene.config.cgroups)
            .map_err(|error| said(chain(&error)))?;
    }
    match scene.client.adopt(stranger.pid, spec) {
        Ok(Taken::Accepted | Taken::Already) => {}
        Err(AskError::Refused { message, .. }) => {
            let hint = "process and users are as they were".to_owned();
            return Err(Failed::Said(message, hint, REFUSED));
        }
        Err(error) => return Err(said(chain(&error))),
    }
    let status = scene.client.status().map_err(|error| said(chain(&error)))?;
    Ok(show::adopted(
        stranger.app.as_str(),
        stranger.pid,
        &status,
        output,
    )?)
}

/// How the process listens, drains and stops: as the release says that shall replace it, where one lies here.
fn manners(scene: &Scene, stranger: &Stranger) -> Result<ProcessSpec, Failed> {
    let here = stage::list(&scene.layout).unwrap_or_default();
    let mut spec = match release(&here, stranger)? {
        Some(release) => of_release(scene, release)?,
        None => plain(),
    };
    if let Some(signal) = &stranger.stop_signal {
        spec.stop_signal.clone_from(signal);
    }
    if let Some(seconds) = stranger.drain_s {
        spec.drain_ms = seconds.saturating_mul(1000);
    }
    Ok(spec)
}

fn release<'a>(here: &'a [Here], stranger: &Stranger) -> Result<Option<&'a Here>, Failed> {
    let mut serving = here.iter().filter(|release| !release.spec.is_static());
    let Some(number) = stranger.release else {
        return Ok(serving.max_by_key(|release| release.target.number));
    };
    match serving.find(|release| release.target.number == number) {
        Some(release) => Ok(Some(release)),
        None => Err(Failed::Said(
            format!(
                "{}@{number} does not lie on this host, or has no process",
                stranger.app
            ),
            "without --release the process's own listeners are taken".to_owned(),
            REFUSED,
        )),
    }
}

fn of_release(scene: &Scene, release: &Here) -> Result<ProcessSpec, Failed> {
    let order = Order {
        target: release.target,
        epoch: ship_model::desired::Epoch(0),
        deploy: ship_model::desired::DeployNumber(0),
    };
    let intent: Intent = keeper::intent(&release.spec, order, &scene.config, &scene.layout)
        .map_err(|error| Failed::Said(error.to_string(), String::new(), REFUSED))?;
    let mut listening = intent
        .processes
        .into_iter()
        .filter(|process| !process.listen.is_empty());
    match (listening.next(), listening.next()) {
        (Some(spec), None) => Ok(spec),
        (None, _) => Err(said(format!(
            "no process of release {} listens here, so nothing could replace this one without a gap",
            release.target.number
        ))),
        (Some(_), Some(_)) => Err(said(format!(
            "several processes of release {} listen here; one adopted process cannot stand for them",
            release.target.number
        ))),
    }
}

/// Where no release says anything: all its listeners, TERM, the defaults of `ship.toml`.
fn plain() -> ProcessSpec {
    ProcessSpec {
        name: "web".to_owned(),
        command: Vec::new(),
        strategy: ship_model::spec::Strategy::default(),
        asked_for: None,
        restart: None,
        overlap: true,
        canary: None,
        env: std::collections::BTreeMap::new(),
        env_file: None,
        listen: Vec::new(),
        probe: None,
        notify: false,
        watchdog_ms: None,
        ready_timeout_ms: 30_000,
        drain_ms: 30_000,
        stop_signal: "TERM".to_owned(),
        stop_timeout_ms: 10_000,
        lock_wait_ms: None,
        lock_overrule: false,
        no_new_privs: false,
        user: None,
        limits: ship_keeper::protocol::Limits::default(),
    }
}

/// Where a keeper's app listens, for people.
pub fn listeners(status: &Status) -> Vec<String> {
    let bound = status.listeners.iter().map(|listener| listener.bound.clone());
    bound.collect()
}
