//! By the store, before any host is switched: to a folder and to a bucket, with keys from the environment.

use std::fs;

use serde_json::Value;
use ship_tests::s3::{KEYS, Way};
use ship_tests::{Fleet, S3, Victim, wait};

use crate::{has, publish, stands};

/// What the host that is a push says it cannot do.
fn failure(fleet: &Fleet, push: &str) -> Option<String> {
    let ran = fleet.shipctl(&["status", "-o", "json"]);
    let said: Value = serde_json::from_str(&ran.stdout).ok()?;
    let hosts = said["apps"][0]["hosts"].as_array()?.iter();
    let host = hosts.clone().find(|host| host["host"] == push)?;
    Some(host.to_string()).filter(|host| host.contains("did not answer as it should"))
}

/// What the host runs that runs the app.
fn runs(fleet: &Fleet) -> Option<u64> {
    let app = fleet.app("site");
    let host = app["hosts"]
        .as_array()?
        .iter()
        .find(|host| host["host"] == "h1")?;
    host["release"].as_u64()
}

#[test]
fn a_rollout_waits_for_every_push_and_old_assets_stay_there() {
    let Some(s3) = S3::start("rollouts that wait for a bucket") else {
        return;
    };
    s3.put("/assets", "");
    let fleet = Fleet::start_with(1, &KEYS);
    let folder = fleet.beside("cdn");
    let settings = fleet.dir().join("store/store.toml");
    let text = format!(
        "{}\n[[push]]\nname = \"cdn\"\nenv = \"dev\"\nfolder = \"{}\"\n\
         [[push]]\nname = \"bucket\"\nenv = \"dev\"\n\
         s3 = {{ bucket = \"assets\", prefix = \"web\", endpoint = \"{}\", ca = \"s3-ca.pem\", answer_seconds = 30 }}\n",
        fs::read_to_string(&settings).unwrap(),
        folder.display(),
        s3.endpoint(),
    );
    fs::copy(s3.ca(), fleet.dir().join("store/s3-ca.pem")).unwrap();
    fs::write(&settings, text).unwrap();
    fleet.kill(Victim::Store);
    fleet.whole();

    publish(&fleet, &[b"one", b"both"]);
    fleet.shipctl(&["promote", "site"]).expect(0);
    assert!(
        [&b"one"[..], b"both"]
            .iter()
            .all(|bytes| has(&folder, bytes) && stands(&s3, bytes))
    );

    // The bucket takes nothing: nobody is switched before it does.
    s3.goes(Way::Refuse("503 Slow Down"));
    publish(&fleet, &[b"two", b"both"]);
    fleet.shipctl(&["promote", "site", "--detach"]).expect(0);
    wait::until_within(wait::PATIENCE * 2, "the bucket's refusal to be told", || {
        failure(&fleet, "bucket")
    });
    assert_eq!(runs(&fleet), Some(1));
    assert!(!stands(&s3, b"two"));
    s3.goes(Way::Open);
    wait::until_within(wait::PATIENCE * 2, "the rollout to go on", || {
        (runs(&fleet) == Some(2)).then_some(())
    });
    assert!(has(&folder, b"two") && stands(&s3, b"two"));
    fleet.shipctl(&["attach", "site"]);

    // A release that nobody promotes, by hand; then back: what old pages name is still there.
    publish(&fleet, &[b"three"]);
    assert!(!has(&folder, b"three") && !stands(&s3, b"three"));
    let told = fleet.shipctl(&["asset", "push", "site@3", "-o", "json"]).json();
    for place in told["pushes"].as_array().unwrap() {
        assert_eq!(
            (place["sent"].as_u64(), &place["error"]),
            (Some(1), &Value::Null),
            "{told:#}"
        );
    }
    assert_eq!(runs(&fleet), Some(2));
    fleet.shipctl(&["revert", "site"]).expect(0);
    assert_eq!(runs(&fleet), Some(1));
    for bytes in [&b"one"[..], b"two", b"both", b"three"] {
        assert!(has(&folder, bytes) && stands(&s3, bytes), "{bytes:?}");
    }
}
