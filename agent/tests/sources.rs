//! Where bytes come from: mirrors and other hosts that are good, lie, die or hang. Whatever they do, what runs is what was
//! published, and whoever lied is told.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::disallowed_methods,
    dead_code,
    reason = "a failed test says so by stopping, and each test uses its part of the fleet"
)]

mod fleet;

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fleet::agent::Host;
use fleet::giver::{Giver, Manner};
use fleet::release::noise;
use fleet::store::{Store, web};
use fleet::until;
use ship_model::release::Target;
use ship_model::report::{AppPhase, AppReport};
use ship_model::spec::ReleaseSpec;
use ship_proto::v1;

/// Bytes of a release's one large file: some leaves, and a part of one.
const LARGE: usize = 700_000;

fn runs(target: Target) -> impl Fn(&AppReport) -> bool {
    move |app| app.running == Some(target) && app.healthy
}

fn page(number: u64) -> Vec<u8> {
    noise(number, LARGE)
}

/// A release of one large file; whoever is in `givers` has its bundle too.
fn publish(store: &Store, number: u64, givers: &[&Giver]) -> Target {
    let spec = ReleaseSpec::static_files("web".parse().unwrap());
    let mut shelf = store.inner.shelf.lock().unwrap();
    let target = shelf.publish(number, &spec, &[("index.html", &page(number)[..])]);
    for giver in givers {
        giver.has(
            shelf
                .bundles
                .iter()
                .map(|(digest, bytes)| (digest.to_string(), bytes)),
        );
    }
    target
}

fn mirrors(urls: &[String]) -> v1::Sources {
    v1::Sources {
        mirrors: urls.to_vec(),
        peers: Vec::new(),
    }
}

/// Runs release `number` and looks at its file.
fn run(store: &Store, host: &Host, number: u64, target: Target) -> AppReport {
    run_at(store, host, number, number, target)
}

fn run_at(store: &Store, host: &Host, epoch: u64, number: u64, target: Target) -> AppReport {
    store.desire(vec![web(epoch, Some(target), &[])]);
    let report = store.wait(&format!("release {number}"), |app| {
        runs(target)(app) && app.phase == AppPhase::Idle
    });
    assert!(
        std::fs::read(host.app("current/index.html")).unwrap() == page(number),
        "release {number}"
    );
    report
}

/// How often somebody else was asked since the first was slow: on a busy machine anybody is, and others give in their place.
fn asked_too(host: &Host) -> usize {
    host.log().matches("asked too: the first is slow").count()
}

#[test]
fn a_mirror_gives_and_whatever_else_it_does_costs_only_a_look_elsewhere() {
    let store = Store::start();
    let mut host = Host::new(&store);
    host.start_with(&[("RUST_LOG", "ship_agent=debug")]);
    let manners = [
        Manner::Good,
        Manner::Wrong,
        Manner::Short,
        Manner::Dies(70_000),
        Manner::Endless,
        Manner::Redirects,
        Manner::OtherRange,
        Manner::NoRanges,
        Manner::Absent,
        Manner::Sick,
        Manner::Noise,
        Manner::Hangs,
        Manner::Drips,
    ];
    let mut number = 0;
    for manner in manners {
        let is_slow = matches!(manner, Manner::Hangs | Manner::Drips);
        let (mirror, transfers, report) = loop {
            number += 1;
            // Another one each time: nobody is held to what another did.
            let mirror = Giver::start(None);
            mirror.behaves(manner);
            store.inner.sources.send_replace(mirrors(&[mirror.url()]));
            let (before, transfers) = (asked_too(&host), store.inner.transfers.load(Ordering::Relaxed));
            let target = publish(&store, number, &[&mirror]);
            let report = run(&store, &host, number, target);
            if is_slow || asked_too(&host) == before {
                break (mirror, transfers, report);
            }
        };
        assert!(mirror.asked() > 0, "{manner:?} was asked");
        let asked_store = store.inner.transfers.load(Ordering::Relaxed) > transfers;
        // One that sends without end sends first what was asked for.
        let enough = matches!(manner, Manner::Good | Manner::Endless);
        assert_eq!(asked_store, !enough, "{manner:?}: {:?}", report.update);
        let from_mirror = report.update.fetched_from_mirrors;
        match manner {
            Manner::Good => assert!(from_mirror as usize > LARGE, "{:?}", report.update),
            Manner::Endless => assert!(from_mirror < 3 * LARGE as u64, "{:?}", report.update),
            Manner::Redirects | Manner::Absent | Manner::Sick | Manner::Noise | Manner::Hangs => {
                assert_eq!(from_mirror, 0, "{manner:?}");
            }
            _ => {}
        }
        let faults = store.inner.report.borrow().faults.clone();
        let told = faults
            .iter()
            .any(|fault| fault.source.contains(&mirror.address.to_string()));
        assert_eq!(told, manner == Manner::Wrong, "{manner:?}: {faults:?}");
        if manner == Manner::Hangs {
            until("the word of the second question", || {
                host.log().contains("the first is slow").then_some(())
            });
        }
    }
    let remarks = store
        .wait("the fault among the remarks", |app| !app.remarks.is_empty())
        .remarks;
    assert!(
        remarks[0].contains("other bytes came than were published"),
        "{remarks:?}"
    );
}

