#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use super::*;
use crate::name::AppName;

const FULL: &str = r#"
version = 1
env = "production"
[after]
env = "staging"
soak = "30m"
[labels]
canary = ["web-1", "eu-*"]
[[step]]
name = "one"
hosts = 1
label = "canary"
soak = "10m"
[[step]]
name = "quarter"
hosts = "25%"
class = "web"
[policy]
max_unavailable = "25%"
min_healthy = 2
wave = "10%"
soak = "1m"
progress_deadline = "5m"
auto_revert = false
keep = 5
optional_asset_hosts = ["cdn-1"]
[profile.careful]
soak = "1h"
[profile.emergency]
steps = true
x-note = "ours"
"#;

#[test]
fn a_file_is_read() {
    let read = read_environment(FULL).unwrap();
    assert_eq!(read.env.as_str(), "production");
    let after = read.after.clone().unwrap();
    assert_eq!((after.env.as_str(), after.soak_ms), ("staging", 1_800_000));
    assert_eq!(read.steps.len(), 2);
    assert_eq!(read.steps[0].names, ["web-1", "eu-*"]);
    assert_eq!(
        (read.steps[0].until, read.steps[0].soak_ms),
        (Amount::Count(1), Some(600_000))
    );
    assert_eq!(read.steps[1].until, Amount::Percent(25));

    let store = Policy {
        switch_deadline_ms: 77_000,
        soak_ms: 1,
        ..Policy::default()
    };
    let normal = read.policy(&store, Profile::Normal);
    assert_eq!(normal.max_unavailable, Some(Amount::Percent(25)));
    assert_eq!((normal.soak_ms, normal.switch_deadline_ms), (60_000, 77_000));
    assert!(!normal.auto_revert && normal.steps == read.steps && normal.keep == 5);
    let careful = read.policy(&store, Profile::Careful);
    assert_eq!(
        (careful.soak_ms, careful.wave),
        (3_600_000, Some(Amount::Count(1)))
    );
    let emergency = read.policy(&store, Profile::Emergency);
    assert_eq!((emergency.soak_ms, emergency.steps.len()), (0, 2));
    assert_eq!(emergency.profile, Profile::Emergency);
}

#[test]
fn all_mistakes_come_at_once_with_what_was_meant() {
    let errors = read_environment(
        r#"
env = "Prod"
[after]
soak = "soon"
[labels]
canary = []
"a b" = ["h1"]
[[step]]
name = "one"
hosts = 1
label = "canaries"
[[step]]
name = "one"
hosts = "101%"
[[step]]
hosts = true
[policy]
max_unavailabel = 1
min_healthy = -1
wave = 0
progress_deadline = "1ms"
[profile.carefull]
[profile.normal]
step = false
"#,
    )
    .unwrap_err();
    let told = errors.to_string();
    for words in [
        "version: is missing",
        "\"Prod\" is not",
        "after.env: is missing",
        "labels.canary: names no host",
        "labels.a b: a label is made of",
        "no such label (did you mean \"canary\"?)",
        "step[1].hosts: \"101%\" is neither",
        "step[2].name: is missing",
        "step[2].hosts: must be a number of hosts",
        "policy.max_unavailabel: unknown key (did you mean \"max_unavailable\"?)",
        "policy.min_healthy: \"-1\" is neither",
        "policy.wave: a wave has one host at least",
        "policy.progress_deadline: must be 1s at least",
        "profile.carefull: no such profile (did you mean \"careful\"?)",
        "profile.normal.step: unknown key (did you mean \"steps\"?)",
    ] {
        assert!(told.contains(words), "{words:?} is not told:\n{told}");
    }
    assert!(told.starts_with("the environment's file has"), "{told}");
}

#[test]
fn hostile_texts_are_refused_without_harm() {
    let deep = format!("env = {}", "[".repeat(50_000));
    let many = format!(
        "version = 1\nenv = \"a\"\n{}",
        "[[step]]\nname = \"x\"\nhosts = 1\n".repeat(2000)
    );
    for text in [
        "",
        "\0",
        "env",
        "version = 2\nenv = \"a\"",
        &format!("version = 1\nenv = \"a\"\n{}", "#".repeat(MAX_TEXT)),
        &deep,
        &many,
    ] {
        let told = read_environment(text).unwrap_err();
        assert!(!told.0.is_empty(), "{}", &text[..text.len().min(40)]);
    }
    let again =
        "version = 1\nenv = \"a\"\n[[step]]\nname = \"x\"\nhosts = 1\n[[step]]\nname = \"x\"\nhosts = 2\n";
    assert!(
        read_environment(again)
            .unwrap_err()
            .to_string()
            .contains("another step has this name")
    );
    let itself = "version = 1\nenv = \"a\"\n[after]\nenv = \"a\"\n";
    assert!(
        read_environment(itself)
            .unwrap_err()
            .to_string()
            .contains("names the environment itself")
    );
}

