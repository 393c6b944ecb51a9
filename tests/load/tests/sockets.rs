//! Streams and WebSockets against servers that end them in one way each: the report must show exactly that way.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may fail loudly"
)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use ship_load::run::{Plan, run};
use ship_load::stop::Stop;
use ship_load::tally::{Failure, Report};

const UPGRADED: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nX-Release: 7\r\n\r\n";

/// Serves each connection by `serve`, which is told its number, until the test ends.
fn server(serve: impl Fn(usize, TcpStream) + Send + Sync + Copy + 'static) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let count = AtomicUsize::new(0);
        for stream in listener.incoming().flatten() {
            let number = count.fetch_add(1, Ordering::SeqCst);
            thread::spawn(move || serve(number, stream));
        }
    });
    format!("http://{address}/")
}

fn read_request(stream: &mut TcpStream) {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
        request.push(byte[0]);
    }
}

/// The kind and the unmasked payload of the next short frame; none at the end of the connection.
fn read_frame(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 6];
    stream.read_exact(&mut head).ok()?;
    assert_eq!(head[1] & 0x80, 0x80, "a client masks");
    let mut payload = vec![0; usize::from(head[1] & 0x7f)];
    stream.read_exact(&mut payload).ok()?;
    for (place, byte) in payload.iter_mut().enumerate() {
        *byte ^= head[2 + place % 4];
    }
    Some((head[0] & 0x0f, payload))
}

fn send(stream: &mut TcpStream, kind: u8, payload: &[u8]) {
    let mut frame = vec![0x80 | kind, payload.len() as u8];
    frame.extend_from_slice(payload);
    let _ = stream.write_all(&frame);
}

/// Upgrades, and echoes so many messages; false when the client left before.
fn echo(stream: &mut TcpStream, messages: usize) -> bool {
    read_request(stream);
    stream.write_all(UPGRADED.as_bytes()).unwrap();
    for _ in 0..messages {
        match read_frame(stream) {
            Some((8, code)) => {
                send(stream, 8, &code);
                return false;
            }
            Some((kind, payload)) => send(stream, kind, &payload),
            None => return false,
        }
    }
    true
}

fn sockets(url: &str, count: usize) -> Plan {
    Plan {
        websockets: vec![url.parse().unwrap()],
        sockets: count,
        message_every: Duration::from_millis(5),
        timeout: Duration::from_secs(20),
        connect_timeout: Duration::from_secs(20),
        progress: Some(Duration::from_millis(5)),
        ..Plan::new(Vec::new())
    }
}

/// Runs until the report says that it is enough.
fn run_until(plan: &Plan, enough: impl Fn(&Report) -> bool) -> Report {
    let mut stop = Stop::new().unwrap();
    let handle = stop.handle();
    run(plan, &mut stop, &mut |report| {
        if enough(report) {
            handle.stop();
        }
    })
    .unwrap()
}

#[test]
fn a_message_comes_back_and_a_goodbye_is_no_failure() {
    let url = server(|_, mut stream| {
        echo(&mut stream, usize::MAX);
    });
    let report = run_until(&sockets(&url, 3), |report| report.websocket.echoed >= 30);
    let seen = &report.websocket;
    assert_eq!(
        (seen.opened, seen.failed, seen.moved, report.failed),
        (3, 0, 0, 0),
        "{seen:?}"
    );
    assert_eq!((seen.due, seen.releases["7"]), (seen.echoed, 3));
    assert!(seen.latency_ms.max > 0.0);
}

#[test]
fn going_away_and_coming_back_is_a_move() {
    for code in [1001_u16, 1012] {
        let url = server(move |number, mut stream| {
            if echo(&mut stream, if number == 0 { 3 } else { usize::MAX }) {
                // The fourth message is read, not answered: it must come again over the next connection.
                read_frame(&mut stream);
                send(&mut stream, 8, &code.to_be_bytes());
                assert_eq!(read_frame(&mut stream), Some((8, code.to_be_bytes().to_vec())));
            }
        });
        let report = run_until(&sockets(&url, 1), |report| report.websocket.echoed >= 6);
        let seen = &report.websocket;
        assert_eq!((seen.opened, seen.moved, seen.failed), (2, 1, 0), "{report:?}");
        assert_eq!(seen.close_codes[&code], 1);
        assert_eq!(seen.due, seen.echoed, "nothing is lost by a move");
    }
}

