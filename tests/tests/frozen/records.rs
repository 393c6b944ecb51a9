//! The store's records of every kind, and its journal as a whole: the truth from which everything else is made anew.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use ship_model::desired::DeployNumber;
use ship_model::digest::{BlobDigest, BundleDigest, DeltaDigest};
use ship_model::host::standing::{Duty, Standing};
use ship_model::name::ClassName;
use ship_model::release::{Provenance, ReleaseNumber};
use ship_model::rollout::{Course, EnvState};
use ship_store::engine::catalog::{MemoryCatalog, SledCatalog};
use ship_store::engine::{Catalog, Change, Outcome};
use ship_store::ledger::{
    Act, AssetClaim, BundleFacts, ClaimToken, Collected, EnvChange, ExpiredAsset, HeldReleases, HostRecord,
    KeptRecord, Ledger, Made, Marks, NewRelease, Pin, RequestId, RequestRecord, Restored, Stored,
};

use super::sample::{app, env, env_state, host, target};
use super::{frozen, writes_the_same};

const JOURNAL: &str = "store-journal-1";
const RECORDS: &str = "store-records-1.txt";
/// A record that is long enough to be compressed.
const COMPRESSED: &str = "store-record-compressed-1";

const REQUEST: RequestId = RequestId([7; 16]);
const STATE: Course = Course::Forward { step: 3 };

fn act(what: &str) -> Act {
    Act {
        at_ms: 1_760_000_000_000,
        who: "operator/alice".to_owned(),
        what: what.to_owned(),
        subject: "production/web".to_owned(),
        detail: "because".to_owned(),
    }
}

fn claims() -> Vec<AssetClaim> {
    let claim = |url: &str, bytes: &[u8]| AssetClaim {
        url: url.to_owned(),
        digest: BlobDigest::of(bytes),
    };
    vec![
        claim("/static/main.3f9a12bc.js", b"one"),
        claim("/static/main.77c1aa00.css", b"two"),
    ]
}

fn release() -> NewRelease {
    let facts = BundleFacts { bytes: 8, blobs: 2 };
    NewRelease {
        app: app(),
        id: target(1).id,
        provenance: Provenance {
            label: Some("spring sale".to_owned()),
            commit: Some("1f0c".to_owned()),
            dirty: true,
        },
        publisher: "publisher/ci".to_owned(),
        at_ms: 1_760_000_000_001,
        bundle: Some((BundleDigest::of(b"bundle"), facts)),
        files: 3,
        bytes: 4,
        new_bytes: 5,
        stored_bytes: 6,
        claim: ClaimToken::new(REQUEST, 1),
        request: REQUEST,
        asked: "what was asked".to_owned(),
    }
}

fn host_record() -> HostRecord {
    HostRecord {
        env: env(),
        host: host("h1"),
        classes: vec![ClassName::new("web").unwrap()],
        asset_url: Some("http://127.0.0.21:7480".to_owned()),
        served: false,
        agent_version: "0.1.0".to_owned(),
        first_seen_ms: 1_760_000_000_002,
        standing: None,
    }
}

fn deploy_request() -> (RequestId, RequestRecord) {
    let made = Made::Deploy {
        env: env(),
        app: app(),
        deploy: DeployNumber(7),
    };
    let record = RequestRecord {
        asked: "promote".to_owned(),
        made,
    };
    (RequestId([8; 16]), record)
}

fn mark() -> Restored {
    Restored {
        at_ms: 1_760_000_000_003,
        from: "/backup".to_owned(),
    }
}

/// One record of every kind, in a fixed order.
fn write_all(ledger: &Ledger) {
    // The first try to publish dies after its claims; the second one voids them.
    ledger
        .claim_assets(&app(), &ClaimToken::new(REQUEST, 0), &claims()[..1])
        .unwrap();
    let release = release();
    ledger.claim_assets(&app(), &release.claim, &claims()).unwrap();
    assert!(ledger.add_release(&release).unwrap().new);
    let stored = ledger.put_host(&host_record(), None, &[act("register")]).unwrap();
    assert!(matches!(stored, Stored::Done(_)));
    let (id, record) = deploy_request();
    let change = EnvChange {
        state: &env_state(STATE),
        expected: None,
        acts: &[act("promote")],
        request: Some((id, &record)),
    };
    assert!(matches!(ledger.put_env_state(change).unwrap(), Stored::Done(_)));
    let stored = ledger.mark_restored(&mark(), &act("restore")).unwrap();
    assert!(matches!(stored, Stored::Done(_)));
}

