//! The fleet as a whole: brought up, watched over, taken down in order.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use serde::Deserialize;
use ship_durable::{LockError, LockFile};
use ship_proto::v1::{StatusReply, StatusRequest};
use tokio::sync::mpsc;

use super::binaries::Binaries;
use super::child::{ChildPlan, Ended, Tended};
use super::keepers;
use super::place::{Place, host_name};
use super::process::ProcessId;
use super::record::{Book, RecordError};
use super::setup::{self, ENV};
use crate::client::Client;
use crate::clock::Watch;
use crate::context::Context;
use crate::error::{CommandError, Exit};
use crate::signals::{Stop, interrupted};
use crate::ui::Ui;
use crate::words::{clean, duration};

/// For the store to serve, and for all hosts to report.
const STORE_PATIENCE: Duration = Duration::from_secs(30);
const HOSTS_PATIENCE: Duration = Duration::from_secs(60);
/// For apps that ran before to run again; after that they are only named.
const APPS_PATIENCE: Duration = Duration::from_secs(30);
/// For what an earlier run left behind to end.
const LEFTOVER_PATIENCE: Duration = Duration::from_secs(12);
/// Children that ended and were not told of yet.
const NEWS: usize = 64;
const LOOK: Duration = Duration::from_millis(40);

/// What kind of fleet.
#[derive(Debug, Clone)]
pub struct FleetPlan {
    /// Its folder, absolute.
    pub dir: PathBuf,
    /// None: as many as it had, and three at first.
    pub hosts: Option<u8>,
    /// How often agents report at least.
    pub heartbeat_ms: u64,
    /// How long a wave must stay healthy before the next.
    pub soak_ms: u64,
}

/// A fleet of our own, up.
#[derive(Debug)]
pub struct OwnFleet {
    pub place: Place,
    pub hosts: u8,
    store: Tended,
    agents: Vec<Tended>,
    news: mpsc::Receiver<Ended>,
    _lock: LockFile,
}

/// What the store writes when it serves.
#[derive(Debug, Deserialize)]
struct Addresses {
    pid: u32,
}

/// The parts that run while the rest is still being brought up.
struct Rising {
    place: Place,
    book: Arc<Book>,
    tell: mpsc::Sender<Ended>,
    news: mpsc::Receiver<Ended>,
    children: Vec<Tended>,
}

impl OwnFleet {
    /// Brings it up. Whatever fails, everything that was started is stopped again.
    pub async fn bring_up(
        plan: &FleetPlan,
        binaries: &Binaries,
        stop: &mut Stop,
        ui: &Ui,
    ) -> Result<Self, CommandError> {
        let place = Place::new(plan.dir.clone());
        setup::make_folder(place.root())?;
        let lock = LockFile::acquire(&place.lock()).map_err(|error| explain_lock(&error))?;
        let book = Book::open(place.record(), plan.hosts).map_err(explain_record)?;
        end_leftovers(&book).await;
        let record = book.get();
        let (tell, news) = mpsc::channel(NEWS);
        let mut rising = Rising {
            place,
            book: Arc::new(book),
            tell,
            news,
            children: Vec::new(),
        };
        let risen = tokio::select! {
            risen = Box::pin(rising.rise(plan, binaries, ui)) => risen,
            () = stop.asked() => Err(interrupted()),
        };
        match risen {
            Ok(()) => {
                let store = rising.children.remove(0);
                Ok(Self {
                    place: rising.place,
                    hosts: record.hosts,
                    store,
                    agents: rising.children,
                    news: rising.news,
                    _lock: lock,
                })
            }
            Err(fault) => {
                rising.fall().await;
                Err(fault)
            }
        }
    }

    /// The next child that ended by itself; it is started again.
    pub async fn next_ended(&mut self) -> Option<Ended> {
        self.news.recv().await
    }

    /// Stops agents, then keepers with their apps, then the store.
    pub async fn take_down(self) {
        let hosts = (1..=self.hosts).map(|n| self.place.host(&host_name(n))).collect();
        futures::future::join_all(self.agents.into_iter().map(Tended::stop)).await;
        keepers::stop(hosts).await;
        self.store.stop().await;
    }
}

