//! Connections that are slow, silent or strange hurt nobody else.

use std::time::Duration;

use ship_proto::v1;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::agent::Agent;
use crate::fleet::{PATIENCE, Store, connect, http, tls};

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
