//! What a keeper is told, tells and remembers. Keepers live for years: today's agent speaks to yesterday's keeper, and
//! today's keeper takes over what yesterday's left running.

mod announced;
mod memory;

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;
use ship_keeper::protocol::*;

use super::{frozen, writes_the_same};

fn text(text: &str) -> String {
    text.to_owned()
}

fn process_spec(probe: ProbeKind) -> ProcessSpec {
    ProcessSpec {
        name: text("web"),
        command: vec![text("bin/server"), text("--fast")],
        strategy: ship_model::spec::Strategy::ListenFds,
        restart: None,
        overlap: true,
        asked_for: None,
        canary: None,
        env: [(text("RAILS_ENV"), text("production"))].into(),
        env_file: Some(PathBuf::from("/srv/ship/web/shared/env")),
        listen: vec![ListenSpec {
            name: text("http"),
            addr: text("tcp:127.0.0.21:8080"),
        }],
        probe: Some(ProbeSpec {
            kind: probe,
            listener: text("http"),
            times: 3,
            interval_ms: 100,
            timeout_ms: 2_000,
        }),
        notify: true,
        watchdog_ms: None,
        lock_wait_ms: None,
        lock_overrule: false,
        no_new_privs: false,
        ready_timeout_ms: 30_000,
        drain_ms: 30_000,
        stop_signal: text("QUIT"),
        stop_timeout_ms: 10_000,
        user: Some(text("www-data")),
        limits: Limits {
            nofile: Some(65_536),
            memory: Some(1 << 30),
            pids: None,
            cpu: None,
        },
    }
}

fn intent(release: u64) -> Intent {
    Intent {
        release,
        id: text("1f0c"),
        dir: PathBuf::from(format!("/srv/ship/web/releases/{release}-1f0c")),
        deploy: 7,
        epoch: 41,
        environment: text("production"),
        processes: vec![
            process_spec(ProbeKind::Http {
                path: text("/healthz"),
            }),
            process_spec(ProbeKind::Tcp),
        ],
        coexist: false,
        must_coexist: false,
        soak_ms: 5_000,
        standby: None,
        hooks: std::collections::BTreeMap::new(),
    }
}

fn outcome(result: SwitchResult) -> Outcome {
    Outcome {
        rungs: Vec::new(),
        epoch: 41,
        release: 455,
        running: Some(454),
        result,
        failed_step: Some(Phase::Ready),
        reason: Some(text("503")),
        last_lines: vec![text("no database")],
        switch_ms: 403,
        boot_ms: 390,
        first_answer_ms: Some(395),
        gap_ms: None,
        at: text("2025-10-09T08:53:20Z"),
    }
}

fn held() -> Held {
    Held {
        epoch: 40,
        release: 456,
        reason: text("503"),
    }
}

fn counters() -> Counters {
    Counters {
        switches: 1,
        failures: 2,
        reverts: 3,
        restarts: 4,
        connections_cut: 5,
        relayed: 6,
        log_lines_dropped: 7,
        strange_notifications: 8,
        upgrades: 0,
    }
}

fn status(phase: Phase, role: Role, state: ProcessState, steering: Steering) -> Status {
    let reference = intent(455).reference();
    Status {
        version: text("0.1.0"),
        pid: 77,
        app: text("web"),
        host: text("h1"),
        revision: 12,
        phase,
        epoch: 41,
        running: Some(reference.clone()),
        switching_to: Some(reference.clone()),
        waits: None,
        announced: None,
        queued: Some(reference.clone()),
        revert: RevertReadiness {
            to: Some(reference),
            warm: true,
            standby: None,
            standby_lost: None,
        },
        held: Some(held()),
        generations: vec![GenerationStatus {
            generation: 12,
            release: 455,
            deploy: 7,
            role,
            processes: vec![ProcessStatus {
                name: text("web"),
                pid: Some(4242),
                start_ticks: 99,
                state,
                said: text("warming up"),
                reloading: false,
                stopping: false,
                connections: 3,
                strategy: ship_model::spec::Strategy::default(),
                reason: String::new(),
            }],
        }],
        listeners: vec![ListenerStatus {
            process: text("web"),
            name: text("http"),
            addr: text("tcp:8080"),
            bound: text("tcp:127.0.0.21:8080"),
            steering,
            reason: match phase {
                Phase::Canary => text("one socket for all generations: refused"),
                _ => String::new(),
            },
        }],
        canary: (phase == Phase::Canary).then_some(CanaryStatus {
            release: 455,
            percent: 10,
            until: 1_760_000_030,
        }),
        outcome: Some(outcome(SwitchResult::Switched)),
        crash: None,
        counters: counters(),
        program: String::new(),
        upgrade: None,
        groups: None,
        falls_back: Vec::new(),
        notes: vec![text("steering fell back")],
    }
}

/// What came later: a keeper that becomes another program, and one that takes a stranger in.
fn later_requests() -> Vec<Request> {
    vec![
        Request::Upgrade {
            program: PathBuf::from("/usr/lib/ship/ship-keeper"),
        },
        Request::Adopt {
            pid: 4711,
            process: Box::new(process_spec(ProbeKind::Tcp)),
        },
    ]
}

