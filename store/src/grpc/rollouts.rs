//! Rollouts: plan, begin, watch, steer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::stream;
use ship_model::name::{AppName, EnvName, HostName};
use ship_model::release::ReleaseNumber;
use ship_model::rollout::{
    self as model, Answer, AnswerWord, EnvState, MAX_PLAN_FILE, Plan, PlanRefused, Profile, Wish, read_plan,
    write_plan,
};
use ship_proto::v1::rollouts_server::Rollouts;
use ship_proto::v1::{self, OutcomeKind, answer_request, control_request};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::face::{Answers, Face, caller};
use super::releases::Rooms;
use super::{status, view};
use crate::ledger::RequestId;
use crate::log::whole;
use crate::retention::{BringBackError, bring_back, tell_expired};
use crate::rollout::{Steer, SteerError, SteerVerb, Wanted};

/// Longest message of an operator in bytes.
pub(super) const MESSAGE: usize = 1000;
/// Most hosts that a request leaves out by name.
const WITHOUT: usize = 1000;

#[derive(Debug, Clone)]
pub struct RolloutsFace(pub Face, pub Arc<Rooms>);

/// What a request names, checked.
struct Asked {
    app: AppName,
    env: EnvName,
    wanted: Wanted,
}

impl RolloutsFace {
    async fn asked(&self, request: &v1::PlanRequest, revert: bool) -> Result<Asked, Status> {
        let env = self.0.known_env(&request.env)?;
        let app = self.0.known_app(&request.app).await?;
        if request.message.len() > MESSAGE {
            return Err(status::invalid(
                format!("the message is longer than {MESSAGE} bytes"),
                "message",
            ));
        }
        let number = (request.number > 0).then_some(ReleaseNumber(request.number));
        let wish = if revert {
            Wish::Revert { to: number }
        } else {
            Wish::Promote { release: number }
        };
        let saved = saved(request, &env, &app, revert)?;
        let wanted = Wanted {
            request: model::Request {
                wish,
                force: request.force,
                message: (!request.message.is_empty()).then(|| request.message.clone()),
                without: self.without(&env, &request.without)?,
            },
            profile: profile(&request.profile)?,
            saved,
        };
        Ok(Asked { app, env, wanted })
    }

    /// Hosts to leave out, each of them known: a slip of the pen must not leave out nobody.
    fn without(&self, env: &EnvName, names: &[String]) -> Result<BTreeSet<HostName>, Status> {
        if names.len() > WITHOUT {
            return Err(status::invalid(
                format!("more than {WITHOUT} hosts are left out"),
                "without",
            ));
        }
        let known = |name: &String| self.0.known_host(env, name);
        names.iter().map(known).collect()
    }

    async fn begin(
        &self,
        request: Request<v1::PlanRequest>,
        revert: bool,
    ) -> Result<Response<v1::Started>, Status> {
        let who = caller(&request)?.to_string();
        let request = request.into_inner();
        let id = RequestId::from_slice(&request.request_id)
            .ok_or_else(|| status::invalid("request_id must be 16 random bytes", "request_id"))?;
        let Asked { app, env, wanted } = self.asked(&request, revert).await?;
        let asked = words_of(&wanted);
        let _deciding = self.0.deciding.read().await;
        self.bring_back(&env, &app, &wanted).await?;
        let wish = Steer::Start {
            asked: blake3::hash(asked.as_bytes()).to_hex().to_string(),
            wanted: Box::new(wanted),
            who,
            id,
        };
        let started = self.0.controller.steer(&env, &app, wish).await;
        let deploy = started.map_err(|error| status::steer(&error))?;
        Ok(Response::new(v1::Started {
            app: app.to_string(),
            env: env.to_string(),
            deploy: deploy.0,
        }))
    }

    /// Expired assets of the release that is wanted stand in the store again before any host is told of it.
    async fn bring_back(&self, env: &EnvName, app: &AppName, wanted: &Wanted) -> Result<(), Status> {
        let of = app.clone();
        let told = self.0.board.expired(app).is_some_and(|told| told.paths > 0);
        if !told && !self.0.ledger(move |ledger| ledger.has_expired(&of)).await? {
            return Ok(());
        }
        // What is wrong with the wish is told by whoever carries it out.
        let Ok(plan) = self.0.controller.plan(env, app, wanted).await else {
            return Ok(());
        };
        let (ledger, rooms, app) = (self.0.ledger.clone(), Arc::clone(&self.1), app.clone());
        let board = Arc::clone(&self.0.board);
        let back = move || {
            bring_back(&ledger, &rooms.unions, &app, plan.to.number)?;
            let told = tell_expired(&ledger, &board, &app);
            told.map_err(|source| BringBackError::Ledger { app, source })
        };
        let back = self.0.bridge.run(back).await.map_err(status::broken_off)?;
        back.map_err(|error| status::bring_back(&error))
    }

