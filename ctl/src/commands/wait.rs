//! Waiting for a rollout's end, through restarts of the store. The rollout itself needs nobody who waits.

use std::time::Duration;

use ship_proto::v1::{OutcomeKind, RolloutView, WatchRequest};
use tonic::Status;

use super::{Fleet, Outcome, shape};
use crate::error::{CommandError, Exit};
use crate::patience::Patience;
use crate::signals::Stop;
use crate::ui::{Progress, Ui, outcome_words};
use crate::words::{clean, duration};

/// Before a stream that ended early is asked for again.
const AGAIN: Duration = Duration::from_millis(100);

/// A rollout to wait for.
#[derive(Debug, Clone)]
pub struct Awaited {
    pub app: String,
    pub env: String,
    /// 0: the one under way, else the last.
    pub deploy: u64,
    /// How long to wait; the rollout goes on all the same.
    pub timeout: Duration,
    /// Its plan was shown before.
    pub titled: bool,
}

impl Awaited {
    fn attach(&self) -> String {
        let mut command = format!("shipctl attach {} -e {}", clean(&self.app), clean(&self.env));
        if self.deploy > 0 {
            command.push_str(&format!(" --deploy {}", self.deploy));
        }
        command
    }
}

/// How often the clock of a step under way is shown anew.
const TICK: Duration = Duration::from_millis(250);

/// Why waiting ended.
enum End {
    Ended(Box<RolloutView>),
    TimedOut,
    Interrupted,
}

/// Shows the steps as they are done, and ends as the rollout does.
///
/// `stop` is heard from before the rollout began, so that Ctrl-C never ends this without a word.
pub async fn wait(awaited: &Awaited, fleet: &Fleet, stop: &mut Stop, ui: &Ui) -> Outcome {
    let view = match end(awaited, fleet, stop, ui).await? {
        End::Ended(view) => view,
        End::TimedOut => {
            return Err(CommandError::new(
                Exit::Unknown,
                format!(
                    "not seen to end within {}; the rollout goes on",
                    duration(awaited.timeout)
                ),
            )
            .hint(awaited.attach()));
        }
        End::Interrupted => {
            return Err(
                CommandError::new(Exit::Interrupted, "interrupted; the rollout goes on")
                    .hint(awaited.attach())
                    .hint(format!(
                        "take it back: shipctl abort {} -e {}",
                        clean(&awaited.app),
                        clean(&awaited.env)
                    )),
            );
        }
    };
    if ui.is_json() {
        ui.json(&shape::Rollout::from(view.as_ref()));
    }
    verdict(&view, ui)
}

async fn end(awaited: &Awaited, fleet: &Fleet, stop: &mut Stop, ui: &Ui) -> Result<End, CommandError> {
    let mut progress = Progress::new(ui, awaited.titled);
    let ended = tokio::select! {
        view = last_view(awaited, fleet, &mut progress) => view.map(|view| End::Ended(Box::new(view))),
        () = tokio::time::sleep(awaited.timeout) => Ok(End::TimedOut),
        () = stop.asked() => Ok(End::Interrupted),
    };
    progress.finish();
    ended
}

/// Watches until a view says that it has ended. Whatever breaks on the way is tried again: only the
/// store's own refusal ends it.
async fn last_view(
    awaited: &Awaited,
    fleet: &Fleet,
    progress: &mut Progress<'_>,
) -> Result<RolloutView, CommandError> {
    let mut patience = Patience::new(Duration::MAX);
    loop {
        match watch(awaited, fleet, progress, &mut patience).await {
            Ok(Some(view)) => return Ok(view),
            Ok(None) => tokio::time::sleep(AGAIN).await,
            Err(status) => patience.after(status, |text| progress.say(text)).await?,
        }
    }
}

/// One stream of views; none when it ended before the rollout did.
async fn watch(
    awaited: &Awaited,
    fleet: &Fleet,
    progress: &mut Progress<'_>,
    patience: &mut Patience,
) -> Result<Option<RolloutView>, Status> {
    let request = WatchRequest {
        app: awaited.app.clone(),
        env: awaited.env.clone(),
        deploy: awaited.deploy,
    };
    let mut views = fleet.client.rollouts().watch(request).await?.into_inner();
    loop {
        let next = tokio::select! {
            next = views.message() => next?,
            () = tokio::time::sleep(TICK) => {
                progress.tick();
                continue;
            }
        };
        let Some(view) = next else { return Ok(None) };
        patience.answered(|text| progress.say(text));
        progress.update(&view);
        if !matches!(
            view.outcome(),
            OutcomeKind::Running | OutcomeKind::Planned | OutcomeKind::Unspecified
        ) {
            return Ok(Some(view));
        }
    }
}

/// What an ended rollout means to whoever waited for it.
fn verdict(view: &RolloutView, ui: &Ui) -> Outcome {
    let exit = match view.outcome() {
        OutcomeKind::Done => {
            if !ui.is_json() {
                ui.line(done_line(view));
            }
            return Ok(Exit::Done);
        }
        OutcomeKind::Reverted | OutcomeKind::Stopped | OutcomeKind::Aborted => Exit::Reverted,
        OutcomeKind::Partial => Exit::Partial,
        _ => Exit::Unknown,
    };
    Err(failure(view, exit))
}

