//! A rollout at its gates: who may open them, what they hold, and what nobody waits for.

use std::collections::BTreeSet;

use ship_model::desired::DeployNumber;
use ship_model::release::ReleaseNumber;
use ship_model::rollout::{
    Amount, Answer, AnswerWord, Ask, Course, Effect, End, Event, Expect, Gate, Pace, PlanStep, StartRefused,
    Verdict, WayStep, Wish, view,
};

use crate::fleet::{Fleet, SimHost, host};

fn gate(name: &str, ask: Ask) -> Gate {
    let name = name.to_owned();
    Gate { name, ask }
}

fn approval(count: u32, others: bool) -> Gate {
    let by = BTreeSet::new();
    gate("go", Ask::Approval { count, others, by })
}

fn manual() -> Gate {
    let text = "Move the weight".to_owned();
    gate("dns", Ask::Manual { text })
}

fn check(for_ms: u64, fails: u32) -> Gate {
    let expect = Expect {
        status: 200,
        json: None,
    };
    let pace = Pace {
        for_ms,
        fails,
        ..Pace::default()
    };
    let url = "http://metrics/".to_owned();
    gate("errors", Ask::Http { url, expect, pace })
}

/// Three hosts run release 1; a promote of 2 goes to one host, and then these gates hold.
fn at_gates(gates: Vec<Gate>, auto_revert: bool) -> Fleet {
    let mut fleet = Fleet::new();
    for name in ["h1", "h2", "h3"] {
        fleet.hosts.insert(host(name), SimHost::default());
        fleet.step(Event::HostJoined {
            host: host(name),
            runs_app: true,
        });
    }
    fleet.publish(1);
    fleet.policy.soak_ms = 0;
    start(&mut fleet, promote(1));
    fleet.obey();
    assert!(fleet.state.running().is_none(), "{:?}", fleet.state.rollout);
    fleet.publish(2);
    fleet.policy.auto_revert = auto_revert;
    fleet.policy.steps = vec![WayStep {
        name: "one".to_owned(),
        until: Amount::Count(1),
        class: None,
        names: Vec::new(),
        soak_ms: None,
        gates,
    }];
    start(&mut fleet, promote(2));
    fleet.obey();
    assert_eq!(at(&fleet), Some(4), "{:?}", fleet.state.rollout);
    fleet
}

fn promote(number: u64) -> Wish {
    let release = Some(ReleaseNumber(number));
    Wish::Promote { release }
}

fn start(fleet: &mut Fleet, wish: Wish) {
    let plan = Box::new(fleet.plan(wish, false).unwrap());
    let who = "operator/ann".to_owned();
    let effects = fleet.step(Event::Start { plan, who });
    assert!(
        !effects.iter().any(|effect| matches!(effect, Effect::Refused(_))),
        "{effects:?}"
    );
}

fn at(fleet: &Fleet) -> Option<usize> {
    match fleet.state.running()?.course {
        Course::Forward { step } => Some(step),
        Course::Back | Course::Ended => None,
    }
}

fn answer(fleet: &mut Fleet, who: &str, word: AnswerWord) -> Option<StartRefused> {
    let answer = Answer {
        word,
        deploy: None,
        step: None,
        note: None,
    };
    let who = format!("operator/{who}");
    let effects = fleet.step(Event::Answer { answer, who });
    effects.into_iter().find_map(|effect| match effect {
        Effect::Refused(why) => Some(why),
        _ => None,
    })
}

fn says(fleet: &mut Fleet, verdict: Verdict) {
    says_of(fleet, DeployNumber(2), 4, verdict);
}

fn says_of(fleet: &mut Fleet, deploy: DeployNumber, step: usize, verdict: Verdict) {
    fleet.step(Event::GateSaid {
        deploy,
        step,
        gate: "errors".to_owned(),
        verdict,
        said: format!("{verdict:?}"),
    });
}

fn running(fleet: &Fleet) -> Vec<u64> {
    let hosts = fleet.hosts.values();
    hosts
        .map(|host| host.running.map_or(0, |target| target.number.0))
        .collect()
}

fn ends_well(mut fleet: Fleet) {
    fleet.obey();
    assert!(fleet.state.running().is_none(), "{:?}", fleet.state.rollout);
    assert_eq!(running(&fleet), [2, 2, 2]);
}

