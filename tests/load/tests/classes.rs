//! The generator against servers that misbehave in one way each: the report must show exactly that way.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test may fail loudly"
)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;
use rustix::net::{AddressFamily, SocketType};
use ship_load::run::{Plan, run};
use ship_load::stop::Stop;
use ship_load::tally::{Failure, Kind, Report};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Release: web@1\r\n\r\nok";

/// Serves each connection of a loopback listener by `serve`, on its own thread, until the test ends.
fn server_on(listener: TcpListener, serve: impl Fn(TcpStream) + Send + Sync + Copy + 'static) -> String {
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream));
        }
    });
    format!("http://{address}/")
}

fn server(serve: impl Fn(TcpStream) + Send + Sync + Copy + 'static) -> String {
    server_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(), serve)
}

/// Reads one request; false at the end of the connection.
fn read_request(stream: &mut TcpStream) -> bool {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => request.push(byte[0]),
            _ => return false,
        }
    }
    true
}

/// Answers every request with `answer`, keeping the connection.
fn answer_all(mut stream: TcpStream, answer: &str) {
    while read_request(&mut stream) && stream.write_all(answer.as_bytes()).is_ok() {}
}

/// Answers one request with `answer`, then closes in order.
fn answer_once(mut stream: TcpStream, answer: &str) {
    read_request(&mut stream);
    let _ = stream.write_all(answer.as_bytes());
}

/// Answers one request with `answer`, then resets.
fn answer_and_reset(mut stream: TcpStream, answer: &str) {
    read_request(&mut stream);
    let _ = stream.write_all(answer.as_bytes());
    set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
}

fn plan(url: &str) -> Plan {
    Plan {
        rate: 100,
        keep_alive_rate: 0,
        duration: Some(Duration::from_millis(100)),
        timeout: Duration::from_secs(20),
        connect_timeout: Duration::from_secs(20),
        ..Plan::new(vec![url.parse().unwrap()])
    }
}

fn go(plan: &Plan) -> Report {
    run(plan, &mut Stop::new().unwrap(), &mut |_| {}).unwrap()
}

fn assert_all(report: &Report, class: Failure) {
    let wrong: BTreeMap<_, _> = report.failures.iter().filter(|(_, count)| **count > 0).collect();
    assert_eq!(
        wrong,
        BTreeMap::from([(&class, &10)]),
        "{:?}",
        report.first_failures
    );
    assert_eq!((report.due, report.ok, report.failed), (10, 0, 10));
    assert_eq!(report.first_failures.len(), 10);
}

#[test]
fn success_is_ok_over_both_families_and_populations() {
    let serve = |stream| answer_all(stream, OK);
    let four = server(serve);
    let mut plan = Plan {
        keep_alive_rate: 100,
        connections: 2,
        ..plan(&four)
    };
    if let Ok(listener) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
        plan.targets.push(server_on(listener, serve).parse().unwrap());
    }
    let report = go(&plan);
    assert_eq!(
        (report.kind, report.due, report.ok, report.failed),
        (Kind::Summary, 20, 20, 0)
    );
    assert_eq!(report.releases["web@1"].answers, 20);
    assert!(report.releases["web@1"].first_us >= report.started_us);
    assert_eq!((report.connection.ok, report.keep_alive.ok), (10, 10));
    assert!(report.connections_opened >= 10 + plan.targets.len() as u64);
    assert!(report.connection.latency_ms.max >= report.connection.service_ms.max);
    assert!(report.connection.service_ms.max > 0.0);
    assert_eq!(report.targets.iter().map(|target| target.ok).sum::<u64>(), 20);
}

#[test]
fn refused() {
    // Bound, so that nobody else gets the port, but not listening.
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = SocketAddr::try_from(rustix::net::getsockname(&socket).unwrap()).unwrap();
    assert_all(&go(&plan(&format!("http://{address}/"))), Failure::Refused);
}

#[test]
fn connect_timeout() {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let address = SocketAddr::try_from(rustix::net::getsockname(&socket).unwrap()).unwrap();
    // Nobody accepts: when the queue is full, the kernel no longer answers.
    let mut queued = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        queued.push(stream);
    }
    let plan = Plan {
        connect_timeout: Duration::from_millis(100),
        ..plan(&format!("http://{address}/"))
    };
    assert_all(&go(&plan), Failure::ConnectTimeout);
}

#[test]
fn reset_and_end_of_file_before_and_within_the_answer() {
    const PART: &str = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhal";
    assert_all(
        &go(&plan(&server(|stream| answer_and_reset(stream, "")))),
        Failure::ResetBeforeByte,
    );
    assert_all(
        &go(&plan(&server(|stream| answer_and_reset(stream, PART)))),
        Failure::ResetMid,
    );
    assert_all(
        &go(&plan(&server(|stream| answer_once(stream, "")))),
        Failure::EofBeforeByte,
    );
    assert_all(
        &go(&plan(&server(|stream| answer_once(stream, PART)))),
        Failure::EofMid,
    );
    assert_all(
        &go(&plan(&server(|stream| answer_once(stream, "HTTP/1.")))),
        Failure::EofMid,
    );
}

#[test]
fn timeout_with_and_without_a_byte() {
    for part in ["", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhal"] {
        let (listener, held) = (
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
            mpsc::channel(),
        );
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let (keep, kept) = held;
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                read_request(&mut stream);
                let _ = stream.write_all(part.as_bytes());
                if keep.send(stream).is_err() {
                    return;
                }
            }
        });
        let report = go(&Plan {
            timeout: Duration::from_millis(200),
            ..plan(&url)
        });
        assert_all(&report, Failure::Timeout);
        drop(kept);
    }
}

