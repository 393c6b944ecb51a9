//! A rollout belongs to the store: it outlives the terminal that began it, and the store's own end.

use std::process::Stdio;

use ship_tests::sample::APP;
use ship_tests::{Fleet, Victim, shipctl, wait};

use crate::look;

fn two_releases() -> Fleet {
    let fleet = Fleet::start(3);
    fleet.publish_sample(1);
    fleet.publish_sample(2);
    fleet.shipctl(&["promote", "web@1"]).expect(0);
    fleet
}

/// Waits until the first host runs the release and another one does not yet.
fn half_way(fleet: &Fleet, number: u64) {
    wait::until("a rollout half-way", || {
        let app = look::try_app(fleet)?;
        let hosts = app["hosts"].as_array()?;
        let arrived = hosts.iter().filter(|host| host["release"] == number).count();
        (arrived > 0 && arrived < hosts.len() && !app["rollout"].is_null()).then_some(())
    });
}

#[test]
fn a_rollout_outlives_the_terminal_that_began_it() {
    let fleet = two_releases();
    let mut promote = shipctl::command(Some(&fleet.context()), &["promote", "web@2"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait::until("the rollout", || {
        let app = look::try_app(&fleet)?;
        (!app["rollout"].is_null()).then_some(())
    });
    promote.kill().unwrap();
    promote.wait().unwrap();
    let last = look::ended(&fleet);
    assert_eq!(last["outcome"], "done", "{last:#}");
    look::all_run(&fleet, 2);
}

#[test]
fn a_rollout_goes_on_after_the_store_was_killed() {
    let fleet = two_releases();
    let users = look::users(&fleet);
    for (words, number) in [(["promote", "web@2"], 2), (["revert", "web"], 1)] {
        std::thread::scope(|scope| {
            let told = scope.spawn(|| fleet.shipctl(&words));
            if number == 2 {
                half_way(&fleet, number);
            }
            fleet.kill(Victim::Store);
            let ran = told.join().unwrap();
            assert!(
                number == 1 || ran.code == 0,
                "it waits for the store's return: {ran}"
            );
            if number == 1 && ran.code != 0 {
                // The store died before it took the word: said again, it is done.
                fleet.whole();
                fleet.shipctl(&words).expect(0);
            }
        });
        let last = look::ended(&fleet);
        assert_eq!(last["outcome"], "done", "{last:#}");
        look::all_run(&fleet, number);
    }
    look::nothing_lost(users);
}

#[test]
fn of_two_promotes_at_once_one_is_refused_and_told_of_the_other() {
    let fleet = two_releases();
    fleet.publish_sample(3);
    let context = fleet.context();
    let both = ["web@2", "web@3"].map(|release| {
        shipctl::command(Some(&context), &["promote", release])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    });
    let [two, three] = both.map(|child| child.wait_with_output().unwrap());
    let codes = [two.status.code(), three.status.code()];
    let (won, refused) = match codes {
        [Some(0), Some(8)] => (2, three),
        [Some(8), Some(0)] => (3, two),
        other => panic!("{other:?}: {two:?} {three:?}"),
    };
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains(&format!("{APP}@{won}")), "{said}");
    look::all_run(&fleet, won);
}
