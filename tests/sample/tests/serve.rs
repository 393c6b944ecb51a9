//! The sample server as its users meet it: a real process, real sockets, real signals.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

mod server;

use std::fs::{self, File};
use std::io::{BufRead, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::process::Signal;
use server::{Client, PATIENCE, Server, Start, make};

#[test]
fn pages_and_assets_are_served_over_a_kept_connection() {
    let server = Server::start(&Start::default());
    let mut client = server.connect();
    client.ask("GET", "/");
    let page = client.reply().unwrap();
    assert_eq!(
        (page.status, page.header("x-release"), page.header("x-generation")),
        (200, Some("web@1"), Some("5"))
    );
    assert!(page.body.contains("<meta name=\"release\" content=\"web@1\">"));
    let urls: Vec<&str> = page
        .body
        .split('"')
        .filter(|part| part.starts_with("/assets/"))
        .collect();
    assert!(urls.len() >= 5, "{urls:?}");
    for url in urls {
        client.ask("GET", url);
        let asset = client.reply().unwrap();
        assert_eq!(asset.status, 200, "{url}");
        assert_eq!(
            asset.header("cache-control"),
            Some("public, max-age=31536000, immutable")
        );
        assert!(
            url.contains(&blake3::hash(asset.body.as_bytes()).to_hex()[..16]),
            "{url}"
        );
    }
    for (path, status) in [
        ("/about", 200),
        ("/healthz", 200),
        ("/none", 404),
        ("/assets/none.js", 404),
    ] {
        client.ask("GET", path);
        assert_eq!(client.reply().unwrap().status, status, "{path}");
    }
    client.ask("DELETE", "/");
    let refused = client.reply().unwrap();
    assert_eq!(
        (refused.status, refused.header("allow")),
        (405, Some("GET, HEAD"))
    );
    client.ask("HEAD", "/about");
    let head = client.head().unwrap();
    assert!(head.header("content-length").unwrap().parse::<u32>().unwrap() > 100);
    // Nothing follows a HEAD: the next answer starts at once.
    client.send("GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(client.reply().unwrap().closes());
    assert!(client.ended());
}

#[test]
fn the_union_of_all_versions_comes_first() {
    let server = Server::start(&Start::default());
    let union = server.folder.path().join("union/assets");
    fs::create_dir_all(&union).unwrap();
    File::create(union.join("old-1.css"))
        .unwrap()
        .write_all(b"old")
        .unwrap();
    let old = server.get("/assets/old-1.css");
    assert_eq!(
        (old.status, old.body.as_str(), old.header("content-type")),
        (200, "old", Some("text/css; charset=utf-8"))
    );
}

#[test]
fn no_path_leaves_the_asset_folders() {
    let server = Server::start(&Start::default());
    for path in [
        "/assets/../../config/app.json",
        "/assets/..%2f..%2fconfig/app.json",
        "/assets/%2e%2e/%2e%2e/ship.toml",
    ] {
        assert_eq!(server.get(path).status, 404, "{path}");
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::start(&Start::default());
    let mut client = server.connect();
    client.send(
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\noneGET /slow?ms=50 HTTP/1.1\r\nHost: x\r\n\r\n\
         POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\ntwo",
    );
    let bodies: Vec<String> = (0..3).map(|_| client.reply().unwrap().body).collect();
    assert_eq!(bodies, ["one", "waited 50 ms\n", "two"]);
    client.send("POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
    assert_eq!(client.head().unwrap().status, 100);
    client.send("late");
    assert_eq!(client.reply().unwrap().body, "late");
}

#[test]
fn large_bodies_pass_whole_and_larger_ones_are_refused() {
    let server = Server::start(&Start::default());
    let mut client = server.connect();
    let body = "x".repeat(1024 * 1024);
    client.send(&format!(
        "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    ));
    assert_eq!(client.reply().unwrap().body.len(), body.len());
    client.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1048577\r\n\r\n");
    let refused = client.reply().unwrap();
    assert!(refused.status == 413 && refused.closes());
    assert!(client.ended());
}

#[test]
fn limits_are_told_and_the_answer_survives_what_the_client_still_sends() {
    let server = Server::start(&Start::default());
    for (request, status) in [
        (
            format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(9000)),
            414,
        ),
        (
            format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "a".repeat(40_000)),
            431,
        ),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("\u{16}\u{3}\u{1}hello".to_owned(), 400),
    ] {
        let mut client = server.connect();
        client.send(&request);
        let refused = client.reply().unwrap();
        assert!(refused.status == status && refused.closes(), "{refused:?}");
    }
}

#[test]
fn a_slow_client_is_told_and_does_not_hold_others_up() {
    let server = Server::start(&Start {
        // Enough for the quick one, whose client may be made to wait.
        arguments: vec!["--patience-ms", "4000"],
        ..Start::default()
    });
    let mut slow = server.connect();
    slow.send("GET / HTTP/1.1\r\nHo");
    assert_eq!(server.get("/healthz").status, 200);
    let told = slow.reply().unwrap();
    assert!(told.status == 408 && told.closes(), "{told:?}");
    let mut silent = server.connect();
    assert!(silent.ended());
}

#[test]
fn a_broken_release_is_ready_but_not_healthy() {
    let server = Server::start(&Start {
        version: "3",
        broken: true,
        ..Start::default()
    });
    assert_eq!(server.get("/").status, 200);
    assert_eq!(server.get("/healthz").status, 500);
}

#[test]
fn the_drain_file_asks_clients_to_come_back_elsewhere_and_loses_none() {
    let mut server = Server::start(&Start {
        arguments: vec!["--grace-ms", "4000"],
        ..Start::default()
    });
    let (mut idle, mut fresh, mut silent) = (server.connect(), server.connect(), server.connect());
    idle.ask("GET", "/healthz");
    assert!(!idle.reply().unwrap().closes());
    let mut slow = server.connect();
    slow.ask("GET", "/slow?ms=400");
    File::create(server.drain()).unwrap();
    // The drain is on once an answer says so.
    let deadline = Instant::now() + PATIENCE;
    while !server.get("/healthz").closes() {
        assert!(Instant::now() < deadline, "the drain does not begin");
    }
    idle.ask("GET", "/");
    let last = idle.reply().unwrap();
    assert!(last.status == 200 && last.closes() && idle.ended());
    fresh.ask("GET", "/healthz");
    assert!(fresh.reply().unwrap().closes() && fresh.ended());
    let waited = slow.reply().unwrap();
    assert!(waited.status == 200 && waited.closes());
    assert!(
        silent.ended(),
        "an idle connection ends in order when the grace is over"
    );
    assert!(server.wait().success());
}

#[test]
fn a_drain_that_is_called_off_leaves_the_server_in_service() {
    let server = Server::start(&Start {
        arguments: vec!["--grace-ms", "60000"],
        ..Start::default()
    });
    let closes = || {
        let mut client = server.connect();
        client.ask("GET", "/healthz");
        client.reply().unwrap().closes()
    };
    let wait_for = |wanted: bool| {
        let deadline = Instant::now() + PATIENCE;
        while closes() != wanted {
            assert!(Instant::now() < deadline, "never {wanted}");
        }
    };
    File::create(server.drain()).unwrap();
    wait_for(true);
    fs::remove_file(server.drain()).unwrap();
    wait_for(false);
}

#[test]
fn what_is_queued_when_the_stop_signal_comes_is_answered() {
    // No grace, and more clients than are accepted in one turn: only emptying the queue to its end answers them all.
    let mut server = Server::start(&Start {
        arguments: vec!["--grace-ms", "0"],
        ..Start::default()
    });
    rustix::net::listen(&server.listener, 1024).unwrap();
    server.signal(Signal::STOP);
    let mut clients: Vec<Client> = (0..300).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.ask("GET", "/slow?ms=100");
    }
    server.signal(Signal::TERM);
    server.signal(Signal::CONT);
    for client in &mut clients {
        let reply = client.reply().unwrap();
        assert!(reply.status == 200 && reply.closes());
    }
    drop(clients);
    assert!(server.wait().success());
}

#[test]
fn a_request_in_flight_outlives_the_stop_signal_and_the_grace() {
    let mut server = Server::start(&Start {
        arguments: vec!["--grace-ms", "100"],
        ..Start::default()
    });
    let mut slow = server.connect();
    slow.ask("GET", "/slow?ms=800");
    // Answered, so the slow one, sent before, has been accepted.
    assert_eq!(server.get("/healthz").status, 200);
    server.signal(Signal::TERM);
    assert_eq!(slow.reply().unwrap().body, "waited 800 ms\n");
    drop(slow);
    assert!(server.wait().success());
}

#[test]
fn a_listener_meant_for_another_process_is_not_taken() {
    let folder = tempfile::tempdir().unwrap();
    make(&folder.path().join("tree"), "1", false);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let output = Command::new("sh")
        .args([
            "-c",
            "LISTEN_FDS=1 LISTEN_PID=1 exec bin/server serve 3<&0 </dev/null",
        ])
        .current_dir(folder.path().join("tree"))
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("--listen"),
        "{output:?}"
    );
}

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                       Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[test]
fn a_websocket_echoes_and_is_asked_to_come_back_when_the_drain_begins() {
    let mut server = Server::start(&Start::default());
    let mut client = server.connect();
    client.send(UPGRADE);
    let head = client.head().unwrap();
    assert_eq!(
        (head.status, head.header("sec-websocket-accept")),
        (101, Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="))
    );
    assert_eq!(
        (head.header("x-release"), head.header("upgrade")),
        (Some("web@1"), Some("websocket"))
    );
    // With a mask of zeros a payload is itself.
    let mut said = [0; 4];
    client.0.get_mut().write_all(b"\x81\x82\0\0\0\0hi").unwrap();
    client.0.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"\x81\x02hi");

    File::create(server.drain()).unwrap();
    client.0.read_exact(&mut said).unwrap();
    assert_eq!(said, [0x88, 2, 0x03, 0xe9]);
    client.0.get_mut().write_all(b"\x88\x82\0\0\0\0\x03\xe9").unwrap();
    client.0.get_ref().shutdown(std::net::Shutdown::Write).unwrap();
    assert!(client.ended());
    assert!(server.wait().success());
    let plain = {
        let server = Server::start(&Start::default());
        server.get("/ws").status
    };
    assert_eq!(plain, 426);
}

#[test]
fn a_stream_outlives_the_drain_and_the_stop_signal() {
    let mut server = Server::start(&Start::default());
    let mut client = server.connect();
    client.ask("GET", "/stream?seconds=2");
    let head = client.head().unwrap();
    assert_eq!(
        (head.status, head.header("transfer-encoding")),
        (200, Some("chunked"))
    );
    File::create(server.drain()).unwrap();
    server.signal(Signal::TERM);
    let mut body = String::new();
    while !body.ends_with("0\r\n\r\n") {
        assert!(client.0.read_line(&mut body).unwrap() > 0, "cut after {body:?}");
    }
    assert_eq!(body.matches("a piece").count(), 20);
    drop(client);
    assert!(server.wait().success());
    let server = Server::start(&Start::default());
    assert_eq!(server.get("/stream?seconds=601").status, 400);
}