#[test]
fn what_stands_behind_a_gate_waits_for_everybody_it_asks() {
    let mut fleet = at_gates(vec![approval(2, true), manual()], true);
    let plan = &fleet.state.running().unwrap().plan;
    assert!(matches!(&plan.steps[4], PlanStep::Gate { name, gates } if name == "one" && gates.len() == 2));
    // However long: people have no deadline.
    for _ in 0..100 {
        fleet.now += 3_600_000;
        fleet.step(Event::Tick);
    }
    fleet.obey();
    assert_eq!((at(&fleet), running(&fleet)), (Some(4), vec![2, 1, 1]));

    let own = answer(&mut fleet, "ann", AnswerWord::Approve);
    assert!(
        matches!(own, Some(StartRefused::NotHis { own: true, .. })),
        "{own:?}"
    );
    assert_eq!(answer(&mut fleet, "bob", AnswerWord::Approve), None);
    assert_eq!(
        answer(&mut fleet, "bob", AnswerWord::Approve),
        None,
        "the same word twice is no mistake"
    );
    let shown = view(fleet.state.rollout.as_ref().unwrap());
    assert_eq!(shown.steps[4].name, "one: gates");
    let wanted: Vec<_> = shown.steps[4].gates.iter().map(|gate| gate.wanted).collect();
    assert_eq!(wanted, [1, 1], "{:?}", shown.steps[4]);
    let unknown = answer(&mut fleet, "bob", AnswerWord::Acknowledge("go".to_owned()));
    assert!(
        matches!(unknown, Some(StartRefused::NoManualGate { .. })),
        "{unknown:?}"
    );
    assert_eq!(
        answer(&mut fleet, "ann", AnswerWord::Acknowledge("dns".to_owned())),
        None
    );
    assert_eq!(at(&fleet), Some(4), "one more is to approve");
    assert_eq!(answer(&mut fleet, "eve", AnswerWord::Approve), None);
    assert_eq!(at(&fleet), Some(5));
    let late = answer(&mut fleet, "eve", AnswerWord::Approve);
    assert!(matches!(late, Some(StartRefused::NoGate { .. })), "{late:?}");
    ends_well(fleet);
}

#[test]
fn an_answer_about_something_else_is_refused() {
    let mut fleet = at_gates(vec![approval(1, false)], true);
    for (deploy, step) in [(Some(1), None), (None, Some(3)), (Some(2), Some(5))] {
        let answer = Answer {
            word: AnswerWord::Approve,
            deploy,
            step,
            note: None,
        };
        let who = "operator/bob".to_owned();
        let effects = fleet.step(Event::Answer { answer, who });
        assert!(matches!(effects[..], [Effect::Refused(_)]), "{effects:?}");
        assert_eq!(at(&fleet), Some(4));
    }
}

#[test]
fn a_check_holds_until_it_has_passed_for_long_enough() {
    let mut fleet = at_gates(vec![check(20_000, 2)], true);
    for verdict in [
        Verdict::Unknown,
        Verdict::Pass,
        Verdict::Unknown,
        Verdict::Fail,
        Verdict::Pass,
    ] {
        says(&mut fleet, verdict);
        fleet.now += 10_000;
        fleet.step(Event::Tick);
        assert_eq!(at(&fleet), Some(4));
    }
    // Words about another deploy or step are of no interest.
    says_of(&mut fleet, DeployNumber(1), 4, Verdict::Fail);
    says_of(&mut fleet, DeployNumber(2), 3, Verdict::Fail);
    says(&mut fleet, Verdict::Pass);
    assert_eq!(at(&fleet), Some(4));
    fleet.now += 10_000;
    says(&mut fleet, Verdict::Pass);
    ends_well(fleet);
}

#[test]
fn unknown_holds_for_ever() {
    let mut fleet = at_gates(vec![check(0, 1)], true);
    for _ in 0..500 {
        says(&mut fleet, Verdict::Unknown);
        fleet.now += 60_000;
        fleet.step(Event::Tick);
    }
    assert_eq!((at(&fleet), running(&fleet)), (Some(4), vec![2, 1, 1]));
    says(&mut fleet, Verdict::Pass);
    ends_well(fleet);
}

#[test]
fn a_check_that_fails_turns_the_rollout_back() {
    let mut fleet = at_gates(vec![check(0, 2), approval(1, false)], true);
    says(&mut fleet, Verdict::Fail);
    assert_eq!(at(&fleet), Some(4), "once may be chance");
    fleet.now += 10_000;
    says(&mut fleet, Verdict::Fail);
    fleet.obey();
    assert_eq!(running(&fleet), [1, 1, 1]);
    let outcome = fleet.state.rollout.as_ref().unwrap().outcome.clone().unwrap();
    assert_eq!(outcome.end, End::Reverted);
    assert_eq!(outcome.stop.unwrap().reason, "gate errors: Fail");
    assert!(fleet.state.is_bad(ReleaseNumber(2)), "a gate blames the release");
}

#[test]
fn without_auto_revert_a_failed_check_waits_for_an_operator() {
    let mut fleet = at_gates(vec![check(0, 1)], false);
    says(&mut fleet, Verdict::Fail);
    fleet.obey();
    let rollout = fleet.state.running().unwrap();
    assert!(rollout.paused.is_some() && rollout.waits.is_some() && rollout.stop.is_none());
    assert_eq!(running(&fleet), [2, 1, 1]);
    let waiting = fleet.state.clone();
    says(&mut fleet, Verdict::Fail);
    assert_eq!(fleet.state, waiting, "told once");
    fleet.step(Event::Resume {
        who: "operator/bob".to_owned(),
    });
    assert_eq!(at(&fleet), Some(4), "what failed is asked once more");
    fleet.now += 10_000;
    says(&mut fleet, Verdict::Pass);
    ends_well(fleet);
}

