//! The fleet as it is seen: status, logs, and the chain of acts.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::stream;
use ship_model::host::HostState;
use ship_model::name::{AppName, EnvName, HostName};
use ship_model::rollout::EnvState;
use ship_proto::v1;
use ship_proto::v1::fleet_server::Fleet;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::face::{Answers, Face, caller};
use super::{host, logs, status, view};
use crate::engine::Watch;
use crate::ledger::AuditLink;
use crate::notify::RouteState;
use crate::rollout::fleet::Presence;
use crate::scrub::Lost;

/// Most lines or links of one answer.
const MOST: u32 = 10_000;

#[derive(Debug, Clone)]
pub struct FleetFace(pub Face);

type Present = BTreeMap<HostName, Presence>;

impl FleetFace {
    fn app_status(&self, state: &EnvState, hosts: &Present) -> v1::AppStatus {
        let holds = |presence: &&Presence| {
            let mut classes = presence.known.classes.iter();
            classes.any(|class| class.as_str() == "assets")
        };
        let holders = hosts.values().filter(holds);
        let mut asset_urls: Vec<String> = holders
            .filter_map(|presence| presence.known.asset_url.clone())
            .collect();
        asset_urls.push(self.0.asset_url.clone());
        v1::AppStatus {
            app: state.app.to_string(),
            env: state.env.to_string(),
            release: state.current.map(Into::into),
            deploy: state.last_deploy.0,
            epoch: state.epoch.0,
            rollout: state.rollout.as_ref().map(|rollout| {
                let mut shown = view::of_rollout(rollout);
                self.0.add_waits(&state.env, &state.app, &mut shown);
                shown
            }),
            asset_urls,
            hosts: state
                .hosts
                .keys()
                .map(|host| app_host(state, host, hosts.get(host)))
                .collect(),
            held: state
                .held
                .as_ref()
                .map(|held| match held.reason.contains(&held.who) {
                    true => held.reason.clone(),
                    false => format!("{}: {}", held.who, held.reason),
                })
                .unwrap_or_default(),
        }
    }

    /// Apps that were published and never promoted in an environment that is asked for.
    async fn unpromoted(
        &self,
        wanted: Option<&AppName>,
        env: Option<&EnvName>,
    ) -> Result<Vec<v1::AppStatus>, Status> {
        let apps = self.0.ledger(|ledger| ledger.apps()).await?;
        let mut envs: Vec<EnvName> = self.0.fleet.all(env).into_iter().map(|(env, ..)| env).collect();
        envs.dedup();
        let mut found = Vec::new();
        for env in &envs {
            let apps = apps
                .iter()
                .filter(|app| wanted.is_none_or(|wanted| wanted == *app));
            found.extend(
                apps.filter(|app| self.0.board.state(env, app).is_none())
                    .map(|app| v1::AppStatus {
                        app: app.to_string(),
                        env: env.to_string(),
                        ..v1::AppStatus::default()
                    }),
            );
        }
        Ok(found)
    }

    /// Environments to look at: the one asked for, or all that exist.
    fn env_filter(&self, name: &str) -> Result<Option<EnvName>, Status> {
        if name.is_empty() {
            return Ok(None);
        }
        self.0.known_env(name).map(Some)
    }

    async fn app_filter(&self, name: &str) -> Result<Option<AppName>, Status> {
        if name.is_empty() {
            return Ok(None);
        }
        self.0.known_app(name).await.map(Some)
    }
}

fn app_host(state: &EnvState, host: &HostName, presence: Option<&Presence>) -> v1::AppHost {
    let report = presence.and_then(|presence| presence.report.as_ref());
    let said = report.and_then(|report| report.apps.iter().find(|app| app.app == state.app));
    let target = state.hosts.get(host);
    v1::AppHost {
        host: host.to_string(),
        state: presence
            .map_or(HostState::Installing, |presence| presence.state)
            .to_string(),
        report: said.cloned().map(Into::into),
        desired: target.and_then(|target| target.run).map(Into::into),
        runs_app: target.is_some_and(|target| target.runs_app),
    }
}

fn notify_route((name, state): (HostName, RouteState)) -> v1::NotifyRoute {
    let trouble = state.trouble;
    v1::NotifyRoute {
        name: name.to_string(),
        told: state.told,
        failed: state.failed,
        trouble_since_ms: trouble.as_ref().map_or(0, |trouble| trouble.since_ms),
        seq: trouble.as_ref().map_or(0, |trouble| trouble.seq),
        trouble: trouble.map(|trouble| trouble.words).unwrap_or_default(),
    }
}

fn lost_release(lost: &Lost) -> v1::LostRelease {
    v1::LostRelease {
        app: lost.app.to_string(),
        release: lost.release.0,
        files: lost.files,
        path: lost.path.clone(),
    }
}

pub(super) fn host_status(env: &EnvName, host: &HostName, presence: &Presence) -> v1::HostStatus {
    let mut report: v1::HostReport = match &presence.report {
        Some(report) => ship_model::report::HostReport::clone(report).into(),
        None => v1::HostReport::default(),
    };
    if presence.report.is_none() {
        report.classes = presence.known.classes.iter().map(ToString::to_string).collect();
        report.asset_url.clone_from(&presence.known.asset_url);
    }
    v1::HostStatus {
        env: env.to_string(),
        host: host.to_string(),
        state: presence.state.to_string(),
        last_seen_ms: presence.heard_ms.unwrap_or(0),
        report: Some(report),
        standing: presence.known.standing.as_ref().map(|standing| v1::Standing {
            duty: standing.duty.to_string(),
            who: standing.who.clone(),
            reason: standing.reason.clone(),
            at_ms: standing.at_ms,
        }),
    }
}

