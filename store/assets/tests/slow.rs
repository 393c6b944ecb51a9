//! A thousand clients that take a large file as slowly as they can: memory stays bounded, and others do not wait.
//! Alone in its process, whose memory is what is looked at.
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

use fixture::{Front, JS, PATIENCE, Start, text};

const CLIENTS: usize = 1_000;

/// In KiB.
fn memory(which: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(which)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Both ends of every connection are in this process.
fn many_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let wanted = Rlimit {
        current: maximum.map_or(Some(8_192), |most| Some(most.min(8_192))),
        maximum,
    };
    setrlimit(Resource::Nofile, wanted).unwrap();
}

#[test]
fn a_thousand_slow_readers_cost_little() {
    many_descriptors();
    let large = text(1, 32 << 20);
    let name = "large.0123456789abcdef.bin";
    let front = Front::start(Start::of(&[(name, &large), (JS, b"small")]));
    // Hashed, open, threads made.
    assert_eq!(
        front
            .get(&format!("/static/{name}"), "Range: bytes=0-9\r\n")
            .status,
        206
    );
    let before = memory("VmRSS:");
    let request = format!("GET /static/{name} HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut slow: Vec<TcpStream> = (0..CLIENTS)
        .map(|_| {
            let mut stream = TcpStream::connect(front.address).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream
        })
        .collect();
    // Every one of them is being answered.
    for stream in &mut slow {
        let mut head = [0; 100];
        stream.read_exact(&mut head).unwrap();
        assert!(head.starts_with(b"HTTP/1.1 200"));
    }
    for _ in 0..20 {
        assert_eq!(front.get(&format!("/static/{JS}"), "").body, b"small");
    }
    let grown = memory("VmHWM:").saturating_sub(before);
    eprintln!("{CLIENTS} slow readers: {grown} KiB more at most");
    assert!(grown < 96 << 10, "{grown} KiB for {CLIENTS} slow readers");
    // One that reads gets every byte, whatever the others do. Its connection is kept: what the kernel still has of a closed
    // one it drops when so many others hold its memory.
    let mut stream = TcpStream::connect(front.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut one = vec![0; large.len()];
    stream.read_exact(&mut one).unwrap();
    let at = one.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let mut rest = vec![0; at];
    stream.read_exact(&mut rest).unwrap();
    assert!(one[at..] == large[..large.len() - at] && large.ends_with(&rest));
    drop(slow);
}
