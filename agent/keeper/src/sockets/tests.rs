#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use super::{BATCH, Batch, Places, by_diag, by_table, count, serving_socket};

/// Connections opened where there shall be many; each takes two descriptors of this process.
const MANY: usize = 10_000;
/// Descriptors left to tests that run at the same time.
const SPARE: usize = 1_000;

fn many() -> usize {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let allowed = usize::try_from(limit.current.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    MANY.min(allowed.saturating_sub(SPARE) / 2)
}

/// Both ends of `count` connections to `listener`, the client's first.
fn connect(listener: &TcpListener, count: usize) -> Vec<(TcpStream, TcpStream)> {
    let to = listener.local_addr().unwrap();
    (0..count)
        .map(|_| {
            let client = TcpStream::connect(to).unwrap();
            // Reset at the end: thousands of TIME_WAITs would outlive this test.
            rustix::net::sockopt::set_socket_linger(&client, Some(std::time::Duration::ZERO)).unwrap();
            (client, listener.accept().unwrap().0)
        })
        .collect()
}

fn at(addresses: &[SocketAddr]) -> Places {
    Places {
        tcp: addresses.to_vec(),
        unix: false,
    }
}

/// Counts by asking the kernel, in batches of this size.
fn asked(places: &Places, size: usize, owners: &[Vec<u32>]) -> Vec<u64> {
    let owners = || owners.to_vec();
    let mut batch = Batch::new(size, &owners);
    by_diag(places, &mut batch).unwrap();
    batch.finish().0
}

/// Counts both ways.
fn both(places: &Places, size: usize, owners: &[Vec<u32>]) -> [Vec<u64>; 2] {
    let of = || owners.to_vec();
    let mut read = Batch::new(size, &of);
    by_table(places, &mut read);
    [asked(places, size, owners), read.finish().0]
}

/// A process that has nothing but this socket, as its standard input.
fn holder(socket: &TcpStream) -> Child {
    let socket: OwnedFd = socket.as_fd().try_clone_to_owned().unwrap();
    Command::new("sleep")
        .arg("1000")
        .stdin(Stdio::from(socket))
        .spawn()
        .unwrap()
}

#[test]
fn counts_its_own_among_ten_thousand_others() {
    let own = vec![vec![std::process::id()]];
    let foreign = TcpListener::bind("127.0.0.1:0").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let six = TcpListener::bind("[::]:0").unwrap();
    let port = six.local_addr().unwrap().port();
    let (there, here) = (foreign.local_addr().unwrap(), listener.local_addr().unwrap());

    let number = many();
    let others = connect(&foreign, number);
    assert_eq!(asked(&at(&[here]), BATCH, &own), [0_u64; 0]);

    let mut ours = connect(&listener, 300);
    // Over IPv4 to an IPv6 listener: a socket of the latter family.
    let mapped = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (accepted, _) = six.accept().unwrap();
    let plain = TcpStream::connect(("::1", port)).unwrap();
    let (accepted_plain, _) = six.accept().unwrap();
    // Waits in the queue, so it is nobody's.
    let queued = TcpStream::connect(here).unwrap();

    assert_eq!(both(&at(&[here]), BATCH, &own), [[300], [300]]);
    assert_eq!(both(&at(&[six.local_addr().unwrap()]), BATCH, &own), [[2], [2]]);
    let one = SocketAddr::new("::1".parse().unwrap(), port);
    assert_eq!(asked(&at(&[one]), BATCH, &own), [1]);
    let all = at(&[here, six.local_addr().unwrap(), there]);
    let expected = number as u64 + 302;
    assert_eq!(both(&all, BATCH, &own), [[expected], [expected]]);
    // In many batches it is the same, and each counts once however many owners' processes have it. (The text table shows
    // some rows twice while others change, so only a batch that holds it whole is sure to count them once.)
    let twice = vec![vec![std::process::id(), std::process::id()], vec![]];
    assert_eq!(asked(&all, 1_000, &twice), [expected, 0]);
    // Another address with the same port is another listener's.
    let elsewhere = SocketAddr::new("127.0.0.2".parse().unwrap(), here.port());
    assert_eq!(asked(&at(&[elsewhere]), BATCH, &own), [0_u64; 0]);

    // One half closed still counts, one closed does not.
    let (client, _server) = &ours[0];
    client.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(count(&at(&[here]), || own.clone(), || own.clone()), [300]);
    ours.pop();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while count(&at(&[here]), || own.clone(), || own.clone()) != [299] {
        assert!(std::time::Instant::now() < deadline);
    }
    drop((others, mapped, accepted, plain, accepted_plain, queued));
}

#[test]
fn effort_is_made_only_for_connections_that_nobody_near_has() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = listener.local_addr().unwrap();
    let (client, server) = connect(&listener, 1).remove(0);
    let mut child = holder(&server);
    let _kept = connect(&listener, 2);
    drop(server);
    let own = || vec![vec![std::process::id()], vec![]];
    let all = || vec![vec![std::process::id()], vec![child.id()]];
    let none = || unreachable!("every connection has an owner");
    // Other tests start processes, which have all our descriptors for a moment; they are nobody here.
    assert_eq!(count(&at(&[here]), all, none), [2, 1]);
    assert_eq!(count(&at(&[here]), own, all), [2, 1]);
    assert_eq!(count(&at(&[here]), own, own), [2, 0]);
    assert_eq!(count(&at(&[here]), || vec![vec![], vec![]], all), [2, 1]);
    child.kill().unwrap();
    child.wait().unwrap();
    drop(client);
}

