//! Random lives of the machine in a made-up world, and what it must do in cases that matter.
#![allow(
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests stop at the first surprise"
)]

mod announced;
mod world;

use std::collections::BTreeSet;

use super::*;
use crate::protocol::{Intent, Phase};
use ship_model::spec::{Restart, Strategy};
use world::{Dice, World, all_ways, intent};

#[test]
fn random_lives_keep_their_promises_and_come_to_rest() {
    lives(400, &[all_ways()[0].clone()]);
}

#[test]
fn random_lives_with_every_strategy_keep_their_promises() {
    lives(300, &all_ways());
    for way in all_ways() {
        lives(50, &[way]);
    }
}

fn lives(many: u64, ways: &[(Strategy, Option<Restart>)]) {
    let (mut shares, mut announced) = (0, 0);
    for seed in 0..many {
        eprintln!("seed {seed} with {ways:?}");
        let mut world = World::new(seed);
        world.ways = ways.to_vec();
        for _ in 0..200 {
            match world.dice.roll(20) {
                // Seldom enough for most to come to their end.
                0 => world.request(),
                1..=4 => world.pass_time(),
                6 if world.dice.roll(3) == 0 => world.crash_a_process(),
                7 if world.dice.roll(3) == 0 => world.crash_the_keeper(),
                8 if world.dice.roll(12) == 0 => world.boot(),
                8 => world.unlock(),
                9 => world.lead_elsewhere(),
                _ => world.deliver(),
            }
        }
        world.settle();
        assert_eq!(world.state.hooks, [], "seed {seed}: hooks that never ran");
        if let Some(active) = &world.state.active {
            assert_eq!(world.steered, Some(active.number), "seed {seed}");
            assert_eq!(world.shared, None, "seed {seed}");
            let alive: BTreeSet<_> = world.alive.keys().map(|(generation, _)| *generation).collect();
            let standby = world.state.standby().map(|standby| standby.generation.number);
            let meant = standby.into_iter().chain([active.number]).collect();
            assert_eq!(alive, meant, "seed {seed}: strays");
        }
        world.take(&Event::Stop);
        for _ in 0..2_000 {
            if world.exited {
                break;
            }
            if world.answers.is_empty() {
                world.pass_time();
            } else {
                world.deliver();
            }
        }
        assert!(world.exited, "seed {seed}: does not stop: {:#?}", world.state);
        shares += world.shares;
        announced += world.announced;
    }
    let outside = ways.iter().all(|(strategy, _)| strategy.is_outside());
    // So few lives may have none.
    assert!(shares > 0 || outside || many < 100, "only {shares} canaries");
    assert!(announced > 0 || many < 100, "no gap was ever announced");
}

fn switch(intent: Intent) -> Event {
    Event::Switch {
        intent: Box::new(intent),
        notice_ms: None,
    }
}

fn ran(release: u64) -> State {
    let mut world = World::new(7);
    world.dice = Dice(1);
    world.state.next_generation = 1;
    for number in 1..=release {
        let wanted = intent(number, number, true);
        world.state.active = Some(Generation::new(number, wanted.clone()));
        world.state.good.push(wanted);
        world.state.epoch = number;
    }
    world.state
}

#[test]
fn the_fence_takes_newer_refuses_older_and_knows_equals() {
    let state = ran(3);
    assert_eq!(judge_switch(&state, &intent(3, 3, true)), Verdict::Already);
    assert_eq!(judge_switch(&state, &intent(3, 4, true)), Verdict::Renew);
    assert_eq!(judge_switch(&state, &intent(4, 4, true)), Verdict::Accept);
    assert!(matches!(
        judge_switch(&state, &intent(4, 3, true)),
        Verdict::Refuse(..)
    ));
    assert!(matches!(
        judge_switch(&state, &intent(4, 2, true)),
        Verdict::Refuse(..)
    ));
    assert!(matches!(judge_revert(&state, None, Some(2)), Verdict::Refuse(..)));
    assert_eq!(judge_revert(&state, None, None), Verdict::Accept);
    assert_eq!(judge_revert(&state, Some(3), None), Verdict::Already);
    assert!(matches!(judge_revert(&state, Some(9), None), Verdict::Refuse(..)));
    assert!(matches!(judge_revert(&ran(1), None, None), Verdict::Refuse(..)));
}

