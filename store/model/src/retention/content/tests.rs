#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::tests::{DAY, NOW, entry, env, ran, target};
use super::*;
use crate::desired::DeployNumber;
use crate::rollout::{BadRelease, DeployKind};

fn known(number: u64, published_at_ms: u64) -> KnownRelease {
    KnownRelease {
        target: target(number),
        published_at_ms,
        pin: None,
    }
}

/// Releases 1 to `count`, published a day apart, all of them long ago.
fn old(count: u64) -> Vec<KnownRelease> {
    (1..=count).map(|number| known(number, number * DAY)).collect()
}

/// Nothing is kept but for its use.
fn least() -> Keeping {
    Keeping {
        newest: 1,
        min_age_ms: 1,
        ran: 1,
        ran_in: BTreeMap::new(),
    }
}

fn sight<'a>(states: &'a [EnvState]) -> Sight<'a> {
    Sight {
        states: states.iter().collect(),
        ..Sight::default()
    }
}

fn kept(sight: &Sight<'_>, releases: &[KnownRelease], keeping: &Keeping) -> Vec<u64> {
    let judged = judge_content(sight, releases, keeping, NOW);
    assert_eq!(judged.len(), releases.len(), "each is told of");
    let kept = judged.iter().filter(|(_, reasons)| !reasons.is_empty());
    kept.map(|(number, _)| number.0).collect()
}

