//! Connections that are slow, silent or strange hurt nobody else.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use ship_assets::serve::TlsFiles;
use ship_durable::write_file;
use ship_proto::v1;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::agent::Agent;
use crate::fleet::{PATIENCE, Store, connect, http, tls, until};

#[tokio::test]
async fn handshakes_that_never_end_do_not_hold_anyone_up() {
    let mut store = Store::start().await;
    let address = store.addresses().grpc;
    let mut stuck = Vec::new();
    for n in 0..300 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // Some say nothing, some begin and stop, some speak plain HTTP.
        match n % 3 {
            0 => {}
            1 => stream.write_all(&[0x16, 3, 1, 2, 0]).await.unwrap(),
            _ => stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap(),
        }
        stuck.push(stream);
    }
    let viewer = store.certificate("viewer", "bob");
    // Others get through the handshake and then say nothing.
    let mut silent = Vec::new();
    for alpn in [&b"h2"[..], b"http/1.1"] {
        silent.push(connect(address, &tls(&viewer, &[alpn])).await.unwrap());
    }
    let mut clients = store.operator().await;
    timeout(PATIENCE, clients.status()).await.unwrap();
    let plain = timeout(PATIENCE, stuck[2].read_to_end(&mut Vec::new())).await;
    assert!(plain.is_ok(), "plain HTTP is not told to go");
    // With all of them open, and an agent's session and a follower, the store ends in time.
    let _agent = Agent::start(&store, "h1", &["web"]);
    clients.hosts(&[("h1", "available")]).await;
    let follow = v1::EventsRequest {
        limit: 1,
        follow: true,
    };
    let _events = clients.fleet.events(follow).await.unwrap();
    let ended = tokio::task::spawn_blocking(move || (store.stop(), store));
    let (status, _store) = timeout(PATIENCE, ended).await.unwrap().unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn strange_requests_are_answered_and_forgotten() {
    let store = Store::start().await;
    let viewer = store.certificate("viewer", "bob");
    let (grpc, assets) = (store.addresses().grpc, store.addresses().assets);
    let long = format!("x-long: {}\r\n", "a".repeat(100 << 10));
    for (address, folder) in [(grpc, Some(&*viewer)), (assets, None)] {
        for (path, headers) in [
            ("/static/../store.toml", ""),
            ("/%2e%2e/%2e%2e/etc/passwd", ""),
            ("/static/%00", ""),
            ("/%", ""),
            ("//", ""),
            ("/a?b=c", "range: bytes=0-0,1-1,2-2\r\n"),
        ] {
            let asked = http(address, folder, "GET", path, headers).await;
            assert!([400, 404].contains(&asked.0), "{path}: {asked:?}");
        }
        assert!([400, 431].contains(&http(address, folder, "GET", "/healthz", &long).await.0));
        assert!(
            [404, 405].contains(
                &http(address, folder, "POST", "/static/x", "content-length: 0\r\n")
                    .await
                    .0
            )
        );
    }
    let mut clients = store.operator().await;
    let odd = tonic::Request::new(v1::StatusRequest::default());
    let mut odd = odd;
    odd.metadata_mut().insert("ship-protocol", "99".parse().unwrap());
    let status = clients.fleet.status(odd).await.unwrap_err();
    assert!(status.message().contains("protocol"), "{status:?}");
    tokio::time::sleep(Duration::ZERO).await;
    clients.status().await;
}

/// What curl gets of `/healthz` on the asset port: the protocol and the status.
async fn healthy(address: SocketAddr, ca: &Path) -> Option<String> {
    let port = address.port();
    let mut curl = tokio::process::Command::new("curl");
    curl.args(["-sS", "--max-time", "20", "--http2", "-o", "/dev/null"])
        .args(["-w", "%{http_version} %{http_code}", "--cacert"])
        .arg(ca)
        .args(["--resolve", &format!("localhost:{port}:127.0.0.1")])
        .arg(format!("https://localhost:{port}/healthz"));
    let output = curl.output().await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    output.status.success().then_some(said)
}

#[tokio::test]
async fn the_asset_port_takes_a_certificate_of_its_own_and_a_new_one_later() {
    let keys = tempfile::tempdir().unwrap();
    let [cert, key, first] = ["cert.pem", "key.pem", "first.pem"].map(|name| keys.path().join(name));
    let renew = || {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        write_file(&cert, made.cert.pem().as_bytes()).unwrap();
        write_file(&key, made.signing_key.serialize_pem().as_bytes()).unwrap();
    };
    renew();
    fs::copy(&cert, &first).unwrap();
    let files = TlsFiles {
        cert: cert.clone(),
        key: key.clone(),
    };
    let store = Store::start_with(|settings| settings.asset_port.tls = Some(files)).await;
    let assets = store.addresses().assets;
    assert_eq!(healthy(assets, &first).await.as_deref(), Some("2 200"));
    renew();
    let pid = i32::try_from(store.addresses().pid).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    let said = until("the new certificate", || healthy(assets, &cert)).await;
    assert_eq!(said, "2 200");
    assert_eq!(healthy(assets, &first).await, None, "the old one is used no more");
}