#[test]
fn one_who_lied_is_not_asked_again() {
    let (store, liar, good) = (Store::start(), Giver::start(None), Giver::start(None));
    let mut host = Host::new(&store);
    host.start();
    liar.behaves(Manner::Wrong);
    store
        .inner
        .sources
        .send_replace(mirrors(&[liar.url(), good.url()]));
    store.inner.no_bytes.store(true, Ordering::Relaxed);
    let mut number = 0;
    // Where the liar is slow, as anybody is on a busy machine, the other one may be first, and nobody knows of the lie.
    while store.inner.report.borrow().faults.is_empty() {
        number += 1;
        let target = publish(&store, number, &[&liar, &good]);
        run(&store, &host, number, target);
    }
    let asked = liar.asked();
    assert!(asked > 0 && good.asked() > 0);
    liar.behaves(Manner::Good);
    let target = publish(&store, number + 1, &[&liar, &good]);
    run(&store, &host, number + 1, target);
    assert_eq!(liar.asked(), asked, "it is good now, and nobody knows");
}

#[test]
fn the_stores_bytes_are_cut_off_and_releases_go_on() {
    let (store, mirror) = (Store::start(), Giver::start(None));
    let mut host = Host::new(&store);
    host.start();
    let (one, two) = (publish(&store, 1, &[]), publish(&store, 2, &[]));
    run(&store, &host, 1, one);
    run(&store, &host, 2, two);
    store.inner.no_bytes.store(true, Ordering::Relaxed);
    // What lies here needs nobody's bytes.
    run_at(&store, &host, 3, 1, one);
    // What does not comes from a mirror, which dies again and again: what came whole stays.
    store.inner.sources.send_replace(mirrors(&[mirror.url()]));
    mirror.behaves(Manner::Dies(150_000));
    let four = publish(&store, 4, &[&mirror]);
    let report = run(&store, &host, 4, four);
    assert!(mirror.asked() >= 4, "{} questions", mirror.asked());
    let (all, from) = (report.update.fetched_bytes, report.update.fetched_from_mirrors);
    assert!(
        from as usize > LARGE && all - from < 10_000,
        "{:?}",
        report.update
    );
    // And a host whose own file names the mirror, the store second.
    let hosts_own = format!(
        "mirrors = [\"{}\", \"store\"]\nfetch_limit = 100000000\n",
        mirror.url()
    );
    mirror.behaves(Manner::Good);
    drop(host);
    store.forget_report();
    store.inner.sources.send_replace(v1::Sources::default());
    let mut host = Host::named(
        &store,
        "h1",
        "[\"web\"]",
        &hosts_own,
        tempfile::tempdir().unwrap(),
    );
    host.start();
    run(&store, &host, 4, four);
}

