#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use super::*;

pub(super) const GOOD: &str = r#"
version = 1
env = "dev"
host = "h1"
classes = ["web", "assets"]
store = "https://127.0.0.1:7400"
address = "127.41.7.1"
asset_listen = "127.41.7.1:0"
apps_dir = "apps"
[tls]
ca = "tls/ca.pem"
cert = "tls/cert.pem"
key = "/etc/key.pem"
"#;

#[test]
fn reads_what_it_should() {
    let config = Config::parse(GOOD, Path::new("/d")).unwrap();
    assert_eq!(config.host.as_str(), "h1");
    assert_eq!(config.store.to_string(), "https://127.0.0.1:7400");
    assert_eq!(config.apps_dir, Path::new("/d/apps"));
    assert_eq!(config.state_dir, Path::new("/var/lib/ship"));
    assert_eq!(config.tls.ca, Path::new("/d/tls/ca.pem"));
    assert_eq!(config.tls.key, Path::new("/etc/key.pem"));
    assert_eq!(config.asset_listen.unwrap().port(), 0);
    assert_eq!(config.cgroups, GroupsAt::Auto);
}

/// With every key that is only shown, too.
#[test]
fn the_example_is_good() {
    let example = include_str!("../../agent.toml");
    let all = example.lines().map(|line| {
        let shown = line.strip_prefix("# ");
        let shown = shown.filter(|rest| rest.contains(" = ") || rest.starts_with('['));
        shown.unwrap_or(line).replace("10.0.0.7", "127.0.0.1")
    });
    let all: Vec<String> = all.collect();
    let config = Config::parse(&all.join("\n"), Path::new("/etc/ship")).unwrap();
    assert_eq!(config.balancers.len(), 1);
    assert_eq!(config.apps_dir, Path::new("/srv/ship"));
    assert_eq!(config.tls.ca, Path::new("/etc/ship/tls/ca.pem"));
    assert!(
        Config::parse(example, Path::new("/etc/ship"))
            .unwrap()
            .balancers
            .is_empty()
    );
}

#[test]
fn says_where_control_groups_may_be_made() {
    let with = |text: &str| Config::parse(&format!("cgroups = {text}\n{GOOD}"), Path::new("/d"));
    let below = GroupsAt::Below("/ship.slice".into());
    assert_eq!(with("\"/ship.slice\"").unwrap().cgroups, below);
    assert_eq!(with("\"off\"").unwrap().cgroups, GroupsAt::Nowhere);
    for refused in ["\"ship.slice\"", "\"/a/../b\"", "true"] {
        let mistakes = with(refused).unwrap_err();
        assert_eq!(mistakes[0].line, 1, "{mistakes:?}");
        assert!(mistakes[0].text.contains("cgroups"), "{mistakes:?}");
    }
}

#[test]
fn the_asset_port_is_told_how() {
    let port = |keys: &str| {
        let text = format!("{GOOD}[asset_port]\n{keys}\n");
        Config::parse(&text, Path::new("/d")).map(|config| config.asset_port)
    };
    assert_eq!(port(""), Ok(PortSettings::default()));
    let told = port("tls = { cert = \"a.pem\", key = \"/k.pem\" }\nencode = []").unwrap();
    let files = told.tls.unwrap();
    assert_eq!(files.cert, Path::new("/d/a.pem"));
    assert_eq!(files.key, Path::new("/k.pem"));
    assert!(told.encode.is_empty());
    for (keys, part) in [
        ("encode = [\"deflate\"]", "deflate"),
        ("mutable_max_age_seconds = 100000", "at most 86400"),
        ("nosnif = true", "nosnif"),
    ] {
        let mistakes = port(keys).unwrap_err();
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
        assert_eq!(mistakes[0].line, GOOD.lines().count() + 2, "{mistakes:?}");
        assert!(mistakes[0].text.contains(part), "{mistakes:?}");
    }
}

#[test]
fn tells_every_mistake_with_its_line() {
    let text = "version = 2\nenv = \"Dev\"\nhost = 3\nclasses = [\"web\", \"web\", 1]\nstore = \"http://x\"\n\
                    address = \"nowhere\"\nadress = \"x\"\n[tls]\nca = \"\"\nkeys = \"k\"\n";
    let mistakes = Config::parse(text, Path::new("/d")).unwrap_err();
    let lines: Vec<_> = mistakes.iter().map(|mistake| mistake.line).collect();
    // Line 0: cert and key of [tls] are missing.
    assert_eq!(lines, [0, 0, 1, 2, 3, 4, 4, 5, 6, 7, 9, 10], "{mistakes:#?}");
}

#[test]
fn broken_toml_is_a_mistake_not_a_crash() {
    let mistakes = Config::parse("version = \n[[", Path::new("/d")).unwrap_err();
    assert_eq!(mistakes[0].line, 1, "{mistakes:?}");
    assert_eq!(Config::parse("", Path::new("/d")).unwrap_err().len(), 7);
}

#[test]
fn addresses_of_a_store() {
    let port = |text: &str| store_address(text).map(|store| (store.host, store.port)).ok();
    assert_eq!(port("https://s:1/"), Some(("s".to_owned(), 1)));
    assert_eq!(port("https://[::1]:7"), Some(("::1".to_owned(), 7)));
    assert_eq!(port("https://s"), Some(("s".to_owned(), 7400)));
    for bad in [
        "",
        "s:1",
        "http://s:1",
        "https://",
        "https://a/b",
        "https://u@s:1",
        "https://s:x",
    ] {
        assert_eq!(port(bad), None, "{bad}");
    }
}