#[test]
fn a_difference_is_told_key_by_key() {
    let old = read_environment(FULL).unwrap();
    assert!(difference(Some(&old), &old).is_empty());
    let new = read_environment(
        &FULL
            .replace("soak = \"1m\"", "soak = \"2m\"")
            .replace("keep = 5\n", ""),
    )
    .unwrap();
    let told: Vec<_> = difference(Some(&old), &new)
        .into_iter()
        .map(|found| (found.key, found.was, found.is))
        .collect();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        told,
        [
            ("policy.keep".to_owned(), text("5"), None),
            ("policy.soak".to_owned(), text("1m"), text("2m"))
        ]
    );
    let all = difference(None, &new);
    let step = all.iter().find(|found| found.key == "step[1]").unwrap();
    assert_eq!(
        step.is.as_deref(),
        Some("one: 1 of the hosts named web-1, eu-*; soak 10m")
    );
    assert!(all.iter().all(|found| found.was.is_none()));
}

#[test]
fn only_what_ran_well_elsewhere_may_come() {
    use crate::desired::DeployNumber;
    use crate::digest::ReleaseId;
    use crate::release::ReleaseNumber;
    use crate::rollout::{DeployEntry, DeployKind, End};

    let environment = read_environment(FULL).unwrap();
    let release = |number: u64| Target {
        number: ReleaseNumber(number),
        id: ReleaseId::of(&number.to_le_bytes()),
    };
    let mut staging = EnvState::new(EnvName::new("staging").unwrap(), AppName::new("web").unwrap());
    let check = |state: Option<&EnvState>, now_ms| environment.check_after(state, release(5), now_ms);
    assert!(matches!(check(None, 0), Err(NotProven::Never { .. })));
    staging.current = Some(release(5));
    assert!(
        matches!(check(Some(&staging), 0), Err(NotProven::Never { .. })),
        "not done yet"
    );
    staging.history.push(DeployEntry {
        deploy: DeployNumber(1),
        release: release(5),
        kind: DeployKind::Promote,
        end: End::Done,
        when_ms: 1_000_000,
        who: "ann".to_owned(),
        message: None,
        reason: None,
    });
    let soon = check(Some(&staging), 1_000_000 + 1_799_999);
    assert!(matches!(soon, Err(NotProven::TooShort { .. })), "{soon:?}");
    assert_eq!(check(Some(&staging), 1_000_000 + 1_800_000), Ok(()));
    staging.current = Some(release(6));
    assert!(
        check(Some(&staging), u64::MAX).is_err(),
        "another one runs there now"
    );
}

const GATED: &str = r#"
version = 1
env = "production"
[[step]]
name = "before"
hosts = 0
gates = ["go"]
[[step]]
name = "one"
hosts = 1
gates = ["smoke", "errors", "dns"]
[gate.go]
approval = 2
others = true
by = ["operator/ann", "operator/bob"]
[gate.dns]
manual = "Move half of the DNS weight"
[gate.smoke]
command = ["smoke", "--fast"]
every = "5s"
for = "1m"
timeout = "20s"
fails = 3
[gate.errors]
http = "http://prometheus:9090/api/v1/query?query=errors"
json = "/data/result/0/value/1"
at_most = 0.01
[profile.emergency]
soak = "1s"
"#;

