#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]
use super::*;

fn parse(text: &str) -> Result<Settings, SettingsError> {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("s")).unwrap();
    write_file(&dir.path().join("s/store.toml"), text.as_bytes()).unwrap();
    Settings::read(&dir.path().join("s"))
}

#[test]
fn settings_are_read_back_and_mistakes_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings::new("acme");
    settings.write(dir.path()).unwrap();
    assert_eq!(Settings::read(dir.path()).unwrap(), settings);
    settings.write_explained(dir.path()).unwrap();
    assert_eq!(Settings::read(dir.path()).unwrap(), settings);
    let text = fs::read_to_string(dir.path().join("store.toml")).unwrap();
    assert!(
        text.contains("# How long a wave must stay healthy before the next.\nsoak_ms = "),
        "{text}"
    );
    let (keys, port) = text.split_once("# [asset_port]").unwrap();
    let above = keys.lines().zip(keys.lines().skip(1));
    let bare: Vec<_> = above
        .filter(|(above, line)| !line.starts_with('#') && !above.starts_with('#'))
        .collect();
    assert!(bare.is_empty(), "every key is explained: {bare:?}");
    let shown = format!("{keys}[asset_port]{}", port.replace("\n# ", "\n"));
    let shown = parse(&shown).unwrap();
    assert_eq!(
        shown.asset_tls(Path::new("/s")).unwrap().cert,
        Path::new("/s/assets.pem")
    );
    let (mut port, usual) = (shown.asset_port, PortSettings::default());
    (port.tls, port.cross_origin_resource_policy) = (None, None);
    assert_eq!(port, usual, "what is shown as usual is");
    assert_eq!(shown.mirror.len(), 1);
    let limited = parse("version = 1\nfleet = \"acme\"\nbundle_limit = 1000\n").unwrap();
    assert_eq!(limited.bundle_limit, Some(1000));
    let least = parse("version = 1\nfleet = \"acme\"\n").unwrap();
    assert_eq!(least, settings);
    for (text, part) in [
        ("version = 2\nfleet = \"a\"", "version is 2"),
        ("version = 1\nfleet = \"a\"\nheartbeat_ms = 1", "heartbeat_ms"),
        (
            "version = 1\nfleet = \"a\"\nuncertain_after_ms = 9000",
            "uncertain_after_ms",
        ),
        ("version = 1\nfleet = \"a\"\nbundle_limit = 0", "bundle_limit"),
        (
            "version = 1\nfleet = \"a\"\nassets_listen = \"0.0.0.0:80\"",
            "plain_http_anywhere",
        ),
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    for (port, part) in [
        ("access_control_allow_origin = \"a.example.com\"", "not an origin"),
        (
            "access_control_allow_origin = [\"*\", \"https://a\"]",
            "list it alone",
        ),
        ("access_control_allow_origin = 1", "or a list of origins"),
        ("cross_origin_resource_policy = \"all\"", "cross-origin"),
        ("mutable_max_age_seconds = 86401", "at most 86400"),
        ("mutable_max_age_seconds = -1", "mutable_max_age_seconds"),
        ("encode = [\"deflate\"]", "gzip"),
        ("tls = { cert = \"a\" }", "key"),
        ("nosnif = true", "nosniff"),
    ] {
        let text = format!("version = 1\nfleet = \"a\"\n[asset_port]\n{port}\n");
        let Err(SettingsError::Parse { source, .. }) = parse(&text) else {
            panic!("{port} was accepted");
        };
        let said = source.to_string();
        assert!(
            said.contains(part) && said.contains("line 4, column"),
            "{port}: {said}"
        );
    }
    let tls = "version = 1\nfleet = \"acme\"\nassets_listen = \"0.0.0.0:443\"\n[asset_port]\ntls = { cert = \"c\", key = \"k\" }\n";
    assert!(parse(tls).is_ok(), "with a certificate any address will do");
    assert!(matches!(
        parse("version = 1\nfleet = \"a\"\nlisten_at = 1"),
        Err(SettingsError::Parse { .. })
    ));
    assert!(matches!(
        Settings::read(&dir.path().join("none")),
        Err(SettingsError::NoStore { .. })
    ));
}

#[test]
fn remembered_addresses_leave_what_somebody_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.toml");
    let text = "# ours, mind the firewall\nversion = 1\nfleet = \"acme\" # the name\nlisten = \"127.0.0.1:0\" # any\n\n# soak well\nsoak_ms = 9000\n";
    write_file(&path, text.as_bytes()).unwrap();
    let mut settings = Settings::read(dir.path()).unwrap();
    settings.listen.set_port(4711);
    settings.assets_listen.set_port(4712);
    settings.remember_addresses(dir.path()).unwrap();
    let written = fs::read_to_string(&path).unwrap();
    assert_eq!(
        written,
        text.replace("127.0.0.1:0\"", "127.0.0.1:4711\"") + "assets_listen = \"127.0.0.1:4712\"\n"
    );
    assert_eq!(Settings::read(dir.path()).unwrap(), settings);
    settings.remember_addresses(dir.path()).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), written);
}
