//! A gap that is announced: who wants to hear of it, what is told, the word that it may begin, and what is remembered.

use ship_keeper::machine::{Cause, Queued, Rising, RisingPhase, State};
use ship_keeper::protocol::*;

use super::super::{frozen, writes_the_same};
use super::memory::{rising, state};
use super::{intent, lines, status, text};

fn requests() -> Vec<RequestLine> {
    let requests = [
        Request::Switch {
            intent: Box::new(intent(455)),
            notice_ms: Some(150_000),
        },
        Request::Revert {
            to: None,
            reason: text("blank"),
            epoch: None,
            notice_ms: Some(150_000),
        },
        Request::MayClear { release: 455 },
    ];
    let v = PROTOCOL_VERSION;
    requests.map(|request| RequestLine { v, request }).into()
}

fn replies() -> Vec<ReplyLine> {
    let announced = Status {
        announced: Some(Announced {
            release: 455,
            reason: text("no memory for two generations: 1 MiB available"),
            until: 1_760_000_150,
        }),
        ..status(
            Phase::Prepared,
            Role::Rising,
            ProcessState::Waiting,
            Steering::Bpf,
        )
    };
    let replies = [
        Reply::Status {
            status: Box::new(announced),
        },
        Reply::Refused {
            refusal: Refusal::NothingAnnounced,
            message: text("no gap is announced on the way to release 455, or its time is over"),
        },
    ];
    let v = PROTOCOL_VERSION;
    replies.map(|reply| ReplyLine { v, reply }).into()
}

fn states() -> Vec<State> {
    let noticed = |may_clear: bool, phase: RisingPhase| {
        let state = state(phase, Cause::Switch);
        State {
            rising: Some(Rising {
                notice_ms: Some(150_000),
                may_clear,
                ..rising(phase, Cause::Switch)
            }),
            queued: state.queued.map(|queued| Queued {
                notice_ms: Some(150_000),
                ..queued
            }),
            ..state
        }
    };
    vec![
        noticed(false, RisingPhase::Announced),
        noticed(true, RisingPhase::Spawned),
    ]
}

#[test]
fn an_announced_gap_is_read_and_written() {
    let today = [lines(requests()), lines(replies()), lines(states())].concat();
    writes_the_same("keeper-announced-1.jsonl", today.as_bytes());
    let found = String::from_utf8(frozen("keeper-announced-1.jsonl")).unwrap();
    let found: Vec<_> = found.lines().collect();
    let (asked, rest) = found.split_at(requests().len());
    let (told, kept) = rest.split_at(replies().len());
    let asked = asked
        .iter()
        .map(|line| serde_json::from_str::<RequestLine>(line).unwrap());
    assert!(asked.eq(requests()));
    let told = told
        .iter()
        .map(|line| serde_json::from_str::<ReplyLine>(line).unwrap());
    assert!(told.eq(replies()));
    let kept = kept
        .iter()
        .map(|line| serde_json::from_str::<State>(line).unwrap());
    assert!(kept.eq(states()));
}
