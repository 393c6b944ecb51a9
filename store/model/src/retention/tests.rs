#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::*;
use crate::desired::DeployNumber;
use crate::digest::ReleaseId;
use crate::name::{EnvName, HostName};
use crate::release::Target;
use crate::rollout::{BadRelease, DeployEntry, DeployKind, End, EnvState, HostTarget};

pub(super) const DAY: u64 = 86_400_000;
pub(super) const NOW: u64 = 1_000 * DAY;

pub(super) fn target(number: u64) -> Target {
    Target {
        number: ReleaseNumber(number),
        id: ReleaseId::of(&number.to_le_bytes()),
    }
}

pub(super) fn env(name: &str) -> EnvName {
    name.parse().unwrap()
}

pub(super) fn entry(deploy: u64, release: u64, kind: DeployKind, when_ms: u64) -> DeployEntry {
    DeployEntry {
        deploy: DeployNumber(deploy),
        release: target(release),
        kind,
        end: End::Done,
        when_ms,
        who: "operator/alice".to_owned(),
        message: None,
        reason: None,
    }
}

/// An environment that went through `deploys`: release and time; the last of them runs.
pub(super) fn ran(name: &str, deploys: &[(u64, u64)]) -> EnvState {
    let mut state = EnvState::new(env(name), "web".parse().unwrap());
    for (number, (release, when_ms)) in (1..).zip(deploys) {
        let entry = entry(number, *release, DeployKind::Promote, *when_ms);
        state.history.push(entry);
        state.current = Some(target(*release));
    }
    state
}

/// Releases 1 to `count`, published a day apart, so that the first is the oldest.
fn published(count: u64, first_ms: u64) -> Vec<(ReleaseNumber, u64)> {
    let at = |number: u64| (ReleaseNumber(number), first_ms + number * DAY);
    (1..=count).map(at).collect()
}

fn numbers(list: &[u64]) -> Vec<ReleaseNumber> {
    list.iter().copied().map(ReleaseNumber).collect()
}

/// Everybody has counted for ever, and nobody asked.
fn quiet() -> Asked {
    Asked::Counted {
        since_ms: 0,
        last: None,
    }
}

fn policy() -> Policy {
    Policy::default()
}

fn kinds(verdict: &Verdict<'_>) -> Vec<&'static str> {
    match verdict {
        Verdict::Kept(reasons) => {
            let mut kinds: Vec<_> = reasons.iter().map(Reason::kind).collect();
            kinds.dedup();
            kinds
        }
        Verdict::Collectable { .. } => vec!["collectable"],
    }
}

fn told(
    states: &[EnvState],
    releases: &[(ReleaseNumber, u64)],
    named: &[u64],
    asked: &Asked,
) -> Vec<&'static str> {
    let live = live(states, [], releases.iter().copied());
    kinds(&judge(&live, &numbers(named), asked, policy(), NOW))
}

#[test]
fn age_and_count_are_not_both_needed_to_keep() {
    // Twenty releases within two days, the first of them left yesterday: "keep 3, or 30 days" would still keep it, "keep
    // the newest 3 of those that are young" would not.
    let deploys: Vec<_> = (1..=20).map(|n| (n, NOW - 2 * DAY + n * DAY / 20)).collect();
    let releases: Vec<_> = (1..=20).map(|n| (ReleaseNumber(n), NOW - 2 * DAY)).collect();
    assert_eq!(
        told(&[ran("prod", &deploys)], &releases, &[1], &quiet()),
        ["young"]
    );
    // And one old release that runs is kept, however many days old and however many came since.
    let state = ran("prod", &[(1, NOW - 900 * DAY)]);
    let releases: Vec<_> = (1..=20).map(|n| (ReleaseNumber(n), NOW - 900 * DAY)).collect();
    assert_eq!(told(&[state], &releases, &[1], &quiet()), ["reachable"]);
}

#[test]
fn a_file_that_has_not_changed_for_years_is_kept_while_it_is_named() {
    let state = ran(
        "prod",
        &[(1, NOW - 800 * DAY), (2, NOW - 400 * DAY), (3, NOW - 200 * DAY)],
    );
    let releases = published(3, NOW - 900 * DAY);
    assert_eq!(
        told(std::slice::from_ref(&state), &releases, &[1, 2, 3], &quiet()),
        ["reachable"]
    );
    // Once a release no longer names it, its time counts from when the last that did was left.
    let state = ran(
        "prod",
        &[(3, NOW - 800 * DAY), (4, NOW - 20 * DAY), (5, NOW - 10 * DAY)],
    );
    let releases = published(5, NOW - 900 * DAY);
    assert_eq!(told(&[state], &releases, &[1, 2, 3], &quiet()), ["young"]);
}

