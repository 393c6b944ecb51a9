//! A small web server over a handed-over listener, with good and bad manners chosen by the environment.
//!
//! `FIXTURE=` a comma list of: `exit` (ends with status 3), `exit-later` (ends once the file `FIXTURE_TRIGGER` is there),
//! `never-ready`, `speak-later` (says something at the trigger), `sick` (probes are answered with 500), `sick-later` (so they are from the trigger on), `slow` (takes a while to boot), `shutdown-on-drain` (shuts its
//! listener down when it is to drain), `shutdown-later` (does so at the trigger), `close-on-drain` and `close-later` (it closes
//! it), `stubborn` (a child in a session of its own),
//! `noisy` (writes much), `prefork` (a child serves, not it itself), `orphan` (so does
//! a grandchild whose parent has ended), `bind` (takes no listener, binds each address of `FIXTURE_BIND` by itself), `idle`
//! (does neither), `bind-later` (binds a UDP socket and `FIXTURE_BIND` once more at the trigger), `main-pid` (as `prefork`, and
//! it names that child as its main process), `beats` (says WATCHDOG=1 until the trigger), `errno` (tells an error and ends),
//! `reloads` (is ready too early after HUP, then reloads at the trigger), `stores` (leaves a file with the keeper; answers its
//! content at /stored), `barrier` (waits until what it said is done). With the argument `--check` it is a client: it asks at
//! SHIP_PROBE_ADDR and fails when another release answers; with `--check-udp` it does so by a datagram. What a UDP listener gets
//! is answered with the release.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a fixture stops at the first surprise"
)]

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

fn main() {
    for word in std::env::args() {
        match word.as_str() {
            "--check" => check(),
            "--check-udp" => check_udp(),
            _ => {}
        }
    }
    let manners = std::env::var("FIXTURE").unwrap_or_default();
    let has = |name: &str| manners.split(',').any(|word| word == name);
    println!("release {} says hello", var("SHIP_RELEASE"));
    eprintln!("and complains a little");
    assert_eq!(
        std::env::current_dir().unwrap(),
        std::fs::canonicalize(var("PWD")).unwrap()
    );
    if has("reloads") {
        reload_at_hup();
    }
    if has("errno") {
        say("STATUS=cannot go on\nERRNO=13\n", &[]);
        std::process::exit(1);
    }
    if has("beats") {
        beat_until_trigger();
    }
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
    if has("prefork") || has("orphan") || has("main-pid") {
        work_elsewhere(has("orphan"), has("main-pid"));
    }
    let sick = has("sick");
    let count: usize = std::env::var("LISTEN_FDS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(0);
    if count > 0 {
        assert_eq!(var("LISTEN_PID"), std::process::id().to_string());
    }
    let names = var("LISTEN_FDNAMES");
    let stored = names.split(':').position(|name| name == "cache");
    let stored = stored.map(|index| {
        // SAFETY: LISTEN_FDNAMES says that this descriptor is ours, and no listener.
        #[allow(unsafe_code, reason = "descriptors come as numbers")]
        let file = unsafe { OwnedFd::from_raw_fd(3 + index as i32) };
        let mut bytes = [0_u8; 64];
        let length = rustix::io::pread(&file, &mut bytes, 0).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    });
    println!("found in store: {stored:?}");
    if has("stores") {
        let file = rustix::fs::memfd_create("cache", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::io::write(&file, format!("of release {}", var("SHIP_RELEASE")).as_bytes()).unwrap();
        say("FDSTOREREMOVE=1\nFDNAME=cache\n", &[]);
        say("FDSTORE=1\nFDNAME=cache\n", &[&file]);
    }
    let sockets: Vec<_> = if has("bind") {
        bind_all()
    } else if has("idle") {
        Vec::new()
    } else {
        // SAFETY: LISTEN_FDS says that these descriptors are ours.
        #[allow(unsafe_code, reason = "descriptors come as numbers")]
        let handed = |index| unsafe { OwnedFd::from_raw_fd(3 + index as i32) };
        (0..count - usize::from(stored.is_some())).map(handed).collect()
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
            let shut = || socket.try_clone().unwrap();
            if has("shutdown-on-drain") {
                let shut = shut();
                at_file(var("SHIP_DRAIN_FILE").into(), move || {
                    rustix::net::shutdown(&shut, rustix::net::Shutdown::Both).unwrap();
                });
            }
            if has("shutdown-later") {
                let shut = shut();
                at_file(var("FIXTURE_TRIGGER").into(), move || {
                    rustix::net::shutdown(&shut, rustix::net::Shutdown::Both).unwrap();
                });
            }
            let close_at = match (has("close-later"), has("close-on-drain")) {
                (true, _) => Some(var("FIXTURE_TRIGGER")),
                (_, true) => Some(var("SHIP_DRAIN_FILE")),
                _ => None,
            };
            thread::spawn(move || serve(socket, sick, close_at.map(PathBuf::from)))
        })
        .collect();
    if std::env::var_os("NOTIFY_SOCKET").is_some() && !has("never-ready") {
        say("STATUS=serving\nREADY=1\n", &[]);
    }
    if has("barrier") {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        say("BARRIER=1\n", &[&writer]);
        drop(writer);
        let mut byte = [0_u8; 1];
        while rustix::io::read(&reader, &mut byte[..]) != Ok(0) {}
        println!("all that was said is done");
    }
    println!("up as generation {}", var("SHIP_GENERATION"));
    for server in servers {
        let _ = server.join();
    }
    loop {
        thread::park();
    }
}

/// Sends a datagram to the keeper, with descriptors.
fn say(words: &str, descriptors: &[&OwnedFd]) {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = rustix::net::SendAncillaryBuffer::new(&mut space);
    let borrowed: Vec<_> = descriptors.iter().map(|descriptor| descriptor.as_fd()).collect();
    if !borrowed.is_empty() {
        assert!(ancillary.push(rustix::net::SendAncillaryMessage::ScmRights(&borrowed)));
    }
    let socket = UnixDatagram::unbound().unwrap();
    socket.connect(var("NOTIFY_SOCKET")).unwrap();
    let words = [std::io::IoSlice::new(words.as_bytes())];
    rustix::net::sendmsg(&socket, &words, &mut ancillary, rustix::net::SendFlags::empty()).unwrap();
}

fn beat_until_trigger() {
    assert_eq!(var("WATCHDOG_PID"), std::process::id().to_string());
    let period: u64 = var("WATCHDOG_USEC").parse().unwrap();
    thread::spawn(move || {
        while !Path::new(&var("FIXTURE_TRIGGER")).exists() {
            say("WATCHDOG=1\n", &[]);
            thread::sleep(Duration::from_micros(period / 10));
        }
    });
}

/// After HUP it lies that it is ready, and reloads when the trigger comes.
fn reload_at_hup() {
    let hup = rustix::process::Signal::HUP.as_raw();
    // SAFETY: the set is made by sigemptyset before it is used, and no other thread runs yet, so all inherit the mask.
    #[allow(unsafe_code, reason = "signals have no safe face here")]
    let set = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, hup);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        set
    };
    thread::spawn(move || {
        let mut which = 0;
        // SAFETY: both pointers are to variables of this thread.
        #[allow(unsafe_code, reason = "signals have no safe face here")]
        let waited = unsafe { libc::sigwait(&raw const set, &raw mut which) };
        assert_eq!((waited, which), (0, hup));
        say("READY=1\nSTATUS=too early\n", &[]);
        at_file(var("FIXTURE_TRIGGER").into(), || {
            let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
            let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
            say(&format!("RELOADING=1\nMONOTONIC_USEC={micros}\n"), &[]);
            say("READY=1\nSTATUS=reloaded\n", &[]);
        });
    });
}