#[test]
fn a_revert_asked_for_twice_is_one() {
    let revert = |to| Event::Revert {
        to: Some(to),
        reason: "test".to_owned(),
        epoch: None,
        notice_ms: None,
    };
    let (state, effects) = step(&ran(3), &revert(1), 5);
    assert!(matches!(effects[..], [Effect::Bind { .. }]), "{effects:?}");
    assert_eq!(judge_revert(&state, Some(1), None), Verdict::Already);
    assert_eq!(judge_revert(&state, Some(2), None), Verdict::Accept);
}

#[test]
fn a_revert_never_goes_to_one_that_was_reverted_from() {
    let mut state = ran(3);
    state.bad.push(2);
    assert_eq!(state.revert_target().unwrap().release, 1);
}

#[test]
fn after_a_boot_the_link_says_what_runs() {
    let state = State {
        boot_id: "one".to_owned(),
        ..ran(3)
    };
    let link = std::path::Path::new("/srv/web/releases/2");
    let (state, effects) = recover(&state, "two", &[], Some(link), 5);
    assert!(effects.is_empty());
    let queued = state.queued.clone().unwrap();
    assert_eq!((queued.intent.release, queued.cause), (2, Cause::Boot));
    let (state, effects) = step(&state, &Event::Tick, 6);
    assert_eq!(
        effects,
        [Effect::Bind {
            generation: state.next_generation - 1
        }]
    );
    let stopped = State {
        stopped: true,
        boot_id: "one".to_owned(),
        ..ran(3)
    };
    let (state, _) = recover(&stopped, "two", &[], Some(link), 5);
    assert_eq!(state.queued, None);
}

#[test]
fn a_boot_goes_on_with_the_way_back_that_had_begun() {
    let state = State {
        boot_id: "one".to_owned(),
        ..ran(3)
    };
    let booted = |state: &State, link: u64| {
        let link = format!("/srv/web/releases/{link}");
        let (next, _) = recover(state, "two", &[], Some(link.as_ref()), 5);
        next.queued.map(|queued| queued.intent.release)
    };
    // Steered back in the journal, and the link not yet.
    let mut back = state.clone();
    back.active = Some(Generation::new(9, intent(2, 2, true)));
    back.bad.push(3);
    assert_eq!(booted(&back, 3), Some(2));
    // A failed switch whose link was not put back.
    let mut failed = state.clone();
    failed.bad.push(4);
    failed.good.push(intent(4, 4, true));
    assert_eq!(booted(&failed, 4), Some(3));
    // A cold way back was just asked for, or is on its way.
    let revert = Event::Revert {
        to: None,
        reason: "test".to_owned(),
        epoch: None,
        notice_ms: None,
    };
    let (cold, _) = step(&state, &revert, 5);
    assert!(cold.rising.is_some());
    assert_eq!(booted(&cold, 3), Some(2));
    // A switch that had moved the link goes on, one that had not does not.
    assert_eq!(booted(&state, 2), Some(2));
    assert_eq!(booted(&state, 3), Some(3));
}

