//! An open page stays on its release while a server still runs it, behind HAProxy as `agent/drain/skew.cfg` has it, and behind
//! nginx as `agent/drain/skew-nginx.conf` does.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ship_tests::{Haproxy, Nginx};

const RECIPE: &str = include_str!("../../../agent/drain/skew.cfg");
const NGINX: &str = include_str!("../../../agent/drain/skew-nginx.conf");

/// An application on one host, which says what it runs.
struct App {
    address: SocketAddr,
    release: Arc<AtomicU64>,
    /// Requests that it carried out.
    done: Arc<AtomicU64>,
}

impl App {
    fn start(host: &'static str) -> Self {
        Self::with(host, |_| String::new())
    }

    /// One that sets the cookie by itself.
    fn that_sets_the_cookie(host: &'static str) -> Self {
        Self::with(host, |release| {
            format!("Set-Cookie: ship-release={release}; Path=/; SameSite=Lax\r\n")
        })
    }

    fn with(host: &'static str, more: fn(u64) -> String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap_or_else(|error| panic!("listen: {error}"));
        let address = listener.local_addr().unwrap_or_else(|error| panic!("{error}"));
        let app = Self {
            address,
            release: Arc::new(AtomicU64::new(4)),
            done: Arc::default(),
        };
        let (runs, done) = (Arc::clone(&app.release), Arc::clone(&app.done));
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let release = runs.load(Ordering::SeqCst);
                let _ = read_head(&mut stream).and_then(|head| {
                    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
                    let wants = head.lines().find_map(|line| line.strip_prefix("ship-wants: "));
                    if wants.is_some_and(|wants| wants != release.to_string()) {
                        let no = "HTTP/1.1 504 Another Release\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                        return stream.write_all(no.as_bytes());
                    }
                    done.fetch_add(1, Ordering::SeqCst);
                    write!(
                        stream,
                        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nShip-Release: {release}\r\n{}Content-Length: {}\r\n\
                         Connection: close\r\n\r\n{host}",
                        more(release),
                        host.len()
                    )
                });
            }
        });
        app
    }

    fn switch(&self, release: u64) {
        self.release.store(release, Ordering::SeqCst);
    }
}

fn read_head(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte)? == 1 {
        head.push(byte[0]);
    }
    Ok(head)
}

/// Who answered: the host, its release, and whether it set the cookie to that.
fn ask(front: SocketAddr, headers: &str) -> (String, u64) {
    ask_by("GET", front, headers)
}

fn ask_by(method: &str, front: SocketAddr, headers: &str) -> (String, u64) {
    let asked = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(front)?;
        write!(
            stream,
            "{method} / HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = asked().unwrap_or_else(|error| panic!("no answer: {error}"));
    let (head, host) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("{answer}"));
    let head = head.to_ascii_lowercase();
    let release = head
        .lines()
        .find_map(|line| line.strip_prefix("ship-release: ")?.parse().ok());
    let release = release.unwrap_or_else(|| panic!("{answer}"));
    assert!(
        head.contains(&format!("set-cookie: ship-release={release}; path=/")),
        "{answer}"
    );
    (host.to_owned(), release)
}

/// Everybody who answers twenty of such requests.
fn who(front: SocketAddr, headers: &str) -> BTreeSet<(String, u64)> {
    (0..20).map(|_| ask(front, headers)).collect()
}

fn all(wanted: &[(&str, u64)]) -> BTreeSet<(String, u64)> {
    wanted
        .iter()
        .map(|(host, release)| ((*host).to_owned(), *release))
        .collect()
}