fn read_all(ledger: &Ledger) {
    let record = ledger.newest_release(&app()).unwrap().unwrap();
    let new = release();
    assert_eq!((record.number, record.id), (ReleaseNumber(1), new.id));
    assert_eq!(record.provenance, new.provenance);
    assert_eq!(record.bundle, new.bundle.map(|(digest, _)| digest));
    assert_eq!(
        (record.files, record.bytes, record.new_bytes, record.stored_bytes),
        (3, 4, 5, 6)
    );
    let of_id = ledger.releases_of_id(&new.id).unwrap();
    assert_eq!(of_id, [(app(), ReleaseNumber(1))]);
    let (digest, facts) = new.bundle.unwrap();
    assert_eq!(ledger.bundle(&digest).unwrap(), Some(facts));
    for claim in claims() {
        let asset = ledger.asset(&app(), &claim.url).unwrap().unwrap();
        assert_eq!((asset.digest, asset.first), (claim.digest, ReleaseNumber(1)));
    }
    let again = ledger.add_release(&new).unwrap();
    assert!(!again.new, "a repeated request makes no second release");
    assert_eq!(again.record, record);
    let (id, made) = deploy_request();
    assert_eq!(ledger.request(id).unwrap(), Some(made));
    assert_eq!(
        ledger.host(&env(), &host("h1")).unwrap().unwrap().record,
        host_record()
    );
    let state = ledger.env_state(&env(), &app()).unwrap().unwrap();
    assert_eq!(state.record, env_state(STATE));
    assert_eq!(ledger.restored().unwrap(), Some(mark()));
    let links: Vec<_> = ledger.audit_tail(10).unwrap();
    let acts: Vec<_> = links.iter().map(|link| link.what.as_str()).collect();
    assert_eq!(acts, ["publish", "register", "promote", "restore"]);
}

/// `key<TAB>version<TAB>bytes` by line, in the order of the keys.
fn dump(catalog: &dyn Catalog) -> String {
    let mut text = String::new();
    for entry in catalog.range("", None, 1000).unwrap() {
        let bytes = entry.value.bytes.escape_ascii();
        writeln!(text, "{}\t{}\t{bytes}", entry.key, entry.value.version).unwrap();
    }
    text
}

fn open(dir: &Path) -> (Arc<SledCatalog>, Ledger) {
    let catalog = Arc::new(SledCatalog::open(dir).unwrap().0);
    (catalog.clone(), Ledger::new(catalog))
}

#[test]
fn the_journal_is_written_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (catalog, ledger) = open(folder.path());
    write_all(&ledger);
    writes_the_same(RECORDS, dump(&*catalog).as_bytes());
    drop((catalog, ledger));
    writes_the_same(JOURNAL, &fs::read(folder.path().join("journal")).unwrap());
}

#[test]
fn the_journal_is_read_as_it_was_meant() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("journal"), frozen(JOURNAL)).unwrap();
    let (catalog, ledger) = open(folder.path());
    assert_eq!(dump(&*catalog).as_bytes(), frozen(RECORDS));
    read_all(&ledger);
}

/// Compressed bytes may differ with another zstd; they must be readable for ever all the same.
#[test]
fn a_compressed_record_is_read() {
    let long = || Act {
        who: "w".repeat(4096),
        what: "long".to_owned(),
        subject: "s".repeat(4096),
        detail: "\u{1}".repeat(4096),
        at_ms: 5,
    };
    if std::env::var_os("SHIP_BLESS").is_some() {
        let catalog = Arc::new(MemoryCatalog::default());
        Ledger::new(catalog.clone()).audit(&[long()]).unwrap();
        let entry = catalog.range("audit/", None, 1).unwrap().remove(0);
        assert_eq!(entry.value.bytes[..2], *b"\x01z");
        fs::write(super::path(COMPRESSED), entry.value.bytes).unwrap();
    }
    let catalog = Arc::new(MemoryCatalog::default());
    let key = format!("audit/{:020}", 1);
    let batch = vec![Change::put(key, None, frozen(COMPRESSED))];
    assert!(matches!(
        catalog.compare_and_swap(batch).unwrap(),
        Outcome::Committed(_)
    ));
    let link = Ledger::new(catalog).audit_after(0, 1).unwrap().remove(0);
    let long = long();
    assert_eq!(
        (link.who, link.subject, link.detail),
        (long.who, long.subject, long.detail)
    );
}