#[test]
fn an_adopted_process_is_gone_back_to_while_it_is_warm_and_never_started() {
    let mut world = World::new(3);
    world.adopt();
    let adopted = world.state.active.clone().unwrap();
    assert_eq!(
        judge_adopt(&world.state, adopted.slots[0].process.unwrap().pid),
        Verdict::Already
    );
    assert!(matches!(judge_adopt(&world.state, 9), Verdict::Refuse(..)));
    assert!(matches!(
        judge_revert(&world.state, None, None),
        Verdict::Refuse(..)
    ));
    // Release 1 has taken over, and it is still there.
    let mut state = world.state.clone();
    let mut first = Generation::new(5, intent(1, 1, true));
    (state.active, state.next_generation) = (Some(first.clone()), 6);
    state.good.push(first.intent.clone());
    state.retiring.push(Retiring {
        generation: adopted.clone(),
        phase: Leaving::Warm,
        deadline: u64::MAX,
        steered_away_at: 0,
        failed: false,
    });
    assert_eq!(judge_revert(&state, None, None), Verdict::Accept);
    assert_eq!(judge_revert(&state, Some(0), None), Verdict::Accept);
    let back = Event::Revert {
        to: None,
        reason: "test".to_owned(),
        epoch: None,
        notice_ms: None,
    };
    let (back, _) = step(&state, &back, 5);
    assert_eq!(back.active.unwrap().number, adopted.number);
    state.retiring.clear();
    assert!(matches!(judge_revert(&state, None, None), Verdict::Refuse(..)));
    // After a boot it is for others to start it, whatever a link names that was left for it.
    first.intent.release = 0;
    let link = first.intent.dir.clone();
    let (booted, effects) = recover(&world.state, "two", &[], Some(&link), 5);
    assert_eq!((booted.queued, booted.active, effects), (None, None, Vec::new()));
    // A keeper that finds it gone closes its listeners.
    let (lost, effects) = recover(&world.state, "one", &[], None, 5);
    assert_eq!(lost.active, None);
    assert!(lost.crash.unwrap().reason.contains("promote a release"));
    let kill = Effect::Kill {
        generation: adopted.number,
    };
    assert!(effects.contains(&kill), "{effects:?}");
}

#[test]
fn a_canary_beside_an_adopted_process_that_ends_gets_all_users() {
    let mut world = World::new(3);
    world.adopt();
    let adopted = world.state.active.clone().unwrap();
    let mut state = world.state.clone();
    let switch = switch(intent(1, 1, true));
    state = step(&state, &switch, 5).0;
    let rising = state.rising.as_mut().unwrap();
    (rising.phase, rising.canary, rising.deadline) = (RisingPhase::Canary, Some(0), u64::MAX);
    let canary = rising.generation.number;
    let ended = Event::Ended {
        generation: adopted.number,
        slot: 0,
        how: "it ended".to_owned(),
    };
    let (next, effects) = step(&state, &ended, 5);
    assert_eq!(next.active, None);
    assert_eq!(next.phase(), Phase::Probed);
    let links = |effect: &Effect| matches!(effect, Effect::Link { generation, .. } if *generation == canary);
    assert!(effects.iter().any(links), "{effects:?}");
}

#[test]
fn who_is_slow_to_say_ready_costs_no_busy_waiting() {
    let mut world = World::new(1);
    world.take(&switch(intent(1, 1, true)));
    while let Some(at) = world
        .answers
        .iter()
        .position(|event| !matches!(event, Event::Ready { .. }))
    {
        let event = world.answers.remove(at);
        world.take(&event);
    }
    assert_eq!(world.state.phase(), Phase::Spawned);
    world.now += 2_000;
    world.take(&Event::Tick);
    assert!(
        world.state.next_deadline().unwrap() > world.now,
        "{:#?}",
        world.state
    );
}

/// A world in which release 1 runs and its process 0 has a lock, with release 2 on its way and waiting for it.
fn locked(wait_ms: u64, overrule: bool) -> World {
    let mut world = World::new(3);
    world.dice = Dice(5);
    let mut first = intent(1, 1, true);
    (first.processes[0].lock_wait_ms, first.processes[0].lock_overrule) = (Some(wait_ms), overrule);
    let mut active = Generation::new(1, first);
    for (slot, found) in active.slots.iter_mut().enumerate() {
        let process = Process {
            pid: 10 + slot as u32,
            start: 1,
        };
        (found.process, found.state, found.ready) = (Some(process), SlotState::Up, true);
        world.alive.insert((1, slot), process);
    }
    (world.state.active, world.state.next_generation, world.state.epoch) = (Some(active), 2, 1);
    world.proven.insert(1);
    world.take(&switch(intent(2, 2, true)));
    let generation = 2;
    world.answers.clear();
    world.take(&Event::Bound {
        generation,
        sockets: Ok(vec![vec![1], vec![]]),
        remarks: Vec::new(),
        tight: None,
    });
    for slot in 0..2 {
        let process = Process {
            pid: 20 + slot as u32,
            start: 1,
        };
        world.alive.insert((2, slot), process);
        world.take(&Event::Forked {
            generation,
            slot,
            process,
        });
        world.take(&Event::Started { generation, slot });
    }
    world.take(&Event::Ready { generation, slot: 0 });
    world.now += 1_000;
    world.take(&Event::Tick);
    let first_answer_at = world.now;
    world.take(&Event::Probed {
        generation,
        slot: 0,
        first_answer_at,
    });
    world
}