impl Rising {
    async fn rise(&mut self, plan: &FleetPlan, binaries: &Binaries, ui: &Ui) -> Result<(), CommandError> {
        let record = self.book.get();
        record.net.check_free(record.hosts)?;
        setup::prepare(&self.place, plan, record.net, record.hosts, binaries).await?;
        // What an earlier store wrote must not be taken for this one's.
        let _ = std::fs::remove_file(self.place.addresses());
        self.start(self.store_plan(binaries));
        self.until_served().await?;
        let context = self.operator_context()?;
        let client = Client::connect(&context).await?;
        let since = now(&client).await?;
        for number in 1..=record.hosts {
            self.start(self.agent_plan(number, binaries));
        }
        self.until_reported(&client, record.hosts, since).await?;
        self.until_apps_run(&client, ui).await?;
        setup::write_context(&self.place, record.net)?;
        Ok(())
    }

    async fn fall(self) {
        let hosts = self.book.get().hosts;
        let hosts = (1..=hosts).map(|n| self.place.host(&host_name(n))).collect();
        let mut children = self.children;
        let agents = children.split_off(children.len().min(1));
        futures::future::join_all(agents.into_iter().map(Tended::stop)).await;
        keepers::stop(hosts).await;
        futures::future::join_all(children.into_iter().map(Tended::stop)).await;
    }

    fn start(&mut self, plan: ChildPlan) {
        let child = Tended::start(plan, Arc::clone(&self.book), self.tell.clone());
        self.children.push(child);
    }

    fn store_plan(&self, binaries: &Binaries) -> ChildPlan {
        let net = self.book.get().net;
        ChildPlan {
            name: "store".to_owned(),
            program: binaries.path("shipstore").to_owned(),
            arguments: vec![
                "serve".into(),
                "--dir".into(),
                self.place.store().into(),
                "--listen".into(),
                format!("{}:{}", net.store(), super::address::GRPC_PORT).into(),
                "--assets-listen".into(),
                format!("{}:{}", net.store(), super::address::ASSET_PORT).into(),
            ],
            log: self.place.log("store"),
        }
    }

    fn agent_plan(&self, number: u8, binaries: &Binaries) -> ChildPlan {
        let name = host_name(number);
        let config = self.place.host(&name).join("agent.toml");
        ChildPlan {
            program: binaries.path("ship-agent").to_owned(),
            arguments: vec!["run".into(), "--config".into(), config.into()],
            log: self.place.log(&name),
            name,
        }
    }

    /// The context that is being written last, read before from a name of its own.
    fn operator_context(&self) -> Result<Context, CommandError> {
        let net = self.book.get().net;
        Ok(Context {
            path: self.place.context(),
            store: format!("{}:{}", net.store(), super::address::GRPC_PORT),
            env: ENV
                .parse()
                .map_err(|error| CommandError::internal("name the environment", error))?,
            app: None,
            ca: self.place.tls().join("ca.pem"),
            cert: self.place.tls().join("cert.pem"),
            key: self.place.tls().join("key.pem"),
            assets: None,
        })
    }

    async fn until_served(&mut self) -> Result<(), CommandError> {
        let time = Watch::start();
        while !self.is_served() {
            self.check_children(time, STORE_PATIENCE, "the store does not serve")
                .await?;
        }
        Ok(())
    }

    fn is_served(&self) -> bool {
        let Ok(bytes) = std::fs::read(self.place.addresses()) else {
            return false;
        };
        let ours = self.book.get().processes.get("store").map(|id| id.pid);
        serde_json::from_slice::<Addresses>(&bytes).is_ok_and(|told| Some(told.pid) == ours)
    }

    async fn until_reported(&mut self, client: &Client, hosts: u8, since: u64) -> Result<(), CommandError> {
        let time = Watch::start();
        loop {
            let reply = ask(client).await?;
            let seen = reply.hosts.iter().filter(|host| host.last_seen_ms >= since);
            if seen.count() >= usize::from(hosts) {
                return Ok(());
            }
            self.check_children(time, HOSTS_PATIENCE, "not every host reports")
                .await?;
        }
    }

    /// Apps of an earlier run start by themselves: what `current` names.
    async fn until_apps_run(&mut self, client: &Client, ui: &Ui) -> Result<(), CommandError> {
        let time = Watch::start();
        loop {
            let reply = ask(client).await?;
            let behind = behind(&reply);
            if behind.is_empty() {
                let down = down(&reply);
                if !down.is_empty() {
                    ui.warn(format!("not running: {}; see: shipctl status", down.join(", ")));
                }
                return Ok(());
            }
            if time.elapsed() > APPS_PATIENCE {
                ui.warn(format!(
                    "not running what they should after {}: {}; see: shipctl status",
                    duration(time.elapsed()),
                    [behind, down(&reply)].concat().join(", ")
                ));
                return Ok(());
            }
            self.check_children(time, APPS_PATIENCE + LOOK * 10, "the apps do not run")
                .await?;
        }
    }