#[test]
fn gates_are_read_and_end_their_steps() {
    use crate::rollout::{Ask, Gate, Pace};

    let read = read_environment(GATED).unwrap();
    let names = |gates: &[Gate]| gates.iter().map(|gate| gate.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&read.steps[0].gates), ["go"]);
    assert_eq!(names(&read.steps[1].gates), ["smoke", "errors", "dns"]);
    let Ask::Command { argv, pace } = &read.steps[1].gates[0].ask else {
        unreachable!("{:?}", read.steps[1].gates[0]);
    };
    assert_eq!(argv, &["smoke", "--fast"]);
    let asked = Pace {
        every_ms: 5_000,
        for_ms: 60_000,
        timeout_ms: 20_000,
        fails: 3,
    };
    assert_eq!(*pace, asked);
    let Ask::Http { expect, pace, .. } = &read.steps[1].gates[1].ask else {
        unreachable!("{:?}", read.steps[1].gates[1]);
    };
    assert_eq!((expect.status, *pace), (200, Pace::default()));
    assert_eq!(
        expect
            .judge(200, br#"{"data":{"result":[{"value":[1,"0.02"]}]}}"#)
            .0,
        crate::rollout::Verdict::Fail
    );

    let told = difference(None, &read);
    let of = |key: &str| {
        told.iter()
            .find(|found| found.key == key)
            .and_then(|found| found.is.clone())
    };
    assert_eq!(
        of("gate.go").as_deref(),
        Some("approval by 2 of operator/ann, operator/bob, not by whom it was promoted")
    );
    assert!(of("gate.smoke").is_some_and(|told| told.contains("every 5s, for 1m, timeout 20s, fails at 3")));
    assert!(of("step[2]").is_some_and(|told| told.ends_with("; then gates smoke, errors, dns")));
}

#[test]
fn an_emergency_skips_gates_only_where_the_file_says_so() {
    let store = Policy::default();
    let read = read_environment(GATED).unwrap();
    let held = read.policy(&store, Profile::Emergency);
    assert!(held.has_gates() && held.skipped_gates.is_empty(), "{held:?}");
    assert_eq!((held.steps.len(), held.soak_ms), (2, 1_000));

    let says = GATED.replace("soak = \"1s\"", "gates = false");
    let read = read_environment(&says).unwrap();
    let free = read.policy(&store, Profile::Emergency);
    assert!(free.steps.is_empty() && !free.has_gates());
    assert_eq!(free.skipped_gates, ["dns", "errors", "go", "smoke"]);
    assert!(read.policy(&store, Profile::Normal).has_gates());
    let steps = GATED.replace("soak = \"1s\"", "gates = false\nsteps = true");
    let free = read_environment(&steps)
        .unwrap()
        .policy(&store, Profile::Emergency);
    assert!(free.steps.len() == 2 && !free.has_gates() && free.skipped_gates.len() == 4);
}

#[test]
fn mistakes_in_gates_are_told() {
    let errors = read_environment(
        r#"
version = 1
env = "production"
[[step]]
name = "one"
hosts = 1
gates = ["smok", "smoke", "smoke"]
[gate.smoke]
command = ["smoke"]
[gate."a b"]
approval = 1
[gate.none]
[gate.two]
approval = 1
manual = "x"
[gate.shell]
command = ["/bin/sh", "-c", "true"]
[gate.empty]
command = []
[gate.file]
http = "file:///etc/passwd"
[gate.limitless]
http = "http://a/"
json = "/x"
[gate.pointerless]
http = "http://a/"
at_most = 1
[gate.number]
http = "http://a/"
json = "/x"
at_most = "inf"
[gate.quick]
command = ["x"]
every = "1ms"
[gate.many]
approval = 21
[gate.few]
approval = 2
by = ["operator/ann"]
[gate.lines]
manual = "a\nb"
[gate.odd]
approval = 1
every = "1s"
[profile.emergency]
steps = false
"#,
    )
    .unwrap_err();
    let told = errors.to_string();
    for words in [
        "no such gate (did you mean \"smoke\"?)",
        "the step has this gate already",
        "gate.a b: a gate's name is made of",
        "gate.none: a gate asks for one thing",
        "gate.two: a gate asks for one thing",
        "\"/bin/sh\" is no program's name",
        "gate.empty.command: names no program",
        "gate.file.http: must be http://",
        "nothing is said of the value",
        "gate.pointerless.json: is missing",
        "\"inf\" is no number",
        "gate.quick.every: must be from 1s to 3600s",
        "gate.many.approval: must be a whole number from 1 to 20",
        "names fewer operators than must approve",
        "gate.lines.manual: must be one line",
        "gate.odd.every: unknown key",
        "no step has this gate (gates = [\"few\"] in a step)",
        "profile.emergency: leaves out the steps that end with gates",
    ] {
        assert!(told.contains(words), "{words:?} is not told:\n{told}");
    }
}
