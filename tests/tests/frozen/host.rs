//! What lies on a host: the agent's record of an app, the record of a release's assets, a journal.

use std::fs;

use ship_agent::journal::{AppRecord, Journal, LinkSwitch};
use ship_assets::Union;
use ship_durable::Journal as DurableJournal;
use ship_model::assets::Asset;
use ship_model::desired::DeployNumber;
use ship_model::digest::BlobDigest;
use ship_model::path::TreePath;

use super::sample::{desired, failure, held, target, update};
use super::{frozen, writes_the_same};

fn fill(record: &mut AppRecord) {
    record.take(desired());
    record.deploy = DeployNumber(7);
    record.switching = Some(LinkSwitch {
        to: target(455),
        previous: Some(target(454)),
    });
    record.failure = Some(failure());
    record.held = Some(held());
    record.update = update();
    record.cut_before = 5;
}

#[test]
fn the_agents_record_is_read_and_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("web.json");
    let mut journal = Journal::open(&path).unwrap().journal;
    journal.change(fill).unwrap();
    let today = journal.record().clone();
    writes_the_same("agent-app-1.json", &fs::read(&path).unwrap());

    fs::write(&path, frozen("agent-app-1.json")).unwrap();
    let opened = Journal::open(&path).unwrap();
    assert!(opened.quarantined.is_none(), "{:?}", opened.quarantined);
    assert_eq!(opened.journal.record(), &today);
}

fn asset(content: &[u8]) -> Asset {
    Asset {
        url_path: "/static/main.3f9a12bc.js".to_owned(),
        path: TreePath::new(b"lib/static/main.3f9a12bc.js").unwrap(),
        digest: BlobDigest::of(content),
        size: content.len() as u64,
        fingerprinted: true,
    }
}

#[test]
fn the_record_of_a_releases_assets_is_read_and_written() {
    const CONTENT: &[u8] = b"main()\n";
    let folder = tempfile::tempdir().unwrap();
    let (files, records) = (folder.path().join("assets"), folder.path().join("assets.records"));
    let union = Union::open(&files, &records).unwrap();
    union.add_blob(&asset(CONTENT), &mut &CONTENT[..]).unwrap();
    union.record(target(455), &[asset(CONTENT)]).unwrap();
    let record = records.join(target(455).folder());
    writes_the_same("assets-record-1.json", &fs::read(&record).unwrap());

    drop(union);
    fs::write(&record, frozen("assets-record-1.json")).unwrap();
    let union = Union::open(&files, &records).unwrap();
    assert_eq!(union.holds(), [target(455)]);
    assert_eq!(union.missing(&[asset(CONTENT)]), []);
}

/// Of a release of which an asset has expired: programs that do not know of that leave it out.
#[test]
fn the_record_of_what_is_left_of_a_release_is_read_and_written() {
    const FILE: &str = "assets-record-2.json";
    let kept = asset(b"main()\n");
    let expired = Asset {
        url_path: "/static/old.77c1aa00.js".to_owned(),
        ..asset(b"old()\n")
    };
    let folder = tempfile::tempdir().unwrap();
    let (files, records) = (folder.path().join("assets"), folder.path().join("assets.records"));
    let union = Union::open(&files, &records).unwrap();
    union.add_blob(&kept, &mut &b"main()\n"[..]).unwrap();
    union.add_blob(&expired, &mut &b"old()\n"[..]).unwrap();
    let both = [kept.clone(), expired.clone()];
    union.record(target(455), &both).unwrap();
    union
        .forget(union.word(), &|url| url == expired.url_path)
        .unwrap();
    let record = records.join(target(455).folder());
    writes_the_same(FILE, &fs::read(&record).unwrap());

    drop(union);
    fs::write(&record, frozen(FILE)).unwrap();
    let union = Union::open(&files, &records).unwrap();
    assert_eq!((union.holds(), union.faded()), (vec![], vec![target(455)]));
    assert_eq!(union.missing(&both), [expired]);
}

#[test]
fn a_journal_is_read_and_written() {
    const RECORDS: [&[u8]; 3] = [b"first", b"", b"\0\xff third"];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let (mut journal, _) = DurableJournal::open(&path, 1 << 20).unwrap();
    journal.append(b"replaced").unwrap();
    // A checkpoint: the numbers go on, the header says from where.
    journal.rewrite([RECORDS[0]]).unwrap();
    journal.append_batch([RECORDS[1], RECORDS[2]]).unwrap();
    journal.sync().unwrap();
    drop(journal);
    writes_the_same("journal-1", &fs::read(&path).unwrap());

    fs::write(&path, frozen("journal-1")).unwrap();
    let (_journal, found) = DurableJournal::open(&path, 1 << 20).unwrap();
    let read: Vec<_> = found
        .records
        .iter()
        .map(|record| (record.seq, &record.payload[..]))
        .collect();
    assert_eq!(read, [(2, RECORDS[0]), (3, RECORDS[1]), (4, RECORDS[2])]);
    assert_eq!(found.cut, None);
}
