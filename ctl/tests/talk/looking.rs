//! status, logs, doctor; and a store that is not there, or not ours.

use ship_proto::v1::{
    AppHost, AppReport, AppStatus, HostReport, HostStatus, LostRelease, MissingPrivilege, NotifyRoute,
    Privileges, StatusReply, Target,
};

use crate::fake::{FakeStore, Script, closed, standing};

fn fleet() -> StatusReply {
    let target = Some(Target {
        number: 3,
        id: vec![9; 32],
    });
    StatusReply {
        apps: vec![AppStatus {
            app: "web".into(),
            env: "dev".into(),
            release: target.clone(),
            deploy: 2,
            hosts: vec![AppHost {
                host: "h1".into(),
                state: "available".into(),
                report: Some(AppReport {
                    app: "web".into(),
                    running: target.clone(),
                    healthy: true,
                    listen: [("http".to_owned(), "127.1.2.1:8080".to_owned())].into(),
                    ..AppReport::default()
                }),
                desired: target,
                runs_app: true,
            }],
            ..AppStatus::default()
        }],
        hosts: vec![HostStatus {
            env: "dev".into(),
            host: "h1".into(),
            state: "available".into(),
            last_seen_ms: 1,
            report: None,
            standing: None,
        }],
        now_ms: 1_700_000_000_000,
        store_version: "0.1.0".into(),
        asset_url: "http://127.1.2.200:7480".into(),
        lost: Vec::new(),
        notify: Vec::new(),
    }
}

fn store() -> FakeStore {
    FakeStore::start(Script {
        status: fleet(),
        ..Script::default()
    })
}

#[test]
fn status_for_people_and_for_programs() {
    let store = store();
    insta::assert_snapshot!("status", store.run(&["status"]).stdout);
    let json = store.run(&["status", "-o", "json"]).json();
    let app = &json["apps"][0];
    assert_eq!(
        (&app["release"], &app["rollout"]),
        (&3.into(), &serde_json::Value::Null)
    );
    assert_eq!(app["hosts"][0]["listen"]["http"], "127.1.2.1:8080");
}

#[test]
fn what_is_collected_and_what_is_kept() {
    let store = store();
    insta::assert_snapshot!("gc_dry_run", store.run(&["gc", "--dry-run"]).stdout);
    let json = store.run(&["gc", "--wait", "0s", "-o", "json"]).json();
    assert_eq!(
        (&json["gone"]["releases"], &json["gone"]["bytes"]),
        (&1.into(), &2048.into())
    );
    assert_eq!(json["lines"][0]["reasons"][0]["kind"], "newest");
    assert_eq!(store.run(&["gc", "--wait", "soon"]).code, 2);
    assert_eq!(store.run(&["pin", "web", "-m", "why"]).code, 2, "which?");
}

#[test]
fn why_and_hosts() {
    let store = store();
    let said = store.run(&["why", "h1"]);
    assert!(
        said.stdout.contains("it runs release 3 and should run release 3"),
        "{said:?}"
    );
    let said = store.run(&["why", "h9"]);
    assert_eq!(said.code, 1);
    assert!(said.stderr.contains("there are: web, h1"), "{said:?}");
    assert!(store.run(&["hosts"]).stdout.contains("h1"));
}

#[test]
fn log_lines_name_everything_and_move_no_cursor() {
    let said = store().run(&["logs", "web", "-o", "json"]);
    let line: serde_json::Value = serde_json::from_str(said.stdout.trim()).unwrap();
    for key in ["app", "host", "pid", "release", "deploy", "line"] {
        assert!(!line[key].is_null(), "{key}");
    }
    let text = store().run(&["logs", "web"]).stdout;
    assert!(
        text.contains("web@3 h1 pid 42 stdout hello \\u{1b}[31mworld"),
        "{text}"
    );
}

#[test]
fn the_stores_own_words_arrive() {
    let said = store().run(&["show", "web@9"]);
    assert_eq!(said.code, 1);
    assert_eq!(
        said.stderr,
        "error: there is no release web@9\nhint: shipctl releases web\n"
    );
}

#[test]
fn no_store_answers() {
    let store = store();
    let (_closed, gone) = closed();
    let text = std::fs::read_to_string(store.folder().join("context.toml")).unwrap();
    let text: String = text
        .lines()
        .map(|line| {
            if line.starts_with("store") {
                format!("store = \"https://{gone}\"\n")
            } else {
                format!("{line}\n")
            }
        })
        .collect();
    crate::fake::write(&store.folder().join("context.toml"), text.as_bytes());
    let said = store.run(&["status"]);
    assert_eq!(said.code, 1);
    let shown = said.stderr.replace(&gone.to_string(), "$STORE");
    insta::assert_snapshot!("no_store", shown);
}

#[test]
fn a_store_of_another_fleet() {
    let store = store();
    let other = store.write_context("other.toml", "ca = \"other.pem\"\n");
    let said = store.run(&["-c", other.to_str().unwrap(), "status"]);
    assert_eq!(said.code, 1);
    assert!(
        said.stderr
            .contains("not of the fleet whose CA the context names"),
        "{said:?}"
    );
}

