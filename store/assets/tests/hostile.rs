//! What strangers send: every item gets a typed answer or a closed connection, and never a byte of anything else.
//! G1 to G18 are the items of the list of bad inputs.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

mod fixture;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::time::Duration;

use fixture::{Answer, Front, JS, PATIENCE, Start};
use ship_assets::serve::{Limits, Port};

const SECRET: &[u8] = b"the-secret-of-another";

fn front() -> Front {
    let svg = b"<svg xmlns=\"http://www.w3.org/2000/svg\"><script>1</script></svg>";
    let front = Front::start(Start::of(&[
        (JS, b"0123456789"),
        ("index.html", b"page"),
        ("logo.5d41402abc4b2a76.svg", svg),
    ]));
    fs::write(front.dir.path().join("secret"), SECRET).unwrap();
    front
}

/// Whatever was asked, the server still answers, and well.
fn still_serves(front: &Front, after: &str) {
    let answer = front.get(&format!("/static/{JS}"), "");
    assert_eq!(
        (answer.status, &answer.body[..]),
        (200, &b"0123456789"[..]),
        "after {after:?}"
    );
}

fn refused(answer: &Answer, what: &str) {
    assert!(
        !answer.body.windows(SECRET.len()).any(|part| part == SECRET),
        "{what}"
    );
    // A 4xx that hyper itself gives has no headers; none of them is kept by a cache without leave.
    if !matches!(answer.status, 400 | 431) {
        assert_eq!(
            answer.header("cache-control"),
            Some("no-store"),
            "{what}: {}",
            answer.head
        );
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{what}");
    }
}

#[test]
fn paths_lead_nowhere_else() {
    let front = front();
    let long = format!("/static/{}", "a".repeat(9_000));
    let deep = format!("/static{}", "/a".repeat(4_000));
    for path in [
        // G1, G2, G3
        "/static/../secret",
        "/static/../../secret",
        "/assets/../x",
        "/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/secret",
        "/static/%2e%2e%2f%2e%2e%2fsecret",
        "/static/..%2fsecret",
        "/static/.%2e/secret",
        "/static/%252e%252e/secret",
        "/static/%c0%ae%c0%ae/secret",
        "/static/..\\..\\secret",
        "/static/..%5c..%5csecret",
        "/static/..;/secret",
        "/static/./main.3f9a12bc77d01e55.js",
        "/static//main.3f9a12bc77d01e55.js",
        "/static%2fmain.3f9a12bc77d01e55.js/",
        // G4
        "/static/%00",
        "/static/main.3f9a12bc77d01e55.js%00",
        "/static/main.3f9a12bc77d01e55.js%00.png",
        // Broken escapes
        "/static/%",
        "/static/%2",
        "/static/%zz",
        "/static/%u002e",
        // Ours, beside the folder
        "/assets.records/",
        "/assets.records/1",
        "/secret",
        // G17, G18
        "/3f9a12bc77d01e55",
        "/STATIC/main.3f9a12bc77d01e55.js",
        "/static/MAIN.3f9a12bc77d01e55.js",
        "/static/main.3F9A12BC77D01E55.js",
        // Names
        "/",
        "//",
        "/static",
        &long,
        &deep,
        "*",
    ] {
        let answer = front.get(path, "");
        let shown: String = path.chars().take(60).collect();
        assert!([400, 404].contains(&answer.status), "{shown}: {}", answer.head);
        refused(&answer, &shown);
    }
    // Percent signs are decoded once: the same file under another spelling of its name.
    assert_eq!(front.get("/static/%6dain.3f9a12bc77d01e55.js", "").status, 200);
    // G12
    let unknown = front.get("/static/never.0123456789abcdef.js", "");
    assert_eq!((unknown.status, unknown.header("etag")), (404, None));
    still_serves(&front, "paths");
}

