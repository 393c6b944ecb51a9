//! Plans as files, and environments as files, through the commands of an operator on a fleet of three hosts.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "tests fail by panicking"
)]

use std::fs;
use std::path::PathBuf;

use ship_tests::Fleet;

/// Publishes the next release of a site of one page.
fn publish(fleet: &Fleet, page: &str) {
    let tree = fleet.beside("site");
    fs::write(tree.join("ship.toml"), "app = \"site\"\n").unwrap();
    fs::write(tree.join("index.html"), page).unwrap();
    fleet.shipctl(&["publish", tree.to_str().unwrap()]).expect(0);
}

/// A fleet whose hosts run the first of two releases.
fn fleet() -> Fleet {
    let fleet = Fleet::start(3);
    publish(&fleet, "one");
    fleet.shipctl(&["promote", "site"]).expect(0);
    publish(&fleet, "two");
    fleet
}

fn file(fleet: &Fleet, name: &str, text: &str) -> String {
    let path: PathBuf = fleet.beside("files").join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_saved_plan_is_carried_out_exactly_or_not_at_all() {
    let fleet = fleet();
    let nothing = fleet.shipctl(&["plan", "site@1", "--exit-code"]).expect(0);
    assert!(nothing.stdout.contains("nothing to do"), "{nothing}");
    let path = fleet.beside("files").join("plan.json");
    let path = path.to_str().unwrap();
    let shown = fleet
        .shipctl(&["plan", "site", "--save", path, "--exit-code"])
        .expect(3);
    for words in [
        "site  1 → 2",
        "takes about",
        "back from here: h1 to 1 in about",
        "back from here: 3 hosts to 1 in about",
        "nothing is fetched",
        "then a revert goes to site@1",
        "no return none",
    ] {
        assert!(shown.stdout.contains(words), "{words:?} is not told: {shown}");
    }
    let json = fleet.shipctl(&["plan", "site", "-o", "json"]).json();
    let steps = json["steps"].as_array().unwrap();
    assert!(steps.iter().all(|step| step["takes_ms"].is_u64()), "{json:#}");
    assert_eq!(json["then"], 1);

    // A release that comes in between changes nothing: what was shown is what is done.
    publish(&fleet, "three");
    let done = fleet
        .shipctl(&["promote", "--plan", path, "-m", "as planned"])
        .expect(0);
    assert_eq!(fleet.running("site"), [Some(2); 3], "{done}");
    let ticks = done.stderr.lines().filter(|line| line.contains('✓')).count();
    assert!(ticks >= steps.len(), "every step ticks off: {done}");
    let again = fleet.shipctl(&["promote", "--plan", path]).expect(4);
    assert!(
        again
            .stderr
            .contains("the environment ran release 1, now release 2")
            && again.stderr.contains("h1 ran release 1, now release 2"),
        "{again}"
    );
    assert_eq!(fleet.running("site"), [Some(2); 3]);

    let changed = fs::read_to_string(path)
        .unwrap()
        .replace("\"keep\": 3", "\"keep\": 4");
    let changed = file(&fleet, "changed.json", &changed);
    let refused = fleet.shipctl(&["promote", "--plan", &changed]).expect(1);
    assert!(refused.stderr.contains("somebody changed it"), "{refused}");
    fleet.shipctl(&["promote", "site@2", "--plan", path]).expect(2);
    fleet
        .shipctl(&["promote", "--plan", path, "-e", "other"])
        .expect(2);
}

const WAY: &str = r#"
version = 1
env = "dev"
[labels]
canary = ["h2"]
[[step]]
name = "canary"
hosts = 1
label = "canary"
soak = "200ms"
[[step]]
name = "two thirds"
hosts = "66%"
[policy]
max_unavailable = "50%"
wave = 1
soak = "0s"
[profile.careful]
soak = "100ms"
"#;

#[test]
fn a_promote_goes_the_way_that_the_environments_file_says() {
    let fleet = fleet();
    let plan = fleet.beside("files").join("plan.json");
    let plan = plan.to_str().unwrap();
    fleet.shipctl(&["plan", "site", "--save", plan]).expect(0);

    let none = fleet.shipctl(&["env", "show"]).expect(0);
    assert!(none.stdout.contains("dev has no file"), "{none}");
    let slip = file(&fleet, "slip.toml", &WAY.replace("wave = 1", "wawe = 1"));
    let refused = fleet.shipctl(&["env", "apply", &slip, "-y"]).expect(1);
    assert!(refused.stderr.contains("did you mean \"wave\"?"), "{refused}");
    let way = file(&fleet, "ship.dev.toml", WAY);
    let asked = fleet.shipctl(&["env", "apply", &way]).expect(4);
    assert!(
        asked
            .stdout
            .contains("+ step[1]  canary: 1 of the hosts named h2; soak 200ms"),
        "{asked}"
    );
    let tried = fleet.shipctl(&["env", "apply", &way, "--dry-run"]).expect(0);
    assert!(tried.stdout.contains("nothing was changed"), "{tried}");
    assert!(
        fleet
            .shipctl(&["env", "show"])
            .expect(0)
            .stdout
            .contains("has no file")
    );
    let applied = fleet
        .shipctl(&["env", "apply", &way, "-y", "-m", "slower"])
        .expect(0);
    assert!(applied.stdout.contains("dev goes by version 1"), "{applied}");
    let again = fleet.shipctl(&["env", "apply", &way, "-y"]).expect(0);
    assert!(again.stdout.contains("nothing to do"), "{again}");
    let shown = fleet.shipctl(&["env", "show"]).expect(0);
    assert_eq!(shown.stdout.trim(), WAY.trim());
    assert!(
        shown.stderr.contains("operator/") && shown.stderr.contains("slower"),
        "{shown}"
    );

    let drifted = fleet.shipctl(&["promote", "--plan", plan]).expect(4);
    assert!(
        drifted.stderr.contains("policy: steps was nothing, now"),
        "{drifted}"
    );
    fleet.shipctl(&["promote", "site", "--detach"]).expect(0);
    let attached = fleet.shipctl(&["attach", "site", "-o", "json"]).expect(0).json();
    let steps = attached["steps"].as_array().unwrap();
    let waves: Vec<(&str, &str, &str)> = steps[3..]
        .iter()
        .map(|step| {
            let hosts = step["hosts"].as_array().unwrap();
            assert_eq!(hosts.len(), 1, "{step:#}");
            let text = |value: &'static str| step[value].as_str().unwrap();
            (text("name"), hosts[0]["host"].as_str().unwrap(), text("state"))
        })
        .collect();
    assert_eq!(
        waves,
        [
            ("canary", "h2", "done"),
            ("two thirds", "h1", "done"),
            ("the rest", "h3", "done")
        ]
    );
    assert_eq!(fleet.running("site"), [Some(2); 3]);
}

/// What must run well elsewhere first is refused here, by the name of that place; in an emergency nobody asks.
#[test]
fn a_release_comes_only_after_it_ran_well_elsewhere() {
    let fleet = fleet();
    let text = "version = 1\nenv = \"dev\"\nafter = { env = \"staging\", soak = \"1m\" }\n";
    let path = file(&fleet, "ship.dev.toml", text);
    fleet.shipctl(&["env", "apply", &path, "-y"]).expect(0);
    for verb in ["plan", "promote"] {
        let refused = fleet.shipctl(&[verb, "site"]).expect(4);
        assert!(
            refused.stderr.contains("takes only what ran well in staging")
                && refused.stderr.contains("shipctl promote site@2 -e staging"),
            "{refused}"
        );
    }
    let unknown = fleet
        .shipctl(&["promote", "site", "--profile", "carefull"])
        .expect(2);
    assert!(
        unknown.stderr.contains("careful, normal and emergency"),
        "{unknown}"
    );
    fleet
        .shipctl(&["promote", "site", "--profile", "emergency"])
        .expect(0);
    assert_eq!(fleet.running("site"), [Some(2); 3]);
    fleet.shipctl(&["revert", "site"]).expect(0);
    assert_eq!(fleet.running("site"), [Some(1); 3], "a revert asks nobody");
}