#[test]
fn a_lock_is_waited_for_as_long_as_was_said_over_the_death_of_a_keeper() {
    let waits = RisingPhase::Locked { proven: true };
    let world = locked(60_000, false);
    let rising = world.state.rising.clone().unwrap();
    assert_eq!(
        (rising.phase, rising.lock_until),
        (waits, Some(world.now + 60_000))
    );
    assert_eq!(world.state.next_deadline(), rising.lock_until);
    // The next keeper goes on with what is left.
    let (state, _) = recover(&world.state, "one", &[], None, world.now + 20_000);
    assert_eq!(state.queued.unwrap().lock_until, rising.lock_until);
    // Nobody holds it any more.
    let (state, effects) = step(&world.state, &Event::Unlocked { generation: 2 }, world.now + 9);
    assert_eq!(state.phase(), Phase::Probed);
    assert!(
        effects.iter().any(|effect| matches!(effect, Effect::Link { .. })),
        "{effects:?}"
    );
    // The time is over.
    let (state, _) = step(&world.state, &Event::Tick, world.now + 60_000);
    let reason = state.outcome.unwrap().reason.unwrap();
    assert!(
        reason.contains("held its own lock for 60000 ms (process web)"),
        "{reason}"
    );
    let world = locked(60_000, true);
    let (_, effects) = step(&world.state, &Event::Tick, world.now + 60_000);
    assert_eq!(effects[0], Effect::Overrule { generation: 1 });
    assert!(
        effects.iter().any(|effect| matches!(effect, Effect::Link { .. })),
        "{effects:?}"
    );
}

#[test]
fn a_revert_ends_the_wait_for_a_lock_and_waits_for_a_moment_itself() {
    let world = locked(60_000, false);
    let revert = Event::Revert {
        to: None,
        reason: "bad".to_owned(),
        epoch: None,
        notice_ms: None,
    };
    let (state, _) = step(&world.state, &revert, world.now);
    assert_eq!(state.phase(), Phase::Aborting);
    let mut world = locked(60_000, false);
    if let Some(rising) = &mut world.state.rising {
        (rising.cause, rising.lock_until) = (Cause::Revert("bad".to_owned()), None);
        rising.phase = RisingPhase::Ready;
    }
    let probed = Event::Probed {
        generation: 2,
        slot: 0,
        first_answer_at: world.now,
    };
    let (state, _) = step(&world.state, &probed, world.now);
    assert_eq!(state.rising.unwrap().lock_until, Some(world.now + 5_000));
}

#[test]
fn without_memory_for_two_the_old_one_is_stopped_first_or_the_switch_fails() {
    let bound = |must_coexist: bool, cause: Cause| {
        let mut world = locked(1, true);
        if let Some(rising) = &mut world.state.rising {
            (rising.phase, rising.cause, rising.unlocked) = (RisingPhase::Prepared, cause, true);
            rising.generation.intent.must_coexist = must_coexist;
        }
        let tight = Event::Bound {
            generation: 2,
            sockets: Ok(vec![vec![1], vec![]]),
            remarks: Vec::new(),
            tight: Some("1 MiB available".to_owned()),
        };
        step(&world.state, &tight, world.now).0
    };
    let state = bound(false, Cause::Switch);
    let rising = state.rising.unwrap();
    assert_eq!(rising.phase, RisingPhase::Clearing(Leaving::Draining));
    assert_eq!(rising.rungs[0].strategy, Strategy::StopStart);
    assert!(rising.rungs[0].reason.contains("1 MiB available"));
    let state = bound(true, Cause::Switch);
    let reason = state.outcome.unwrap().reason.unwrap();
    assert!(reason.contains("coexist = \"always\""), "{reason}");
    // A way back is taken all the same.
    let state = bound(true, Cause::Revert("bad".to_owned()));
    assert_eq!(state.phase(), Phase::Clearing);
}
