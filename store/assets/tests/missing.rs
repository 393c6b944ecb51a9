//! What is missing here and had from elsewhere, and who was asked for what, over real sockets.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};

use ship_assets::miss::{Elsewhere, ElsewhereError, Misses, Promised, Standing};
use ship_assets::serve::{Assets, serve};
use ship_assets::{Shelf, Union};
use ship_model::assets::Asset;
use ship_model::digest::{BlobDigest, ReleaseId};
use ship_model::name::AppName;
use ship_model::path::TreePath;
use ship_model::release::{ReleaseNumber, Target};

const URL: &str = "/static/main.3f9a12bc77d01e55.js";
const EXPIRED: &str = "/static/old.77d01e553f9a12bc.js";
const BYTES: &[u8] = b"console.log(1)";

fn app() -> AppName {
    "web".parse().unwrap()
}

fn target() -> Target {
    Target {
        number: ReleaseNumber(3),
        id: ReleaseId::of(b"three"),
    }
}

fn asset() -> Asset {
    Asset {
        url_path: URL.to_owned(),
        path: TreePath::new(&URL.as_bytes()[1..]).unwrap(),
        digest: BlobDigest::of(BYTES),
        size: BYTES.len() as u64,
        fingerprinted: true,
    }
}

/// Has the one asset, unless it is away.
struct Store {
    union: Arc<Union>,
    fetched: AtomicU64,
    away: AtomicBool,
    /// Hands out other bytes than it promised.
    lies: AtomicBool,
}

impl Elsewhere for Store {
    fn find(&self, url: &str) -> Result<Standing, ElsewhereError> {
        let asset = asset();
        if url == EXPIRED {
            return Ok(Standing::Expired);
        }
        let promised = || Promised {
            app: app(),
            release: target(),
            url: asset.url_path,
            digest: asset.digest,
            size: asset.size,
        };
        Ok(match url == URL {
            true => Standing::Promised(promised()),
            false => Standing::Never,
        })
    }

    fn fetch(&self, promised: &Promised) -> Result<(), ElsewhereError> {
        self.fetched.fetch_add(1, Ordering::SeqCst);
        if self.away.load(Ordering::SeqCst) {
            return Err("the store is away".into());
        }
        let asset = promised.asset().unwrap();
        let bytes = match self.lies.load(Ordering::SeqCst) {
            true => b"console.log(2)",
            false => BYTES,
        };
        self.union.add_blob(&asset, &mut &bytes[..])?;
        self.union.adopt(&asset);
        Ok(())
    }
}

struct Scene {
    assets: Assets,
    dir: tempfile::TempDir,
    union: Arc<Union>,
    store: Arc<Store>,
    shelf: Arc<Shelf>,
    address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

fn open(dir: &Path) -> Arc<Union> {
    Arc::new(Union::open(&dir.join("assets"), &dir.join("assets.records")).unwrap())
}

fn scene() -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let union = open(dir.path());
    let store = Arc::new(Store {
        union: Arc::clone(&union),
        fetched: AtomicU64::new(0),
        away: AtomicBool::new(false),
        lies: AtomicBool::new(false),
    });
    let shelf = Arc::new(Shelf::new());
    shelf.set_union(&app(), &union);
    shelf.look_elsewhere(Misses::new(Arc::clone(&store) as Arc<dyn Elsewhere>));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let address = listener.local_addr().unwrap();
    let assets = Assets::new(Arc::clone(&shelf));
    runtime.spawn(serve(listener, assets.clone(), std::future::pending::<()>()));
    Scene {
        assets,
        dir,
        union,
        store,
        shelf,
        address,
        _runtime: runtime,
    }
}

impl Scene {
    fn file(&self) -> std::path::PathBuf {
        self.dir.path().join("assets").join(&URL[1..])
    }

    fn incidents(&self) -> u64 {
        let incidents = self.shelf.misses().unwrap().incidents();
        incidents.iter().map(|incident| incident.count).sum()
    }
}

/// Status, head and body.
fn get(address: SocketAddr, path: &str) -> (u16, String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let at = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(bytes[..at].to_vec()).unwrap().to_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head, bytes[at + 4..].to_vec())
}

#[test]
fn a_published_asset_that_is_missing_is_served_in_the_same_request_and_fetched_once() {
    let scene = scene();
    let (address, together) = (scene.address, Arc::new(Barrier::new(16)));
    let asking: Vec<_> = (0..16)
        .map(|_| {
            let together = Arc::clone(&together);
            std::thread::spawn(move || {
                together.wait();
                get(address, URL)
            })
        })
        .collect();
    for asked in asking {
        let (status, head, body) = asked.join().unwrap();
        assert_eq!((status, &body[..]), (200, BYTES), "{head}");
        assert!(head.contains("immutable"), "{head}");
    }
    assert_eq!(scene.store.fetched.load(Ordering::SeqCst), 1);
    assert_eq!(std::fs::read(scene.file()).unwrap(), BYTES);
    assert_eq!(scene.incidents(), 0);
}

