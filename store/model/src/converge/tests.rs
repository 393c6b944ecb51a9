#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

use super::*;
use crate::desired::DeployNumber;
use crate::digest::ReleaseId;
use crate::name::{AppName, EnvName};
use crate::release::ReleaseNumber;

fn release(number: u64) -> Target {
    Target {
        number: ReleaseNumber(number),
        id: ReleaseId::of(&number.to_le_bytes()),
    }
}

fn releases(numbers: &[u64]) -> Vec<Target> {
    numbers.iter().map(|number| release(*number)).collect()
}

fn desired(epoch: u64, run: Option<u64>, stage: &[u64], assets: &[u64]) -> DesiredApp {
    DesiredApp {
        app: AppName::new("web").unwrap(),
        env: EnvName::new("prod").unwrap(),
        epoch: Epoch(epoch),
        deploy: DeployNumber(1),
        run: run.map(release),
        runs_app: true,
        stage: releases(stage),
        assets: releases(assets),
    }
}

fn observed(fence: u64, running: Option<u64>, staged: &[u64], assets: &[u64]) -> Observed {
    Observed {
        fence: Some(Epoch(fence)),
        staged: releases(staged),
        assets: releases(assets),
        running: running.map(release),
        ..Observed::default()
    }
}

fn hold(epoch: u64, from: u64, to: u64) -> LocalHold {
    LocalHold {
        epoch: Epoch(epoch),
        from: Some(release(from)),
        to: release(to),
        reason: "broken".to_owned(),
        at_ms: 0,
    }
}

fn failed(epoch: u64, number: u64, retry_at_ms: Option<u64>) -> Failed {
    Failed {
        epoch: Epoch(epoch),
        release: release(number),
        retry_at_ms,
    }
}

#[test]
fn a_keeper_on_its_way_to_what_nobody_wants_is_called_back() {
    use crate::report::AppPhase;
    let away = Observed {
        leaving: true,
        phase: AppPhase::Idle,
        ..observed(2, Some(1), &[1, 2], &[1, 2])
    };
    let wish = desired(2, Some(1), &[1, 2], &[1, 2]);
    assert_eq!(next_action(Some(&wish), &away, 0), Action::Switch(release(1)));
    let called = Observed {
        leaving: false,
        ..away.clone()
    };
    assert_eq!(
        next_action(Some(&wish), &called, 0),
        Action::Nothing(Rest::AsDesired)
    );
    // The same where a revert on this host keeps it.
    let held = Observed {
        held: Some(hold(2, 2, 1)),
        ..away
    };
    assert_eq!(super::held_elsewhere(&held, 0), Some(release(1)));
    let there = Observed {
        leaving: false,
        ..held
    };
    assert_eq!(super::held_elsewhere(&there, 0), None);
}

#[test]
fn one_action_at_a_time_in_order() {
    use Action::*;
    let wish = desired(2, Some(2), &[2, 1], &[1, 2]);
    let old = Some(1);
    for (has, action) in [
        (Observed::default(), PersistFence(Epoch(2))),
        (observed(1, old, &[1], &[1]), PersistFence(Epoch(2))),
        (observed(3, old, &[1], &[1]), Nothing(Rest::OldEpoch)),
        (observed(2, old, &[1], &[1]), FetchAndStage(release(2))),
        (observed(2, old, &[1, 2], &[1]), AddAssets(release(2))),
        (observed(2, old, &[1, 2], &[1, 2]), Switch(release(2))),
        // A revert does not wait for what it does not need; a host that serves nothing has all assets first.
        (observed(2, old, &[2], &[2]), Switch(release(2))),
        (observed(2, None, &[2], &[2]), AddAssets(release(1))),
        (observed(2, Some(2), &[2], &[2]), FetchAndStage(release(1))),
        (observed(2, Some(2), &[1, 2], &[2]), AddAssets(release(1))),
        (
            observed(2, Some(2), &[1, 2, 9], &[1, 2]),
            RemoveOld(releases(&[9])),
        ),
        (observed(2, Some(2), &[1, 2], &[1, 2]), Nothing(Rest::AsDesired)),
    ] {
        assert_eq!(next_action(Some(&wish), &has, 0), action, "{has:?}");
    }
    assert_eq!(
        next_action(None, &observed(2, Some(2), &[2], &[]), 0),
        Nothing(Rest::NothingDesired)
    );
}

#[test]
fn hosts_that_run_nothing() {
    let mut wish = desired(2, Some(2), &[], &[2]);
    wish.runs_app = false;
    let has = |running, assets: &[u64]| observed(2, running, &[], assets);
    assert_eq!(
        next_action(Some(&wish), &has(None, &[]), 0),
        Action::AddAssets(release(2))
    );
    assert_eq!(
        next_action(Some(&wish), &has(None, &[2]), 0),
        Action::Nothing(Rest::AsDesired)
    );
    assert_eq!(next_action(Some(&wish), &has(Some(1), &[2]), 0), Action::Stop);
    let nothing = desired(2, None, &[], &[]);
    assert_eq!(next_action(Some(&nothing), &has(Some(1), &[]), 0), Action::Stop);
}