#[tonic::async_trait]
impl Fleet for FleetFace {
    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        let request = request.into_inner();
        let env = self.env_filter(&request.env)?;
        let app = self.app_filter(&request.app).await?;
        let all = self.0.fleet.all(env.as_ref());
        let mut present: BTreeMap<EnvName, Present> = BTreeMap::new();
        for (env, host, presence) in &all {
            present
                .entry(env.clone())
                .or_default()
                .insert(host.clone(), presence.clone());
        }
        let none = Present::new();
        let shown = |state: &Arc<EnvState>| {
            env.as_ref().is_none_or(|env| *env == state.env)
                && app.as_ref().is_none_or(|app| *app == state.app)
        };
        let states = self.0.board.states();
        let mut apps: Vec<v1::AppStatus> = states
            .iter()
            .filter(|state| shown(state))
            .map(|state| self.app_status(state, present.get(&state.env).unwrap_or(&none)))
            .collect();
        apps.extend(self.unpromoted(app.as_ref(), env.as_ref()).await?);
        Ok(Response::new(v1::StatusReply {
            apps,
            hosts: all
                .iter()
                .map(|(env, host, presence)| host_status(env, host, presence))
                .collect(),
            now_ms: self.0.clock.now_ms(),
            store_version: env!("CARGO_PKG_VERSION").to_owned(),
            asset_url: self.0.asset_url.clone(),
            lost: self.0.findings.lost().iter().map(lost_release).collect(),
            notify: self.0.routes.all().into_iter().map(notify_route).collect(),
        }))
    }

    type LogsStream = Answers<v1::LogLine>;

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let request = request.into_inner();
        let env = self.0.known_env(&request.env)?;
        let app = self.0.known_app(&request.app).await?;
        let known = self.0.fleet.all(Some(&env));
        let hosts: Vec<HostName> = if request.host.is_empty() {
            let state = self.0.board.state(&env, &app);
            let runs = |host: &HostName| state.as_ref().is_some_and(|state| state.hosts.contains_key(host));
            known.into_iter().map(|(_, host, _)| host).filter(runs).collect()
        } else {
            let host = known.iter().find(|(_, host, _)| host.as_str() == request.host);
            let names = || known.iter().map(|(_, host, _)| host.to_string());
            let found = host.ok_or_else(|| status::not_found("host", &request.host, names()))?;
            vec![found.1.clone()]
        };
        let query = v1::LogsQuery {
            request: 0,
            app: app.to_string(),
            lines: if request.lines == 0 {
                100
            } else {
                request.lines.min(MOST)
            },
            follow: request.follow,
            release: request.release,
            cancel: false,
        };
        Ok(Response::new(logs::lines(&self.0, &env, hosts, query).await))
    }

    async fn host(&self, request: Request<v1::HostRequest>) -> Result<Response<v1::HostReply>, Status> {
        let caller = caller(&request)?;
        host::steer(&self.0, &caller, request.into_inner())
            .await
            .map(Response::new)
    }

    type EventsStream = Answers<v1::Event>;

    async fn events(
        &self,
        request: Request<v1::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let request = request.into_inner();
        let limit = if request.limit == 0 {
            50
        } else {
            request.limit.min(MOST)
        };
        // Listening begins before the first look, so that nothing falls between.
        let watch = self.0.ledger.watch_audit();
        let tail = self
            .0
            .ledger(move |ledger| ledger.audit_tail(limit as usize))
            .await?;
        let following = Following {
            face: self.0.clone(),
            last: tail.last().map_or(0, |link| link.seq),
            waiting: tail.into_iter().rev().collect(),
            watch: request.follow.then_some(watch),
            stop: self.0.stop.clone(),
        };
        let events = stream::unfold(following, |mut following| async move {
            let event = following.next().await?;
            Some((event, following))
        });
        Ok(Response::new(Box::pin(events)))
    }
}

/// One reader of the chain of acts.
struct Following {
    face: Face,
    last: u64,
    /// Newest first: the next one is at the end.
    waiting: Vec<AuditLink>,
    watch: Option<Watch>,
    stop: CancellationToken,
}

impl Following {
    async fn next(&mut self) -> Option<Result<v1::Event, Status>> {
        loop {
            if let Some(link) = self.waiting.pop() {
                self.last = link.seq;
                return Some(Ok(event(link)));
            }
            let watch = self.watch.as_mut()?;
            tokio::select! {
                seen = watch.next() => { seen?; }
                () = self.stop.cancelled() => return None,
            }
            let last = self.last;
            match self
                .face
                .ledger(move |ledger| ledger.audit_after(last, 1000))
                .await
            {
                Ok(links) => self.waiting = links.into_iter().rev().collect(),
                Err(status) => {
                    self.watch = None;
                    return Some(Err(status));
                }
            }
        }
    }
}

fn event(link: AuditLink) -> v1::Event {
    let hash = blake3::Hash::from_hex(&link.hash);
    v1::Event {
        seq: link.seq,
        at_ms: link.at_ms,
        who: link.who,
        what: link.what,
        subject: link.subject,
        detail: link.detail,
        hash: hash.map(|hash| hash.as_bytes().to_vec()).unwrap_or_default(),
    }
}
