//! The short way of plain HTTP/1.1: what it answers is what every other way answers, and what it does not answer goes on
//! without a byte lost.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

mod fixture;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use fixture::{Answer, Front, JS, PATIENCE, Start, text};
use ship_assets::serve::{Limits, Origins, Port, PortSettings, serve_on};

const LARGE: &str = "large.0123456789abcdef.bin";

fn connect(front: &Front) -> TcpStream {
    let stream = TcpStream::connect(front.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// One answer of a kept connection.
fn next(stream: &mut TcpStream) -> Answer {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let mut answer = Answer::read(&head).unwrap();
    let length = answer
        .header("content-length")
        .map_or(0, |len| len.parse().unwrap());
    answer.body = vec![0; length];
    stream.read_exact(&mut answer.body).unwrap();
    answer
}

/// Its lines but the date, in the order of the alphabet: in which they come means nothing.
fn lines(answer: &Answer) -> Vec<String> {
    let lines = answer.head.lines().filter(|line| !line.starts_with("date:"));
    let mut lines: Vec<String> = lines.map(str::to_owned).collect();
    lines.sort();
    lines
}

/// A length of nothing is nothing odd, and leads to the long way.
#[test]
fn both_ways_give_the_same_answers() {
    let (js, large) = (text(1, 20_000), text(2, 300_000));
    let files = [(JS, &js[..]), (LARGE, &large[..]), ("index.html", b"page")];
    let mut start = Start::of(&files);
    start.settings = PortSettings {
        access_control_allow_origin: Origins::Listed(vec!["https://a.example".to_owned()]),
        ..PortSettings::default()
    };
    let front = Front::start(start);
    let made = front.encoded(&format!("/static/{JS}"), "br");
    let etag = format!("If-None-Match: {}\r\n", made.header("etag").unwrap());
    for path in [
        JS,
        LARGE,
        "index.html",
        "",
        "%6dain.3f9a12bc77d01e55.js?query=%00",
    ] {
        for method in ["GET", "HEAD"] {
            for headers in [
                "",
                "Accept-Encoding: br\r\n",
                "Accept-Encoding: identity;q=0\r\n",
                "accept-encoding: gzip;q=0\r\nACCEPT-ENCODING: br\r\n",
                "Origin: https://a.example\r\n",
                "Origin: https://b.example\r\n",
                "Range: bytes=5-9\r\n",
                "Range: bytes=-7\r\nIf-Range: \"other\"\r\n",
                "Range: bytes=900000-\r\n",
                "If-Match: \"other\"\r\n",
                "If-None-Match: *\r\n",
                &format!("Accept-Encoding: br\r\n{etag}"),
                "Cookie: a=b\r\nUser-Agent: c\r\nX: \u{e9}\r\n",
            ] {
                let path = format!("/static/{path}");
                let short = front.ask(method, &path, headers);
                let long = front.ask(method, &path, &format!("{headers}Content-Length: 0\r\n"));
                assert_eq!(lines(&short), lines(&long), "{method} {path} {headers}");
                assert!(short.body == long.body, "{method} {path} {headers}");
                assert!(short.header("date").is_some());
            }
        }
    }
}

#[test]
fn requests_that_come_together_or_in_pieces_are_answered_in_their_order() {
    let (js, large) = (text(1, 20_000), text(2, 300_000));
    let front = Front::start(Start::of(&[(JS, &js), (LARGE, &large), ("index.html", b"page")]));
    let get = |name: &str, more: &str| format!("GET /static/{name} HTTP/1.1\r\nHost: a\r\n{more}\r\n");
    let names = [JS, LARGE, "index.html", LARGE, JS];
    let bodies: [&[u8]; 5] = [&js, &large, b"page", &large, &js];
    let mut together = connect(&front);
    let all: String = names.map(|name| get(name, "")).concat().repeat(20);
    let mut other = together.try_clone().unwrap();
    let writing = std::thread::spawn(move || {
        other.write_all(all.as_bytes()).unwrap();
        // From here on it is the long way, which goes on where the short one ended.
        other
            .write_all(b"HEAD /static/none HTTP/1.1\r\nHost: a\r\n\r\n")
            .unwrap();
        other.write_all(get(JS, "").as_bytes()).unwrap();
    });
    for _ in 0..20 {
        for body in bodies {
            let answer = next(&mut together);
            assert_eq!(answer.status, 200);
            assert!(answer.body == body);
        }
    }
    let (mut head, mut buffer) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        together.read_exact(&mut buffer).unwrap();
        head.push(buffer[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 404 "));
    assert!(next(&mut together).body == js);
    writing.join().unwrap();

    let mut pieces = connect(&front);
    pieces.set_nodelay(true).unwrap();
    let both = get("index.html", "X-Long: 1\r\n") + &get(JS, "Connection: close\r\n");
    for byte in both.as_bytes() {
        pieces.write_all(&[*byte]).unwrap();
    }
    assert_eq!(next(&mut pieces).body, b"page");
    let last = next(&mut pieces);
    assert_eq!(last.header("connection"), Some("close"));
    assert!(last.body == js);
    assert_eq!(pieces.read(&mut [0]).unwrap(), 0, "it closes the connection");
}

/// A client that never stops asking keeps nobody from stopping.
#[test]
fn a_flood_of_requests_ends_with_the_port() {
    let front = Front::start(Start::of(&[(JS, b"small")]));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let limits = Limits {
        grace: Duration::from_millis(100),
        ..Limits::default()
    };
    let port = Port { tls: None, limits };
    let serving = runtime.spawn(serve_on(port, listener, front.assets.clone(), async {
        let _ = stopped.await;
    }));
    let mut stream = TcpStream::connect(address).unwrap();
    let mut other = stream.try_clone().unwrap();
    let request = format!("GET /static/{JS} HTTP/1.1\r\nHost: a\r\n\r\n").repeat(100);
    // Both end when the other side is gone.
    let asking = std::thread::spawn(move || while other.write_all(request.as_bytes()).is_ok() {});
    let (began, begun) = std::sync::mpsc::sync_channel(1);
    let reading = std::thread::spawn(move || {
        let mut answers = vec![0; 64 << 10];
        while stream.read(&mut answers).is_ok_and(|got| got > 0) {
            let _ = began.try_send(());
        }
    });
    begun.recv_timeout(PATIENCE).unwrap();
    stop.send(()).unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, serving).await.unwrap().unwrap() });
    asking.join().unwrap();
    reading.join().unwrap();
}