#[test]
fn what_failed_is_not_tried_again_under_its_epoch() {
    let wish = desired(2, Some(2), &[1, 2], &[1, 2]);
    let mut has = observed(2, Some(1), &[1, 2], &[1, 2]);
    has.failed = vec![failed(2, 2, None)];
    assert_eq!(next_action(Some(&wish), &has, 0), Action::Nothing(Rest::Failed));
    has.failed = vec![failed(1, 2, None)];
    assert_eq!(next_action(Some(&wish), &has, 0), Action::Switch(release(2)));
    has.failed = vec![failed(2, 2, Some(100))];
    assert_eq!(
        next_action(Some(&wish), &has, 99),
        Action::Wait(Wait::Retry { at_ms: 100 })
    );
    assert_eq!(next_action(Some(&wish), &has, 100), Action::Switch(release(2)));
    // Another release's failure does not stand in the way, and two of them do not take turns.
    let wish = desired(2, Some(2), &[2, 7, 8], &[2]);
    has.failed = vec![failed(2, 7, None), failed(2, 8, None)];
    assert_eq!(next_action(Some(&wish), &has, 0), Action::Switch(release(2)));
    has.running = Some(release(2));
    has.staged = releases(&[2]);
    assert_eq!(
        next_action(Some(&wish), &has, 0),
        Action::Nothing(Rest::AsDesired)
    );
}

#[test]
fn a_hold_stands_until_something_else_is_wanted() {
    let mut has = observed(5, Some(1), &[1, 2, 3], &[1, 2, 3]);
    has.held = Some(hold(5, 2, 1));
    let next =
        |has: &Observed, epoch, run| next_action(Some(&desired(epoch, Some(run), &[1, 2, 3], &[])), has, 0);
    assert_eq!(next(&has, 5, 2), Action::Nothing(Rest::Held));
    assert_eq!(next(&has, 5, 3), Action::Nothing(Rest::Held));
    has.fence = Some(Epoch(6));
    assert_eq!(next(&has, 6, 2), Action::Nothing(Rest::Held));
    assert_eq!(next(&has, 6, 3), Action::Switch(release(3)));
    assert_eq!(next(&has, 6, 1), Action::Nothing(Rest::AsDesired));
    // A held host still fetches, and deletes nothing.
    let wish = desired(6, Some(2), &[4], &[]);
    assert_eq!(
        next_action(Some(&wish), &has, 0),
        Action::FetchAndStage(release(4))
    );
}

#[test]
fn a_busy_keeper_is_waited_for() {
    let wish = desired(2, Some(2), &[2], &[2]);
    let mut has = observed(2, Some(1), &[1, 2], &[1, 2]);
    for (phase, action) in [
        (
            AppPhase::Switching,
            Action::Wait(Wait::Keeper(AppPhase::Switching)),
        ),
        (
            AppPhase::Reverting,
            Action::Wait(Wait::Keeper(AppPhase::Reverting)),
        ),
        (AppPhase::Soaking, Action::Switch(release(2))),
        (AppPhase::Draining, Action::Switch(release(2))),
    ] {
        has.phase = phase;
        assert_eq!(next_action(Some(&wish), &has, 0), action);
    }
    has.running = Some(release(2));
    has.phase = AppPhase::Draining;
    assert_eq!(
        next_action(Some(&wish), &has, 0),
        Action::Nothing(Rest::AsDesired)
    );
    has.phase = AppPhase::Idle;
    has.pinned = releases(&[1]);
    assert_eq!(
        next_action(Some(&wish), &has, 0),
        Action::Nothing(Rest::AsDesired)
    );
    has.pinned.clear();
    assert_eq!(
        next_action(Some(&wish), &has, 0),
        Action::RemoveOld(releases(&[1]))
    );
}

/// Numbers from a seed; a failing seed is named by the test.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    fn some(&mut self) -> Vec<u64> {
        (1..=5).filter(|_| self.below(2) == 0).collect()
    }
}

/// Does what the action says; `breaks` makes the release fail instead.
fn perform(has: &mut Observed, action: &Action, epoch: Epoch, breaks: Option<Option<u64>>) {
    let release = match action {
        Action::FetchAndStage(release) | Action::AddAssets(release) | Action::Switch(release) => {
            Some(*release)
        }
        _ => None,
    };
    if let (Some(release), Some(retry_at_ms)) = (release, breaks) {
        has.failed.push(Failed {
            epoch,
            release,
            retry_at_ms,
        });
        return;
    }
    match action {
        Action::PersistFence(epoch) => {
            has.fence = Some(*epoch);
            has.failed.clear();
        }
        Action::FetchAndStage(release) => has.staged.push(*release),
        Action::AddAssets(release) => has.assets.push(*release),
        Action::Switch(release) => {
            has.running = Some(*release);
            has.held = None;
        }
        Action::Stop => has.running = None,
        Action::RemoveOld(old) => has.staged.retain(|release| !old.contains(release)),
        Action::Wait(_) | Action::Nothing(_) => {}
    }
}