/// Asks once where a probe is to ask.
fn check() -> ! {
    let mut stream = std::net::TcpStream::connect(var("SHIP_PROBE_ADDR")).unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
    let wanted = format!("release {}", var("SHIP_RELEASE"));
    println!("{wanted}? {:?}", answer.lines().last());
    std::process::exit(i32::from(!answer.ends_with(&wanted)));
}

/// As [`check`], by a datagram.
fn check_udp() -> ! {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    socket.connect(var("SHIP_PROBE_ADDR")).unwrap();
    socket.send(b"?").unwrap();
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer).unwrap();
    let wanted = format!("release {}", var("SHIP_RELEASE"));
    println!("{wanted}? {:?}", String::from_utf8_lossy(&answer[..length]));
    std::process::exit(i32::from(&answer[..length] != wanted.as_bytes()));
}

/// Lets another process serve, which has the listeners from this one, and waits until it is killed.
fn work_elsewhere(orphan: bool, names_it: bool) -> ! {
    let start = "LISTEN_PID=$$ exec \"$0\"";
    let script = if orphan {
        format!("setsid sh -c '{start}' \"$0\" &")
    } else {
        start.to_owned()
    };
    #[allow(clippy::zombie_processes, reason = "it ends with its generation")]
    let child = std::process::Command::new("sh")
        .args(["-c", &script])
        .arg(std::env::current_exe().unwrap())
        .env("FIXTURE", "")
        .spawn()
        .unwrap();
    if names_it {
        say(&format!("MAINPID={}\n", child.id()), &[]);
    }
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

fn serve(socket: OwnedFd, sick: bool, close_at: Option<PathBuf>) {
    let kind = rustix::net::sockopt::socket_type(&socket).unwrap();
    let family = rustix::net::sockopt::socket_domain(&socket).unwrap();
    if kind == rustix::net::SocketType::DGRAM {
        serve_udp(socket);
    } else if family == rustix::net::AddressFamily::UNIX {
        serve_unix(socket, sick);
    } else {
        serve_tcp(socket, sick, close_at);
    }
}

fn serve_udp(socket: OwnedFd) {
    let socket = UdpSocket::from(socket);
    let mut datagram = [0; 2048];
    while let Ok((_, client)) = socket.recv_from(&mut datagram) {
        let answer = format!("release {}", var("SHIP_RELEASE"));
        let _ = socket.send_to(answer.as_bytes(), client);
    }
}

/// Waits for a connection until its file is there.
fn waits(listener: &TcpListener, close_at: &Path) -> bool {
    loop {
        let mut polled = [rustix::event::PollFd::new(listener, rustix::event::PollFlags::IN)];
        let pause = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 5_000_000,
        };
        if close_at.exists() {
            return false;
        }
        if rustix::event::poll(&mut polled, Some(&pause)).unwrap_or(0) > 0 {
            return true;
        }
    }
}

fn serve_tcp(socket: OwnedFd, sick: bool, close_at: Option<PathBuf>) {
    let listener = TcpListener::from(socket);
    while close_at.as_ref().is_none_or(|file| waits(&listener, file))
        && let Ok((stream, _)) = listener.accept()
    {
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
            "/healthz" if sick || sick_later() => (500, "sick".to_owned()),
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

fn sick_later() -> bool {
    let manners = var("FIXTURE");
    manners.split(',').any(|word| word == "sick-later") && Path::new(&var("FIXTURE_TRIGGER")).exists()
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
