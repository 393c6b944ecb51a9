//! A file that is asked for all the time is sent from sealed memory: right to its last byte, whoever writes to it meanwhile.
//! Alone in its process, whose open files are what is looked at.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests fail by panicking"
)]

mod fixture;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::time::{Duration, Instant};

use fixture::{Answer, Front, JS, PATIENCE, Start, text};

fn sealed() -> usize {
    let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let leads = open.filter_map(|entry| fs::read_link(entry.path()).ok());
    leads
        .filter(|path| path.to_string_lossy().contains("memfd:ship-asset"))
        .count()
}

#[test]
fn what_is_asked_for_often_is_sent_from_where_nobody_can_change_it() {
    // More than a socket takes.
    let js = text(1, 15_000_000);
    let front = Front::start(Start::of(&[(JS, &js)]));
    let path = format!("/static/{JS}");
    let place = front.stored(JS);
    let begun = Instant::now();
    while sealed() == 0 {
        assert_eq!(front.get(&path, "Range: bytes=0-9\r\n").body, &js[..10]);
        assert!(begun.elapsed() < PATIENCE, "it is never sealed");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(front.get(&path, "").body == js);
    let part = front.get(&path, "Range: bytes=7000000-9999999\r\n");
    assert_eq!(part.status, 206);
    assert!(part.body == js[7_000_000..10_000_000]);

    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let mut stream = TcpStream::connect(front.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut said = vec![0; 1000];
    stream.read_exact(&mut said).unwrap();
    fs::set_permissions(&place, fs::Permissions::from_mode(0o644)).unwrap();
    File::options()
        .write(true)
        .open(&place)
        .unwrap()
        .write_all_at(&vec![b'x'; js.len()], 0)
        .unwrap();
    stream.read_to_end(&mut said).unwrap();
    assert!(Answer::read(&said).unwrap().body == js, "other bytes were sent");
    // Who asks now is told, and the memory is given back.
    assert_eq!(front.get(&path, "").status, 503);
    while sealed() > 0 {
        assert!(begun.elapsed() < PATIENCE, "it is held for ever");
        std::thread::sleep(Duration::from_millis(5));
    }
}
