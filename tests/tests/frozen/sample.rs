//! Values of which every field says something, so that none is left out of the frozen bytes.

use ship_model::desired::{DeployNumber, DesiredApp, Epoch};
use ship_model::digest::{PlanId, ReleaseId};
use ship_model::name::{AppName, ClassName, EnvName, HostName};
use ship_model::release::{ReleaseNumber, Target};
use ship_model::report::{AppFailure, LocalHold, UpdateFigures};
use ship_model::rollout::{
    Amount, Ask, BadRelease, Course, DeployEntry, DeployKind, End, EnvState, Excuse, Expect, Figure, Gate,
    GateProgress, Hold, HostProgress, HostTarget, JsonTest, Outcome, Pace, PersonWord, Plan, PlanStep,
    PlannedHost, Policy, Profile, Rollout, Stop, Switch, Took, Verdict, WayStep,
};

pub fn app() -> AppName {
    AppName::new("web").unwrap()
}

pub fn env() -> EnvName {
    EnvName::new("production").unwrap()
}

pub fn host(name: &str) -> HostName {
    HostName::new(name).unwrap()
}

/// Release `number` of the app.
pub fn target(number: u64) -> Target {
    Target {
        number: ReleaseNumber(number),
        id: ReleaseId::of(&number.to_le_bytes()),
    }
}

pub fn desired() -> DesiredApp {
    DesiredApp {
        app: app(),
        env: env(),
        epoch: Epoch(41),
        deploy: DeployNumber(7),
        run: Some(target(455)),
        runs_app: true,
        stage: vec![target(454), target(455)],
        assets: vec![target(453), target(454), target(455)],
    }
}

pub fn failure() -> AppFailure {
    AppFailure {
        epoch: Epoch(40),
        release: target(456),
        step: "probe".to_owned(),
        reason: "GET /healthz: 503".to_owned(),
        last_lines: vec!["no database \u{1b}[31m".to_owned(), String::new()],
        transient: true,
    }
}

pub fn held() -> LocalHold {
    LocalHold {
        epoch: Epoch(39),
        from: Some(target(456)),
        to: target(455),
        reason: "pages are blank".to_owned(),
        at_ms: 1_760_000_000_123,
    }
}

pub fn update() -> UpdateFigures {
    UpdateFigures {
        fetched_bytes: 5_583_404,
        stage_ms: 812,
        switch_ms: 403,
        lost_requests: 1,
        // Came later.
        ..UpdateFigures::default()
    }
}

fn stop() -> Stop {
    Stop {
        host: Some(host("h2")),
        step: "probe".to_owned(),
        reason: "GET /healthz: 503".to_owned(),
        last_lines: vec!["no database".to_owned()],
        by: Some("operator/alice".to_owned()),
    }
}

fn progress(switch: Switch) -> HostProgress {
    HostProgress {
        runs_app: true,
        late: true,
        excused: Some(Excuse::Away),
        silent: true,
        serving: Some(true),
        staged: true,
        assets: true,
        switch,
        previous: Some(target(454)),
        previous_deploy: DeployNumber(6),
        held_on: Some(target(453)),
        failure: Some(stop()),
        // Came later.
        incidents: Default::default(),
        stuck: true,
    }
}

fn plan() -> Plan {
    let hosts = || vec![host("h1"), host("h2")];
    Plan {
        id: PlanId::of(b"plan"),
        env: env(),
        app: app(),
        kind: DeployKind::Promote,
        parent: Epoch(36),
        from: Some(target(454)),
        to: target(455),
        steps: vec![
            PlanStep::Check,
            PlanStep::Prefetch { hosts: hosts() },
            PlanStep::Assets { hosts: hosts() },
            PlanStep::Wave {
                hosts: hosts(),
                soak_ms: 5_000,
                // Came later.
                name: None,
            },
        ],
        hosts: [(
            host("h1"),
            PlannedHost {
                runs_app: true,
                excused: Some(Excuse::LeftOut),
                held_on: Some(target(453)),
                new_bytes: Some(577_961),
                // Came later.
                shared_bytes: None,
                runs: None,
            },
        )]
        .into(),
        assets: vec![target(454), target(455)],
        max_unavailable: 1,
        // Came later.
        min_healthy: 0,
        policy: Policy {
            max_unavailable: Some(Amount::Count(2)),
            min_healthy: Some(Amount::Count(3)),
            soak_ms: 5_000,
            prefetch_deadline_ms: 1_800_000,
            barrier_deadline_ms: 600_000,
            switch_deadline_ms: 300_000,
            keep: 3,
            // Came later.
            ..Policy::default()
        },
        message: Some("spring sale".to_owned()),
    }
}