fn kinds(sight: &Sight<'_>, releases: &[KnownRelease], number: u64) -> Vec<&'static str> {
    let judged = judge_content(sight, releases, &least(), NOW);
    let reasons = &judged[&ReleaseNumber(number)];
    reasons.iter().map(ContentReason::kind).collect()
}

#[test]
fn the_newest_and_the_young_are_kept_and_the_clock_may_go_back() {
    let mut releases = old(30);
    assert_eq!(
        kept(&Sight::default(), &releases, &Keeping::default()),
        (11..=30).collect::<Vec<_>>()
    );
    assert_eq!(kept(&Sight::default(), &releases, &least()), [30]);
    releases[2].published_at_ms = NOW - 6 * DAY;
    releases[3].published_at_ms = NOW + 600 * DAY;
    let keeping = Keeping {
        newest: 0,
        ..Keeping::default()
    };
    assert_eq!(kept(&Sight::default(), &releases, &keeping), [3, 4, 30]);
}

/// kamal#1922: staging's prune deleted what production would have gone back to. Octopus#6979: the current release was pruned.
#[test]
fn staging_cannot_prune_what_production_needs() {
    let production = ran("production", &[(1, DAY), (2, 2 * DAY), (3, 3 * DAY)]);
    let all: Vec<(u64, u64)> = (1..=60).map(|number| (number, number * DAY)).collect();
    let states = [production, ran("staging", &all)];
    assert_eq!(kept(&sight(&states), &old(60), &least()), [2, 3, 59, 60]);
    let mut keeping = least();
    keeping.ran_in.insert(env("production"), 2);
    assert_eq!(kept(&sight(&states), &old(60), &keeping), [1, 2, 3, 59, 60]);
}

/// What a second and a third revert go to is not what ran last: 4 was reverted from, 2 is older than both.
#[test]
fn as_many_reverts_as_policy_says_have_somewhere_to_go() {
    let mut state = ran("production", &[(1, 1), (2, 2), (3, 3), (4, 4), (9, 5), (3, 6)]);
    state.bad.push(BadRelease {
        release: target(4),
        deploy: DeployNumber(4),
        reason: "reverted".to_owned(),
        at_ms: 4,
    });
    let keeping = Keeping { ran: 2, ..least() };
    assert_eq!(kept(&sight(&[state]), &old(30), &keeping), [1, 2, 3, 4, 9, 30]);
}

#[test]
fn hosts_and_pins_keep_what_nothing_else_does() {
    let state = ran("production", &[(7, DAY)]);
    let states = [state];
    let (env, host) = (env("production"), "web-1".parse().unwrap());
    let mut seen = sight(&states);
    seen.held.push((&env, &host, target(2)));
    // Of another store, or collected long ago.
    seen.held.push((&env, &host, target(99)));
    let mut releases = old(9);
    releases[4].pin = Some(("operator/alice".to_owned(), "audit".to_owned()));
    assert_eq!(kept(&seen, &releases, &least()), [2, 5, 7, 9]);
    assert_eq!(kinds(&seen, &releases, 2), ["reachable"]);
    assert_eq!(kinds(&seen, &releases, 5), ["pinned"]);
    assert_eq!(kinds(&seen, &releases, 7), ["reachable"]);
}

#[test]
fn a_host_that_never_spoke_may_have_whatever_ran() {
    let mut state = ran("production", &[(1, DAY), (2, DAY), (3, DAY), (4, DAY)]);
    let (env, host): (EnvName, HostName) = (env("production"), "web-1".parse().unwrap());
    state
        .hosts
        .insert(host.clone(), crate::rollout::HostTarget::default());
    let states = [state, ran("staging", &[(5, DAY), (6, DAY), (7, DAY)])];
    let mut seen = sight(&states);
    assert_eq!(kept(&seen, &old(9), &least()), [3, 4, 6, 7, 9]);
    seen.unheard.push((&env, &host));
    assert_eq!(kept(&seen, &old(9), &least()), [1, 2, 3, 4, 6, 7, 9]);
    assert_eq!(kinds(&seen, &old(9), 1), ["unheard"]);
}

#[test]
fn the_same_tree_is_kept_under_all_its_numbers() {
    let mut releases = old(9);
    releases[1].target.id = releases[8].target.id;
    assert_eq!(kept(&Sight::default(), &releases, &least()), [2, 9]);
    assert_eq!(kinds(&Sight::default(), &releases, 2), ["same-tree"]);
}

/// Which environment, which release, whether it goes back, and how long until the next.
type Move = (usize, u64, bool, u64);

fn histories() -> impl Strategy<Value = (Vec<Move>, u32, u32, Vec<u64>, Vec<u64>)> {
    let one = (0..2_usize, 1..40_u64, any::<bool>(), 0..30_u64);
    (
        vec(one, 0..80),
        0..6_u32,
        0..6_u32,
        vec(1..40_u64, 0..3),
        vec(1..40_u64, 0..3),
    )
}

proptest! {
    /// By the simplest rule: what is written down here is not what is tested.
    #[test]
    fn nothing_goes_that_any_rule_names((moves, newest, reach, pins, held) in histories()) {
        let mut states = [ran("production", &[]), ran("staging", &[])];
        let mut now = 10 * DAY;
        for (at, release, back, days) in moves {
            let state = &mut states[at];
            now += days * DAY / 4;
            let wanted = match state.current.and_then(|current| state.last_good_before(current)) {
                Some(target) if back => target,
                _ => target(release),
            };
            if back && let Some(from) = state.current {
                let bad = BadRelease {
                    release: from,
                    deploy: DeployNumber(1),
                    reason: String::new(),
                    at_ms: now,
                };
                state.bad.push(bad);
            }
            let deploy = state.history.len() as u64 + 1;
            state.history.push(entry(deploy, wanted.number.0, DeployKind::Promote, now));
            state.retained = state.current.into_iter().chain([wanted]).collect();
            state.current = Some(wanted);
        }
        let mut releases = old(40);
        for pin in &pins {
            releases[*pin as usize - 1].pin = Some(("who".to_owned(), "why".to_owned()));
        }
        let (of, host) = (env("staging"), "h1".parse().unwrap());
        let mut seen = sight(&states);
        seen.held = held.iter().map(|number| (&of, &host, target(*number))).collect();
        let keeping = Keeping { newest, ran: reach, min_age_ms: 7 * DAY, ran_in: BTreeMap::new() };
        let judged = judge_content(&seen, &releases, &keeping, now);
        let is_kept = |number: u64| !judged[&ReleaseNumber(number)].is_empty();
        for number in pins.iter().chain(&held) {
            prop_assert!(is_kept(*number), "{number} is pinned or held");
        }
        prop_assert!((0..u64::from(newest.max(1))).all(|at| is_kept(40 - at)));
        for state in &states {
            let Some(current) = state.current else { continue };
            prop_assert!(is_kept(current.number.0), "it runs");
            let mut from = current;
            // What a revert goes to is kept even where no more are.
            for _ in 0..reach.max(1) {
                let Some(back) = state.last_good_before(from) else { break };
                prop_assert!(is_kept(back.number.0), "a revert goes to {}", back.number);
                from = back;
            }
            prop_assert!(state.retained.iter().all(|kept| is_kept(kept.number.0)));
            for entry in &state.history {
                prop_assert!(entry.when_ms + 7 * DAY <= now || is_kept(entry.release.number.0), "young");
            }
        }
        for release in &releases {
            prop_assert!(release.published_at_ms + 7 * DAY <= now || is_kept(release.target.number.0));
        }
    }
}
