//! Who is connected to whom: the kernel's tables of sockets, joined with the sockets processes have open.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;

/// Established connections among `inodes`, on these local ports or of these Unix listeners' paths.
#[must_use]
pub fn established(inodes: &BTreeSet<u64>, ports: &BTreeSet<u16>, unix: bool) -> u64 {
    if inodes.is_empty() {
        return 0;
    }
    let mut count = 0;
    if !ports.is_empty() {
        each_tcp(|row| {
            let open = matches!(row.state, "01" | "08");
            count += u64::from(open && ports.contains(&row.local_port) && inodes.contains(&row.inode));
        });
    }
    if unix {
        // Num RefCount Protocol Flags Type St Inode Path: an accepted socket is connected (03) and has the listener's path.
        each_line("/proc/self/net/unix", |fields| {
            let inode = fields.get(6).and_then(|inode| inode.parse().ok());
            let ours = inode.is_some_and(|inode: u64| inodes.contains(&inode));
            let accepted =
                fields.get(5) == Some(&"03") && fields.get(7).is_some_and(|path| path.contains(".ship-"));
            count += u64::from(ours && accepted);
        });
    }
    count
}

/// The server's socket of the connection from `client` to `server`.
#[must_use]
pub fn serving_socket(client: SocketAddr, server_port: u16) -> Option<u64> {
    let mut found = None;
    each_tcp(|row| {
        if row.local_port == server_port && row.remote_port == client.port() && row.inode != 0 {
            found = Some(row.inode);
        }
    });
    found
}

struct Row<'a> {
    local_port: u16,
    remote_port: u16,
    state: &'a str,
    inode: u64,
}

fn each_tcp(mut visit: impl FnMut(Row<'_>)) {
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        each_line(table, |fields| {
            if let Some(row) = row(fields) {
                visit(row);
            }
        });
    }
}

/// sl local rem st tx:rx tr:when retrnsmt uid timeout inode ...
fn row<'a>(fields: &[&'a str]) -> Option<Row<'a>> {
    let port = |field: &str| u16::from_str_radix(field.rsplit(':').next()?, 16).ok();
    Some(Row {
        local_port: port(fields.get(1)?)?,
        remote_port: port(fields.get(2)?)?,
        state: fields.get(3)?,
        inode: fields.get(9)?.parse().ok()?,
    })
}

fn each_line(table: &str, mut visit: impl FnMut(&[&str])) {
    let Ok(file) = File::open(table) else { return };
    let mut reader = BufReader::new(file);
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|count| count > 0) {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        visit(&fields);
        line.clear();
    }
}