fn later_statuses() -> Vec<Status> {
    let stages = [
        UpgradeStage::Checking,
        UpgradeStage::Waiting(text("the switch")),
        UpgradeStage::Failed(text("it is no keeper")),
    ];
    let upgrading = |stage| Status {
        program: text("/usr/lib/ship/ship-keeper"),
        upgrade: Some(Upgrading {
            program: text("/opt/ship/ship-keeper"),
            stage,
        }),
        counters: Counters {
            upgrades: 9,
            ..counters()
        },
        ..status(Phase::Idle, Role::Active, ProcessState::Up, Steering::Bpf)
    };
    stages.map(upgrading).into()
}

#[test]
fn later_words_are_read_and_written() {
    let v = PROTOCOL_VERSION;
    let requests: Vec<_> = later_requests()
        .into_iter()
        .map(|request| RequestLine { v, request })
        .collect();
    writes_the_same("keeper-requests-2.jsonl", lines(&requests).as_bytes());
    assert_eq!(read::<RequestLine>("keeper-requests-2.jsonl"), requests);
    let replies: Vec<_> = later_statuses()
        .into_iter()
        .map(|status| ReplyLine {
            v,
            reply: Reply::Status {
                status: Box::new(status),
            },
        })
        .collect();
    writes_the_same("keeper-replies-2.jsonl", lines(&replies).as_bytes());
    assert_eq!(read::<ReplyLine>("keeper-replies-2.jsonl"), replies);
}

/// As a keeper of this version left it to the program that it became; descriptors are numbers of that process.
#[test]
fn a_keepers_hand_over_is_read() {
    let file = std::fs::File::open(super::path("keeper-hand-over-1.json")).unwrap();
    ship_keeper::can_adopt(1, file).unwrap();
    let nothing = std::fs::File::open("/dev/null").unwrap();
    assert!(ship_keeper::can_adopt(2, nothing).is_err());
}

fn requests() -> Vec<Request> {
    vec![
        Request::Switch {
            intent: Box::new(intent(455)),
            notice_ms: None,
        },
        Request::Revert {
            to: Some(454),
            reason: text("blank"),
            epoch: Some(42),
            notice_ms: None,
        },
        Request::Status,
        Request::Watch,
        Request::Stop,
    ]
}

fn statuses() -> Vec<Status> {
    use Phase::*;
    let phases = [
        Empty,
        Idle,
        Prepared,
        Clearing,
        Spawned,
        Ready,
        Probed,
        Linked,
        Soak,
        Draining,
        Stopping,
        Aborting,
        ShuttingDown,
        Canary,
    ];
    let roles = [
        Role::Rising,
        Role::Active,
        Role::Warm,
        Role::Retiring,
        Role::Failed,
    ];
    let states = [
        ProcessState::Waiting,
        ProcessState::Starting,
        ProcessState::Up,
        ProcessState::BackingOff,
        ProcessState::Ended,
    ];
    let steerings = [Steering::Bpf, Steering::Path, Steering::Shared];
    let around = |nth: usize, phase| status(phase, roles[nth % 5], states[nth % 5], steerings[nth % 3]);
    phases
        .into_iter()
        .enumerate()
        .map(|(nth, phase)| around(nth, phase))
        .collect()
}

fn replies() -> Vec<Reply> {
    let refusals = [
        Refusal::BadRequest,
        Refusal::BadIntent,
        Refusal::StaleEpoch { newest: 41 },
        Refusal::Held {
            epoch: 40,
            release: 456,
        },
        Refusal::AddressTaken {
            address: text("tcp:8080"),
        },
        Refusal::NothingToRevertTo,
        Refusal::Journal,
        Refusal::Stopping,
    ];
    let refused = |refusal| Reply::Refused {
        refusal,
        message: text("no"),
    };
    let told = |status| Reply::Status {
        status: Box::new(status),
    };
    let mut replies = vec![Reply::Accepted, Reply::Already];
    replies.extend(refusals.map(refused));
    replies.extend(statuses().into_iter().map(told));
    replies
}

fn lines<T: Serialize>(lines: impl IntoIterator<Item = T>) -> String {
    lines.into_iter().fold(String::new(), |mut text, line| {
        writeln!(text, "{}", serde_json::to_string(&line).unwrap()).unwrap();
        text
    })
}

fn read<T: DeserializeOwned>(name: &str) -> Vec<T> {
    let text = String::from_utf8(frozen(name)).unwrap();
    let line = |line: &str| {
        // What a newer program would add is ignored.
        let newer = format!("{},\"tomorrow\":[1]}}", line.strip_suffix('}').unwrap());
        serde_json::from_str::<T>(&newer).unwrap();
        serde_json::from_str(line).unwrap()
    };
    text.lines().map(line).collect()
}

#[test]
fn requests_are_read_and_written() {
    let today: Vec<_> = requests()
        .into_iter()
        .map(|request| RequestLine {
            v: PROTOCOL_VERSION,
            request,
        })
        .collect();
    writes_the_same("keeper-requests-1.jsonl", lines(&today).as_bytes());
    assert_eq!(read::<RequestLine>("keeper-requests-1.jsonl"), today);
}

#[test]
fn replies_are_read_and_written() {
    let today: Vec<_> = replies()
        .into_iter()
        .map(|reply| ReplyLine {
            v: PROTOCOL_VERSION,
            reply,
        })
        .collect();
    writes_the_same("keeper-replies-1.jsonl", lines(&today).as_bytes());
    assert_eq!(read::<ReplyLine>("keeper-replies-1.jsonl"), today);
}
