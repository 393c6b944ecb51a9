//! A gap is announced where somebody wants to hear of it, and begins by a word or when its time is over.

use super::*;
use world::http;

/// Release 1 runs and listens, release 2 is wanted and may not run beside it.
fn announced(notice_ms: Option<u64>) -> (State, Vec<Effect>) {
    let mut state = ran(1);
    state.boot_id = "one".to_owned();
    state.next_generation = 2;
    let active = state.active.as_mut().unwrap();
    active.intent.processes[0].listen = http();
    for (slot, found) in active.slots.iter_mut().enumerate() {
        let process = Process {
            pid: 10 + slot as u32,
            start: 1,
        };
        (found.process, found.state, found.ready) = (Some(process), SlotState::Up, true);
    }
    let switch = Event::Switch {
        intent: Box::new(intent(2, 2, true)),
        notice_ms,
    };
    let (state, _) = step(&state, &switch, 5);
    let bound = Event::Bound {
        generation: 2,
        sockets: Ok(vec![vec![1], vec![]]),
        remarks: Vec::new(),
        tight: Some("1 MiB available".to_owned()),
    };
    step(&state, &bound, 10)
}

#[test]
fn a_gap_waits_for_the_word_that_users_were_led_elsewhere() {
    let (state, effects) = announced(Some(60_000));
    assert_eq!((state.phase(), effects), (Phase::Prepared, Vec::new()));
    let (rising, reason) = state.announced().unwrap();
    assert_eq!(rising.generation.intent.release, 2);
    assert_eq!(reason, "no memory for two generations: 1 MiB available");
    assert_eq!(state.next_deadline(), Some(60_010));
    assert!(matches!(judge_may_clear(&state, 1), Verdict::Refuse(..)));
    assert_eq!(judge_may_clear(&state, 2), Verdict::Accept);
    let (early, effects) = step(&state, &Event::Tick, 60_009);
    assert_eq!((early.phase(), effects), (Phase::Prepared, Vec::new()));
    let (cleared, effects) = step(&state, &Event::MayClear, 20);
    assert_eq!(cleared.phase(), Phase::Clearing);
    assert!(matches!(
        effects[..],
        [Effect::Hold { generation: 1 }, Effect::Drain { generation: 1 }]
    ));
    assert_eq!(judge_may_clear(&cleared, 2), Verdict::Already);
}

#[test]
fn a_gap_that_nobody_answers_begins_when_its_time_is_over_and_says_so() {
    let (state, _) = announced(Some(60_000));
    let (state, effects) = step(&state, &Event::Tick, 60_010);
    assert_eq!(state.phase(), Phase::Clearing);
    assert_eq!(effects[0], Effect::Unheeded { generation: 2 });
    // For ever is not a time.
    let (state, _) = announced(Some(u64::MAX));
    assert_eq!(state.next_deadline(), Some(10 + crate::protocol::MAX_NOTICE_MS));
}

#[test]
fn who_wants_no_notice_waits_for_nothing() {
    let (state, effects) = announced(None);
    assert_eq!(state.phase(), Phase::Clearing);
    assert_eq!(effects[0], Effect::Hold { generation: 1 });
    assert!(matches!(judge_may_clear(&state, 2), Verdict::Refuse(..)));
}

#[test]
fn an_announced_gap_is_announced_again_by_the_next_keeper_and_called_back_by_a_revert() {
    let (state, _) = announced(Some(60_000));
    let (next, _) = recover(&state, "one", &[], None, 50);
    assert_eq!(next.queued.unwrap().notice_ms, Some(60_000));
    let back = Event::Revert {
        to: Some(1),
        reason: "the balancer does not answer".to_owned(),
        epoch: None,
        notice_ms: None,
    };
    let (back, effects) = step(&state, &back, 50);
    assert_eq!(back.phase(), Phase::Aborting);
    assert!(!effects.contains(&Effect::Hold { generation: 1 }), "{effects:?}");
    assert!(back.active.unwrap().is_whole());
}
