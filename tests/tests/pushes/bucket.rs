//! By hand, to a bucket.

use ship_tests::s3::Way;
use ship_tests::{Fleet, S3};

use crate::{bare, by_hand, killed, named, publish, pushed, run, stands};

const TO: &str = "s3://assets/web";

#[test]
fn a_push_to_a_bucket_goes_on_where_it_was_killed() {
    let Some(s3) = S3::start("push to a bucket by hand") else {
        return;
    };
    let fleet = Fleet::start(1);
    let large = vec![b'x'; 11 << 20];
    let small: Vec<Vec<u8>> = (0..12_u8).map(|n| vec![n; 100]).collect();
    let mut files: Vec<&[u8]> = small.iter().map(Vec::as_slice).collect();
    files.push(&large);
    publish(&fleet, &files);

    s3.put("/assets", "");
    let before = s3.written().len();
    let looked = run(by_hand(
        &fleet,
        &s3,
        &["site", "--to", TO, "--dry-run", "-o", "json"],
    ))
    .json();
    assert_eq!(pushed(&looked), (0, 0, 13), "{looked:#}");
    assert_eq!(s3.written().len(), before);
    let answered = s3.answered();

    s3.goes(Way::Hang { after: 5 });
    killed(
        by_hand(&fleet, &s3, &["site", "--to", TO]),
        "five to be there",
        || s3.answered() == answered + 5,
    );
    s3.quiet();
    s3.goes(Way::Open);
    let rest = run(by_hand(&fleet, &s3, &["site@1", "--to", TO, "-o", "json"])).json();
    assert_eq!(pushed(&rest), (8, 5, 0), "{rest:#}");
    assert!(files.iter().all(|bytes| stands(&s3, bytes)));
    let written = s3.written().split_off(before);
    for bytes in &small {
        let name = named(bytes);
        let times = written.iter().filter(|line| line.contains(&name)).count();
        assert_eq!(times, 1, "{name}: {written:#?}");
    }
    let parts = written.iter().filter(|line| line.contains("partNumber=")).count();
    assert_eq!(parts, 3, "{written:#?}");
    let again = run(by_hand(&fleet, &s3, &["site", "--to", TO])).expect(0);
    assert!(again.stderr.contains("13 there already"), "{again}");
    assert_eq!(s3.written().len(), before + written.len());
    let none = run(by_hand(&fleet, &s3, &["site", "--to", "s3://none/web"])).expect(1);
    assert!(
        none.stderr.contains("there is no bucket none at https://"),
        "{none}"
    );
}

#[test]
fn what_a_bucket_refuses_is_told_and_waiting_for_it_ends() {
    let Some(s3) = S3::start("refusals of a bucket") else {
        return;
    };
    let fleet = Fleet::start(1);
    publish(&fleet, &[b"one", b"two"]);
    s3.put("/assets", "");
    let endpoint = s3.endpoint();
    let refused = |words: &[&str], keys: bool, part: &str| {
        let mut command = bare(&fleet, &[&["site", "--to", TO], words].concat());
        if keys {
            command.envs(ship_tests::s3::KEYS);
        }
        let ran = run(command);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(said.contains(part), "{part}: {ran}");
        assert!(!said.contains("the-secret"), "{ran}");
        ran.code
    };
    let unkeyed = refused(&["--endpoint", &endpoint], false, "no keys: AWS_ACCESS_KEY_ID");
    // Its certificate comes from an authority that this machine does not know.
    let unknown = refused(
        &["--endpoint", &endpoint],
        true,
        "not all is pushed to s3://assets/web",
    );
    let plain = endpoint.replace("https:", "http:");
    let open = refused(&["--endpoint", &plain], true, "--plain-http");
    let no_ca = refused(
        &["--endpoint", &endpoint, "--ca", "/dev/null"],
        true,
        "has no certificate",
    );
    assert_eq!([unkeyed, unknown, open, no_ca], [1, 1, 2, 1]);
    assert_eq!(s3.written(), [""; 0]);

    s3.goes(Way::Refuse("403 Forbidden"));
    let denied = run(by_hand(&fleet, &s3, &["site", "--to", TO])).expect(1);
    assert!(
        denied.stderr.contains("refused the keys in the environment"),
        "{denied}"
    );
    // Nothing is answered: it does not wait for ever.
    s3.goes(Way::Hang { after: 1 });
    let slow = run(by_hand(
        &fleet,
        &s3,
        &["site", "--to", TO, "--answer-seconds", "1"],
    ))
    .expect(1);
    assert!(slow.stderr.contains("did not answer as it should"), "{slow}");
    s3.quiet();
    assert_eq!(s3.answered(), 1);
    s3.goes(Way::Open);
    let rest = run(by_hand(&fleet, &s3, &["site", "--to", TO, "-o", "json"])).json();
    assert_eq!(pushed(&rest), (1, 1, 0), "{rest:#}");
    assert!(stands(&s3, b"one") && stands(&s3, b"two"));
}