#[test]
fn staging_does_not_prune_what_production_runs() {
    let staging = ran(
        "staging",
        &[(1, NOW - 300 * DAY), (2, NOW - 200 * DAY), (3, NOW - 100 * DAY)],
    );
    let production = ran("production", &[(1, NOW - 290 * DAY)]);
    let releases = published(3, NOW - 310 * DAY);
    let both = [staging.clone(), production];
    assert_eq!(told(&both, &releases, &[1], &quiet()), ["reachable"]);
    assert_eq!(told(&[staging], &releases, &[1], &quiet()), ["collectable"]);
}

#[test]
fn after_a_revert_both_the_old_release_and_the_one_it_came_from_are_kept() {
    let mut state = ran("prod", &[(1, NOW - 300 * DAY), (2, NOW - DAY)]);
    state.history.push(entry(3, 1, DeployKind::Revert, NOW - DAY / 2));
    state.current = Some(target(1));
    state.bad.push(BadRelease {
        release: target(2),
        deploy: DeployNumber(3),
        reason: "slow".to_owned(),
        at_ms: NOW - DAY / 2,
    });
    // The release reverted from was published long ago: its pages are half a day old all the same.
    let releases = published(2, NOW - 310 * DAY);
    assert_eq!(
        told(std::slice::from_ref(&state), &releases, &[1], &quiet()),
        ["reachable", "young"]
    );
    assert_eq!(
        told(std::slice::from_ref(&state), &releases, &[2], &quiet()),
        ["young"]
    );
    state.history[1].when_ms = NOW - 290 * DAY;
    state.history[2].when_ms = NOW - 280 * DAY;
    state.bad[0].at_ms = NOW - 280 * DAY;
    assert_eq!(told(&[state], &releases, &[2], &quiet()), ["collectable"]);
}

#[test]
fn what_a_revert_goes_to_and_what_hosts_keep_is_reachable() {
    let mut state = ran(
        "prod",
        &[(1, NOW - 300 * DAY), (2, NOW - 290 * DAY), (3, NOW - 280 * DAY)],
    );
    let releases = published(5, NOW - 400 * DAY);
    assert_eq!(
        told(std::slice::from_ref(&state), &releases, &[2], &quiet()),
        ["reachable"]
    );
    assert_eq!(
        told(std::slice::from_ref(&state), &releases, &[1], &quiet()),
        ["collectable"]
    );
    let wanted = HostTarget {
        stage: vec![target(1)],
        ..HostTarget::default()
    };
    state.hosts.insert("h1".parse().unwrap(), wanted);
    let live = live([&state], [], releases.iter().copied());
    let verdict = judge(&live, &numbers(&[1]), &quiet(), policy(), NOW);
    let Verdict::Kept(reasons) = verdict else {
        unreachable!("a host should have it");
    };
    assert_eq!(reasons[0].to_string(), "release 1: h1 in prod should have it");
    // Published and not promoted yet.
    assert_eq!(told(&[state], &releases, &[5], &quiet()), ["reachable"]);
}

#[test]
fn what_a_host_holds_is_reachable_whatever_the_store_wants() {
    let (env, host): (EnvName, HostName) = (env("prod"), "h7".parse().unwrap());
    let report = crate::report::AppReport {
        healthy: true,
        previous: Some(target(1)),
        ..crate::report::AppReport::of("web".parse().unwrap())
    };
    let state = ran(
        "prod",
        &[(1, NOW - 300 * DAY), (2, NOW - 290 * DAY), (3, NOW - 280 * DAY)],
    );
    let releases = published(3, NOW - 400 * DAY);
    let live = live([&state], [(&env, &host, &report)], releases);
    assert_eq!(
        kinds(&judge(&live, &numbers(&[1]), &quiet(), policy(), NOW)),
        ["reachable"]
    );
}

#[test]
fn a_history_that_forgot_a_release_keeps_it_from_its_oldest_line_on() {
    let quick: Vec<_> = (2..=101).map(|n| (n, NOW - DAY + n)).collect();
    let state = ran("prod", &quick);
    let releases = published(101, NOW - 400 * DAY);
    assert_eq!(told(&[state], &releases, &[1], &quiet()), ["young"]);
}

