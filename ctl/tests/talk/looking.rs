//! status, logs, doctor; and a store that is not there, or not ours.

use ship_proto::v1::{AppHost, AppReport, AppStatus, HostStatus, StatusReply, Target};

use crate::fake::{FakeStore, Script};

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
        }],
        now_ms: 1_700_000_000_000,
        store_version: "0.1.0".into(),
        asset_url: "http://127.1.2.200:7480".into(),
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
    // A port that nobody listens on: it was ours a moment ago.
    let gone = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
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