#[test]
fn request_lines_and_heads_have_an_end() {
    let front = front();
    let head = |line: &str, more: &str| format!("{line}\r\nHost: a\r\nConnection: close\r\n{more}\r\n");
    let js = format!("/static/{JS}");
    let get = format!("GET {js} HTTP/1.1");
    let tags = "\"0123456789abcdef\",".repeat(64 << 10);
    let many = (0..500).map(|n| format!("x-{n}: 1\r\n")).collect::<String>();
    for (what, request, statuses) in [
        // G5: the path counts, whoever's the host.
        (
            "absolute",
            head(&format!("GET http://a{js} HTTP/1.1"), ""),
            &[200][..],
        ),
        (
            "absolute away",
            head("GET http://b/../../etc/passwd HTTP/1.1", ""),
            &[404],
        ),
        // G15: assets are the same for all tenants of a port.
        (
            "another host",
            format!("{get}\r\nHost: other.example\r\nConnection: close\r\n\r\n"),
            &[200],
        ),
        ("no host", format!("{get}\r\nConnection: close\r\n\r\n"), &[400]),
        ("two hosts", head(&get, "Host: b\r\n"), &[400]),
        (
            "long target",
            head(&format!("GET /{} HTTP/1.1", "a".repeat(70_000)), ""),
            &[414, 431],
        ),
        (
            "long header",
            head(&get, &format!("x-long: {}\r\n", "a".repeat(100_000))),
            &[431],
        ),
        // G9
        (
            "If-None-Match of a mebibyte",
            head(&get, &format!("If-None-Match: {tags}\r\n")),
            &[431],
        ),
        ("many headers", head(&get, &many), &[431]),
        ("no method", head("/ HTTP/1.1", ""), &[400]),
        ("no version", head("GET /", ""), &[400]),
        ("version 9", head("GET / HTTP/9.9", ""), &[400]),
        ("space in the target", head("GET /a b HTTP/1.1", ""), &[400]),
        (
            "control byte in the target",
            head("GET /a\u{1} HTTP/1.1", ""),
            &[400],
        ),
        ("NUL in a header", head(&get, "x: a\0b\r\n"), &[400]),
        ("space before the colon", head(&get, "x : 1\r\n"), &[400]),
        ("folded header", head(&get, "x: 1\r\n 2\r\n"), &[400]),
        ("TRACE", head("TRACE / HTTP/1.1", ""), &[405]),
        ("CONNECT", head("CONNECT a:443 HTTP/1.1", ""), &[400, 405]),
        ("made up", head("BREW / HTTP/1.1", ""), &[405]),
    ] {
        // A connection that is reset while the rest of a long head arrives may lose the answer.
        if let Some(answer) = front.send(request.as_bytes()) {
            assert!(statuses.contains(&answer.status), "{what}: {}", answer.head);
            if answer.status >= 400 && answer.status != 414 {
                refused(&answer, what);
            }
            if answer.status == 405 {
                assert_eq!(answer.header("allow"), Some("GET, HEAD, OPTIONS"));
            }
        } else {
            assert!(statuses.contains(&431), "{what}: no answer");
        }
        still_serves(&front, what);
    }
}

