//! A plan that is kept and carried out later: what may differ then, and what may not.

use std::collections::BTreeSet;

use ship_model::release::ReleaseNumber;
use ship_model::report::LocalHold;
use ship_model::rollout::{
    Amount, ByteShare, Plan, PlanFileError, PlanRefused, Profile, Request, Wish, plan, plan_again, read_plan,
    write_plan,
};

use crate::fleet::{Fleet, SimHost, host, release};

/// Three hosts on release 1, and releases 2 and 3.
fn fleet() -> Fleet {
    let mut fleet = Fleet::new();
    for name in ["h1", "h2", "h3"] {
        fleet.hosts.insert(host(name), SimHost::default());
    }
    (1..=3).for_each(|number| fleet.publish(number));
    promote(&mut fleet, 1);
    fleet
}

fn promote(fleet: &mut Fleet, number: u64) {
    use ship_model::rollout::Event;
    let plan = fleet.plan(wish(number), true).unwrap();
    fleet.step(Event::Start {
        plan: Box::new(plan),
        who: "ann".to_owned(),
    });
    while fleet.state.running().is_some() {
        fleet.obey();
        fleet.now += 10_000;
        fleet.step(Event::Tick);
    }
    fleet.obey();
}

fn wish(number: u64) -> Wish {
    Wish::Promote {
        release: Some(ReleaseNumber(number)),
    }
}

fn again(fleet: &Fleet, saved: &Plan) -> Result<Plan, PlanRefused> {
    plan_again(
        &fleet.state,
        &fleet.views(),
        &fleet.releases,
        saved,
        None,
        &fleet.policy,
    )
}

/// What is named when `change` came between the plan and its promote.
fn drifted(change: impl FnOnce(&mut Fleet)) -> String {
    let mut fleet = fleet();
    let saved = fleet.plan(wish(2), false).unwrap();
    assert_eq!(again(&fleet, &saved).unwrap(), saved, "nothing has changed");
    change(&mut fleet);
    match again(&fleet, &saved) {
        Err(refused @ PlanRefused::Drifted { .. }) => refused.to_string(),
        other => panic!("not refused for its drift: {other:?}"),
    }
}

#[test]
fn whatever_has_changed_is_named() {
    let at = |name: &'static str| {
        move |fleet: &mut Fleet| fleet.hosts.get_mut(&host(name)).unwrap().running = Some(release(3))
    };
    for (told, words) in [
        (drifted(at("h2")), "h2 ran release 1, now release 3"),
        (
            drifted(|fleet| drop(fleet.hosts.remove(&host("h3")))),
            "h3 is gone",
        ),
        (
            drifted(|fleet| drop(fleet.hosts.insert(host("h4"), SimHost::default()))),
            "h4 is new",
        ),
        (
            drifted(|fleet| fleet.hosts.get_mut(&host("h3")).unwrap().silent = true),
            "h3: does not report",
        ),
        (
            drifted(|fleet| {
                let sim = fleet.hosts.get_mut(&host("h1")).unwrap();
                sim.held = Some(LocalHold {
                    epoch: sim.epoch,
                    from: Some(release(1)),
                    to: release(3),
                    reason: "blank".to_owned(),
                    at_ms: 1,
                });
            }),
            "h1 was reverted on the host itself, to release 3",
        ),
        (
            drifted(|fleet| fleet.policy.soak_ms = 1),
            "policy: soak_ms was 10000, now 1",
        ),
        (
            drifted(|fleet| fleet.policy.min_healthy = Some(Amount::Count(1))),
            "policy: min_healthy was null, now 1",
        ),
        (
            drifted(|fleet| promote(fleet, 3)),
            "the environment ran release 1, now release 3",
        ),
        (
            drifted(|fleet| promote(fleet, 2)),
            "the environment ran release 1, now release 2",
        ),
        (
            drifted(|fleet| {
                promote(fleet, 3);
                promote(fleet, 1);
            }),
            "the environment was changed in between",
        ),
        (
            drifted(|fleet| fleet.releases.get_mut(&ReleaseNumber(2)).unwrap().target.id = release(9).id),
            "release 2 has another content",
        ),
    ] {
        assert!(told.contains(words), "{words:?} is not told: {told}");
        assert!(told.starts_with("it is not as it was planned: "), "{told}");
    }
}

#[test]
fn what_hosts_fetch_and_a_release_that_came_later_do_not_matter() {
    let mut fleet = fleet();
    let saved = fleet.plan(wish(2), false).unwrap();
    fleet.publish(4);
    let mut views = fleet.views();
    for view in &mut views {
        view.bytes = Some(ByteShare { new: 7, shared: 8 });
    }
    let now = plan_again(
        &fleet.state,
        &views,
        &fleet.releases,
        &saved,
        Some("now".to_owned()),
        &fleet.policy,
    );
    let now = now.unwrap();
    assert_eq!((now.id, now.message.as_deref()), (saved.id, Some("now")));
    assert_eq!(now.steps, saved.steps);
}

/// Hosts that were left out by name stay left out; a forced plan needs no force again.
#[test]
fn what_was_asked_stands_in_the_plan() {
    let mut fleet = fleet();
    promote(&mut fleet, 2);
    fleet.step(ship_model::rollout::Event::Start {
        plan: Box::new(fleet.plan(Wish::Revert { to: None }, false).unwrap()),
        who: "ann".to_owned(),
    });
    while fleet.state.running().is_some() {
        fleet.obey();
    }
    let request = Request {
        wish: wish(2),
        force: true,
        message: None,
        without: BTreeSet::from([host("h3")]),
    };
    let policy = Profile::Careful.applied(fleet.policy.clone());
    let saved = plan(&fleet.state, &fleet.views(), &fleet.releases, &request, &policy).unwrap();
    let now = plan_again(
        &fleet.state,
        &fleet.views(),
        &fleet.releases,
        &saved,
        None,
        &policy,
    );
    assert_eq!(now.as_ref(), Ok(&saved));
    let told = again(&fleet, &saved).unwrap_err().to_string();
    assert!(
        told.contains("policy: profile was \"careful\", now nothing"),
        "{told}"
    );
}

#[test]
fn a_file_is_read_only_as_it_was_written() {
    let fleet = fleet();
    let plan = fleet.plan(wish(2), false).unwrap();
    for pretty in [true, false] {
        let bytes = write_plan(&plan, pretty).unwrap();
        assert_eq!(read_plan(&bytes).unwrap(), plan);
        for cut in (0..bytes.len()).step_by(97) {
            assert!(read_plan(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }
    let text = String::from_utf8(write_plan(&plan, true).unwrap()).unwrap();
    let changed = text.replace("\"soak_ms\": 10000", "\"soak_ms\": 0");
    assert_ne!(changed, text);
    assert!(matches!(
        read_plan(changed.as_bytes()),
        Err(PlanFileError::Changed)
    ));
    let newer = text.replace("\"version\": 1", "\"version\": 2");
    assert!(matches!(
        read_plan(newer.as_bytes()),
        Err(PlanFileError::Version { found: 2 })
    ));
    let long = vec![b' '; ship_model::rollout::MAX_PLAN_FILE + 1];
    assert!(matches!(read_plan(&long), Err(PlanFileError::TooLong)));
    let deep = format!("{{\"version\":1,\"plan\":{}", "[".repeat(100_000));
    assert!(matches!(read_plan(deep.as_bytes()), Err(PlanFileError::Parse(_))));
}