/// The record of an environment at each place a rollout can be at.
#[test]
fn environments_are_read_and_written() {
    for (name, course) in [
        ("env-state-forward-1.json", Course::Forward { step: 3 }),
        ("env-state-back-1.json", Course::Back),
        ("env-state-ended-1.json", Course::Ended),
    ] {
        let state = env_state(course);
        writes_the_same(name, &state.encode().unwrap());
        assert_eq!(EnvState::decode(&frozen(name)).unwrap(), state);
    }
}

/// A kind that came later; alone, since the numbers of what is frozen above must stay.
#[test]
fn the_mark_of_an_expired_asset_is_read_and_written() {
    const FILE: &str = "store-record-expired-1";
    let catalog: Arc<dyn Catalog> = Arc::new(MemoryCatalog::default());
    let ledger = Ledger::new(Arc::clone(&catalog));
    let mark = ExpiredAsset {
        url: "/static/main.3f9a12bc.js".to_owned(),
        digest: BlobDigest::of(b"one"),
        at_ms: 1_760_000_000_004,
    };
    ledger
        .expire_assets(&app(), std::slice::from_ref(&mark), &act("sweep"))
        .unwrap();
    let entries = catalog.range("expired/", None, 2).unwrap();
    let [entry] = &entries[..] else {
        panic!("one mark: {entries:?}");
    };
    writes_the_same(FILE, &entry.value.bytes);
    let frozen = Change::put(&entry.key, Some(entry.value.version), frozen(FILE));
    let outcome = catalog.compare_and_swap(vec![frozen]).unwrap();
    assert!(matches!(outcome, Outcome::Committed(_)));
    assert_eq!(ledger.expired(&app(), &mark.url).unwrap(), Some(mark));
}

/// The same: a release that is kept as a delta.
#[test]
fn how_a_release_is_kept_is_read_and_written() {
    const FILE: &str = "store-record-kept-1";
    let catalog: Arc<dyn Catalog> = Arc::new(MemoryCatalog::default());
    let ledger = Ledger::new(Arc::clone(&catalog));
    let record = KeptRecord {
        delta: DeltaDigest::of(b"delta"),
        base: target(2).id,
        bytes: 435_000,
    };
    ledger.keep(target(1).id, &record, &act("keep")).unwrap();
    let entries = catalog.range("kept/", None, 2).unwrap();
    let [entry] = &entries[..] else {
        panic!("one release: {entries:?}");
    };
    writes_the_same(FILE, &entry.value.bytes);
    let frozen = Change::put(&entry.key, Some(entry.value.version), frozen(FILE));
    let outcome = catalog.compare_and_swap(vec![frozen]).unwrap();
    assert!(matches!(outcome, Outcome::Committed(_)));
    assert_eq!(ledger.kept().unwrap(), [(target(1).id, record)]);
}

/// The same: a host that operators keep out of rotation.
#[test]
fn what_is_wanted_of_a_host_is_read_and_written() {
    const FILE: &str = "store-record-standing-1";
    let catalog: Arc<dyn Catalog> = Arc::new(MemoryCatalog::default());
    let ledger = Ledger::new(Arc::clone(&catalog));
    let standing = Standing {
        duty: Duty::Drained,
        who: "operator/alice".to_owned(),
        reason: "new memory".to_owned(),
        at_ms: 1_760_000_000_003,
    };
    let record = HostRecord {
        standing: Some(standing),
        ..host_record()
    };
    let stored = ledger.put_host(&record, None, &[act("host drain")]).unwrap();
    assert!(matches!(stored, Stored::Done(_)));
    let entries = catalog.range("host/", None, 2).unwrap();
    let [entry] = &entries[..] else {
        panic!("one host: {entries:?}");
    };
    writes_the_same(FILE, &entry.value.bytes);
    let frozen = Change::put(&entry.key, Some(entry.value.version), frozen(FILE));
    let outcome = catalog.compare_and_swap(vec![frozen]).unwrap();
    assert!(matches!(outcome, Outcome::Committed(_)));
    let read = ledger.host(&env(), &host("h1")).unwrap().unwrap();
    assert_eq!(read.record, record);
}

