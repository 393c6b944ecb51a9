//! The table of who is killed at which step of what.

use std::sync::Mutex;

use serde_json::Value;
use ship_tests::sample::APP;
use ship_tests::{Fleet, Victim, wait};

use crate::look::{self, Links};

/// What is under way when the victim dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Publish,
    Promote,
    Revert,
}

/// One row: `(victim, fault point, passage, what is under way)`.
///
/// The passage of a keeper's point is counted from its birth, before release 1 was started; of the others from the
/// beginning of what is under way.
type Row = (Victim, &'static str, u32, Doing);

const STORE: Victim = Victim::Store;
/// The host that is switched first, and one that waits for it.
const FIRST: Victim = Victim::Agent("h1");
const SECOND: Victim = Victim::Agent("h2");
const KEEPER: Victim = Victim::Keeper("h1", APP);

use Doing::{Promote, Publish, Revert};

/// Run at every change.
const DECISIVE: &[Row] = &[
    (STORE, "store.publish.upload.verified", 1, Publish),
    (STORE, "store.publish.number.before", 1, Publish),
    (STORE, "store.publish.number.after", 1, Publish),
    (STORE, "store.catalog.apply.before", 1, Promote),
    (STORE, "store.catalog.append.before", 3, Promote),
    (FIRST, "bundle.stage.name.before", 1, Promote),
    (FIRST, "agent.ask.after", 1, Promote),
    (SECOND, "agent.fence.after", 1, Promote),
    (FIRST, "agent.ask.before", 1, Revert),
    (KEEPER, "keeper.steer.end", 2, Promote),
    (KEEPER, "keeper.link.begin", 2, Promote),
    (KEEPER, "keeper.steer.begin", 3, Revert),
];

/// Added in the long run.
const REST: &[Row] = &[
    (STORE, "store.blobs.sync.before", 1, Publish),
    (STORE, "store.publish.upload.kept", 1, Publish),
    (STORE, "store.publish.begin.write", 1, Publish),
    (STORE, "store.publish.claim.before", 1, Publish),
    (STORE, "store.catalog.append.before", 1, Promote),
    (STORE, "store.catalog.append.before", 2, Promote),
    (STORE, "store.catalog.append.before", 4, Promote),
    (STORE, "store.catalog.apply.before", 3, Promote),
    (STORE, "store.catalog.apply.before", 5, Promote),
    (STORE, "durable.journal.sync.after", 2, Promote),
    (STORE, "store.catalog.append.before", 1, Revert),
    (STORE, "store.catalog.apply.before", 1, Revert),
    (STORE, "store.catalog.apply.before", 2, Revert),
    (FIRST, "bundle.stage.name.after", 1, Promote),
    (FIRST, "assets.before_rename", 1, Promote),
    (FIRST, "durable.fs.sync.before", 1, Promote),
    (FIRST, "agent.fence.before", 1, Promote),
    (FIRST, "agent.ask.before", 1, Promote),
    (SECOND, "agent.ask.after", 1, Promote),
    (FIRST, "agent.fence.after", 1, Revert),
    (FIRST, "agent.ask.after", 1, Revert),
    (SECOND, "agent.ask.before", 1, Revert),
    (KEEPER, "keeper.bind.end", 2, Promote),
    (KEEPER, "keeper.fork.begin", 2, Promote),
    (KEEPER, "keeper.fork.end", 2, Promote),
    (KEEPER, "keeper.go.end", 2, Promote),
    (KEEPER, "keeper.probe.end", 2, Promote),
    (KEEPER, "keeper.link.end", 2, Promote),
    (KEEPER, "keeper.steer.begin", 2, Promote),
    (KEEPER, "keeper.soaking.after", 2, Promote),
    (KEEPER, "keeper.hold.begin", 1, Promote),
    (KEEPER, "keeper.link.begin", 3, Revert),
    (KEEPER, "keeper.steer.end", 3, Revert),
];

#[test]
fn whoever_dies_the_host_is_on_the_old_or_the_new_release() {
    let long = std::env::var("SHIP_TESTS_LONG").is_ok_and(|long| long == "1");
    let only = std::env::var("SHIP_TESTS_ROW").unwrap_or_default();
    let rows = DECISIVE.iter().chain(REST.iter().filter(|_| long));
    let mut rows: Vec<Row> = rows
        .copied()
        .filter(|row| format!("{row:?}").contains(&only))
        .collect();
    rows.reverse();
    let rows = Mutex::new(rows);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let next = rows.lock().unwrap().pop();
                    let Some(row) = next else { return };
                    eprintln!("{row:?}");
                    kill_at(row);
                }
            });
        }
    });
}