#[test]
fn doctor_looks_at_everything_it_can_reach() {
    let store = store();
    let said = store.run(&["doctor", "-o", "json"]);
    let json = said.json();
    let whats: Vec<_> = json["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["what"].clone())
        .collect();
    for what in ["context", "certificate", "store", "clock", "h1", "kernel"] {
        assert!(whats.contains(&what.into()), "{what}: {whats:?}");
    }
    std::fs::remove_file(store.folder().join("key.pem")).unwrap();
    let said = store.run(&["doctor"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stdout.contains("key.pem"), "{said:?}");
}

/// One route at which all is well, and one of which no sink answers.
#[test]
fn whom_the_store_cannot_tell_is_named() {
    let notify = vec![
        NotifyRoute {
            name: "chat".into(),
            told: 3,
            ..NotifyRoute::default()
        },
        NotifyRoute {
            name: "pager".into(),
            failed: 2,
            trouble_since_ms: 1_700_000_000_000 - 90_000,
            seq: 17,
            trouble: "https://hooks.example.com: it answered with status 500: not\u{1b}[31m today".into(),
            ..NotifyRoute::default()
        },
    ];
    let store = FakeStore::start(Script {
        status: StatusReply { notify, ..fleet() },
        ..Script::default()
    });
    let said = store.run(&["doctor"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.stdout.contains("notify chat"), "{said:?}");
    for words in ["event 17 waits for", "status 500", "shipstore notify"] {
        assert!(said.stdout.contains(words), "{words}: {said:?}");
    }
    let status = store.run(&["status"]);
    assert!(
        status.stdout.contains("notify pager cannot tell event 17"),
        "{status:?}"
    );
    assert!(!status.stdout.contains("chat"), "{status:?}");
    for said in [said, status] {
        assert!(!said.stdout.contains('\u{1b}'), "{said:?}");
    }
}

fn host(name: &str, privileges: Option<Privileges>) -> HostStatus {
    HostStatus {
        env: "dev".into(),
        host: name.into(),
        state: "available".into(),
        last_seen_ms: 1,
        report: Some(HostReport {
            privileges,
            ..HostReport::default()
        }),
        standing: None,
    }
}

#[test]
fn what_operators_said_of_a_host_is_told_everywhere() {
    let mut status = fleet();
    status.hosts[0].standing = Some(standing());
    let store = FakeStore::start(Script {
        status,
        ..Script::default()
    });
    let said = store.run(&["host", "drain", "h1", "-m", "new memory"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(said.stdout, "h1 is drained\n");
    assert!(said.stderr.contains("h1 knows of no balancer"), "{said:?}");
    let json = store.run(&["-o", "json", "host", "drain", "h1"]).json();
    assert_eq!(json["standing"]["duty"], "drained");
    assert_eq!(json["standing"]["who"], "operator/alice");
    let said = store.run(&["hosts"]);
    assert!(said.stdout.contains("available, drained"), "{said:?}");
    let said = store.run(&["why", "h1"]);
    assert!(
        said.stdout
            .contains("by operator/alice: new memory; it stays out"),
        "{said:?}"
    );
    // Nothing is forced without a reason.
    assert_eq!(store.run(&["host", "drain", "h1", "--force"]).code, 2);
}

/// One host of an old agent that says nothing, one that lacks nothing, and one that lacks some.
#[test]
fn doctor_tells_what_hosts_lack_and_what_falls_back() {
    let lacks = |what: &str, instead: &str| MissingPrivilege {
        what: what.into(),
        instead: instead.into(),
    };
    let missing = vec![
        lacks("CAP_KILL", "processes that become another user cannot be ended"),
        lacks("control groups", "found by\u{1b}[31m their parents"),
    ];
    let hosts = vec![
        host("h1", None),
        host("h2", Some(Privileges::default())),
        host("h3", Some(Privileges { missing })),
    ];
    let store = FakeStore::start(Script {
        status: StatusReply { hosts, ..fleet() },
        ..Script::default()
    });
    let said = store.run(&["doctor"]);
    assert_eq!(said.code, 0, "{said:?}");
    let from = said.stdout.find("✓ h1").unwrap();
    let to = said.stdout.find("open files").unwrap();
    let of_hosts: Vec<_> = said.stdout[from..to].lines().collect();
    let (_, of_hosts) = of_hosts.split_last().unwrap();
    insta::assert_snapshot!("doctor_of_hosts", of_hosts.join("\n"));
    let json = store.run(&["doctor", "-o", "json"]).json();
    let of_h3 = json["findings"].as_array().unwrap().iter();
    let of_h3: Vec<_> = of_h3.filter(|finding| finding["host"] == "h3").collect();
    let lacks: Vec<_> = of_h3.iter().map(|finding| &finding["lacks"]).collect();
    assert_eq!(
        lacks,
        [
            &serde_json::Value::Null,
            &"CAP_KILL".into(),
            &"control groups".into()
        ]
    );
    assert!(of_h3.iter().all(|finding| finding["do"].is_string()));
}

#[test]
fn what_the_store_lost_is_told_with_what_to_do() {
    let lost = |release, files, path: &str| LostRelease {
        app: "web".into(),
        release,
        files,
        path: path.into(),
    };
    let store = FakeStore::start(Script {
        status: StatusReply {
            lost: vec![lost(2, 3, "app.js"), lost(1, 0, "")],
            ..fleet()
        },
        ..Script::default()
    });
    let told = store.run(&["status"]).stdout;
    for part in [
        "web@2: 3 files, app.js among them",
        "web@1: its manifest",
        "shipstore verify --dir DIR --repair-from",
    ] {
        assert!(told.contains(part), "{part} is not in:\n{told}");
    }
    let json = store.run(&["status", "-o", "json"]).json();
    assert_eq!(json["lost"][0]["files"], 3);
    assert_eq!(json["lost"][1]["path"], serde_json::Value::Null);
    let found = store.run(&["doctor", "-o", "json"]).json();
    let findings = found["findings"].as_array().unwrap();
    let lost = findings.iter().filter(|found| found["what"] == "store's content");
    assert!(lost.clone().all(|found| found["grade"] == "bad"));
    assert_eq!(lost.count(), 2);
}
