//! Headers as an operator has them, and TLS.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

mod fixture;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use fixture::{Front, JS, Start, text};
use ship_assets::serve::{Port, PortSettings, PortTls, PortTlsError, TlsFiles};

fn settings(text: &str) -> PortSettings {
    toml::from_str(text).unwrap()
}

fn front(text: &str) -> Front {
    let mut start = Start::of(&[(JS, b"js"), ("index.html", b"page")]);
    start.settings = settings(text);
    Front::start(start)
}

#[test]
fn assets_are_public_unless_told_otherwise() {
    let front = front("");
    let path = format!("/static/{JS}");
    for path in [&path[..], "/static/index.html", "/static/none.js"] {
        let answer = front.get(path, "Origin: https://anyone\r\n");
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("cross-origin-resource-policy"), None, "{path}");
        assert_eq!(answer.header("vary"), None, "{path}");
    }
    let page = front.get("/static/index.html", "");
    assert_eq!(
        page.header("cache-control"),
        Some("public, max-age=5, must-revalidate")
    );
    let before = "Origin: https://a\r\nAccess-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: range\r\n";
    let preflight = front.ask("OPTIONS", &path, before);
    assert_eq!((preflight.status, preflight.body.len()), (204, 0));
    assert_eq!(preflight.header("access-control-allow-origin"), Some("*"));
    assert_eq!(
        preflight.header("access-control-allow-methods"),
        Some("GET, HEAD")
    );
    assert!(
        preflight
            .header("access-control-allow-headers")
            .unwrap()
            .contains("range")
    );
    assert_eq!(preflight.header("access-control-max-age"), Some("86400"));
    let options = front.ask("OPTIONS", "*", "");
    assert_eq!(
        (options.status, options.header("allow")),
        (204, Some("GET, HEAD, OPTIONS"))
    );
    assert_eq!(options.header("access-control-allow-methods"), None);
}

#[test]
fn origins_can_be_listed() {
    let front = front(
        "access_control_allow_origin = [\"https://app.example.com\", \"http://localhost:3000\"]\n\
         cross_origin_resource_policy = \"same-site\"\nnosniff = false\nmutable_max_age_seconds = 60\n",
    );
    let path = format!("/static/{JS}");
    for (origin, allowed) in [
        ("https://app.example.com", true),
        ("http://localhost:3000", true),
        ("https://app.example.com.evil", false),
        ("http://app.example.com", false),
        ("null", false),
    ] {
        for method in ["GET", "HEAD", "OPTIONS"] {
            let headers = format!("Origin: {origin}\r\nAccess-Control-Request-Method: GET\r\n");
            let answer = front.ask(method, &path, &headers);
            let given = answer.header("access-control-allow-origin");
            assert_eq!(given, allowed.then_some(origin), "{method} {origin}");
            assert_eq!(answer.header("vary"), Some("origin"), "{method} {origin}");
            assert_eq!(answer.header("cross-origin-resource-policy"), Some("same-site"));
            assert_eq!(answer.header("x-content-type-options"), None);
        }
    }
    let page = front.get("/static/", "");
    assert_eq!(
        page.header("cache-control"),
        Some("public, max-age=60, must-revalidate")
    );
    assert_eq!(page.header("vary"), Some("origin"));
}

#[test]
fn nobody_else_may_read_when_nobody_is_listed() {
    let front = front("access_control_allow_origin = []");
    let answer = front.get(&format!("/static/{JS}"), "Origin: https://a\r\n");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("access-control-allow-origin"), None);
    assert_eq!(answer.header("vary"), None);
}

#[test]
fn settings_are_written_as_they_are_read() {
    let told = "access_control_allow_origin = [\"https://a\"]\ncross_origin_resource_policy = \"same-origin\"\n\
                nosniff = false\nmutable_max_age_seconds = 0\nencode = [\"zstd\"]\n\n[tls]\ncert = \"c\"\nkey = \"k\"\n";
    assert_eq!(toml::to_string(&settings(told)).unwrap(), told);
    let usual = settings("");
    assert_eq!(settings(&toml::to_string(&usual).unwrap()), usual);
}

