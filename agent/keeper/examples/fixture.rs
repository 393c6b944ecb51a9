//! A small web server over a handed-over listener, with good and bad manners chosen by the environment.
//!
//! `FIXTURE=` a comma list of: `exit` (ends with status 3), `exit-later` (ends once the file `FIXTURE_TRIGGER` is there),
//! `never-ready`, `speak-later` (says something at the trigger), `sick` (probes are answered with 500), `slow` (takes a while to boot), `shutdown-on-drain` (shuts its
//! listener down when it is to drain), `shutdown-later` (does so at the trigger), `stubborn` (a child in a session of its own),
//! `unix` (the listener is a Unix socket), `noisy` (writes much), `prefork` (a child serves, not it itself), `orphan` (so does
//! a grandchild whose parent has ended), `bind` (takes no listener, binds each address of `FIXTURE_BIND` by itself), `idle`
//! (does neither), `bind-later` (binds a UDP socket and `FIXTURE_BIND` once more at the trigger).
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a fixture stops at the first surprise"
)]

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

fn main() {
    let manners = std::env::var("FIXTURE").unwrap_or_default();
    let has = |name: &str| manners.split(',').any(|word| word == name);
    println!("release {} says hello", var("SHIP_RELEASE"));
    eprintln!("and complains a little");
    assert_eq!(
        std::env::current_dir().unwrap().as_os_str(),
        std::env::var_os("PWD").unwrap().as_os_str()
    );
    if has("exit") {
        println!("cannot go on: the database is on fire");
        std::process::exit(3);
    }
    if has("noisy") {
        for number in 0..20_000 {
            println!("line {number} {}", "x".repeat(100));
        }
    }
    if has("stubborn") {
        #[allow(clippy::zombie_processes, reason = "to outlive its parent is the point")]
        std::process::Command::new("setsid")
            .args(["sleep", "1000"])
            .spawn()
            .unwrap();
    }
    if has("slow") {
        thread::sleep(Duration::from_millis(300));
    }
    if has("exit-later") {
        at_file(var("FIXTURE_TRIGGER").into(), || {
            println!("something broke");
            std::process::exit(4)
        });
    }
    if has("speak-later") {
        let trigger = var("FIXTURE_TRIGGER");
        at_file(trigger.clone().into(), move || {
            println!("nobody may be listening");
            std::fs::write(trigger + ".done", b"").unwrap();
        });
    }
    if has("prefork") || has("orphan") {
        work_elsewhere(has("orphan"));
    }
    let sick = has("sick");
    let count: usize = std::env::var("LISTEN_FDS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(0);
    if count > 0 {
        assert_eq!(var("LISTEN_PID"), std::process::id().to_string());
    }
    let sockets: Vec<_> = if has("bind") {
        bind_all()
    } else if has("idle") {
        Vec::new()
    } else {
        // SAFETY: LISTEN_FDS says that these descriptors are ours.
        #[allow(unsafe_code, reason = "descriptors come as numbers")]
        let handed = |index| unsafe { OwnedFd::from_raw_fd(3 + index as i32) };
        (0..count).map(handed).collect()
    };
    if has("bind-later") {
        let trigger = var("FIXTURE_TRIGGER");
        at_file(trigger.clone().into(), move || {
            let bound = std::net::UdpSocket::bind("127.0.0.1:0").is_ok() && !bind_all().is_empty();
            std::fs::write(trigger + ".done", bound.to_string()).unwrap();
        });
    }
    let servers: Vec<_> = sockets
        .into_iter()
        .map(|socket| {
            let shut = socket.try_clone().unwrap();
            if has("shutdown-on-drain") {
                let shut = shut.try_clone().unwrap();
                at_file(var("SHIP_DRAIN_FILE").into(), move || {
                    rustix::net::shutdown(&shut, rustix::net::Shutdown::Both).unwrap();
                });
            }
            if has("shutdown-later") {
                at_file(var("FIXTURE_TRIGGER").into(), move || {
                    rustix::net::shutdown(&shut, rustix::net::Shutdown::Both).unwrap();
                });
            }
            let unix = has("unix");
            thread::spawn(move || {
                if unix {
                    serve_unix(socket, sick)
                } else {
                    serve_tcp(socket, sick)
                }
            })
        })
        .collect();
    if let Some(path) = std::env::var_os("NOTIFY_SOCKET").filter(|_| !has("never-ready")) {
        let socket = UnixDatagram::unbound().unwrap();
        socket.send_to(b"STATUS=serving\nREADY=1\n", path).unwrap();
    }
    println!("up as generation {}", var("SHIP_GENERATION"));
    for server in servers {
        let _ = server.join();
    }
    loop {
        thread::park();
    }
}

/// Lets another process serve, which has the listeners from this one, and waits until it is killed.
fn work_elsewhere(orphan: bool) -> ! {
    let start = "LISTEN_PID=$$ exec \"$0\"";
    let script = if orphan {
        format!("setsid sh -c '{start}' \"$0\" &")
    } else {
        start.to_owned()
    };
    #[allow(clippy::zombie_processes, reason = "it ends with its generation")]
    std::process::Command::new("sh")
        .args(["-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env("FIXTURE", "")
        .spawn()
        .unwrap();
    loop {
        thread::park();
    }
}

fn bind_all() -> Vec<OwnedFd> {
    let addresses = var("FIXTURE_BIND");
    let addresses = addresses.split(',').filter(|address| !address.is_empty());
    addresses
        .map(|address| TcpListener::bind(address).unwrap().into())
        .collect()
}

fn var(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// Does something once the file is there.
fn at_file(path: PathBuf, action: impl FnOnce() + Send + 'static) {
    thread::spawn(move || {
        while !path.exists() {
            thread::sleep(Duration::from_millis(5));
        }
        action();
    });
}

fn serve_tcp(socket: OwnedFd, sick: bool) {
    let listener = TcpListener::from(socket);
    while let Ok((stream, _)) = listener.accept() {
        thread::spawn(move || {
            let reader = BufReader::new(stream.try_clone().unwrap());
            answer(reader, &stream, sick);
            let _ = stream.shutdown(Shutdown::Write);
        });
    }
    println!("listener {} is shut", listener.as_fd().as_raw_fd());
}

fn serve_unix(socket: OwnedFd, sick: bool) {
    let listener = UnixListener::from(socket);
    while let Ok((stream, _)) = listener.accept() {
        thread::spawn(move || answer(BufReader::new(stream.try_clone().unwrap()), &stream, sick));
    }
}

fn answer(mut reader: impl BufRead, mut writer: impl Write, sick: bool) {
    loop {
        let mut request = String::new();
        if reader.read_line(&mut request).unwrap_or(0) == 0 {
            return;
        }
        let mut close = Path::new(&var("SHIP_DRAIN_FILE")).exists();
        loop {
            let mut header = String::new();
            if reader.read_line(&mut header).unwrap_or(0) == 0 || header.trim().is_empty() {
                break;
            }
            close |= header.to_ascii_lowercase().starts_with("connection: close");
        }
        let path = request.split(' ').nth(1).unwrap_or("/");
        let (code, body) = match path {
            "/healthz" if sick => (500, "sick".to_owned()),
            "/healthz" => (200, "well".to_owned()),
            "/env" => (
                200,
                std::env::vars()
                    .map(|(name, value)| format!("{name}={value}\n"))
                    .collect(),
            ),
            "/fds" => (200, descriptors()),
            "/wait" => {
                let mut rest = [0_u8; 1];
                // Answered only when the client sends one more byte.
                let _ = reader.read(&mut rest);
                (200, format!("release {}", var("SHIP_RELEASE")))
            }
            _ => (200, format!("release {}", var("SHIP_RELEASE"))),
        };
        let connection = if close { "close" } else { "keep-alive" };
        let head = format!(
            "HTTP/1.1 {code} X\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n",
            body.len()
        );
        if writer.write_all((head + &body).as_bytes()).is_err() || close {
            return;
        }
    }
}

fn descriptors() -> String {
    let mut all: Vec<_> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let target = std::fs::read_link(entry.path()).ok()?;
            Some(format!("{} {}\n", entry.file_name().to_str()?, target.display()))
        })
        .collect();
    all.sort();
    all.concat()
}
