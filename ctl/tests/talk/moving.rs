//! plan, promote, revert, attach, abort.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use ship_proto::refuse;
use ship_proto::v1::{
    AnswerRequest, FailureKind, GateLine, HostLine, OutcomeKind, PlanReply, RolloutView, Started, StepView,
    Target,
};
use tonic::Status;

use crate::fake::{FakeStore, Said, Script, Watched, closed};

fn view(outcome: OutcomeKind) -> RolloutView {
    let target = |number| {
        Some(Target {
            number,
            id: vec![1; 32],
        })
    };
    let failed = !matches!(
        outcome,
        OutcomeKind::Done | OutcomeKind::Running | OutcomeKind::Planned
    );
    RolloutView {
        app: "web".into(),
        env: "dev".into(),
        deploy: 7,
        kind: "promote".into(),
        from: target(4),
        to: target(5),
        who: "operator/alice".into(),
        started_at_ms: 1_000,
        ended_at_ms: 2_500,
        steps: vec![StepView {
            number: 4,
            name: "one host".into(),
            state: match outcome {
                OutcomeKind::Planned => "waiting",
                _ if failed => "failed",
                _ => "done",
            }
            .into(),
            hosts: vec![HostLine {
                host: "h1".into(),
                state: "done".into(),
                ..HostLine::default()
            }],
            ..StepView::default()
        }],
        outcome: outcome.into(),
        reason: if failed {
            "h1: probe: answered 500".into()
        } else {
            String::new()
        },
        last_lines: if failed {
            vec!["panic at the disco".into()]
        } else {
            Vec::new()
        },
        ..RolloutView::default()
    }
}

fn script(watches: impl IntoIterator<Item = Watched>) -> Script {
    Script {
        plan: Some(Ok(PlanReply {
            view: Some(view(OutcomeKind::Planned)),
            changes: true,
            ..PlanReply::default()
        })),
        started: [Ok(Started {
            app: "web".into(),
            env: "dev".into(),
            deploy: 7,
        })]
        .into(),
        watches: watches.into_iter().collect(),
        ..Script::default()
    }
}

fn ends(outcome: OutcomeKind) -> Script {
    script([Watched::Views(vec![view(OutcomeKind::Running), view(outcome)])])
}

#[test]
fn exit_codes_by_outcome() {
    for (outcome, code) in [
        (OutcomeKind::Done, 0),
        (OutcomeKind::Reverted, 5),
        (OutcomeKind::Stopped, 5),
        (OutcomeKind::Aborted, 5),
        (OutcomeKind::Partial, 6),
    ] {
        let store = FakeStore::start(ends(outcome));
        let said = store.run(&["promote", "web"]);
        assert_eq!(said.code, code, "{outcome:?}: {said:?}");
    }
}

#[test]
fn a_failure_in_full() {
    let store = FakeStore::start(ends(OutcomeKind::Reverted));
    let said = store.run(&["promote", "web@5"]);
    insta::assert_snapshot!(
        "promote_reverted",
        format!("{}--- stderr\n{}", said.stdout, said.stderr)
    );
}

#[test]
fn a_good_end_in_full() {
    let store = FakeStore::start(ends(OutcomeKind::Done));
    let said = store.run(&["promote", "web"]);
    insta::assert_snapshot!(
        "promote_done",
        format!("{}--- stderr\n{}", said.stdout, said.stderr)
    );
    let script = store.script.lock().unwrap();
    let numbers: Vec<u64> = script.asked.iter().map(|asked| asked.number).collect();
    assert_eq!(numbers, [0, 5], "what was planned is what is promoted");
}

#[test]
fn refusals_keep_their_reason_and_hint() {
    for (kind, code) in [
        (FailureKind::Refused, 4),
        (FailureKind::Denied, 4),
        (FailureKind::Busy, 8),
        (FailureKind::NotFound, 1),
    ] {
        let store = FakeStore::start(Script {
            started: [Err(refuse(
                kind,
                "deploy 6 by bob is under way",
                "web",
                "shipctl attach web",
            ))]
            .into(),
            ..ends(OutcomeKind::Done)
        });
        let said = store.run(&["revert", "web"]);
        assert_eq!(said.code, code, "{said:?}");
        assert!(
            said.stderr
                .contains("error: deploy 6 by bob is under way\nhint: shipctl attach web"),
            "{said:?}"
        );
    }
}