/// Every way a host can be at.
fn host_progress() -> Vec<Switch> {
    let (epoch, at_ms) = (Epoch(38), 1_760_000_001_000);
    vec![
        Switch::Untouched,
        Switch::Asked { epoch, at_ms },
        Switch::Running { epoch },
        Switch::Failed { epoch },
        Switch::BackAsked {
            epoch,
            at_ms,
            counted: true,
        },
        Switch::Back,
    ]
}

fn rollout(course: Course) -> Rollout {
    let hosts = host_progress().into_iter().enumerate();
    Rollout {
        deploy: DeployNumber(7),
        plan: plan(),
        who: "operator/alice".to_owned(),
        started_ms: 1_760_000_000_000,
        first_epoch: Epoch(37),
        course,
        reached: 3,
        // Came later.
        times: Vec::new(),
        since_ms: 1_760_000_002_000,
        deadline_ms: 1_760_000_302_000,
        soak_since_ms: Some(1_760_000_003_000),
        paused: Some("operator/bob".to_owned()),
        // Came later.
        waits: None,
        gates: Vec::new(),
        hosts: hosts
            .map(|(nth, switch)| (host(&format!("h{nth}")), progress(switch)))
            .collect(),
        stop: Some(stop()),
        outcome: Some(Outcome {
            end: End::Partly,
            stop: Some(stop()),
            unconfirmed: vec![host("h3")],
        }),
        ended_ms: Some(1_760_000_004_000),
    }
}

fn entry(deploy: u64, kind: DeployKind, end: End) -> DeployEntry {
    DeployEntry {
        deploy: DeployNumber(deploy),
        release: target(450 + deploy),
        kind,
        end,
        when_ms: 1_750_000_000_000 + deploy,
        who: "operator/alice".to_owned(),
        message: Some("m".to_owned()),
        reason: Some("r".to_owned()),
    }
}

/// An environment's record with a rollout at `course`.
pub fn env_state(course: Course) -> EnvState {
    EnvState {
        version: 1,
        env: env(),
        app: app(),
        epoch: Epoch(41),
        last_deploy: DeployNumber(7),
        current: Some(target(455)),
        history: vec![
            entry(3, DeployKind::Promote, End::Done),
            entry(4, DeployKind::Promote, End::Failed),
            entry(5, DeployKind::Promote, End::Reverted),
            entry(6, DeployKind::Revert, End::Partly),
        ],
        bad: vec![BadRelease {
            release: target(456),
            deploy: DeployNumber(6),
            reason: "pages are blank".to_owned(),
            at_ms: 1_760_000_000_500,
        }],
        held: Some(Hold {
            who: "operator/alice".to_owned(),
            reason: "revert".to_owned(),
            at_ms: 1_760_000_000_600,
        }),
        rollout: Some(rollout(course)),
        hosts: [(
            host("h1"),
            HostTarget {
                epoch: Epoch(41),
                deploy: DeployNumber(7),
                run: Some(target(455)),
                runs_app: true,
                stage: vec![target(454), target(455)],
                assets: vec![target(453)],
            },
        )]
        .into(),
        retained: vec![target(454), target(455)],
        asset_releases: vec![target(453), target(454), target(455)],
        // Came later.
        took: Default::default(),
    }
}