fn done_line(view: &RolloutView) -> String {
    let number = view.to.as_ref().map_or(0, |target| target.number);
    let took = Duration::from_millis(view.ended_at_ms.saturating_sub(view.started_at_ms));
    let mut line = format!(
        "{}@{number} runs in {}; deploy {}, {}",
        clean(&view.app),
        clean(&view.env),
        view.deploy,
        duration(took)
    );
    if !view.excused.is_empty() {
        line.push_str(&format!(
            "; without {}, which catch up",
            clean(&view.excused.join(", "))
        ));
    }
    line
}

fn failure(view: &RolloutView, exit: Exit) -> CommandError {
    let number = view.to.as_ref().map_or(0, |target| target.number);
    let app = clean(&view.app);
    let what = match view.kind.as_str() {
        "revert" => "revert to",
        _ => "promote of",
    };
    let mut message = format!("{what} {app}@{number} {}", outcome_words(view.outcome()));
    if !view.reason.is_empty() {
        message.push_str(&format!(": {}", view.reason));
    }
    let mut fault = CommandError::new(exit, message).with_last_lines(&view.last_lines);
    if let Some(advice) = advice(view) {
        fault = fault.hint(advice);
    }
    match exit {
        Exit::Partial => fault
            .hint(format!("see which hosts: shipctl status {app}"))
            .hint(format!("take all of them back: shipctl revert {app}")),
        _ => fault
            .hint(format!(
                "what the app said: shipctl logs {app} --release {number}"
            ))
            .hint(format!("what runs where: shipctl status {app}")),
    }
}

/// What the commonest mistakes of a first deploy look like, and what to do about them.
fn advice(view: &RolloutView) -> Option<&'static str> {
    let bound = |line: &String| line.contains("ddress already in use") || line.contains("EADDRINUSE");
    if view.last_lines.iter().any(bound) {
        return Some(
            "Ship holds the listening sockets and hands them over, the first as descriptor 3 (LISTEN_FDS): let the server \
             take that one instead of binding the port itself; `shipctl init` shows how for some servers",
        );
    }
    if view.reason.contains("is taken by another program") {
        return Some("another app of the same host may listen there: shipctl status");
    }
    if view.reason.contains(": ready: not ready within") {
        return Some(
            "with `notify = true` it must say READY=1 on NOTIFY_SOCKET; if it never does, leave `notify` out",
        );
    }
    if view.reason.contains(": probe: no good answer") {
        return Some(
            "does it take its socket from Ship (descriptor 3, LISTEN_FDS), and does it answer there what the probe asks?",
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use ship_proto::v1::Target;

    fn ended(outcome: OutcomeKind) -> RolloutView {
        RolloutView {
            app: "web".into(),
            env: "dev".into(),
            kind: "promote".into(),
            deploy: 3,
            to: Some(Target {
                number: 5,
                id: vec![],
            }),
            outcome: outcome.into(),
            reason: "h1: probe: GET /healthz answered 500".into(),
            last_lines: vec!["boom\x1b[0m".into()],
            started_at_ms: 1_000,
            ended_at_ms: 3_500,
            ..RolloutView::default()
        }
    }

    #[test]
    fn exit_codes_by_outcome() {
        for (outcome, exit) in [
            (OutcomeKind::Reverted, Exit::Reverted),
            (OutcomeKind::Stopped, Exit::Reverted),
            (OutcomeKind::Aborted, Exit::Reverted),
            (OutcomeKind::Partial, Exit::Partial),
        ] {
            assert_eq!(failure(&ended(outcome), exit).exit(), exit);
        }
    }

    #[test]
    fn a_failure_names_host_step_reason_last_lines_and_what_to_type() {
        let fault = failure(&ended(OutcomeKind::Reverted), Exit::Reverted);
        assert_eq!(
            fault.message(),
            "promote of web@5 failed and taken back: h1: probe: GET /healthz answered 500"
        );
        assert_eq!(fault.last_lines(), ["boom\\u{1b}[0m"]);
        assert_eq!(
            fault.hints(),
            [
                "what the app said: shipctl logs web --release 5",
                "what runs where: shipctl status web"
            ]
        );
    }

    #[test]
    fn a_server_that_binds_by_itself_is_told_what_to_do() {
        let mut view = ended(OutcomeKind::Stopped);
        view.last_lines = vec!["OSError: [Errno 98] Address already in use".into()];
        let fault = failure(&view, Exit::Reverted);
        assert!(
            fault.hints()[0].contains("descriptor 3 (LISTEN_FDS)"),
            "{fault:?}"
        );
        view.last_lines.clear();
        view.reason = "h1: ready: not ready within its ready_timeout".into();
        let fault = failure(&view, Exit::Reverted);
        assert!(fault.hints()[0].contains("leave `notify` out"), "{fault:?}");
    }

    #[test]
    fn a_good_end_in_one_line() {
        assert_eq!(
            done_line(&ended(OutcomeKind::Done)),
            "web@5 runs in dev; deploy 3, 2.5 s"
        );
    }
}