#[test]
fn a_lost_answer_is_asked_for_with_the_same_request() {
    let store = FakeStore::start(Script {
        started: [
            Err(Status::unavailable("connection reset")),
            Ok(Started {
                app: "web".into(),
                env: "dev".into(),
                deploy: 7,
            }),
        ]
        .into(),
        ..ends(OutcomeKind::Done)
    });
    assert_eq!(store.run(&["promote", "web"]).code, 0);
    let script = store.script.lock().unwrap();
    let ids: Vec<_> = script
        .asked
        .iter()
        .map(|asked| asked.request_id.clone())
        .collect();
    assert_eq!(ids.len(), 3, "a plan and two starts");
    assert_eq!(ids[1], ids[2]);
    assert_eq!(ids[1].len(), 16);
}

#[test]
fn a_store_that_restarts_is_waited_for() {
    let store = FakeStore::start(script([
        Watched::ThenBreak(vec![view(OutcomeKind::Running)]),
        Watched::Views(vec![view(OutcomeKind::Running)]),
        Watched::Views(vec![view(OutcomeKind::Done)]),
    ]));
    let said = store.run(&["promote", "web"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(
        said.stderr.contains("store unreachable, trying again"),
        "{said:?}"
    );
}

#[test]
fn a_store_that_restarts_before_the_start_is_waited_for() {
    let store = FakeStore::start(Script {
        lost_plans: 2,
        ..ends(OutcomeKind::Done)
    });
    let said = store.run(&["promote", "web"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(
        said.stderr.contains("trying again") && said.stderr.contains("is back"),
        "{said:?}"
    );
}

#[test]
fn an_end_that_is_not_seen_is_unknown() {
    let store = FakeStore::start(script([Watched::ThenHang(vec![view(OutcomeKind::Running)])]));
    let said = store.run(&["promote", "web", "--wait-timeout", "300ms"]);
    assert_eq!(said.code, 7, "{said:?}");
    assert!(
        said.stderr.contains("hint: shipctl attach web -e dev --deploy 7"),
        "{said:?}"
    );
}

#[test]
fn ctrl_c_leaves_the_rollout_going() {
    let store = FakeStore::start(script([Watched::ThenHang(vec![view(OutcomeKind::Running)])]));
    let mut child = store
        .command(&["promote", "web"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("one host") || !line.contains('✓') {
        line.clear();
        assert!(
            stderr.read_line(&mut line).unwrap() > 0,
            "it ended before the first step was done"
        );
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut stderr, &mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
    assert!(
        rest.contains("the rollout goes on") && rest.contains("shipctl attach web"),
        "{rest}"
    );
}

#[test]
fn detached_it_returns_at_once() {
    let store = FakeStore::start(script([]));
    let said = store.run(&["promote", "web", "--detach", "-o", "json"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(said.json()["deploy"], 7);
}

#[test]
fn plan_says_whether_there_is_something_to_do() {
    let store = FakeStore::start(script([]));
    assert_eq!(store.run(&["plan", "web"]).code, 0);
    assert_eq!(store.run(&["plan", "web", "--exit-code"]).code, 3);
    let json = store.run(&["plan", "web", "-o", "json"]).json();
    assert_eq!(json["changes"], true);
    assert_eq!(json["to"], 5);
    store.script.lock().unwrap().plan = Some(Ok(PlanReply {
        view: Some(view(OutcomeKind::Planned)),
        changes: false,
        ..PlanReply::default()
    }));
    assert_eq!(store.run(&["plan", "web", "--exit-code"]).code, 0);
    let said = store.run(&["promote", "web"]);
    assert_eq!(
        (said.code, said.stdout.as_str()),
        (0, "nothing to do: dev runs web@5 everywhere\n")
    );
}

#[test]
fn a_dry_run_starts_nothing() {
    let store = FakeStore::start(Script {
        started: [].into(),
        ..script([])
    });
    let said: Said = store.run(&["promote", "web", "--dry-run"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stdout.contains("one host"), "{said:?}");
}

#[test]
fn an_app_must_be_meant() {
    let store = FakeStore::start(script([]));
    let said = store.run(&["promote"]);
    assert_eq!(said.code, 2, "{said:?}");
    assert!(said.stderr.contains("which app?"), "{said:?}");
}

#[test]
fn aborted_is_what_abort_wants() {
    let store = FakeStore::start(Script {
        control: Some(Ok(view(OutcomeKind::Running))),
        ..ends(OutcomeKind::Aborted)
    });
    let said = store.run(&["abort", "web"]);
    assert_eq!(said.code, 0, "{said:?}");
}

#[test]
fn json_of_an_end() {
    let store = FakeStore::start(ends(OutcomeKind::Reverted));
    let said = store.run(&["promote", "web", "-o", "json"]);
    assert_eq!(said.code, 5);
    let json = said.json();
    assert_eq!(json["outcome"], "reverted");
    assert_eq!(json["last_lines"][0], "panic at the disco");
    let error = said.stderr.lines().last().unwrap();
    let error: serde_json::Value = serde_json::from_str(error).unwrap();
    assert_eq!(error["error"]["exit"], 5);
}

#[test]
fn a_revert_without_a_store_says_how_to_do_without() {
    let store = FakeStore::start(script([]));
    let (_closed, dead) = closed();
    let context = std::fs::read_to_string(store.folder().join("context.toml")).unwrap();
    let line = context.lines().find(|line| line.starts_with("store =")).unwrap();
    let context = context.replace(line, &format!("store = \"https://{dead}\""));
    crate::fake::write(&store.folder().join("dead.toml"), context.as_bytes());
    let said = store.run(&["-c", "dead.toml", "revert", "web"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stderr.contains("ship-agent revert"), "{said:?}");
    let said = store.run(&["-c", "dead.toml", "promote", "web"]);
    assert!(said.code == 1 && !said.stderr.contains("ship-agent"), "{said:?}");
}

fn at_a_gate(wanted: u32) -> RolloutView {
    let mut view = view(OutcomeKind::Running);
    view.steps.push(StepView {
        number: 5,
        name: "one: gates".into(),
        state: "running".into(),
        gates: vec![
            GateLine {
                gate: "go".into(),
                kind: "approval".into(),
                state: if wanted == 0 { "passes" } else { "waiting" }.into(),
                detail: "approval by 1 operator".into(),
                by: if wanted == 0 {
                    vec!["operator/bob".into()]
                } else {
                    Vec::new()
                },
                wanted,
            },
            GateLine {
                gate: "smoke".into(),
                kind: "command".into(),
                state: "unknown".into(),
                detail: "exit status: 3\nno metrics yet".into(),
                ..GateLine::default()
            },
        ],
        ..StepView::default()
    });
    view
}

#[test]
fn who_waits_is_told_what_is_waited_for_and_what_to_type() {
    let store = FakeStore::start(script([Watched::Views(vec![
        at_a_gate(1),
        at_a_gate(0),
        view(OutcomeKind::Done),
    ])]));
    let said = store.run(&["attach", "web"]);
    assert_eq!(said.code, 0, "{said:?}");
    for words in [
        "· go  approval by 1 operator",
        "? smoke  command unknown: exit status: 3",
        "waits for approval by 1 operator: shipctl approve web",
        "✓ go  approval by 1 operator  by operator/bob",
    ] {
        assert!(said.stderr.contains(words), "{words:?} in {said:?}");
    }
}

#[test]
fn an_answer_says_what_it_is_about() {
    for (words, word, gate) in [
        (&["approve", "web", "--step", "5", "-m", "fine"][..], 1, ""),
        (&["reject", "web", "--step", "5", "-m", "fine"], 2, ""),
        (
            &["ack", "dns", "-a", "web", "--step", "5", "-m", "fine"],
            3,
            "dns",
        ),
    ] {
        let store = FakeStore::start(Script {
            answer: Some(Ok(at_a_gate(0))),
            ..Script::default()
        });
        let said = store.run(words);
        assert_eq!(said.code, 0, "{said:?}");
        assert!(said.stdout.starts_with("deploy 7 of web "), "{said:?}");
        let asked = AnswerRequest {
            app: "web".into(),
            env: "dev".into(),
            word,
            gate: gate.into(),
            step: 5,
            note: "fine".into(),
            ..AnswerRequest::default()
        };
        assert_eq!(store.script.lock().unwrap().answered, [asked]);
    }
}

#[test]
fn an_answer_that_is_refused_or_not_understood() {
    for (status, words) in [
        (
            refuse(
                FailureKind::Refused,
                "deploy 7 waits for no approval",
                "rollout",
                "shipctl status",
            ),
            "deploy 7 waits for no approval",
        ),
        (
            Status::unimplemented("no such call"),
            "this store is too old to have gates",
        ),
    ] {
        let store = FakeStore::start(Script {
            answer: Some(Err(status)),
            ..Script::default()
        });
        let said = store.run(&["approve", "web"]);
        assert_eq!(said.code, 4, "{said:?}");
        assert!(said.stderr.contains(words), "{said:?}");
    }
}

#[test]
fn gates_have_their_keys_in_json() {
    let store = FakeStore::start(Script {
        answer: Some(Ok(at_a_gate(1))),
        ..Script::default()
    });
    let json = store.run(&["approve", "web", "-o", "json"]).json();
    let gate = &json["steps"][1]["gates"][0];
    assert_eq!(
        (gate["gate"].as_str(), gate["wanted"].as_u64()),
        (Some("go"), Some(1))
    );
    assert!(json["steps"][0].get("gates").is_none());
}