#[test]
fn knows_whose_a_connection_is() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let here = listener.local_addr().unwrap();
    let waiting = TcpStream::connect(here).unwrap();
    assert_eq!(serving_socket(waiting.local_addr().unwrap(), here), None);
    let (server, client) = listener.accept().unwrap();
    let inode = u32::try_from(crate::unix::inode(&server).unwrap()).unwrap();
    assert_eq!(serving_socket(client, here), Some(inode));
    assert!(serving_socket(here, client).is_some());
    let nobody = SocketAddr::new(client.ip(), 1);
    assert_eq!(serving_socket(nobody, here), None);

    let mut child = holder(&server);
    let owners = vec![vec![std::process::id()], vec![child.id()], vec![1]];
    assert_eq!(both(&at(&[here]), BATCH, &owners), [[1, 1, 0], [1, 1, 0]]);
    child.kill().unwrap();
    child.wait().unwrap();

    let six = TcpListener::bind("[::]:0").unwrap();
    let port = six.local_addr().unwrap().port();
    for ip in ["127.0.0.1", "::1"] {
        let to = SocketAddr::new(ip.parse().unwrap(), port);
        let client = TcpStream::connect(to).unwrap();
        let (server, _) = six.accept().unwrap();
        let inode = u32::try_from(crate::unix::inode(&server).unwrap()).unwrap();
        assert_eq!(serving_socket(client.local_addr().unwrap(), to), Some(inode));
    }
}

#[test]
fn counts_unix_connections_by_their_listeners_names() {
    let dir = tempfile::tempdir().unwrap();
    let listener = std::os::unix::net::UnixListener::bind(dir.path().join(".app.ship-7")).unwrap();
    let other = std::os::unix::net::UnixListener::bind(dir.path().join("other")).unwrap();
    let own = vec![vec![std::process::id()]];
    let places = Places {
        tcp: Vec::new(),
        unix: true,
    };
    let mut open = Vec::new();
    for listener in [&listener, &listener, &other] {
        let path = listener.local_addr().unwrap().as_pathname().unwrap().to_owned();
        open.push(std::os::unix::net::UnixStream::connect(path).unwrap());
        open.push(listener.accept().unwrap().0);
    }
    // Other tests of this process may have such sockets for a moment.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while both(&places, BATCH, &own) != [[2], [2]] {
        assert!(std::time::Instant::now() < deadline);
    }
}
