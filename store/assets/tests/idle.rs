//! Connections that are kept after an answer cost next to nothing. Alone in its process, whose memory is what is looked at.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking, and say figures"
)]

mod fixture;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use fixture::{Front, JS, PATIENCE, Start};

const CLIENTS: u64 = 1_500;
/// Of user memory, whatever the allocator and a debug build add.
const MOST: u64 = 3_000;

fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
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

fn kept(front: &Front) -> TcpStream {
    let mut stream = TcpStream::connect(front.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET /static/{JS} HTTP/1.1\r\nHost: a\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut said = Vec::new();
    while !said.ends_with(b"small") {
        let mut byte = [0; 512];
        let got = stream.read(&mut byte).unwrap();
        assert!(got > 0);
        said.extend_from_slice(&byte[..got]);
    }
    stream
}

#[test]
fn a_kept_connection_costs_next_to_nothing() {
    many_descriptors();
    let front = Front::start(Start::of(&[(JS, b"small")]));
    // Threads and what each of them reads with are there.
    let warm: Vec<TcpStream> = (0..100).map(|_| kept(&front)).collect();
    let before = resident();
    let mut idle: Vec<TcpStream> = (0..CLIENTS).map(|_| kept(&front)).collect();
    let each = resident().saturating_sub(before) / CLIENTS;
    eprintln!("{each} bytes for each of {CLIENTS} kept connections");
    assert!(each < MOST, "{each} bytes for each of {CLIENTS} kept connections");
    drop(warm);
    // They are still served.
    let request = format!("GET /static/{JS} HTTP/1.1\r\nHost: a\r\n\r\n");
    for stream in &mut idle {
        stream.write_all(request.as_bytes()).unwrap();
    }
    for stream in &mut idle {
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
    }
}