#[test]
fn every_other_end_is_a_cut_of_its_class() {
    let endings: [(fn(TcpStream), Failure); 4] = [
        (
            |stream| set_socket_linger(&stream, Some(Duration::ZERO)).unwrap(),
            Failure::SocketReset,
        ),
        (drop, Failure::SocketEof),
        (
            |mut stream| send(&mut stream, 8, &1011_u16.to_be_bytes()),
            Failure::SocketClosed,
        ),
        (
            |mut stream| send(&mut stream, 1, b"something else"),
            Failure::BadBody,
        ),
    ];
    for (end, class) in endings {
        let url = server(move |_, mut stream| {
            if echo(&mut stream, 2) {
                // Everything is read before the end, or the kernel would reset.
                read_frame(&mut stream);
                end(stream);
            }
        });
        let report = run_until(&sockets(&url, 1), |report| report.websocket.failed >= 2);
        let seen = &report.websocket;
        assert_eq!(
            report.failures[&class], seen.failed,
            "{class:?}: {:?}",
            report.first_failures
        );
        assert_eq!((report.failed, seen.moved), (seen.failed, 0), "{class:?}");
        assert!(seen.messages_lost >= 2, "{class:?}: {seen:?}");
    }
}

#[test]
fn an_upgrade_that_is_refused_has_the_class_of_its_answer() {
    let answers = [
        (
            "HTTP/1.1 503 Full\r\nContent-Length: 0\r\n\r\n",
            Failure::Status5xx,
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            Failure::StatusOther,
        ),
        (
            "HTTP/1.1 101 Yes\r\nSec-WebSocket-Accept: no\r\n\r\n",
            Failure::BadBody,
        ),
    ];
    for (answer, class) in answers {
        let url = server(move |_, mut stream| {
            read_request(&mut stream);
            let _ = stream.write_all(answer.as_bytes());
        });
        let report = run_until(&sockets(&url, 1), |report| report.failed >= 1);
        assert_eq!(
            report.failures[&class], report.failed,
            "{:?}",
            report.first_failures
        );
        assert_eq!(report.websocket.opened, 0);
    }
}

#[test]
fn a_stream_is_whole_or_cut() {
    let url = server(|number, mut stream| {
        read_request(&mut stream);
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Release: 7\r\n\r\n";
        let _ = write!(stream, "{head}5\r\npiece\r\n");
        thread::sleep(Duration::from_millis(20));
        if number % 2 == 0 {
            let _ = stream.write_all(b"0\r\n\r\n");
        }
    });
    let plan = Plan {
        streams: vec![url.parse().unwrap()],
        stream_rate: 100,
        duration: Some(Duration::from_millis(100)),
        ..Plan::new(Vec::new())
    };
    let report = run_until(&plan, |_| false);
    assert_eq!(
        (report.stream.due, report.stream.ok, report.stream.failed),
        (10, 5, 5)
    );
    assert_eq!((report.failures[&Failure::EofMid], report.failed), (5, 5));
    assert!(report.stream.service_ms.p50 > 0.0);
    assert_eq!((report.connection.due, report.keep_alive.due), (0, 0));
}

#[test]
fn latencies_are_told_apart_by_window() {
    let url = server(|_, mut stream| {
        read_request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    });
    let plan = Plan {
        keep_alive_rate: 0,
        progress: Some(Duration::from_millis(5)),
        ..Plan::new(vec![url.parse().unwrap()])
    };
    let mut stop = Stop::new().unwrap();
    let handle = stop.handle();
    let report = run(&plan, &mut stop, &mut |report| {
        let answered = |name: &str| report.windows.get(name).map_or(0, |window| window.ok);
        match (answered("steady"), answered("switch")) {
            (3.., 0) => handle.window("switch"),
            (_, 3..) => handle.stop(),
            _ => {}
        }
    })
    .unwrap();
    let (steady, switch) = (&report.windows["steady"], &report.windows["switch"]);
    assert_eq!(steady.ok + switch.ok, report.ok);
    assert!(steady.connection_ms.p99 > 0.0 && switch.connection_ms.p99 > 0.0);
}