    fn view_of(&self, env: &EnvName, app: &AppName, deploy: u64) -> Result<v1::RolloutView, Status> {
        let state = self.0.board.state(env, app);
        let shown = state.and_then(|state| view::of_deploy(&state, deploy));
        shown.ok_or_else(|| no_rollout(env, app, deploy))
    }
}

/// What was asked, in words: a repeated request asks the same.
fn words_of(wanted: &Wanted) -> String {
    let request = &wanted.request;
    let mut asked = format!("{:?} force={} {:?}", request.wish, request.force, request.message);
    for host in &request.without {
        asked.push_str(&format!(" without {host}"));
    }
    // What came later is left out while it is not asked for: a client may repeat what it asked an older store.
    if wanted.profile != Profile::Normal {
        asked.push_str(&format!(" profile {}", wanted.profile));
    }
    if let Some(saved) = &wanted.saved {
        asked.push_str(&format!(" plan {}", saved.id));
    }
    asked
}

fn profile(name: &str) -> Result<Profile, Status> {
    match name {
        "" => Ok(Profile::Normal),
        name => name
            .parse::<Profile>()
            .map_err(|error| status::invalid(error.to_string(), "profile")),
    }
}

/// The plan that a request brings, if it is one of what the request is about.
fn saved(
    request: &v1::PlanRequest,
    env: &EnvName,
    app: &AppName,
    revert: bool,
) -> Result<Option<Box<Plan>>, Status> {
    if request.plan.is_empty() {
        return Ok(None);
    }
    let saved = read_plan(&request.plan).map_err(|error| status::invalid(whole(&error), "plan"))?;
    let kind = match revert {
        true => model::DeployKind::Revert,
        false => model::DeployKind::Promote,
    };
    if (&saved.env, &saved.app, saved.kind) != (env, app, kind) {
        let other = format!(
            "the plan is of {} in {}, or goes the other way",
            saved.app, saved.env
        );
        return Err(status::invalid(other, "plan"));
    }
    Ok(Some(Box::new(saved)))
}

fn no_rollout(env: &EnvName, app: &AppName, deploy: u64) -> Status {
    let message = if deploy == 0 {
        format!("{app} was never promoted in {env}")
    } else {
        format!("{app} has no deploy {deploy} in {env}, or it was too long ago")
    };
    let kind = v1::FailureKind::NotFound;
    ship_proto::refuse(
        kind,
        message,
        &format!("{env}/{app}"),
        &format!("shipctl promote {app} -e {env}"),
    )
}

/// Between two looks at hosts that wait.
const LOOK: Duration = Duration::from_secs(1);

/// One watcher. A slow one misses views between, never the last: the channel holds the newest state.
struct Watching {
    face: Face,
    states: watch::Receiver<Arc<EnvState>>,
    deploy: u64,
    stop: CancellationToken,
    last: Option<v1::RolloutView>,
    over: bool,
}

impl Watching {
    async fn next(&mut self) -> Option<Result<v1::RolloutView, Status>> {
        while !self.over {
            if self.last.is_some() {
                tokio::select! {
                    changed = self.states.changed() => changed.ok()?,
                    // Hosts may wait, and that is no change of the rollout.
                    () = tokio::time::sleep(LOOK) => {}
                    () = self.stop.cancelled() => {
                        self.over = true;
                        return Some(Err(status::unavailable("the store is ending; the rollout goes on")));
                    }
                }
            }
            let state = Arc::clone(&self.states.borrow_and_update());
            let Some(mut shown) = view::of_deploy(&state, self.deploy) else {
                self.over = true;
                return Some(Err(no_rollout(&state.env, &state.app, self.deploy)));
            };
            self.face.add_waits(&state.env, &state.app, &mut shown);
            if self.last.as_ref() != Some(&shown) {
                self.over = view::is_over(&shown);
                self.last = Some(shown.clone());
                return Some(Ok(shown));
            }
        }
        None
    }
}