/// A certificate for `localhost`, signed by itself.
fn certificate(dir: &Path, cert: &str, key: &str) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    fs::write(dir.join(cert), made.cert.pem()).unwrap();
    fs::write(dir.join(key), made.signing_key.serialize_pem()).unwrap();
}

/// What curl says of the protocol, the status and the coding.
fn curl(address: SocketAddr, ca: &Path, args: &[&str], path: &str) -> String {
    let port = address.port();
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "30", "-o", "/dev/null", "--cacert"])
        .arg(ca)
        .args(["--resolve", &format!("localhost:{port}:127.0.0.1")])
        .args(["-w", "%{http_version} %{http_code} %{size_download}"])
        .args(args)
        .arg(format!("https://localhost:{port}{path}"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    format!("{said}{}", String::from_utf8_lossy(&output.stderr))
}

#[test]
fn tls_speaks_both_protocols_and_takes_a_new_certificate() {
    let keys = tempfile::tempdir().unwrap();
    certificate(keys.path(), "cert.pem", "key.pem");
    let files = TlsFiles {
        cert: keys.path().join("cert.pem"),
        key: keys.path().join("key.pem"),
    };
    let tls = Arc::new(PortTls::load(&files).unwrap());
    let js = text(1, 500_000);
    let assets = [(JS, &js[..])];
    let mut start = Start::of(&assets);
    start.port = Port {
        tls: Some(Arc::clone(&tls)),
        ..Port::default()
    };
    let front = Front::start(start);
    let path = format!("/static/{JS}");
    let ca = &files.cert;
    assert_eq!(curl(front.address, ca, &["--http1.1"], &path), "1.1 200 500000");
    assert_eq!(curl(front.address, ca, &["--http2"], &path), "2 200 500000");
    assert_eq!(
        curl(front.address, ca, &["--http2", "-r", "5-14"], &path),
        "2 206 10"
    );
    assert_eq!(curl(front.address, ca, &["--http2", "-I"], &path), "2 200 0");
    let none = curl(front.address, ca, &["--http2"], "/static/../../etc/passwd");
    assert!(none.starts_with("2 404"), "{none}");
    // Plain HTTP to a TLS port ends; nobody else notices.
    assert!(front.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").is_none());

    assert!(!tls.reload_if_changed().unwrap());
    certificate(keys.path(), "new.pem", "new.key");
    fs::copy(keys.path().join("new.pem"), &files.cert).unwrap();
    assert!(
        matches!(tls.reload(), Err(PortTlsError::Pair { .. })),
        "half of a change is none"
    );
    let old = keys.path().join("old.pem");
    fs::write(&old, "").unwrap();
    fs::copy(keys.path().join("new.key"), &files.key).unwrap();
    assert!(tls.reload_if_changed().unwrap());
    assert_eq!(curl(front.address, ca, &["--http2"], &path), "2 200 500000");
    for (cert, key, error) in [
        ("old.pem", "key.pem", "no certificate"),
        ("cert.pem", "old.pem", "private key"),
    ] {
        let files = TlsFiles {
            cert: keys.path().join(cert),
            key: keys.path().join(key),
        };
        let said = PortTls::load(&files).unwrap_err().to_string();
        assert!(said.contains(error), "{said}");
    }
    fs::remove_file(&files.key).unwrap();
    assert!(tls.reload().is_err(), "and the good one stays");
    assert_eq!(curl(front.address, ca, &["--http1.1"], &path), "1.1 200 500000");
}

#[test]
fn http2_without_tls_too() {
    let js = text(2, 100_000);
    let front = Front::start(Start::of(&[(JS, &js)]));
    let output = Command::new("curl")
        .args([
            "-sS",
            "--max-time",
            "30",
            "--http2-prior-knowledge",
            "-w",
            "\n%{http_version} %{http_code}",
        ])
        .arg(format!("http://{}/static/{JS}", front.address))
        .output()
        .unwrap();
    assert!(output.stdout.starts_with(&js));
    assert!(
        output.stdout.ends_with(b"\n2 200"),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