#[test]
fn a_store_that_does_not_know_leaves_is_the_only_one_asked() {
    let (store, mirror) = (Store::start(), Giver::start(None));
    store.inner.old.store(true, Ordering::Relaxed);
    let mut host = Host::new(&store);
    host.start();
    store
        .inner
        .sources
        .send_replace(mirrors(&["http://127.0.0.1:1".to_owned()]));
    let one = publish(&store, 1, &[]);
    run(&store, &host, 1, one);
    // A mirror that has the list of leaves needs nobody to tell it.
    store.inner.sources.send_replace(mirrors(&[mirror.url()]));
    let two = publish(&store, 2, &[&mirror]);
    run(&store, &host, 2, two);
    assert!(mirror.asked() > 0);
}

fn peers(list: &[(&str, String)]) -> v1::Sources {
    let peers = list.iter().map(|(host, address)| v1::PeerAddress {
        host: (*host).to_owned(),
        address: address.clone(),
    });
    v1::Sources {
        mirrors: Vec::new(),
        peers: peers.collect(),
    }
}

/// A host that gives to others, and where.
fn giving(store: &Store) -> (Host, String) {
    let more = "peer_listen = \"127.0.0.1:0\"\npeer_cache = 8000000\npeer_limit = 100000000\n";
    let mut host = Host::named(store, "h1", "[\"web\"]", more, tempfile::tempdir().unwrap());
    host.start_with(&[("RUST_LOG", "ship_agent=debug")]);
    let address = until("the host's address for others", || {
        store.inner.report.borrow().peer_address.clone()
    });
    (host, address)
}

#[test]
fn a_host_asks_the_owner_of_a_piece_and_a_lying_owner_is_told_and_dropped() {
    let store = Store::start();
    let (host, own) = giving(&store);
    let (server, _) = store.authority.of_holder("spiffe://test/agent/dev/h2");
    let peer = Giver::start(Some(server));
    store
        .inner
        .sources
        .send_replace(peers(&[("h1", own), ("h2", peer.address.to_string())]));
    // Which of the two owns a piece is as good as random: some of these are the other's.
    let mut number = 0;
    let mut until_asked = || {
        for _ in 0..20 {
            number += 1;
            let (asked, too) = (peer.asked(), asked_too(&host));
            let target = publish(&store, number, &[&peer]);
            let report = run(&store, &host, number, target);
            let has_lied = !store.inner.report.borrow().faults.is_empty();
            if peer.asked() > asked && (has_lied || asked_too(&host) == too) {
                return report;
            }
        }
        panic!("the peer was never asked");
    };
    let good = until_asked().update;
    assert!(good.fetched_from_peers as usize > LARGE, "{good:?}");
    assert!(good.fetched_bytes - good.fetched_from_peers < 10_000, "{good:?}");
    // One that dies in the middle: the rest comes from the store.
    peer.behaves(Manner::Dies(100_000));
    let died = until_asked().update;
    assert!(
        (65_536..LARGE as u64).contains(&died.fetched_from_peers),
        "{died:?}"
    );
    // One that lies, once it is asked again.
    peer.behaves(Manner::Wrong);
    let lied = until_asked().update;
    assert!(lied.fetched_bytes > lied.fetched_from_peers, "{lied:?}");
    let faults = store.inner.report.borrow().faults.clone();
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert_eq!(faults[0].source, "peer h2");
    let asked = peer.asked();
    for number in 100..108 {
        let target = publish(&store, number, &[&peer]);
        run(&store, &host, number, target);
    }
    assert_eq!(peer.asked(), asked, "it is dropped");
}