#[test]
fn an_open_page_stays_on_its_release_while_a_server_runs_it() {
    let (h1, h2) = (App::start("h1"), App::start("h2"));
    let map = tempfile::NamedTempFile::new().unwrap_or_else(|error| panic!("a file for the map: {error}"));
    let haproxy = Haproxy::with(|socket, front| {
        let recipe = RECIPE
            .replace("<ADDRESS>", &front.to_string())
            .replace("<SERVER 1>", &h1.address.to_string())
            .replace("<SERVER 2>", &h2.address.to_string())
            .replace("<MAP>", &map.path().display().to_string());
        format!(
            "global\n    stats socket {} level admin\n{recipe}",
            socket.display()
        )
    });
    let Some(haproxy) = haproxy else {
        return ship_tests::skipped("skew", "haproxy is not installed: run tests/setup");
    };
    let front = haproxy.front();
    let (old, new) = ("Cookie: a=b; ship-release=4\r\n", "Cookie: ship-release=5\r\n");
    let both_old = all(&[("h1", 4), ("h2", 4)]);
    assert_eq!(who(front, ""), both_old);
    assert_eq!(
        who(front, old),
        both_old,
        "outside of a rollout nothing is pinned"
    );

    h1.switch(5);
    assert_eq!(who(front, ""), all(&[("h1", 5), ("h2", 4)]), "learnt from these");
    assert_eq!(who(front, old), all(&[("h2", 4)]));
    assert_eq!(who(front, new), all(&[("h1", 5)]));
    let by_header = format!("{new}Ship-Release: 4\r\n");
    assert_eq!(
        who(front, &by_header),
        all(&[("h2", 4)]),
        "what a page says of itself comes first"
    );
    let nobody = "Cookie: ship-release=3\r\n";
    assert_eq!(
        who(front, nobody),
        all(&[("h1", 5), ("h2", 4)]),
        "nobody runs it any more"
    );

    h2.switch(5);
    assert_eq!(
        ask(front, old),
        ("h2".to_owned(), 5),
        "the first answer after a switch tells of it"
    );
    assert_eq!(who(front, old), all(&[("h1", 5), ("h2", 5)]));
    h1.switch(4);
    who(front, "");
    assert_eq!(who(front, old), all(&[("h1", 4)]), "a revert is seen as well");
}

#[test]
fn nginx_keeps_an_open_page_on_its_release_while_a_server_runs_it() {
    let (h1, h2) = (App::that_sets_the_cookie("h1"), App::that_sets_the_cookie("h2"));
    let nginx = Nginx::with(|front| {
        NGINX
            .replace("<ADDRESS>", &front.to_string())
            .replace("<SERVER 1>", &h1.address.to_string())
            .replace("<SERVER 2>", &h2.address.to_string())
    });
    let Some(nginx) = nginx else {
        return ship_tests::skipped("skew behind nginx", "nginx is not installed: run tests/setup");
    };
    let front = nginx.front();
    let (old, new) = ("Cookie: a=b; ship-release=4\r\n", "Cookie: ship-release=5\r\n");
    let both_old = all(&[("h1", 4), ("h2", 4)]);
    assert_eq!(who(front, ""), both_old);
    assert_eq!(
        who(front, old),
        both_old,
        "outside of a rollout nothing is pinned"
    );

    // Right from the first call on, whichever server is next.
    h1.switch(5);
    for method in ["GET", "POST"] {
        for _ in 0..10 {
            assert_eq!(ask_by(method, front, old), ("h2".to_owned(), 4), "{method}");
            assert_eq!(ask_by(method, front, new), ("h1".to_owned(), 5), "{method}");
        }
    }
    assert_eq!(who(front, ""), all(&[("h1", 5), ("h2", 4)]));
    let by_header = format!("{new}Ship-Release: 4\r\n");
    assert_eq!(
        who(front, &by_header),
        all(&[("h2", 4)]),
        "what a page says of itself comes first"
    );
    // Nobody runs it any more: each call is carried out, and once.
    let done = || h1.done.load(Ordering::SeqCst) + h2.done.load(Ordering::SeqCst);
    let before = done();
    for method in ["GET", "POST"] {
        let nobody = "Cookie: ship-release=3\r\n";
        let answered: BTreeSet<_> = (0..20).map(|_| ask_by(method, front, nobody)).collect();
        assert!(answered.is_subset(&all(&[("h1", 5), ("h2", 4)])), "{method}");
    }
    assert_eq!(done() - before, 40);

    h2.switch(5);
    assert_eq!(who(front, old), all(&[("h1", 5), ("h2", 5)]));
    h1.switch(4);
    assert_eq!(who(front, old), all(&[("h1", 4)]), "a revert is seen as well");
}