#[test]
fn requests_keep_and_so_does_not_knowing() {
    let state = ran(
        "prod",
        &[(1, NOW - 300 * DAY), (2, NOW - 290 * DAY), (3, NOW - 280 * DAY)],
    );
    let releases = published(3, NOW - 400 * DAY);
    let asked = |last_ms, since_ms| Asked::Counted {
        since_ms,
        last: Some((last_ms, "h1".to_owned())),
    };
    let of = |asked: &Asked| told(std::slice::from_ref(&state), &releases, &[1], asked);
    assert_eq!(of(&asked(NOW - 13 * DAY, 0)), ["requested"]);
    assert_eq!(of(&asked(NOW - 15 * DAY, 0)), ["collectable"]);
    assert_eq!(of(&asked(NOW - 15 * DAY, NOW - DAY)), ["not-counted-yet"]);
    let by = vec!["h2 (nginx)".to_owned()];
    assert_eq!(of(&Asked::Uncounted { by }), ["uncounted"]);
    let live = live([&state], [], releases.iter().copied());
    let verdict = judge(&live, &numbers(&[1]), &asked(NOW - 15 * DAY, 0), policy(), NOW);
    assert_eq!(verdict, Verdict::Collectable { since_ms: NOW - DAY });
}

#[test]
fn a_clock_that_jumped_keeps_more() {
    let state = ran(
        "prod",
        &[(1, NOW - 300 * DAY), (2, NOW - 290 * DAY), (3, NOW - 280 * DAY)],
    );
    let releases = published(3, NOW - 400 * DAY);
    let live = live([&state], [], releases.iter().copied());
    let at = |now_ms, asked: &Asked| kinds(&judge(&live, &numbers(&[1]), asked, policy(), now_ms));
    assert_eq!(at(NOW, &quiet()), ["collectable"]);
    // The clock went back to before it was left.
    assert_eq!(at(NOW - 350 * DAY, &quiet()), ["young"]);
    // A request from the future counts as one of now.
    let future = Asked::Counted {
        since_ms: 0,
        last: Some((NOW + 1_000 * DAY, "h1".to_owned())),
    };
    assert_eq!(at(NOW, &future), ["requested"]);
    let counted_later = Asked::Counted {
        since_ms: NOW + DAY,
        last: None,
    };
    assert_eq!(at(NOW, &counted_later), ["not-counted-yet"]);
}

proptest! {
    /// Whatever happened: nothing that is reachable, was left lately or was asked for lately is ever given up, and the
    /// same facts under an earlier clock keep at least as much.
    #[test]
    fn nothing_reachable_young_or_asked_for_is_collectable(
        deploys in vec((1_u64..12, 0_u64..400), 0..20),
        kept in btree_set(1_u64..12, 0..4),
        named in btree_set(1_u64..14, 1..6),
        last in proptest::option::of(0_u64..500),
        back in 0_u64..500,
    ) {
        let mut days: Vec<u64> = deploys.iter().map(|(_, day)| *day).collect();
        days.sort_unstable();
        let deploys: Vec<_> = deploys.iter().zip(&days).map(|((release, _), day)| (*release, NOW - 400 * DAY + day * DAY)).collect();
        let mut state = ran("prod", &deploys);
        state.retained = kept.iter().copied().map(target).collect();
        let releases = published(12, NOW - 420 * DAY);
        let live = live([&state], [], releases);
        let named: Vec<_> = named.into_iter().map(ReleaseNumber).collect();
        let last_ms = last.map(|day| NOW - 450 * DAY + day * DAY);
        let asked = Asked::Counted { since_ms: 0, last: last_ms.map(|at| (at, "h1".to_owned())) };
        let verdict = judge(&live, &named, &asked, policy(), NOW);
        if let Verdict::Collectable { since_ms } = verdict {
            prop_assert!(since_ms <= NOW);
            for release in &named {
                prop_assert!(!kept.contains(&release.0));
                prop_assert!(state.current.is_none_or(|current| current.number != *release));
                // Known, and left for longer than min_age.
                prop_assert!(live.last_ms(*release).unwrap() + policy().min_age_ms <= NOW);
            }
            prop_assert!(last_ms.is_none_or(|at| at + policy().idle_ms <= NOW));
        } else {
            let earlier = judge(&live, &named, &asked, policy(), NOW - back * DAY);
            prop_assert!(earlier.is_kept(), "an earlier clock gave up what a later one keeps");
        }
    }
}