fn kill_at(row: Row) {
    let (victim, point, passage, doing) = row;
    let fault = format!("{point}=kill@{passage}");
    let fleet = ready(victim, &fault, doing);
    let victim_was = match victim {
        Victim::Keeper(..) => wait::until("the keeper", || fleet.pid(victim)),
        _ => fleet.rearm(victim, &fault),
    };
    let links = Links::watch(&fleet);
    let users = look::users(&fleet);
    let deploy_was = deploy(&fleet);
    let acknowledged = act(&fleet, doing);
    wait::until(&format!("the death of {row:?}"), || {
        fleet.pid(victim).filter(|pid| *pid != victim_was)
    });
    fleet.whole();
    let last = look::ended(&fleet);
    eprintln!("{row:?}: exit {acknowledged}, {}", last["outcome"]);
    let number = check_outcome(&fleet, doing, acknowledged, deploy_was, &last);
    look::all_run(&fleet, number);
    later_promote_works(&fleet);
    links.never_absent();
    look::nothing_lost(users);
}

/// A fleet on the release before the act, with what the act needs published.
fn ready(victim: Victim, fault: &str, doing: Doing) -> Fleet {
    let mut fleet = Fleet::armable_lying();
    if matches!(victim, Victim::Keeper(..)) {
        fleet.arm(victim, fault);
    }
    fleet.up(2, &[]);
    assert_eq!(fleet.publish_sample(1), 1);
    fleet.shipctl(&["promote", APP]).expect(0);
    assert_eq!(fleet.publish_sample(2), 2);
    if doing == Revert {
        fleet.shipctl(&["promote", APP]).expect(0);
    }
    fleet.sample(3);
    fleet
}

fn deploy(fleet: &Fleet) -> u64 {
    fleet.app(APP)["deploy"].as_u64().unwrap()
}

/// The exit code of what was asked.
fn act(fleet: &Fleet, doing: Doing) -> i32 {
    let tree = fleet.dir().with_file_name("sample-3");
    let ran = match doing {
        Publish => fleet.shipctl(&["publish", &tree.to_string_lossy(), "-o", "json"]),
        Promote => fleet.shipctl(&["promote", "web@2"]),
        Revert => fleet.shipctl(&["revert", APP]),
    };
    eprintln!("{ran}");
    ran.code
}

/// What was told as done is so; gives the release that must run now.
fn check_outcome(fleet: &Fleet, doing: Doing, code: i32, deploy_was: u64, last: &Value) -> u64 {
    let known = releases(fleet);
    if doing == Publish {
        let expected: &[u64] = if code == 0 { &[1, 2, 3] } else { &[1, 2] };
        assert!(
            known == expected || known == [1, 2, 3],
            "exit {code}, but {known:?}"
        );
        return 1;
    }
    assert_eq!(known, [1, 2]);
    let begun = last["deploy"].as_u64().unwrap() > deploy_was;
    let done = last["outcome"] == "done";
    let (old, new) = if doing == Promote { (1, 2) } else { (2, 1) };
    match (begun, done) {
        (true, true) => assert!([0, 1, 7].contains(&code), "done, but exit {code}"),
        (true, false) => {
            assert_eq!(last["outcome"], "reverted", "{last:#}");
            assert_ne!(code, 0, "{last:#}");
        }
        (false, _) => assert_ne!(code, 0, "told as done, but never begun: {last:#}"),
    }
    if begun && done { new } else { old }
}

fn releases(fleet: &Fleet) -> Vec<u64> {
    let said = fleet.shipctl(&["releases", "-o", "json"]).json();
    let mut numbers: Vec<u64> = said["releases"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|release| release["release"].as_u64())
        .collect();
    numbers.sort_unstable();
    numbers
}

fn later_promote_works(fleet: &Fleet) {
    let tree = fleet.dir().with_file_name("sample-3");
    let number = fleet.publish_tree(&tree);
    assert!(number >= 3);
    fleet.shipctl(&["promote", &format!("web@{number}")]).expect(0);
    look::all_run(fleet, number);
}
