//! Files that people keep and edit: what they wrote for an older program still holds.

use std::collections::BTreeMap;
use std::fs;

use ship_agent::config::Config;
use ship_assets::serve::{Encoding, Origins, PortSettings, ResourcePolicy};
use ship_store::push::{BucketSettings, PushSettings};
use ship_store::settings::{GateSettings, GateSite, Settings};

use super::{frozen, path, writes_the_same};

#[test]
fn agent_toml_is_read() {
    let text = String::from_utf8(frozen("agent-1.toml")).unwrap();
    let config = Config::parse(&text, std::path::Path::new("/etc/ship")).unwrap();
    assert_eq!((config.env.as_str(), config.host.as_str()), ("production", "h1"));
    let classes: Vec<_> = config.classes.iter().map(|class| class.as_str()).collect();
    assert_eq!(classes, ["web", "assets"]);
    assert_eq!(config.store.to_string(), "https://ship.example.com:7400");
    assert_eq!(config.address.to_string(), "127.41.7.1");
    assert_eq!(config.asset_listen.unwrap().to_string(), "127.41.7.1:7480");
    let folders = [&config.apps_dir, &config.state_dir, &config.run_dir];
    assert_eq!(
        folders.map(|path| path.to_str().unwrap()),
        ["/srv/ship", "/var/lib/ship", "/run/ship"]
    );
    let tls = [&config.tls.ca, &config.tls.cert, &config.tls.key];
    assert_eq!(
        tls.map(|path| path.to_str().unwrap()),
        ["/etc/ship/tls/ca.pem", "/etc/ship/tls/cert.pem", "/keys/key.pem"]
    );
}

#[test]
fn store_toml_is_read_and_written() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(path("store-1.toml"), folder.path().join("store.toml")).unwrap();
    let settings = Settings::read(folder.path()).unwrap();
    let mut expected = Settings::new("shop");
    expected.listen = "127.0.0.1:7400".parse().unwrap();
    expected.assets_listen = "127.0.0.1:7480".parse().unwrap();
    expected.assets_url = Some("https://assets.example.com".to_owned());
    expected.plain_http_anywhere = true;
    expected.heartbeat_ms = 1_001;
    expected.uncertain_after_ms = 3_002;
    expected.unavailable_after_ms = 9_003;
    expected.soak_ms = 1_004;
    expected.switch_deadline_ms = 1_005;
    expected.prefetch_deadline_ms = 1_006;
    expected.barrier_deadline_ms = 1_007;
    expected.max_unavailable = Some(2);
    assert_eq!(settings, expected);
    expected.write(folder.path()).unwrap();
    writes_the_same(
        "store-1.toml",
        &fs::read(folder.path().join("store.toml")).unwrap(),
    );
}

/// `[gates]` of a store's file.
#[test]
fn what_gates_may_use_is_read_and_written() {
    let text = String::from_utf8(frozen("gates-1.toml")).unwrap();
    let read: BTreeMap<String, GateSettings> = toml::from_str(&text).unwrap();
    let site = |url: &str, headers: Option<&str>| GateSite {
        url: url.to_owned(),
        headers: headers.map(Into::into),
    };
    let expected = GateSettings {
        programs: Some("/etc/ship/gates".into()),
        site: vec![
            site("http://prometheus:9090/", Some("/etc/ship/prometheus.headers")),
            site("https://metrics.example.com/api/", None),
        ],
    };
    assert_eq!(read, BTreeMap::from([("gates".to_owned(), expected)]));
    writes_the_same("gates-1.toml", toml::to_string(&read).unwrap().as_bytes());
}

/// `[[push]]` of a store's file.
#[test]
fn pushes_are_read_and_written() {
    let text = String::from_utf8(frozen("push-1.toml")).unwrap();
    let read: BTreeMap<String, Vec<PushSettings>> = toml::from_str(&text).unwrap();
    let (env, web) = ("production".parse().unwrap(), "web".parse().unwrap());
    let folder = PushSettings {
        name: "cdn".parse().unwrap(),
        env,
        apps: vec![web],
        url: Some("https://cdn.example.com".to_owned()),
        folder: Some("/mnt/cdn".into()),
        keep: true,
        s3: None,
    };
    let bucket = PushSettings {
        name: "bucket".parse().unwrap(),
        apps: Vec::new(),
        url: None,
        folder: None,
        keep: false,
        s3: Some(BucketSettings {
            endpoint: Some("http://10.0.0.5:9000".to_owned()),
            region: "eu-central-1".to_owned(),
            prefix: "web".to_owned(),
            credentials: Some("s3.toml".into()),
            ca: Some("s3-ca.pem".into()),
            answer_seconds: 120,
            plain_http: true,
            ..BucketSettings::of("assets")
        }),
        ..folder.clone()
    };
    assert_eq!(read["push"], [folder, bucket]);
    writes_the_same("push-1.toml", toml::to_string(&read).unwrap().as_bytes());
}

/// `[asset_port]` of both files.
#[test]
fn an_asset_port_is_read_and_written() {
    let text = String::from_utf8(frozen("asset-port-1.toml")).unwrap();
    let port: PortSettings = toml::from_str(&text).unwrap();
    let origins = ["https://app.example.com", "http://localhost:3000"].map(str::to_owned);
    assert_eq!(
        port.access_control_allow_origin,
        Origins::Listed(origins.to_vec())
    );
    assert_eq!(port.cross_origin_resource_policy, Some(ResourcePolicy::SameSite));
    assert_eq!((port.nosniff, port.mutable_max_age_seconds), (false, 60));
    assert_eq!(port.encode, [Encoding::Gzip, Encoding::Zstd, Encoding::Brotli]);
    let files = port.tls.as_ref().unwrap();
    assert_eq!(
        (files.cert.to_str(), files.key.to_str()),
        (Some("assets.pem"), Some("/keys/assets.key"))
    );
    writes_the_same("asset-port-1.toml", toml::to_string(&port).unwrap().as_bytes());
}