#[test]
fn whoever_is_not_who_it_should_be_gives_nothing() {
    let store = Store::start();
    let (host, own) = giving(&store);
    for (nth, uri) in [
        "spiffe://test/agent/dev/h3",
        "spiffe://test/operator/alice",
        "spiffe://test/agent/prod/h2",
    ]
    .iter()
    .enumerate()
    {
        let (server, _) = store.authority.of_holder(uri);
        let peer = Giver::start(Some(server));
        store
            .inner
            .sources
            .send_replace(peers(&[("h1", own.clone()), ("h2", peer.address.to_string())]));
        for number in 0..6 {
            let number = nth as u64 * 10 + number + 1;
            let target = publish(&store, number, &[&peer]);
            run(&store, &host, number, target);
        }
        assert_eq!(peer.asked(), 0, "{uri} was believed to be h2");
    }
}

/// Asks a host's port for other hosts; nothing, when the connection is refused.
fn ask(address: &str, client: &Arc<rustls::ClientConfig>, path: &str, range: &str) -> Option<(u16, Vec<u8>)> {
    let name = rustls::pki_types::ServerName::try_from("peer.test").unwrap();
    let connection = rustls::ClientConnection::new(Arc::clone(client), name).unwrap();
    let stream = std::net::TcpStream::connect(address).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, stream);
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: h\r\n{range}connection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = Vec::new();
    // An end without a goodbye is an end.
    stream.read_to_end(&mut answer).ok();
    let head = answer.windows(4).position(|at| at == b"\r\n\r\n")?;
    let status = std::str::from_utf8(answer.get(9..12)?).ok()?.parse().ok()?;
    Some((status, answer[head + 4..].to_vec()))
}

#[test]
fn a_host_gives_only_to_hosts_and_only_what_was_checked() {
    let store = Store::start();
    let (host, own) = giving(&store);
    let one = publish(&store, 1, &[]);
    run(&store, &host, 1, one);
    let (digest, bytes) = {
        let shelf = store.inner.shelf.lock().unwrap();
        let (digest, bytes) = shelf.bundles.iter().next().unwrap();
        (*digest, bytes.clone())
    };
    let path = format!("/bundles/{digest}");
    let first = "range: bytes=0-65535\r\n";
    let (_, kin) = store.authority.of_holder("spiffe://test/agent/dev/h2");
    let expected = Some((206, bytes[..65_536].to_vec()));
    assert!(ask(&own, &kin, &path, first) == expected);
    let leaves = ask(&own, &kin, &format!("/leaves/{digest}"), "").unwrap();
    assert!(leaves == (200, fleet::release::leaves(&bytes)));
    for stranger in [
        "spiffe://test/operator/alice",
        "spiffe://test/agent/prod/h2",
        "spiffe://other/agent/dev/h2",
    ] {
        let (_, client) = store.authority.of_holder(stranger);
        assert_eq!(ask(&own, &client, &path, first), None, "{stranger}");
    }
    let (_, other_fleet) = fleet::certificates::Authority::new().of_holder("spiffe://test/agent/dev/h2");
    assert_eq!(ask(&own, &other_fleet, &path, first), None);
    let status = |path: &str, range: &str| ask(&own, &kin, path, range).unwrap().0;
    assert_eq!(status(&path, ""), 416);
    assert_eq!(
        status(&path, "range: bytes=0-65534\r\n"),
        416,
        "leaves are given whole"
    );
    assert_eq!(status(&path, "range: bytes=0-99999999\r\n"), 416);
    assert_eq!(status("/bundles/../../etc/passwd", first), 404);
    assert_eq!(status(&format!("/assets/{digest}"), first), 404);
    // What it has not got and does not own it does not get for others.
    let absent = format!("/bundles/{}", ship_model::digest::BundleDigest::of(b"absent"));
    assert!(status(&absent, first) >= 400);
    // With the store away it gives what it has, as it was checked.
    store.inner.sick.store(true, Ordering::Relaxed);
    assert!(ask(&own, &kin, &path, first) == expected);
}