#[test]
fn who_rejects_takes_it_back_for_good() {
    let mut fleet = at_gates(vec![approval(1, false)], false);
    assert_eq!(answer(&mut fleet, "bob", AnswerWord::Reject), None);
    fleet.obey();
    assert_eq!(running(&fleet), [1, 1, 1]);
    let stop = fleet.state.rollout.as_ref().unwrap().stop.clone().unwrap();
    assert_eq!(stop.by.as_deref(), Some("operator/bob"));
    assert!(fleet.plan(promote(2), false).is_err(), "only by force");
}

#[test]
fn a_revert_waits_for_no_gate() {
    let mut fleet = at_gates(vec![approval(3, true), check(60_000, 9)], true);
    start(&mut fleet, Wish::Revert { to: None });
    let steps = &fleet.state.running().unwrap().plan.steps;
    assert!(
        !steps.iter().any(|step| matches!(step, PlanStep::Gate { .. })),
        "{steps:?}"
    );
    fleet.obey();
    assert!(fleet.state.running().is_none());
    assert_eq!(running(&fleet), [1, 1, 1]);
}

#[test]
fn a_host_that_fails_behind_an_open_or_closed_gate_turns_it_back() {
    let mut fleet = at_gates(vec![approval(1, false)], true);
    let first = fleet.hosts.get_mut(&host("h1")).unwrap();
    first.unhealthy = true;
    fleet.report(&host("h1"));
    assert_eq!(answer(&mut fleet, "bob", AnswerWord::Approve), None);
    assert_eq!(at(&fleet), Some(4), "approved, and a host is not well");
    fleet.now += 60_000;
    fleet.step(Event::Tick);
    fleet.hosts.get_mut(&host("h1")).unwrap().unhealthy = false;
    fleet.obey();
    assert_eq!(running(&fleet), [1, 1, 1]);
    let stop = fleet.state.rollout.as_ref().unwrap().stop.clone().unwrap();
    assert!(stop.reason.starts_with("deadline"), "{stop:?}");
}

#[test]
fn what_passes_while_a_host_is_unwell_does_not_count() {
    let mut fleet = at_gates(vec![check(0, 2)], true);
    fleet.hosts.get_mut(&host("h1")).unwrap().unhealthy = true;
    fleet.report(&host("h1"));
    says(&mut fleet, Verdict::Pass);
    fleet.hosts.get_mut(&host("h1")).unwrap().unhealthy = false;
    fleet.report(&host("h1"));
    assert_eq!(at(&fleet), Some(4));
    says(&mut fleet, Verdict::Pass);
    ends_well(fleet);
}

#[test]
fn a_check_that_fails_while_a_host_is_unwell_counts() {
    let mut fleet = at_gates(vec![check(0, 2)], true);
    fleet.hosts.get_mut(&host("h1")).unwrap().unhealthy = true;
    fleet.report(&host("h1"));
    says(&mut fleet, Verdict::Fail);
    fleet.now += 10_000;
    says(&mut fleet, Verdict::Fail);
    let stop = fleet.state.rollout.as_ref().unwrap().stop.clone().unwrap();
    assert_eq!(stop.reason, "gate errors: Fail");
}

#[test]
fn a_gate_before_the_first_host_and_after_the_last() {
    let mut fleet = at_gates(vec![approval(1, false)], true);
    assert_eq!(answer(&mut fleet, "bob", AnswerWord::Approve), None);
    fleet.obey();
    fleet.publish(3);
    let way = |name: &str, until, gate| WayStep {
        name: name.to_owned(),
        until,
        class: None,
        names: Vec::new(),
        soak_ms: None,
        gates: vec![gate],
    };
    fleet.policy.steps = vec![
        way("before", Amount::Count(0), approval(1, false)),
        way("all", Amount::Percent(100), manual()),
    ];
    start(&mut fleet, promote(3));
    fleet.obey();
    assert_eq!(running(&fleet), [2, 2, 2]);
    assert_eq!(answer(&mut fleet, "bob", AnswerWord::Approve), None);
    fleet.obey();
    assert_eq!(running(&fleet), [3, 3, 3]);
    assert!(fleet.state.running().is_some(), "not done before the last gate");
    assert_eq!(
        answer(&mut fleet, "bob", AnswerWord::Acknowledge("dns".to_owned())),
        None
    );
    assert!(fleet.state.running().is_none());
}

#[test]
fn who_skips_gates_stands_in_the_audit() {
    let mut fleet = at_gates(vec![approval(1, false)], true);
    assert_eq!(answer(&mut fleet, "bob", AnswerWord::Approve), None);
    fleet.obey();
    fleet.publish(3);
    fleet.policy.steps[0].gates = vec![manual(), approval(9, true)];
    fleet.policy = fleet.policy.clone().without_gates();
    let plan = Box::new(fleet.plan(promote(3), false).unwrap());
    let who = "operator/ann".to_owned();
    let effects = fleet.step(Event::Start { plan, who });
    let told = effects.iter().any(|effect| {
        matches!(effect, Effect::Audit { who, what, .. }
            if who == "operator/ann" && what.starts_with("skip gates dns, go of deploy 3"))
    });
    assert!(told, "{effects:?}");
    fleet.obey();
    assert_eq!(running(&fleet), [3, 3, 3]);
}