/// What came later: a way of the environment's own, and how long hosts took.
pub fn env_state_later() -> EnvState {
    let mut state = env_state(Course::Forward { step: 3 });
    state.took = [(
        host("h1"),
        Took {
            prefetch_ms: Some(2_100),
            assets_ms: Some(0),
            switch_ms: Some(1_200),
            back_ms: Some(400),
        },
    )]
    .into();
    let Some(rollout) = &mut state.rollout else {
        return state;
    };
    rollout.waits = Some(stop());
    let plan = &mut rollout.plan;
    plan.min_healthy = 2;
    for step in &mut plan.steps {
        if let PlanStep::Wave { name, .. } = step {
            *name = Some("quarter 1/2".to_owned());
        }
    }
    for planned in plan.hosts.values_mut() {
        planned.runs = Some(target(454));
    }
    plan.policy = Policy {
        max_unavailable: Some(Amount::Percent(25)),
        min_healthy: Some(Amount::Percent(75)),
        wave: Some(Amount::Count(1)),
        progress_deadline_ms: Some(600_000),
        auto_revert: false,
        steps: vec![WayStep {
            name: "quarter".to_owned(),
            until: Amount::Percent(25),
            class: ClassName::new("web").ok(),
            names: vec!["web-*".to_owned()],
            soak_ms: Some(60_000),
            gates: Vec::new(),
        }],
        profile: Profile::Careful,
        ..plan.policy.clone()
    };
    state
}

/// What came later still: gates of every kind, and what was said about them.
pub fn env_state_gated() -> EnvState {
    let mut state = env_state(Course::Forward { step: 4 });
    let Some(rollout) = &mut state.rollout else {
        return state;
    };
    let gates = gates();
    rollout.plan.steps.push(PlanStep::Gate {
        name: "quarter".to_owned(),
        gates: gates.clone(),
    });
    rollout.plan.policy.steps = vec![WayStep {
        name: "quarter".to_owned(),
        until: Amount::Percent(25),
        class: None,
        names: Vec::new(),
        soak_ms: None,
        gates,
    }];
    rollout.plan.policy.skipped_gates = vec!["old".to_owned()];
    let known = |gate: &str, verdict: Option<Verdict>| GateProgress {
        step: 4,
        gate: gate.to_owned(),
        words: match verdict {
            None => vec![PersonWord {
                who: "operator/bob".to_owned(),
                note: Some("fine".to_owned()),
                at_ms: 1_760_000_003_100,
            }],
            Some(_) => Vec::new(),
        },
        verdict,
        said: verdict.map(|_| "exit status: 0".to_owned()).unwrap_or_default(),
        heard_ms: 1_760_000_003_200,
        passing_since_ms: (verdict == Some(Verdict::Pass)).then_some(1_760_000_003_000),
        fails: u32::from(verdict == Some(Verdict::Fail)),
    };
    rollout.gates = vec![
        known("go", None),
        known("smoke", Some(Verdict::Pass)),
        known("errors", Some(Verdict::Fail)),
        known("other", Some(Verdict::Unknown)),
    ];
    state
}

fn gates() -> Vec<Gate> {
    let gate = |name: &str, ask: Ask| Gate {
        name: name.to_owned(),
        ask,
    };
    let pace = Pace {
        every_ms: 5_000,
        for_ms: 60_000,
        timeout_ms: 20_000,
        fails: 3,
    };
    let json = JsonTest {
        pointer: "/data/value".to_owned(),
        at_least: Figure::new("0").ok(),
        at_most: Figure::new("0.01").ok(),
        equals: Some("0".to_owned()),
    };
    vec![
        gate(
            "go",
            Ask::Approval {
                count: 2,
                others: true,
                by: ["operator/ann".to_owned(), "operator/bob".to_owned()].into(),
            },
        ),
        gate(
            "dns",
            Ask::Manual {
                text: "Move the weight".to_owned(),
            },
        ),
        gate(
            "smoke",
            Ask::Command {
                argv: vec!["smoke".to_owned(), "--fast".to_owned()],
                pace,
            },
        ),
        gate(
            "errors",
            Ask::Http {
                url: "http://prometheus:9090/api".to_owned(),
                expect: Expect {
                    status: 200,
                    json: Some(json),
                },
                pace,
            },
        ),
    ]
}