#[test]
fn statuses_and_nonsense() {
    let cases: [(fn(TcpStream), Failure); 5] = [
        (
            |stream| answer_once(stream, "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"),
            Failure::Status5xx,
        ),
        (
            |stream| answer_once(stream, "HTTP/1.1 503 No\r\n\r\nuntil the end"),
            Failure::Status5xx,
        ),
        (
            |stream| answer_once(stream, "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"),
            Failure::StatusOther,
        ),
        (
            |stream| answer_once(stream, "HTTP/1.1 302 No\r\nContent-Length: 0\r\n\r\n"),
            Failure::StatusOther,
        ),
        (
            |stream| answer_once(stream, "220 mail.example ESMTP\r\n"),
            Failure::BadBody,
        ),
    ];
    for (serve, class) in cases {
        assert_all(&go(&plan(&server(serve))), class);
    }
}

#[test]
fn a_page_of_another_release_than_its_header_is_mixed() {
    let serve = |stream| {
        let page = "<meta name=\"release\" content=\"web@1\">";
        let head = format!(
            "HTTP/1.1 200 OK\r\nX-Release: web@2\r\nContent-Length: {}\r\n\r\n",
            page.len()
        );
        answer_once(stream, &format!("{head}{page}"));
    };
    assert_all(&go(&plan(&server(serve))), Failure::Mixed);
}

#[test]
fn what_is_due_beyond_the_bound_is_told_as_not_sent() {
    let url = server(|mut stream| {
        // Never answers; the read ends when the generator gives up.
        read_request(&mut stream);
        let _ = stream.read(&mut [0]);
    });
    let report = go(&Plan {
        max_open: 3,
        timeout: Duration::from_millis(500),
        ..plan(&url)
    });
    assert_eq!((report.due, report.sent, report.failed), (10, 3, 10));
    assert_eq!(
        (
            report.failures[&Failure::NotSent],
            report.failures[&Failure::Timeout]
        ),
        (7, 3)
    );
}

#[test]
fn a_connection_cut_under_a_request_is_a_keep_alive_cut() {
    let url = server(|mut stream| {
        read_request(&mut stream);
        stream.write_all(OK.as_bytes()).unwrap();
        // Waits for the second request to arrive, then resets with it unanswered.
        read_request(&mut stream);
        set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    });
    let report = go(&Plan {
        rate: 0,
        keep_alive_rate: 20,
        connections: 1,
        duration: Some(Duration::from_millis(500)),
        ..plan(&url)
    });
    // Every second request of a connection is cut. Where one is late, the next one takes a connection of its own.
    assert_eq!((report.due, report.ok + report.failed), (10, 10));
    assert!((1..=5).contains(&report.failed), "{:?}", report.first_failures);
    assert_eq!(report.keep_alive_cuts, report.failed);
    assert_eq!(report.failures[&Failure::ResetBeforeByte], report.failed);
    assert!(
        report
            .first_failures
            .iter()
            .all(|told| told.reused && told.release == "web@1")
    );
}

#[test]
fn an_idle_connection_that_the_server_closes_loses_nothing() {
    let url = server(|stream| answer_once(stream, OK));
    let report = go(&Plan {
        rate: 0,
        keep_alive_rate: 50,
        connections: 1,
        // Requests that are begun late have connections of their own: some must be in time.
        duration: Some(Duration::from_secs(1)),
        ..plan(&url)
    });
    // A request may meet the close on its way; then it is a cut, and nothing else.
    assert_eq!(report.failed, report.keep_alive_cuts);
    assert_eq!(report.ok + report.failed, report.due);
    assert!(report.idle_closed > 0);
}

#[test]
fn the_server_may_say_that_it_closes() {
    let url = server(|stream| {
        answer_once(
            stream,
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        );
    });
    let report = go(&Plan {
        rate: 0,
        keep_alive_rate: 100,
        connections: 1,
        ..plan(&url)
    });
    assert_eq!((report.ok, report.failed, report.connections_opened), (10, 0, 10));
    assert_eq!((report.idle_closed, report.keep_alive_cuts), (0, 0));
}

#[test]
fn a_starved_generator_says_so_and_still_sends_everything() {
    let url = server(|stream| answer_all(stream, OK));
    let plan = Plan {
        progress: Some(Duration::from_millis(20)),
        ..plan(&url)
    };
    let mut stalled = false;
    let report = run(&plan, &mut Stop::new().unwrap(), &mut |_| {
        if !std::mem::replace(&mut stalled, true) {
            // This is the stall itself.
            thread::sleep(Duration::from_millis(200));
        }
    })
    .unwrap();
    assert_eq!((report.due, report.ok), (10, 10));
    assert!(report.late_starts > 0 && report.late_max_ms > 50.0, "{report:?}");
    // Most requests were begun late: that counts as their latency, and is told apart from the server's share.
    let (latency, service) = (report.connection.latency_ms, report.connection.service_ms);
    assert!(
        latency.p50 > 50.0 && latency.p50 > service.p50,
        "{latency:?} {service:?}"
    );
}

#[test]
fn a_run_without_a_duration_ends_when_it_is_told() {
    let url = server(|stream| answer_all(stream, OK));
    let plan = Plan {
        duration: None,
        progress: Some(Duration::from_millis(20)),
        ..plan(&url)
    };
    let mut stop = Stop::new().unwrap();
    let handle = stop.handle();
    let report = run(&plan, &mut stop, &mut |report| {
        assert_eq!(report.kind, Kind::Progress);
        if report.ok >= 3 {
            handle.stop();
        }
    })
    .unwrap();
    assert!(report.ok >= 3 && report.ok == report.due, "{report:?}");
}
