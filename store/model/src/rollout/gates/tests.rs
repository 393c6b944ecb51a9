use super::*;

const SECOND: u64 = 1000;

fn check(for_ms: u64, fails: u32) -> (Gate, Pace) {
    let pace = Pace {
        for_ms,
        fails,
        ..Pace::default()
    };
    let ask = Ask::Command {
        argv: vec!["smoke".to_owned()],
        pace,
    };
    let name = "smoke".to_owned();
    (Gate { name, ask }, pace)
}

fn nothing() -> GateProgress {
    GateProgress::new(3, "smoke".to_owned())
}

#[test]
fn a_check_must_pass_without_a_break_for_so_long() {
    let (gate, pace) = check(30 * SECOND, 2);
    let mut known = nothing();
    assert!(!gate.is_open(None, 0) && !gate.is_open(Some(&known), 1_000_000));
    let mut now = 1_000_000;
    for verdict in [
        Verdict::Pass,
        Verdict::Pass,
        Verdict::Unknown,
        Verdict::Pass,
        Verdict::Fail,
    ] {
        known.hear(pace, verdict, "", now);
        assert!(!gate.is_open(Some(&known), now), "{known:?}");
        now += 10 * SECOND;
    }
    for _ in 0..3 {
        known.hear(pace, Verdict::Pass, "", now);
        assert!(!gate.is_open(Some(&known), now), "{known:?}");
        now += 10 * SECOND;
    }
    known.hear(pace, Verdict::Pass, "", now);
    assert!(gate.is_open(Some(&known), now), "{known:?}");
}

#[test]
fn unknown_never_passes_and_never_fails() {
    let (gate, pace) = check(0, 1);
    let mut known = nothing();
    for round in 0..1000 {
        let now = 1_000_000 + round * 10 * SECOND;
        known.hear(pace, Verdict::Unknown, "no answer", now);
        assert!(!gate.is_open(Some(&known), now));
        assert_eq!(known.fails, 0);
    }
}

#[test]
fn an_old_word_counts_for_nothing() {
    let (gate, pace) = check(0, 2);
    let mut known = nothing();
    known.hear(pace, Verdict::Pass, "", 1_000_000);
    let last = 1_000_000 + pace.valid_ms();
    assert!(gate.is_open(Some(&known), last) && !gate.is_open(Some(&known), last + 1));
    // What was not looked at in between did not pass in between.
    let (gate, pace) = check(30 * SECOND, 2);
    known.hear(pace, Verdict::Pass, "", last + 1);
    assert!(!gate.is_open(Some(&known), last + 1), "{known:?}");
    // Words that come in time keep it open, though not each of them is stored.
    let mut now = last + 1;
    for _ in 0..100 {
        now += pace.every_ms + pace.timeout_ms;
        known.hear(pace, Verdict::Pass, "", now);
    }
    assert!(gate.is_open(Some(&known), now + pace.every_ms + pace.timeout_ms));
}

#[test]
fn the_same_word_again_is_stored_now_and_then_only() {
    let (_, pace) = check(0, 2);
    let mut known = nothing();
    let mut stored = 0;
    for round in 0..60 {
        let before = known.clone();
        known.hear(
            pace,
            Verdict::Pass,
            &format!("took {round} ms"),
            1_000_000 + round * 10 * SECOND,
        );
        stored += usize::from(known != before);
    }
    assert!((20..=31).contains(&stored), "{stored} of 60");
}

#[test]
fn fails_are_counted_in_a_row_and_once_at_a_time() {
    let (_, pace) = check(0, 3);
    let mut known = nothing();
    let mut now = 1_000_000;
    for (verdict, fails) in [
        (Verdict::Fail, 1),
        (Verdict::Unknown, 1),
        (Verdict::Fail, 2),
        (Verdict::Pass, 0),
        (Verdict::Fail, 1),
        (Verdict::Fail, 2),
        (Verdict::Fail, 3),
        (Verdict::Fail, 3),
    ] {
        known.hear(pace, verdict, "", now);
        assert_eq!(known.fails, fails, "{verdict:?}");
        // Another store asks at the same time.
        known.hear(pace, verdict, "", now + 100);
        assert_eq!(known.fails, fails, "{verdict:?} twice");
        now += pace.every_ms;
    }
}

#[test]
fn what_a_check_says_is_bounded() {
    let (_, pace) = check(0, 2);
    let mut known = nothing();
    known.hear(pace, Verdict::Fail, &"ä".repeat(5000), 1_000_000);
    assert!(known.said.len() <= MAX_SAID && known.said.ends_with('ä'));
}

#[test]
fn an_answer_passes_fails_or_says_nothing() {
    let expect = |json: Option<(&str, [Option<&str>; 3])>| Expect {
        status: 200,
        json: json.map(|(pointer, [at_least, at_most, equals])| JsonTest {
            pointer: pointer.to_owned(),
            at_least: at_least.and_then(|text| Figure::new(text).ok()),
            at_most: at_most.and_then(|text| Figure::new(text).ok()),
            equals: equals.map(str::to_owned),
        }),
    };
    let plain = expect(None);
    let rate = expect(Some(("/data/result/0/value/1", [None, Some("0.01"), None])));
    let between = expect(Some(("/n", [Some("2"), Some("3"), None])));
    let word = expect(Some(("/state", [None, None, Some("ok")])));
    let prometheus = |value: &str| format!(r#"{{"data":{{"result":[{{"value":[1.5,"{value}"]}}]}}}}"#);
    for (expect, status, body, verdict) in [
        (&plain, 200, "", Verdict::Pass),
        (&plain, 503, "", Verdict::Fail),
        (&rate, 200, &*prometheus("0.009"), Verdict::Pass),
        (&rate, 200, &*prometheus("0.02"), Verdict::Fail),
        (&rate, 200, &*prometheus("NaN"), Verdict::Unknown),
        (&rate, 200, &*prometheus("many"), Verdict::Unknown),
        (&rate, 200, r#"{"data":{"result":[]}}"#, Verdict::Unknown),
        (&rate, 200, "<html>", Verdict::Unknown),
        (&rate, 503, &*prometheus("0.009"), Verdict::Unknown),
        (&between, 200, r#"{"n":1.9}"#, Verdict::Fail),
        (&between, 200, r#"{"n":2}"#, Verdict::Pass),
        (&between, 200, r#"{"n":3.1}"#, Verdict::Fail),
        (&between, 200, r#"{"n":[3]}"#, Verdict::Unknown),
        (&between, 200, r#"{"n":null}"#, Verdict::Unknown),
        (&word, 200, r#"{"state":"ok"}"#, Verdict::Pass),
        (&word, 200, r#"{"state":"bad"}"#, Verdict::Fail),
    ] {
        let (found, said) = expect.judge(status, body.as_bytes());
        assert_eq!(found, verdict, "{status} {body}: {said}");
    }
    for text in ["", "inf", "NaN", "1,5", &"1".repeat(40)] {
        assert!(Figure::new(text).is_err(), "{text:?} was accepted");
    }
}