#[tonic::async_trait]
impl Rollouts for RolloutsFace {
    async fn plan(&self, request: Request<v1::PlanRequest>) -> Result<Response<v1::PlanReply>, Status> {
        let request = request.into_inner();
        let Asked { app, env, wanted } = self.asked(&request, request.revert).await?;
        match self.0.controller.plan(&env, &app, &wanted).await {
            Ok(plan) => {
                let forecast = self.0.controller.forecast(&plan).await;
                let forecast = forecast.map_err(|error| status::steer(&error))?;
                // A plan that is too large to be read again is not given away: it is told as from an old store.
                let written = write_plan(&plan, false).unwrap_or_default();
                Ok(Response::new(v1::PlanReply {
                    view: Some(view::of_plan(&plan, &forecast)),
                    changes: true,
                    ways: view::of_ways(self.0.controller.ways(&plan).await),
                    plan: if written.len() <= MAX_PLAN_FILE {
                        written
                    } else {
                        Vec::new()
                    },
                    no_return: view::of_no_return(&forecast),
                    then: forecast.then.map(Into::into),
                }))
            }
            Err(SteerError::Plan(PlanRefused::AlreadyRuns { .. })) => {
                let state = self.0.board.state(&env, &app);
                let current = state.and_then(|state| state.current).map(v1::Target::from);
                let view = v1::RolloutView {
                    app: app.to_string(),
                    env: env.to_string(),
                    kind: if request.revert { "revert" } else { "promote" }.to_owned(),
                    from: current.clone(),
                    to: current,
                    outcome: OutcomeKind::Planned.into(),
                    ..v1::RolloutView::default()
                };
                Ok(Response::new(v1::PlanReply {
                    view: Some(view),
                    changes: false,
                    ..v1::PlanReply::default()
                }))
            }
            Err(error) => Err(status::steer(&error)),
        }
    }

    async fn promote(&self, request: Request<v1::PlanRequest>) -> Result<Response<v1::Started>, Status> {
        self.begin(request, false).await
    }

    async fn revert(&self, request: Request<v1::PlanRequest>) -> Result<Response<v1::Started>, Status> {
        self.begin(request, true).await
    }

    type WatchStream = Answers<v1::RolloutView>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        let env = self.0.known_env(&request.env)?;
        let app = self.0.known_app(&request.app).await?;
        let first = self.view_of(&env, &app, request.deploy)?;
        let states = self.0.board.watch(&env, &app);
        let states = states.ok_or_else(|| no_rollout(&env, &app, request.deploy))?;
        let watching = Watching {
            face: self.0.clone(),
            states,
            deploy: first.deploy,
            stop: self.0.stop.clone(),
            last: None,
            over: false,
        };
        let views = stream::unfold(watching, |mut watching| async move {
            let view = watching.next().await?;
            Some((view, watching))
        });
        Ok(Response::new(Box::pin(views)))
    }

    async fn control(
        &self,
        request: Request<v1::ControlRequest>,
    ) -> Result<Response<v1::RolloutView>, Status> {
        let who = caller(&request)?.to_string();
        let request = request.into_inner();
        let env = self.0.known_env(&request.env)?;
        let app = self.0.known_app(&request.app).await?;
        let verb = match request.verb() {
            control_request::Verb::Pause => SteerVerb::Pause,
            control_request::Verb::Resume => SteerVerb::Resume,
            control_request::Verb::Abort => SteerVerb::Abort,
            control_request::Verb::Unspecified => {
                return Err(status::invalid(
                    "the verb is none of pause, resume and abort",
                    "verb",
                ));
            }
        };
        let done = self
            .0
            .controller
            .steer(&env, &app, Steer::Control { verb, who })
            .await;
        let deploy = done.map_err(|error| status::steer(&error))?;
        Ok(Response::new(self.view_of(&env, &app, deploy.0)?))
    }

    async fn answer(&self, request: Request<v1::AnswerRequest>) -> Result<Response<v1::RolloutView>, Status> {
        let who = caller(&request)?.to_string();
        let request = request.into_inner();
        let env = self.0.known_env(&request.env)?;
        let app = self.0.known_app(&request.app).await?;
        let answer = answer_of(&request)?;
        let told = self.0.controller.steer(&env, &app, Steer::Answer { answer, who });
        let deploy = told.await.map_err(|error| status::steer(&error))?;
        Ok(Response::new(self.view_of(&env, &app, deploy.0)?))
    }
}

fn answer_of(request: &v1::AnswerRequest) -> Result<Answer, Status> {
    for (text, name) in [(&request.note, "note"), (&request.gate, "gate")] {
        if text.len() > MESSAGE {
            return Err(status::invalid(
                format!("the {name} is longer than {MESSAGE} bytes"),
                name,
            ));
        }
    }
    let word = match request.word() {
        answer_request::Word::Approve => AnswerWord::Approve,
        answer_request::Word::Reject => AnswerWord::Reject,
        answer_request::Word::Acknowledge => AnswerWord::Acknowledge(request.gate.clone()),
        answer_request::Word::Unspecified => {
            return Err(status::invalid(
                "the word is none of approve, reject and acknowledge",
                "word",
            ));
        }
    };
    Ok(Answer {
        word,
        deploy: (request.deploy > 0).then_some(request.deploy),
        step: (request.step as usize).checked_sub(1),
        note: (!request.note.is_empty()).then(|| request.note.clone()),
    })
}