/// Before anybody asked for it: what was served once is at hand.
#[test]
fn a_file_that_somebody_took_away_or_cut_is_made_anew() {
    for cut in [false, true] {
        let scene = scene();
        scene.union.add_blob(&asset(), &mut &BYTES[..]).unwrap();
        scene.union.record(target(), &[asset()]).unwrap();
        std::fs::remove_file(scene.file()).unwrap();
        if cut {
            ship_durable::write_file(&scene.file(), &BYTES[..5]).unwrap();
        }
        let (status, _, body) = get(scene.address, URL);
        assert_eq!((status, &body[..]), (200, BYTES));
        assert_eq!(scene.store.fetched.load(Ordering::SeqCst), 1);
        assert_eq!(std::fs::read(scene.file()).unwrap(), BYTES);
    }
}

#[test]
fn what_nobody_published_is_unknown_and_no_incident() {
    let scene = scene();
    for path in ["/static/none.js", "/wp-login.php", "/static/%2e%2e/x"] {
        let (status, head, _) = get(scene.address, path);
        assert_eq!(status, 404, "{path}");
        assert!(head.contains("cache-control: no-store"), "{head}");
    }
    assert_eq!(scene.store.fetched.load(Ordering::SeqCst), 0);
    assert_eq!(scene.incidents(), 0);
}

#[test]
fn what_has_expired_is_counted_apart() {
    let scene = scene();
    for _ in 0..3 {
        let (status, head, body) = get(scene.address, EXPIRED);
        assert_eq!(status, 404);
        assert!(head.contains("cache-control: no-store"), "{head}");
        assert!(String::from_utf8(body).unwrap().contains("expired"));
    }
    assert_eq!(get(scene.address, "/static/none.js").0, 404);
    let counted = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
    assert_eq!(counted(&scene.assets.counters.expired), 3);
    assert_eq!(counted(&scene.assets.counters.not_found), 1);
    assert_eq!(counted(&scene.assets.counters.broken), 0);
    assert_eq!(scene.store.fetched.load(Ordering::SeqCst), 0);
    assert_eq!(scene.incidents(), 0);
}

#[test]
fn what_was_published_and_cannot_be_had_is_an_incident_that_no_cache_keeps() {
    let scene = scene();
    scene.store.lies.store(true, Ordering::SeqCst);
    let (status, head, body) = get(scene.address, URL);
    assert_eq!(status, 503, "{}", String::from_utf8_lossy(&body));
    assert!(head.contains("cache-control: no-store"), "{head}");
    assert!(head.contains("retry-after: "), "{head}");
    assert!(!scene.file().exists(), "wrong bytes get no name");
    assert_eq!(scene.incidents(), 1);
    let incidents = scene.shelf.misses().unwrap().incidents();
    assert_eq!((incidents[0].release, &*incidents[0].url), (target(), URL));
    scene.store.lies.store(false, Ordering::SeqCst);
    scene.store.away.store(true, Ordering::SeqCst);
    assert_eq!(get(scene.address, URL).0, 503);
    scene.store.away.store(false, Ordering::SeqCst);
    // It heals by itself, after the short time for which a failure is remembered.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while get(scene.address, URL).0 != 200 {
        assert!(std::time::Instant::now() < deadline, "it never healed");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn a_request_is_told_once_a_round_and_survives_a_line_that_breaks() {
    let scene = scene();
    scene.union.add_blob(&asset(), &mut &BYTES[..]).unwrap();
    scene.union.record(target(), &[asset()]).unwrap();
    let asked = [BlobDigest::of(BYTES)];
    assert!(scene.union.asked_for(10).is_empty(), "nobody asked");
    for _ in 0..3 {
        assert_eq!(get(scene.address, URL).0, 200);
    }
    assert!(scene.union.asked_for(0).is_empty());
    assert_eq!(scene.union.asked_for(10), asked);
    assert!(scene.union.asked_for(10).is_empty(), "on its way");
    scene.union.tell_again();
    assert_eq!(scene.union.asked_for(10), asked);
    scene.union.told();
    get(scene.address, URL);
    assert!(scene.union.asked_for(10).is_empty(), "told in this round");
    scene.union.new_round();
    assert!(scene.union.asked_for(10).is_empty(), "nobody asked since");
    get(scene.address, URL);
    assert_eq!(scene.union.asked_for(10), asked);
    // What is asked for is known also when the same is added once more.
    scene.union.tell_again();
    scene.union.record(target(), &[asset()]).unwrap();
    assert_eq!(scene.union.asked_for(10), asked);
}
