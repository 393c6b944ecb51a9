//! Somebody who gives bundles, as a mirror or as another host, and lies in a chosen way.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// What it does with a good question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    Good,
    /// One bit of each answer is another.
    Wrong,
    /// The answer ends early, and says so.
    Short,
    /// Announces all, and breaks off after so many bytes.
    Dies(usize),
    /// Announces and sends far more than was asked for.
    Endless,
    /// Takes the question and says nothing.
    Hangs,
    /// Sends the head, and a byte now and then.
    Drips,
    /// Sends to somebody else.
    Redirects,
    /// Bytes from the beginning, whatever was asked for.
    OtherRange,
    /// All of it, as a server that knows no ranges.
    NoRanges,
    Absent,
    Sick,
    /// Nothing that is HTTP.
    Noise,
}

#[derive(Debug)]
struct Inner {
    files: Mutex<HashMap<String, Vec<u8>>>,
    manner: Mutex<Manner>,
    asked: AtomicU64,
    given: AtomicU64,
    ends: AtomicBool,
}

/// A running giver. It takes no more questions when it is dropped.
#[derive(Debug)]
pub struct Giver {
    pub address: SocketAddr,
    inner: Arc<Inner>,
}

impl Giver {
    /// Over plain HTTP, or TLS.
    pub fn start(tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::new(Inner {
            files: Mutex::default(),
            manner: Mutex::new(Manner::Good),
            asked: AtomicU64::new(0),
            given: AtomicU64::new(0),
            ends: AtomicBool::new(false),
        });
        let serving = Arc::clone(&inner);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if serving.ends.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(stream), inner, tls) = (stream, Arc::clone(&serving), tls.clone()) else {
                    continue;
                };
                std::thread::spawn(move || {
                    let Some(tls) = tls else {
                        return speak(&inner, stream);
                    };
                    let Ok(connection) = ServerConnection::new(tls) else {
                        return;
                    };
                    speak(&inner, StreamOwned::new(connection, stream));
                });
            }
        });
        Self { address, inner }
    }

    pub fn url(&self) -> String {
        format!("http://{}/some/where", self.address)
    }

    /// Has these bundles from now on, below the mirror's folder and for hosts.
    pub fn has<'a>(&self, bundles: impl Iterator<Item = (String, &'a Vec<u8>)>) {
        let mut files = self.inner.files.lock().unwrap();
        for (digest, bytes) in bundles {
            for base in ["", "/some/where"] {
                files.insert(format!("{base}/bundles/{digest}"), bytes.clone());
                files.insert(format!("{base}/leaves/{digest}"), super::release::leaves(bytes));
            }
        }
    }

    pub fn behaves(&self, manner: Manner) {
        *self.inner.manner.lock().unwrap() = manner;
    }

    /// Questions for bundles.
    pub fn asked(&self) -> u64 {
        self.inner.asked.load(Ordering::Relaxed)
    }

    /// Bytes of bundles that were written.
    pub fn given(&self) -> u64 {
        self.inner.given.load(Ordering::Relaxed)
    }
}

impl Drop for Giver {
    fn drop(&mut self) {
        self.inner.ends.store(true, Ordering::Relaxed);
        TcpStream::connect(self.address).ok();
    }
}

fn speak(inner: &Inner, stream: impl Read + Write) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            match stream.read_line(&mut line) {
                Ok(read) if read > 0 && line != "\r\n" => head.push(line),
                Ok(read) if read > 0 => break,
                _ => return,
            }
        }
        if answer(inner, &head, stream.get_mut()).is_none() {
            return;
        }
    }
}

/// None: the connection ends.
fn answer(inner: &Inner, head: &[String], out: &mut impl Write) -> Option<()> {
    let path = head.first()?.split(' ').nth(1)?;
    let whole = inner.files.lock().unwrap().get(path).cloned();
    let Some(range) = head.iter().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let value = value.trim().strip_prefix("bytes=")?;
        name.eq_ignore_ascii_case("range").then(|| value.to_owned())
    }) else {
        let whole = whole?;
        write!(out, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", whole.len()).ok()?;
        return out.write_all(&whole).and_then(|()| out.flush()).ok();
    };
    inner.asked.fetch_add(1, Ordering::Relaxed);
    let (from, last) = range.split_once('-')?;
    let (from, last): (usize, usize) = (from.parse().ok()?, last.parse().ok()?);
    let manner = *inner.manner.lock().unwrap();
    let Some(whole) = whole.filter(|_| manner != Manner::Absent) else {
        write!(out, "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").ok()?;
        return out.flush().ok();
    };
    let (mut from, mut part) = (from, whole.get(from..=last)?.to_vec());
    let mut announced = part.len();
    match manner {
        Manner::Hangs => wait_for_end(inner),
        Manner::Noise => {
            return out
                .write_all(b"\x16\x03SSH-2.0\r\n\r\n")
                .and(Ok(()))
                .ok()
                .and(None);
        }
        Manner::Redirects => {
            let to = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
            return out.write_all(to.as_bytes()).and_then(|()| out.flush()).ok();
        }
        Manner::Sick => {
            let to = "HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n";
            return out.write_all(to.as_bytes()).and_then(|()| out.flush()).ok();
        }
        Manner::NoRanges => {
            write!(out, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", whole.len()).ok()?;
            out.write_all(&whole).ok()?;
            return out.flush().ok();
        }
        Manner::Wrong => {
            let middle = part.len() / 2;
            part[middle] ^= 0x10;
        }
        Manner::Short => {
            part.truncate(part.len() / 2);
            announced = part.len();
        }
        Manner::Dies(after) => part.truncate(after),
        Manner::OtherRange => {
            from += 1;
            part = whole.get(from..=(last + 1).min(whole.len() - 1))?.to_vec();
            announced = part.len();
        }
        Manner::Endless => announced = usize::MAX >> 2,
        Manner::Good | Manner::Absent | Manner::Drips => {}
    }
    let end = from + part.len().max(announced.min(whole.len() - from)) - 1;
    let shown = if manner == Manner::Short || manner == Manner::Endless {
        last
    } else {
        end
    };
    write!(
        out,
        "HTTP/1.1 206 Partial Content\r\ncontent-range: bytes {from}-{shown}/{}\r\ncontent-length: {announced}\r\n\r\n",
        whole.len()
    )
    .ok()?;
    if manner == Manner::Drips {
        out.write_all(&part[..1]).and_then(|()| out.flush()).ok()?;
        wait_for_end(inner);
    }
    out.write_all(&part).and_then(|()| out.flush()).ok()?;
    inner.given.fetch_add(part.len() as u64, Ordering::Relaxed);
    while manner == Manner::Endless && !inner.ends.load(Ordering::Relaxed) {
        out.write_all(&[0; 4096]).ok()?;
    }
    matches!(
        manner,
        Manner::Good | Manner::Wrong | Manner::Short | Manner::OtherRange
    )
    .then_some(())
}

fn wait_for_end(inner: &Inner) {
    while !inner.ends.load(Ordering::Relaxed) {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