    /// Waits a little; a child that ends while the fleet rises is the reason why it does not.
    async fn check_children(
        &mut self,
        time: Watch,
        patience: Duration,
        what: &str,
    ) -> Result<(), CommandError> {
        if let Ok(ended) = tokio::time::timeout(LOOK, self.news.recv()).await
            && let Some(ended) = ended
        {
            return Err(died(&ended, &self.place));
        }
        if time.elapsed() > patience {
            let logs = self.place.root().join("logs");
            return Err(
                CommandError::new(Exit::Error, format!("{what} after {}", duration(time.elapsed())))
                    .hint(format!("what they said: {}", logs.display())),
            );
        }
        Ok(())
    }
}

fn died(ended: &Ended, place: &Place) -> CommandError {
    let what = match ended.name.as_str() {
        "store" => "the store".to_owned(),
        host => format!("the agent of {host}"),
    };
    CommandError::new(Exit::Error, format!("{what} {}", ended.how))
        .with_last_lines(&ended.last_lines)
        .hint(format!("all it said: {}", place.log(&ended.name).display()))
}

async fn ask(client: &Client) -> Result<StatusReply, CommandError> {
    // Every environment: until the first host has reported, the store knows none by name.
    let request = StatusRequest::default();
    Ok(client.fleet().status(request).await?.into_inner())
}

/// The store's own time: what hosts said before it started does not count.
async fn now(client: &Client) -> Result<u64, CommandError> {
    Ok(ask(client).await?.now_ms)
}

/// Where nothing runs because it failed: nobody waits for these, and nobody should have to find out.
fn down(reply: &StatusReply) -> Vec<String> {
    let apps = reply.apps.iter();
    let hosts = apps.flat_map(|app| app.hosts.iter().map(move |host| (app, host)));
    let down = hosts.filter_map(|(app, host)| {
        let report = host.report.as_ref()?;
        let failure = report.failure.as_ref()?;
        let nothing = host.runs_app && host.desired.is_some() && report.running.is_none();
        nothing.then(|| {
            format!(
                "{} on {} ({})",
                clean(&app.app),
                clean(&host.host),
                clean(&failure.reason)
            )
        })
    });
    down.collect()
}

/// Hosts that do not yet run what they should, while no rollout moves them.
fn behind(reply: &StatusReply) -> Vec<String> {
    let apps = reply.apps.iter();
    let hosts = apps.flat_map(|app| app.hosts.iter().map(move |host| (app, host)));
    let late = hosts.filter(|(_, host)| {
        let report = host.report.clone().unwrap_or_default();
        let held = report.held.is_some() || report.failure.is_some();
        host.runs_app
            && host.desired.is_some()
            && !held
            && (report.running != host.desired || !report.healthy)
    });
    late.map(|(app, host)| format!("{} on {}", clean(&app.app), clean(&host.host)))
        .collect()
}

/// What an `up` that was killed left running: children whose numbers it wrote down. Keepers and apps stay:
/// the agents find them again.
async fn end_leftovers(book: &Book) {
    let left: Vec<ProcessId> = book.get().processes.into_values().collect();
    left.iter().for_each(|id| id.signal(Signal::TERM));
    let time = Watch::start();
    while left.iter().any(|id| id.is_alive()) {
        if time.elapsed() > LEFTOVER_PATIENCE {
            left.iter().for_each(|id| id.signal(Signal::KILL));
        }
        tokio::time::sleep(LOOK).await;
    }
    // They are gone; a record that says otherwise only costs another look.
    let _ = book.change(|record| record.processes.clear());
}

fn explain_lock(error: &LockError) -> CommandError {
    match error {
        LockError::Held { pid, .. } => CommandError::new(
            Exit::Busy,
            match pid {
                Some(pid) => format!("this fleet is up already: process {pid} holds it"),
                None => "this fleet is up already".to_owned(),
            },
        )
        .hint("use it: its context.toml lies in the same folder; stop it: Ctrl-C there; another one: --dir"),
        LockError::Take { .. } => CommandError::of(Exit::Error, error),
    }
}

fn explain_record(error: RecordError) -> CommandError {
    let exit = match error {
        RecordError::Fewer { .. } => Exit::Usage,
        _ => Exit::Error,
    };
    CommandError::of(exit, &error)
}
