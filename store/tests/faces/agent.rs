//! A host that does at once what it is told: no files and no processes, but the agent's part of the conversation.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ship_model::desired::{DesiredHost, Epoch};
use ship_model::release::Target;
use ship_model::report::{AppFailure, AppReport, HostReport};
use ship_proto::v1::{self, agent_message, store_message};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::fleet::{Clients, Store, channel};

/// What a host does, seen and changed by its test.
#[derive(Debug, Default)]
pub struct Host {
    pub report: HostReport,
    /// Releases that do not come up on this host.
    pub broken: BTreeSet<u64>,
    /// Does not take the assets of new releases.
    pub holds_assets_back: bool,
    /// Neither reports nor acts.
    pub mute: bool,
    /// Every release it ever ran, in order.
    pub ran: Vec<u64>,
    pub sessions: u32,
    pub refusals: Vec<String>,
    pub desired: DesiredHost,
}

#[derive(Clone)]
pub struct Agent {
    pub host: Arc<Mutex<Host>>,
    changed: Arc<Notify>,
    _stop: Arc<DropGuard>,
}

impl Agent {
    /// An agent of host `name` in dev that dials until it is dropped.
    pub fn start(store: &Store, name: &str, classes: &[&str]) -> Self {
        let stop = CancellationToken::new();
        let host = Host {
            report: HostReport {
                classes: classes.iter().map(|class| class.parse().unwrap()).collect(),
                asset_url: classes.contains(&"assets").then(|| format!("http://{name}:7480")),
                ..HostReport::default()
            },
            ..Host::default()
        };
        let agent = Self {
            host: Arc::new(Mutex::new(host)),
            changed: Arc::default(),
            _stop: Arc::new(stop.clone().drop_guard()),
        };
        let certificate = store.certificate("agent/dev", name);
        let addresses = store.folder().join("run/addresses.json");
        let (host, changed, name) = (
            Arc::clone(&agent.host),
            Arc::clone(&agent.changed),
            name.to_owned(),
        );
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            loop {
                let found = std::fs::read(&addresses).ok();
                let found = found
                    .and_then(|bytes| serde_json::from_slice::<ship_store::serve::Addresses>(&bytes).ok());
                if let Some(found) = found
                    && let Ok(channel) = channel(found.grpc, &certificate).await
                {
                    speak(Clients::new(channel), &name, &host, &changed).await;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }));
        agent
    }

    pub fn change(&self, change: impl FnOnce(&mut Host)) {
        let mut host = self.host.lock().unwrap();
        change(&mut host);
        host.obey();
        drop(host);
        self.changed.notify_one();
    }

    pub fn see<T>(&self, see: impl FnOnce(&Host) -> T) -> T {
        see(&self.host.lock().unwrap())
    }

    pub fn running(&self) -> Option<u64> {
        self.see(|host| host.report.apps.first()?.running.map(|running| running.number.0))
    }
}

async fn speak(mut clients: Clients, name: &str, host: &Mutex<Host>, changed: &Notify) {
    let (out, messages) = mpsc::channel(8);
    let hello = v1::Hello {
        env: "dev".to_owned(),
        host: name.to_owned(),
        agent_version: "test".to_owned(),
    };
    let _ = out.send(message(agent_message::Message::Hello(hello))).await;
    let Ok(answers) = clients.agents.session(ReceiverStream::new(messages)).await else {
        return;
    };
    let mut answers = answers.into_inner();
    host.lock().unwrap().sessions += 1;
    loop {
        let report = {
            let host = host.lock().unwrap();
            (!host.mute).then(|| host.report.clone())
        };
        if let Some(report) = report
            && out
                .send(message(agent_message::Message::Report(report.into())))
                .await
                .is_err()
        {
            return;
        }
        tokio::select! {
            answer = answers.message() => match answer {
                Ok(Some(answer)) => match answer.message {
                    Some(store_message::Message::Desired(desired)) => {
                        let mut host = host.lock().unwrap();
                        host.desired = desired.try_into().unwrap();
                        host.obey();
                    }
                    Some(store_message::Message::Logs(query)) if !query.cancel => {
                        let _ = out.send(message(agent_message::Message::Logs(lines(name, &query)))).await;
                    }
                    _ => {}
                },
                Ok(None) => return,
                Err(status) => {
                    host.lock().unwrap().refusals.push(status.message().to_owned());
                    return;
                }
            },
            () = changed.notified() => {}
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
    }
}

fn message(message: agent_message::Message) -> v1::AgentMessage {
    v1::AgentMessage {
        message: Some(message),
    }
}

fn lines(name: &str, query: &v1::LogsQuery) -> v1::LogsReply {
    let line = |at_ms| v1::LogLine {
        at_ms,
        app: query.app.clone(),
        host: name.to_owned(),
        line: format!("line {at_ms} of {name}"),
        ..v1::LogLine::default()
    };
    v1::LogsReply {
        request: query.request,
        lines: (1..=u64::from(query.lines)).map(line).collect(),
        done: !query.follow,
        error: String::new(),
    }
}

impl Host {
    /// Does what it was told last, as far as it can.
    fn obey(&mut self) {
        if self.mute {
            return;
        }
        for app in self.desired.clone().apps {
            let at = self.report.apps.iter().position(|known| known.app == app.app);
            let at = at.unwrap_or_else(|| {
                self.report.apps.push(nothing_yet(app.app.clone()));
                self.report.apps.len() - 1
            });
            let said = &mut self.report.apps[at];
            if app.epoch < said.epoch {
                continue;
            }
            if app.epoch > said.epoch {
                said.failure = None;
            }
            said.epoch = app.epoch;
            let expired = self.desired.expired.iter().find(|told| told.app == app.app);
            said.expired = expired.map(|told| told.list);
            said.staged.clone_from(&app.stage);
            if !self.holds_assets_back {
                said.assets.clone_from(&app.assets);
            }
            let Some(run) = app.run.filter(|_| app.runs_app) else {
                said.running = None;
                continue;
            };
            if self.broken.contains(&run.number.0) {
                said.failure = Some(failure(app.epoch, run));
            } else if said.running != Some(run) {
                said.previous = said.running;
                said.running = Some(run);
                said.healthy = true;
                said.deploy = app.deploy;
                self.ran.push(run.number.0);
            }
        }
    }
}

fn nothing_yet(app: ship_model::name::AppName) -> AppReport {
    AppReport {
        healthy: true,
        ..AppReport::of(app)
    }
}

fn failure(epoch: Epoch, release: Target) -> AppFailure {
    AppFailure {
        epoch,
        release,
        step: "probe".to_owned(),
        reason: "it answered 500".to_owned(),
        last_lines: vec!["boom".to_owned()],
        transient: false,
    }
}
