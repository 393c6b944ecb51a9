//! What a keeper remembers: the state of its machine, and who stands by.

use std::path::PathBuf;

use ship_keeper::machine::{
    Cause, Generation, Leaving, Process, Queued, Retiring, Rising, RisingPhase, Slot, SlotState, State,
};
use ship_keeper::memory::Memory;
use ship_keeper::protocol::*;

use super::super::{frozen, writes_the_same};
use super::{counters, held, intent, lines, outcome, text};

fn slot(state: SlotState) -> Slot {
    Slot {
        home: None,
        heir_of: None,
        way: None,
        problem: None,
        process: Some(Process { pid: 4242, start: 99 }),
        state,
        failures: 1,
        since: 100,
        ready: true,
        probed: true,
        sockets: vec![31, 32],
    }
}

fn generation(number: u64, release: u64) -> Generation {
    Generation {
        number,
        intent: intent(release),
        slots: vec![slot(SlotState::Up)],
    }
}

/// With a slot in every state.
fn active() -> Generation {
    let slots = [
        SlotState::Waiting,
        SlotState::Forking,
        SlotState::Forked,
        SlotState::Starting,
        SlotState::Up,
        SlotState::BackingOff { until: 101 },
        SlotState::Ended,
    ];
    Generation {
        slots: slots.map(slot).into(),
        ..generation(12, 455)
    }
}

pub(super) fn rising(phase: RisingPhase, cause: Cause) -> Rising {
    Rising {
        rungs: Vec::new(),
        generation: generation(13, 456),
        phase,
        cause,
        asked_at: 102,
        spawned_at: 103,
        deadline: 104,
        first_answer_at: Some(105),
        proven_at: None,
        gap_since: None,
        attempt: 2,
        canary: (phase == RisingPhase::Canary).then_some(1),
        tight: None,
        lock_until: None,
        unlocked: false,
        notice_ms: None,
        may_clear: false,
    }
}

fn retiring(phase: Leaving) -> Retiring {
    Retiring {
        generation: generation(11, 454),
        phase,
        deadline: 106,
        steered_away_at: 107,
        failed: true,
    }
}

pub(super) fn state(phase: RisingPhase, cause: Cause) -> State {
    State {
        boot_id: text("b007"),
        next_generation: 14,
        epoch: 41,
        held: Some(held()),
        good: vec![intent(453), intent(454)],
        bad: vec![452],
        active: Some(active()),
        rising: Some(rising(phase, cause.clone())),
        retiring: [
            Leaving::Warm,
            Leaving::Draining,
            Leaving::Stopping,
            Leaving::Killing,
        ]
        .map(retiring)
        .into(),
        queued: Some(Queued {
            intent: intent(457),
            cause,
            asked_at: 108,
            not_before: 109,
            attempt: 1,
            rungs: Vec::new(),
            lock_until: None,
            notice_ms: None,
        }),
        outcome: Some(outcome(SwitchResult::Reverted)),
        outcome_of: Some(13),
        crash: None,
        standby_lost: None,
        hooks: Vec::new(),
        holder: None,
        counters: counters(),
        stopping: true,
        stopped: true,
        bound: [(text("web/http"), text("tcp:127.0.0.21:8080"))].into(),
        layout: [(text("web/http"), vec![31, 32])].into(),
        notify_folder: Some(PathBuf::from("/tmp/ship-1")),
    }
}

fn states() -> Vec<State> {
    let causes = [
        Cause::Switch,
        Cause::Revert(text("blank")),
        Cause::Fallback(text("crashes")),
        Cause::Boot,
    ];
    let phases = [
        RisingPhase::Prepared,
        RisingPhase::Clearing(Leaving::Stopping),
        RisingPhase::Spawned,
        RisingPhase::Ready,
        RisingPhase::Probed,
        RisingPhase::Linked,
        RisingPhase::Aborting,
        RisingPhase::Canary,
    ];
    let around = |(nth, phase): (usize, RisingPhase)| state(phase, causes[nth % causes.len()].clone());
    phases.into_iter().enumerate().map(around).collect()
}

/// What came with the cut-over: an intent that asks for it, a standby, one that was lost, and the gap of a switch.
#[test]
fn a_standby_is_read_and_written() {
    let mut wanted = intent(455);
    wanted.standby = Some(ship_model::spec::Standby {
        hold_ms: Some(600_000),
    });
    wanted.processes[0].strategy = ship_model::spec::Strategy::CutOver;
    let standby = Retiring {
        failed: false,
        ..retiring(Leaving::Standby)
    };
    let kept = State {
        retiring: vec![standby],
        rising: Some(Rising {
            gap_since: Some(110),
            ..rising(RisingPhase::Spawned, Cause::Switch)
        }),
        standby_lost: Some(text("release 454 stood by until it ended")),
        good: vec![wanted],
        outcome: Some(Outcome {
            gap_ms: Some(1_400),
            ..outcome(SwitchResult::Switched)
        }),
        ..state(RisingPhase::Spawned, Cause::Switch)
    };
    let told = RevertReadiness {
        standby: Some(StandbyStatus {
            generation: 11,
            release: 454,
            until: Some(text("2025-10-09T09:03:20Z")),
        }),
        standby_lost: kept.standby_lost.clone(),
        ..RevertReadiness::default()
    };
    let today = lines([
        serde_json::to_value(&kept).unwrap(),
        serde_json::to_value(&told).unwrap(),
    ]);
    writes_the_same("keeper-standby-1.jsonl", today.as_bytes());
    let found = String::from_utf8(frozen("keeper-standby-1.jsonl")).unwrap();
    let (first, second) = found.split_once('\n').unwrap();
    assert_eq!(serde_json::from_str::<State>(first).unwrap(), kept);
    assert_eq!(
        serde_json::from_str::<RevertReadiness>(second.trim()).unwrap(),
        told
    );
}

/// Not through a real keeper: what it remembers names processes of this machine.
#[test]
fn the_memory_is_read_and_written() {
    let folder = tempfile::tempdir().unwrap();
    let mut memory = Memory::open(folder.path()).unwrap().0;
    for state in states() {
        memory.save(&state).unwrap();
    }
    drop(memory);
    writes_the_same(
        "keeper-journal-1",
        &std::fs::read(folder.path().join("journal")).unwrap(),
    );

    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("journal"), frozen("keeper-journal-1")).unwrap();
    let (_memory, last, notes) = Memory::open(folder.path()).unwrap();
    assert_eq!(Some(last), states().pop());
    assert_eq!(notes, Vec::<String>::new());
    let journal = folder.path().join("journal");
    let (_journal, found) = ship_durable::Journal::open(&journal, 4 << 20).unwrap();
    let records = found.records.iter();
    let all: Vec<State> = records
        .map(|record| serde_json::from_slice(&record.payload).unwrap())
        .collect();
    assert_eq!(all, states());
}
