//! `shipctl approve`, `reject` and `ack`: an operator's word at the gates that a rollout waits at.

use std::time::Duration;

use clap::Args;
use ship_model::name::AppName;
use ship_model::release::ReleaseRef;
use ship_proto::v1::answer_request::Word;
use ship_proto::v1::{AnswerRequest, OutcomeKind, RolloutView};
use tonic::Code;

use super::{Fleet, Outcome, shape, subject};
use crate::args::Global;
use crate::error::{CommandError, Exit};
use crate::patience::Patience;
use crate::ui::{Ui, plan_lines};
use crate::words::clean;

/// How long a store that is away is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Say yes to what a rollout waits for
#[derive(Debug, Args)]
#[command(after_help = "\
A yes counts for every approval of the step that waits and that you may give; the store
goes by your certificate, and writes it down. The same yes twice is one. Examples:
  shipctl approve web -m \"graphs look fine\"
  shipctl approve web --step 5     only if that is the step that waits
Exit 4 when nothing waits for you.")]
pub struct Approve {
    #[command(flatten)]
    what: What,
}

/// Say no at a gate: touched hosts go back, and the release is not promoted again without --force
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  shipctl reject web -m \"checkout is slow\"
  shipctl attach web               shows how it goes back
Exit 4 when no rollout waits at a gate; `shipctl abort` stops one anywhere.")]
pub struct Reject {
    #[command(flatten)]
    what: What,
}

/// Say that what a manual gate asks for is done
#[derive(Debug, Args)]
#[command(after_help = "\
The name is the gate's, as `shipctl status` shows it. Example:
  shipctl ack dns -a web -m \"weight is at 50\"
Exit 4 when no such gate waits.")]
pub struct Ack {
    /// Name of the gate
    #[arg(value_name = "GATE")]
    gate: String,
    #[command(flatten)]
    about: About,
}

#[derive(Debug, Args)]
struct What {
    /// App
    app: Option<AppName>,
    #[command(flatten)]
    about: About,
}

#[derive(Debug, Args)]
struct About {
    /// Only if this step waits, by its number in the list
    #[arg(long, value_name = "N")]
    step: Option<u32>,
    /// Only if this deploy is under way
    #[arg(long, value_name = "N")]
    deploy: Option<u64>,
    /// What you looked at, for everybody who asks later
    #[arg(short = 'm', long, value_name = "TEXT", visible_alias = "message")]
    note: Option<String>,
}

pub async fn approve(verb: Approve, global: &Global, ui: &Ui) -> Outcome {
    answer(verb.what.app, &verb.what.about, (Word::Approve, ""), global, ui).await
}

pub async fn reject(verb: Reject, global: &Global, ui: &Ui) -> Outcome {
    answer(verb.what.app, &verb.what.about, (Word::Reject, ""), global, ui).await
}

pub async fn ack(verb: Ack, global: &Global, ui: &Ui) -> Outcome {
    answer(None, &verb.about, (Word::Acknowledge, &verb.gate), global, ui).await
}

async fn answer(
    app: Option<AppName>,
    about: &About,
    (word, gate): (Word, &str),
    global: &Global,
    ui: &Ui,
) -> Outcome {
    let fleet = Fleet::reach(global).await?;
    let typed = app.map(|app| ReleaseRef {
        app: Some(app),
        number: None,
    });
    let subject = subject::subject(typed.as_ref(), &fleet.context)?;
    let request = AnswerRequest {
        app: subject.app.to_string(),
        env: fleet.context.env.to_string(),
        word: word.into(),
        gate: gate.to_owned(),
        deploy: about.deploy.unwrap_or(0),
        step: about.step.unwrap_or(0),
        note: about.note.clone().unwrap_or_default(),
    };
    let view = call(&fleet, request, ui).await?;
    Ok(told(&view, word, ui))
}

/// A store that is being restarted is waited for: the same word twice is one.
async fn call(fleet: &Fleet, request: AnswerRequest, ui: &Ui) -> Result<RolloutView, CommandError> {
    let mut patience = Patience::new(PATIENCE);
    loop {
        match fleet.client.rollouts().answer(request.clone()).await {
            Ok(view) => {
                patience.answered(|text| ui.say(text));
                return Ok(view.into_inner());
            }
            Err(status) if status.code() == Code::Unimplemented => {
                return Err(
                    CommandError::new(Exit::Refused, "this store is too old to have gates")
                        .hint("update the store"),
                );
            }
            Err(status) => patience.after(status, |text| ui.say(text)).await?,
        }
    }
}

fn told(view: &RolloutView, word: Word, ui: &Ui) -> Exit {
    if ui.is_json() {
        ui.json(&shape::Rollout::from(view));
        return Exit::Done;
    }
    let how = match word {
        Word::Reject => "was rejected; touched hosts go back",
        Word::Acknowledge => "has your word for what was to be done",
        Word::Approve | Word::Unspecified => "has your yes",
    };
    ui.line(format!("deploy {} of {} {how}", view.deploy, clean(&view.app)));
    if view.outcome() == OutcomeKind::Running {
        plan_lines(view).into_iter().skip(1).for_each(|line| ui.say(line));
    }
    Exit::Done
}