/// G6, G10: one connection, one answer; what was hidden behind the first request is never read as a second.
#[test]
fn nothing_is_smuggled() {
    let front = front();
    let hidden = "GET /static/index.html HTTP/1.1\r\nHost: a\r\n\r\n";
    let js = format!("/static/{JS}");
    for (what, headers, body) in [
        (
            "two lengths",
            "Content-Length: 4\r\nContent-Length: 5\r\n",
            "abcd",
        ),
        ("two lengths in one", "Content-Length: 4, 4\r\n", "abcd"),
        (
            "the same length twice",
            "Content-Length: 4\r\nContent-Length: 4\r\n",
            "abcd",
        ),
        ("a negative length", "Content-Length: -1\r\n", ""),
        ("a signed length", "Content-Length: +4\r\n", "abcd"),
        ("a length in hexadecimal", "Content-Length: 0x4\r\n", "abcd"),
        (
            "a length beyond numbers",
            "Content-Length: 99999999999999999999\r\n",
            "",
        ),
        (
            "TE and CL",
            "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
            "0\r\n\r\n",
        ),
        (
            "CL and TE",
            "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
            "0\r\n\r\n",
        ),
        ("TE of another kind", "Transfer-Encoding: identity\r\n", ""),
        (
            "chunked not last",
            "Transfer-Encoding: chunked, gzip\r\n",
            "0\r\n\r\n",
        ),
        (
            "chunked twice",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "0\r\n\r\n",
        ),
        ("hidden TE", "Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
        ("folded TE", "Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"),
        ("TE with a tab", "Transfer-Encoding:\tchunked\r\n", "0\r\n\r\n"),
        (
            "space before the colon",
            "Transfer-Encoding : chunked\r\n",
            "0\r\n\r\n",
        ),
        (
            "a bad chunk",
            "Transfer-Encoding: chunked\r\n",
            "zz\r\nabc\r\n0\r\n\r\n",
        ),
        (
            "an endless chunk size",
            "Transfer-Encoding: chunked\r\n",
            "ffffffffffffffffff\r\n",
        ),
        ("a body", "Content-Length: 4\r\n", "abcd"),
    ] {
        for method in ["GET", "HEAD"] {
            let request = format!("{method} {js} HTTP/1.1\r\nHost: a\r\n{headers}\r\n{body}{hidden}");
            let mut stream = TcpStream::connect(front.address).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let _ = stream.write_all(request.as_bytes());
            let mut said = Vec::new();
            // It ends by itself, perhaps with a reset for what was not read.
            let _ = stream.read_to_end(&mut said);
            let said = String::from_utf8_lossy(&said);
            assert!(said.matches("HTTP/1.1 ").count() <= 1, "{what}: {said}");
            assert!(
                said.is_empty() || said.starts_with("HTTP/1.1 400 "),
                "{what}: {said}"
            );
        }
        still_serves(&front, what);
    }
}

/// G7, G8
#[test]
fn ranges_are_one_part_or_the_whole() {
    let front = front();
    let path = format!("/static/{JS}");
    let many = format!("bytes={}", "0-0,".repeat(2_000));
    for (range, status, body) in [
        ("bytes=0-0", 206, "0"),
        ("bytes=-1", 206, "9"),
        ("bytes=5-", 206, "56789"),
        ("bytes=5-99999999999999999999", 206, "56789"),
        ("bytes=9-1", 200, "0123456789"),
        ("bytes=0-0,-1", 200, "0123456789"),
        (&many, 200, "0123456789"),
        ("bytes=9223372036854775808-", 416, ""),
        ("bytes=18446744073709551615-18446744073709551615", 416, ""),
        ("bytes=18446744073709551616-", 416, ""),
        ("bytes=10-", 416, ""),
        ("bytes=-0", 416, ""),
        ("bytes=", 200, "0123456789"),
        ("bytes=-", 200, "0123456789"),
        ("bytes=a-b", 200, "0123456789"),
        ("bytes=0x0-0x1", 200, "0123456789"),
        ("bytes=+0-+1", 200, "0123456789"),
        ("bytes=0--1", 200, "0123456789"),
        ("bytes 0-1", 200, "0123456789"),
        ("items=0-1", 200, "0123456789"),
        ("\u{fffd}", 200, "0123456789"),
    ] {
        let answer = front.get(&path, &format!("Range: {range}\r\n"));
        let shown: String = range.chars().take(40).collect();
        assert_eq!(answer.status, status, "{shown}");
        assert_eq!(answer.body, body.as_bytes(), "{shown}");
        if status == 416 {
            assert_eq!(answer.header("content-range"), Some("bytes */10"), "{shown}");
            assert_eq!(answer.header("cache-control"), Some("no-store"), "{shown}");
        }
    }
    let head = front.ask("HEAD", &path, "Range: bytes=0-0\r\n");
    assert_eq!((head.status, head.header("content-length")), (200, Some("10")));
}

/// G13, G14: what a browser may run is told apart from what it may not.
#[test]
fn types_are_not_guessed() {
    let front = front();
    let svg = front.get("/static/logo.5d41402abc4b2a76.svg", "");
    assert_eq!(svg.header("content-type"), Some("image/svg+xml"));
    assert_eq!(svg.header("x-content-type-options"), Some("nosniff"));
}

#[test]
fn links_in_the_folder_are_not_followed() {
    let front = front();
    let stored = front.stored(JS);
    let aside = front.dir.path().join("aside");
    fs::rename(&stored, &aside).unwrap();
    let secret = front.dir.path().join("secret");
    for target in [&secret, &aside, &fs::canonicalize("/proc/self/environ").unwrap()] {
        symlink(target, &stored).unwrap();
        let answer = front.get(&format!("/static/{JS}"), "");
        assert_eq!(answer.status, 503, "{}", target.display());
        refused(&answer, "a link");
        fs::remove_file(&stored).unwrap();
    }
    // A folder on the way is a link; a folder, a FIFO is in the file's place.
    let folder = stored.parent().unwrap().to_owned();
    let away = front.dir.path().join("away");
    fs::create_dir(&away).unwrap();
    fs::copy(&aside, away.join(JS)).unwrap();
    fs::rename(&folder, front.dir.path().join("was")).unwrap();
    symlink(&away, &folder).unwrap();
    assert_eq!(front.get(&format!("/static/{JS}"), "").status, 503);
    fs::remove_file(&folder).unwrap();
    fs::create_dir_all(&stored).unwrap();
    assert_eq!(front.get(&format!("/static/{JS}"), "").status, 503);
    fs::remove_dir(&stored).unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(&stored)
        .status()
        .unwrap();
    assert!(made.success());
    assert_eq!(front.get(&format!("/static/{JS}"), "").status, 503);
    fs::remove_file(&stored).unwrap();
    fs::rename(&aside, &stored).unwrap();
    still_serves(&front, "links");
}

/// Slow loris: a head that comes byte by byte, one that never comes, and one that never goes on.
#[test]
fn a_head_that_does_not_come_is_not_waited_for() {
    let mut start = Start::of(&[(JS, b"0123456789")]);
    start.port = Port {
        limits: Limits {
            // Also for the good request at the end, whose client may be made to wait.
            head: Duration::from_secs(3),
            idle: Duration::from_secs(3),
            grace: Duration::from_millis(200),
            ..Limits::default()
        },
        ..Port::default()
    };
    let front = Front::start(start);
    let begun = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(front.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(bytes).unwrap();
        stream
    };
    let kept = format!("GET /static/{JS} HTTP/1.1\r\nHost: a\r\n\r\n");
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let silent: Vec<TcpStream> = [
        &b""[..],
        b"G",
        b"GET /",
        b"GET / HTTP/1.1\r\nHost: a\r\nx",
        b"PRI",
        preface,
    ]
    .into_iter()
    .chain([kept.as_bytes()])
    .map(begun)
    .collect();
    let dripping = begun(b"GET / HTTP/1.1\r\n");
    let drips = std::thread::spawn(move || {
        let mut dripping = dripping;
        // Ends when the other side is gone.
        while dripping.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    for mut stream in silent {
        let mut said = Vec::new();
        let end = stream.read_to_end(&mut said);
        assert!(end.is_ok() || !matches!(end.unwrap_err().kind(), std::io::ErrorKind::WouldBlock));
    }
    drips.join().unwrap();
    still_serves(&front, "slow heads");
}
