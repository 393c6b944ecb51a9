//! What a host says counts from when it is said, and for what it means: nothing is overlooked, nothing is taken too early.

use ship_model::release::ReleaseNumber;
use ship_model::report::{AppPhase, AppReport};
use ship_model::rollout::{Anew, DeployKind, Event, Switch, Wish, anew, step_all};

use crate::fleet::{Fleet, SimHost, host, release};

/// Hosts on which `last` runs, after each release before it was promoted.
fn fleet(hosts: &[&str], last: u64) -> Fleet {
    let mut fleet = Fleet::new();
    for name in hosts {
        fleet.hosts.insert(host(name), SimHost::default());
    }
    for number in 1..=last {
        fleet.publish(number);
        start(&mut fleet, promote(number));
        while fleet.state.running().is_some() {
            fleet.obey();
            fleet.now += 10_000;
            fleet.step(Event::Tick);
        }
    }
    fleet.obey();
    fleet
}

fn promote(number: u64) -> Wish {
    Wish::Promote {
        release: Some(ReleaseNumber(number)),
    }
}

fn start(fleet: &mut Fleet, wish: Wish) {
    let plan = Box::new(fleet.plan(wish, false).unwrap());
    fleet.step(Event::Start {
        plan,
        who: "ann".to_owned(),
    });
}

fn word(fleet: &Fleet, name: &str) -> AppReport {
    fleet.hosts[&host(name)].report(&fleet.state.app)
}

fn says(name: &str, word: AppReport) -> Event {
    Event::Report {
        host: host(name),
        app: Some(Box::new(word)),
    }
}

fn switch(fleet: &Fleet, name: &str) -> Switch {
    fleet.state.rollout.as_ref().unwrap().hosts[&host(name)].switch
}

/// A host took the word to go back while its keeper was on its way: what it runs at that moment it does not run for long.
#[test]
fn one_that_is_on_its_way_elsewhere_is_not_back() {
    let mut fleet = fleet(&["h1", "h2"], 1);
    fleet.publish(2);
    start(&mut fleet, promote(2));
    fleet.hosts.get_mut(&host("h1")).unwrap().hangs = true;
    fleet.obey();
    assert!(matches!(switch(&fleet, "h1"), Switch::Asked { .. }));
    fleet.step(Event::Abort {
        who: "bob".to_owned(),
    });
    let desired = fleet.state.desired(&host("h1")).unwrap();
    fleet.hosts.get_mut(&host("h1")).unwrap().act(&desired);
    let mut leaving = word(&fleet, "h1");
    assert_eq!(
        (leaving.epoch, leaving.running),
        (desired.epoch, Some(release(1)))
    );
    leaving.phase = AppPhase::Switching;
    fleet.step(says("h1", leaving.clone()));
    assert!(
        matches!(switch(&fleet, "h1"), Switch::BackAsked { .. }),
        "taken too early"
    );
    let stays = AppReport {
        phase: AppPhase::Idle,
        ..leaving.clone()
    };
    assert!(!stays.says_the_same(&leaving), "nobody would hear that it stays");
    fleet.step(says("h1", stays));
    assert_eq!(switch(&fleet, "h1"), Switch::Back);
}

/// The store was held up: the deadline has passed when it takes up what was said in time.
#[test]
fn no_deadline_passes_over_what_is_heard_at_the_same_moment() {
    let mut fleet = fleet(&["h1"], 1);
    fleet.publish(2);
    start(&mut fleet, promote(2));
    while !matches!(switch(&fleet, "h1"), Switch::Asked { .. }) {
        fleet.act(&host("h1"));
    }
    while fleet.hosts[&host("h1")].running != Some(release(2)) {
        let desired = fleet.state.desired(&host("h1")).unwrap();
        fleet.hosts.get_mut(&host("h1")).unwrap().act(&desired);
    }
    fleet.now += 600_000;
    let events = [Event::Tick, says("h1", word(&fleet, "h1"))];
    let (state, _) = step_all(&fleet.state, events, fleet.now);
    assert_eq!(state.rollout.unwrap().stop, None);
}

/// One host at a time may go back; the last of them runs that release already, has said so, and has nothing new to say when its
/// turn comes.
#[test]
fn a_host_that_is_there_already_is_heard_when_its_turn_comes() {
    let mut fleet = fleet(&["h1", "h2"], 2);
    let stayed = fleet.hosts.get_mut(&host("h2")).unwrap();
    stayed.running = Some(release(1));
    fleet.state.hosts.get_mut(&host("h2")).unwrap().run = Some(release(1));
    start(&mut fleet, Wish::Revert { to: None });
    assert_eq!(fleet.state.running().unwrap().plan.kind, DeployKind::Revert);
    // Both have taken the new epoch and said so before h2's turn comes.
    for name in ["h2", "h1"] {
        let desired = fleet.state.desired(&host(name)).unwrap();
        fleet.hosts.get_mut(&host(name)).unwrap().act(&desired);
        fleet.report(&host(name));
    }
    assert_eq!(switch(&fleet, "h2"), Switch::Untouched);
    let before = fleet.state.clone();
    fleet.act(&host("h1"));
    assert!(matches!(switch(&fleet, "h2"), Switch::Asked { .. }));
    assert_eq!(anew(&before, &fleet.state), Anew::Hosts(vec![host("h2")]));
    fleet.report(&host("h2"));
    assert!(matches!(switch(&fleet, "h2"), Switch::Running { .. }));
}
