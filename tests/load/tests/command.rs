//! The command itself: its lines, its exit code, and its end when its input ends.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};
use std::thread;

use ship_load::tally::{Kind, Report};

fn server(status: &'static str) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            );
        }
    });
    url
}

fn command(url: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ship-load"));
    command.args(["run", "--target", url, "--json", "--progress", "20ms"]);
    command
}

#[test]
fn progress_is_told_until_the_input_ends_then_the_summary() {
    let mut child = command(&server("200 OK"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first: Report = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(first.kind, Kind::Progress);
    drop(child.stdin.take());
    let last: Report = serde_json::from_str(&lines.last().unwrap().unwrap()).unwrap();
    assert_eq!((last.kind, last.failed), (Kind::Summary, 0));
    assert!(child.wait().unwrap().success());
}

#[test]
fn failures_give_exit_code_one_and_mistakes_two() {
    let failing = command(&server("500 No"))
        .args(["--duration", "50ms"])
        .output()
        .unwrap();
    assert_eq!(failing.status.code(), Some(1));
    let text = String::from_utf8(failing.stdout).unwrap();
    let summary: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(summary["kind"], "summary");
    assert_eq!(summary["failures"]["status_5xx"], summary["due"]);
    assert_eq!(summary["failures"]["reset_before_byte"], 0);
    let mistaken = command("ftp://x/").output().unwrap();
    assert_eq!(mistaken.status.code(), Some(2));
    assert!(String::from_utf8(mistaken.stderr).unwrap().contains("http://"));
}

#[test]
fn a_window_is_entered_by_a_line_of_the_input() {
    let mut child = command(&server("200 OK"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"window switch\n").unwrap();
    let mut input = Some(input);
    let mut last = None;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let report: Report = serde_json::from_str(&line.unwrap()).unwrap();
        if report.windows.get("switch").is_some_and(|window| window.ok > 0) {
            drop(input.take());
        }
        last = Some(report);
    }
    assert_eq!(last.unwrap().kind, Kind::Summary);
    assert!(child.wait().unwrap().success());
}