fn check(wish: &DesiredApp, has: &Observed, action: &Action, now: u64) {
    let acts = !matches!(action, Action::Nothing(_) | Action::Wait(_));
    assert!(!acts || has.fence <= Some(wish.epoch), "acts on an older epoch");
    let persisted = matches!(action, Action::PersistFence(_)) || has.fence == Some(wish.epoch);
    assert!(!acts || persisted, "acts before the fence is durable");
    if let Action::FetchAndStage(release) | Action::AddAssets(release) | Action::Switch(release) = action {
        let last = has
            .failed
            .iter()
            .rev()
            .find(|f| f.release == *release && f.epoch == wish.epoch);
        let again = last.is_none_or(|failed| failed.retry_at_ms.is_some_and(|at| now >= at));
        assert!(again, "tries again what failed");
    }
    if let Action::Switch(release) = action {
        assert!(
            has.staged.contains(release) && has.assets.contains(release),
            "switches too early"
        );
        assert!(
            !has.held.as_ref().is_some_and(|held| held.stands_against(wish)),
            "breaks a hold"
        );
    }
    if let Action::RemoveOld(old) = action {
        assert!(
            !old.iter()
                .any(|release| has.running == Some(*release) || wish.stage.contains(release))
        );
    }
}

#[test]
fn any_host_comes_to_rest_where_it_should() {
    for seed in 1..=3000_u64 {
        let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut has = Observed::default();
        let mut wish = desired(1, None, &[], &[]);
        let mut now = 0;
        for step in 0..200_u64 {
            let faults = step < 120;
            match chance.below(12) {
                0 if faults => {
                    let run = Some(1 + chance.below(5)).filter(|_| chance.below(8) > 0);
                    let mut stage = chance.some();
                    stage.extend(run);
                    let epoch = wish.epoch.0 + 1 + chance.below(2);
                    wish = desired(epoch, run, &stage, &chance.some());
                    wish.runs_app = chance.below(6) > 0;
                }
                1 if faults && has.running.is_some() => {
                    let from = has.running;
                    has.held = Some(LocalHold {
                        from,
                        epoch: has.fence.unwrap(),
                        ..hold(0, 1, 1)
                    });
                }
                // An older wish, delivered late.
                2 if faults && wish.epoch.0 > 1 => {
                    let late = desired(wish.epoch.0 - 1, Some(3), &[3], &[3]);
                    let action = next_action(Some(&late), &has, now);
                    check(&late, &has, &action, now);
                }
                3 if faults => {
                    let phases = [AppPhase::Idle, AppPhase::Switching, AppPhase::Soaking];
                    has.phase = phases[chance.below(3) as usize];
                }
                _ => {}
            }
            let breaks =
                (faults && chance.below(6) == 0).then(|| Some(now + 50).filter(|_| chance.below(2) == 0));
            let action = next_action(Some(&wish), &has, now);
            check(&wish, &has, &action, now);
            perform(&mut has, &action, wish.epoch, breaks);
            now += 10;
            if step == 120 {
                has.phase = AppPhase::Idle;
                has.held = None;
                has.failed.retain(|failed| failed.retry_at_ms.is_some());
            }
        }
        let last = next_action(Some(&wish), &has, now);
        assert_eq!(
            last,
            Action::Nothing(Rest::AsDesired),
            "seed {seed}: {has:?}\n{wish:?}"
        );
        assert_eq!(has.running, wish.run.filter(|_| wish.runs_app), "seed {seed}");
        assert!(
            wish.stage.iter().all(|release| has.staged.contains(release)),
            "seed {seed}"
        );
        assert!(
            wish.assets.iter().all(|release| has.assets.contains(release)),
            "seed {seed}"
        );
    }
}

#[test]
fn a_faded_release_lacks_nothing_until_it_is_shown_again() {
    use Action::*;
    let faded = |releases_faded: &[u64], has: Observed| Observed {
        faded: releases(releases_faded),
        ..has
    };
    for (wish, has, action) in [
        (
            desired(2, Some(3), &[3], &[1, 2, 3]),
            observed(2, Some(3), &[3], &[2, 3]),
            AddAssets(release(1)),
        ),
        (
            desired(2, Some(3), &[3], &[1, 2, 3]),
            faded(&[1], observed(2, Some(3), &[3], &[2, 3])),
            Nothing(Rest::AsDesired),
        ),
        // It is to run, or to lie unpacked: then it must be whole.
        (
            desired(2, Some(1), &[1], &[1, 2, 3]),
            faded(&[1], observed(2, Some(3), &[1, 3], &[2, 3])),
            AddAssets(release(1)),
        ),
        (
            desired(2, Some(3), &[3, 1], &[1, 2, 3]),
            faded(&[1], observed(2, Some(3), &[3, 1], &[2, 3])),
            AddAssets(release(1)),
        ),
        // A new host gets what is kept of the old ones before it serves.
        (
            desired(2, Some(3), &[3], &[1, 2, 3]),
            faded(&[1], observed(2, None, &[3], &[3])),
            AddAssets(release(2)),
        ),
    ] {
        assert_eq!(next_action(Some(&wish), &has, 0), action);
    }
}