/// The same: what is kept of releases' content, and what the collection of garbage goes by. A line for each: its key and its JSON.
#[test]
fn what_garbage_is_collected_by_is_read_and_written() {
    const FILE: &str = "store-records-garbage-1.txt";
    let catalog: Arc<dyn Catalog> = Arc::new(MemoryCatalog::default());
    let ledger = Ledger::new(Arc::clone(&catalog));
    let pin = Pin {
        at_ms: 1_760_000_000_005,
        who: "operator/alice".to_owned(),
        because: "audit".to_owned(),
    };
    let collected = |bare| Collected {
        at_ms: 1_760_000_000_006,
        who: "store".to_owned(),
        bare,
    };
    let held = HeldReleases {
        hosts: [(host("h1"), [(app(), vec![target(1)])].into())].into(),
    };
    let marks = Marks {
        at_ms: 1_760_000_000_007,
        since_ms: [("release web@3".to_owned(), 1_760_000_000_006)].into(),
        begun: [(target(2).id.to_string(), (4, 1_760_000_000_005))].into(),
    };
    ledger.pin(&app(), ReleaseNumber(1), &pin).unwrap();
    for (number, bare) in [(2, false), (3, true)] {
        ledger
            .collect(&app(), ReleaseNumber(number), &collected(bare), None)
            .unwrap();
    }
    ledger.begin_publish(&target(2).id, &app()).unwrap();
    ledger.put_held(&env(), &held).unwrap();
    ledger.put_marks(&marks).unwrap();
    let mut today = String::new();
    for prefix in ["pin/", "collected/", "begun/", "held/", "store/garbage"] {
        for entry in catalog.range(prefix, None, 9).unwrap() {
            let json = entry.value.bytes.strip_prefix(b"\x01j").unwrap();
            let json = std::str::from_utf8(json).unwrap();
            writeln!(today, "{}\t{json}", entry.key).unwrap();
        }
    }
    // What a publish with large files relies on stands in its record.
    let bundles: BTreeSet<_> = [BundleDigest::from_bytes([23; 32])].into();
    ledger.begin_publish(&target(3).id, &app()).unwrap();
    assert!(ledger.rely_on(&target(3).id, &bundles).unwrap());
    let key = format!("begun/{}", target(3).id);
    let begun = catalog.get(&key).unwrap().unwrap();
    let json = begun.bytes.strip_prefix(b"\x01j").unwrap();
    writes_the_same("store-record-begun-1", json);
    writes_the_same(FILE, today.as_bytes());

    let catalog: Arc<dyn Catalog> = Arc::new(MemoryCatalog::default());
    let mut lines: Vec<_> = String::from_utf8(frozen(FILE))
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    let begun = String::from_utf8(frozen("store-record-begun-1")).unwrap();
    lines.push(format!("{key}\t{begun}"));
    for line in lines {
        let (key, json) = line.split_once('\t').unwrap();
        let put = Change::put(key, None, [b"\x01j", json.as_bytes()].concat());
        let outcome = catalog.compare_and_swap(vec![put]).unwrap();
        assert!(matches!(outcome, Outcome::Committed(_)));
    }
    let ledger = Ledger::new(catalog);
    assert_eq!(ledger.relied_on().unwrap(), bundles);
    assert_eq!(ledger.pins(&app()).unwrap(), [(ReleaseNumber(1), pin)].into());
    let all = [
        (ReleaseNumber(2), collected(false)),
        (ReleaseNumber(3), collected(true)),
    ];
    assert_eq!(ledger.all_collected(&app()).unwrap(), all.into());
    assert!(ledger.begun_publish(&target(2).id).unwrap().is_some());
    assert_eq!(ledger.held().unwrap(), [(env(), held)].into());
    assert_eq!(ledger.marks().unwrap(), marks);
}
