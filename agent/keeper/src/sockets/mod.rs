//! Who is connected to whom: the kernel's sockets on our listeners' addresses, joined with what processes have open.
//!
//! The cost depends on the app's own connections and processes, not on the host's: the kernel picks the sockets, and without
//! any nobody's descriptors are looked at. Memory is bounded: connections are taken in batches.

mod diag;
mod ends;
mod table;

pub use ends::{Ends, tells_unix_peers};

use std::net::SocketAddr;

use crate::processes;

/// Connections joined with descriptors at once, 4 bytes each.
const BATCH: usize = 32 * 1024;

/// One end of a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Connection {
    local: SocketAddr,
    remote_port: u16,
    /// 0 while nobody has accepted it.
    inode: u32,
}

/// Where connections are looked for.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Places {
    /// Bound addresses of TCP listeners; an unspecified address stands for any.
    pub tcp: Vec<SocketAddr>,
    /// Whether there are Unix listeners, too.
    pub unix: bool,
}

/// Established connections at `places`, accepted by each of several owners. The answer is shorter than the owners when there
/// is none.
///
/// `near` gives the process ids of each owner as far as they are found at once, and is asked only when there is any
/// connection at all; `far` gives those that are found with more effort, and is asked only when a connection belongs to none
/// of the near ones and is still there at a second look.
#[must_use]
pub fn count(places: &Places, near: impl Fn() -> Vec<Vec<u32>>, far: impl Fn() -> Vec<Vec<u32>>) -> Vec<u64> {
    let (mut counts, unclaimed) = look(places, None, &near);
    if unclaimed.is_empty() {
        return counts;
    }
    let (more, _) = look(places, Some(&unclaimed), &far);
    counts.resize(counts.len().max(more.len()), 0);
    for (count, more) in counts.iter_mut().zip(more) {
        *count += more;
    }
    counts
}

/// Counts of each owner, and connections that belong to none of them, at most [`BATCH`]. With `only`, no others are looked
/// at; it is sorted.
fn look(places: &Places, only: Option<&[u32]>, owners: &impl Fn() -> Vec<Vec<u32>>) -> (Vec<u64>, Vec<u32>) {
    let new = || Batch {
        only,
        ..Batch::new(BATCH, owners)
    };
    let mut batch = new();
    if by_diag(places, &mut batch).is_err() {
        batch = new();
        by_table(places, &mut batch);
    }
    batch.finish()
}

/// The inode of the server's end of the connection from `client` to `server`; none while nobody has accepted it.
#[must_use]
pub fn serving_socket(client: SocketAddr, server: SocketAddr) -> Option<u32> {
    let found = diag::find_tcp(client, server).unwrap_or_else(|_| {
        let mut found = None;
        let wanted = SocketAddr::new(server.ip().to_canonical(), server.port());
        for v6 in [false, true] {
            table::each_tcp(v6, |connection| {
                if connection.local == wanted && connection.remote_port == client.port() {
                    found = Some(connection);
                }
            });
        }
        found
    });
    found.map(|found| found.inode).filter(|inode| *inode != 0)
}

fn by_diag<Owners: Fn() -> Vec<Vec<u32>>>(
    places: &Places,
    batch: &mut Batch<'_, Owners>,
) -> std::io::Result<()> {
    for v6 in [false, true] {
        let of_family = places.tcp.iter().filter(|place| place.is_ipv6() == v6);
        let mut ports: Vec<_> = of_family.map(SocketAddr::port).collect();
        ports.sort_unstable();
        ports.dedup();
        if !ports.is_empty() {
            diag::each_tcp(v6, &ports, |connection| batch.take_tcp(places, connection))?;
        }
    }
    if places.unix {
        diag::each_unix(|inode, name| batch.take_unix(inode, name))?;
    }
    Ok(())
}

fn by_table<Owners: Fn() -> Vec<Vec<u32>>>(places: &Places, batch: &mut Batch<'_, Owners>) {
    for v6 in [false, true] {
        if places.tcp.iter().any(|place| place.is_ipv6() == v6) {
            table::each_tcp(v6, |connection| batch.take_tcp(places, connection));
        }
    }
    if places.unix {
        table::each_unix(|inode, name| batch.take_unix(inode, name));
    }
}

/// Whether a TCP state means that both sides may go on: established, or closed by the other side only.
fn is_open(state: u8) -> bool {
    matches!(state, 1 | 8)
}

impl Places {
    fn has(&self, local: SocketAddr) -> bool {
        self.tcp.iter().any(|place| {
            let ip = place.ip();
            place.port() == local.port() && (ip.is_unspecified() || ip.to_canonical() == local.ip())
        })
    }
}

/// Connections on their way to be joined with their owners.
struct Batch<'a, Owners> {
    inodes: Vec<u32>,
    /// The only ones that are taken, sorted.
    only: Option<&'a [u32]>,
    /// Those that no owner has.
    unclaimed: Vec<u32>,
    size: usize,
    ask: &'a Owners,
    owners: Option<Vec<Vec<u32>>>,
    counts: Vec<u64>,
}

impl<'a, Owners: Fn() -> Vec<Vec<u32>>> Batch<'a, Owners> {
    fn new(size: usize, ask: &'a Owners) -> Self {
        Self {
            inodes: Vec::new(),
            only: None,
            unclaimed: Vec::new(),
            size,
            ask,
            owners: None,
            counts: Vec::new(),
        }
    }

    fn take_tcp(&mut self, places: &Places, connection: Connection) {
        if places.has(connection.local) {
            self.take(connection.inode);
        }
    }

    /// Accepted sockets have the name of their listener, and all of ours have names of one kind.
    fn take_unix(&mut self, inode: u32, name: &[u8]) {
        if name.windows(6).any(|part| part == b".ship-") {
            self.take(inode);
        }
    }

    fn take(&mut self, inode: u32) {
        let wanted = self.only.is_none_or(|only| only.binary_search(&inode).is_ok());
        if inode == 0 || !wanted {
            return;
        }
        self.inodes.push(inode);
        if self.inodes.len() >= self.size {
            self.join();
        }
    }

    /// Counts of each owner, and what nobody has, sorted.
    fn finish(mut self) -> (Vec<u64>, Vec<u32>) {
        self.join();
        self.unclaimed.sort_unstable();
        (self.counts, self.unclaimed)
    }

    /// Gives each connection to the owners that have it open; once to each, however many of its processes do.
    fn join(&mut self) {
        if self.inodes.is_empty() {
            return;
        }
        self.inodes.sort_unstable();
        self.inodes.dedup();
        let owners = self.owners.get_or_insert_with(self.ask);
        self.counts.resize(owners.len(), 0);
        let mut seen = vec![0_u64; self.inodes.len().div_ceil(64)];
        let mut claimed = seen.clone();
        for (pids, count) in owners.iter().zip(&mut self.counts) {
            seen.fill(0);
            for pid in pids {
                processes::each_socket(*pid, |inode, _| {
                    if let Ok(at) = self.inodes.binary_search(&inode) {
                        seen[at / 64] |= 1 << (at % 64);
                    }
                    true
                });
            }
            *count += seen.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
            for (claimed, seen) in claimed.iter_mut().zip(&seen) {
                *claimed |= seen;
            }
        }
        let room = self.size.saturating_sub(self.unclaimed.len());
        let nobodys = self.inodes.iter().enumerate();
        let nobodys = nobodys.filter(|(at, _)| claimed[at / 64] & 1 << (at % 64) == 0);
        self.unclaimed.extend(nobodys.map(|(_, inode)| *inode).take(room));
        self.inodes.clear();
    }
}

#[cfg(test)]
mod tests;
