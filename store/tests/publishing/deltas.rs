//! Deltas that the store makes out of its bundles, and what it does with those that are wrong or no longer of use.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use ship_bundle::delta::Effort;
use ship_model::digest::ReleaseId;
use ship_store::deltas::{Deltas, KnownDelta, MakeError, Maker};
use ship_store::engine::{Object, ObjectKind};
use ship_store::folder::StoreFolder;

use super::tree::{Tree, open, publish, tree, web};

/// A script that a bundler made again: most of it stands elsewhere now.
fn script(version: u64) -> Vec<u8> {
    let lines = (0..4_000).map(|line| {
        let number: u64 = (line + version * 700) % 4_000 + version * 100;
        let hash = blake3::hash(&number.to_le_bytes()).to_hex();
        format!(
            "export function f{number}(request) {{ return handled(request, 0x{}) }}\n",
            &hash[..8]
        )
    });
    format!("// version {version}\n{}", lines.collect::<String>()).into_bytes()
}

/// A release of a page and its script.
pub fn version(number: u64) -> Tree {
    let hash = blake3::hash(&number.to_le_bytes()).to_hex();
    let name = format!("static/app.{}.js", &hash[..16]);
    tree(
        &web(),
        &[("index.html", name.as_bytes()), (&name, &script(number))],
    )
}

struct Room {
    store: StoreFolder,
    deltas: Arc<Deltas>,
    maker: Arc<Maker>,
}

impl Room {
    /// As a store at its start.
    fn open(dir: &Path) -> Self {
        let store = open(dir);
        let deltas = Arc::new(Deltas::load(&*store.blobs).unwrap());
        let (blobs, places) = (Arc::clone(&store.blobs), Arc::clone(&store.places));
        Self {
            maker: Maker::new(blobs, places, Arc::clone(&deltas)),
            store,
            deltas,
        }
    }

    /// Releases 1 to `count`; their ids, and the bytes of the last one's bundle.
    fn publish(&self, count: u64) -> (Vec<ReleaseId>, u64) {
        let released = |number| publish(&self.store.publisher, &version(number), number).unwrap();
        let records: Vec<_> = (1..=count).map(released).collect();
        let ids = records.iter().map(|record| record.id).collect();
        (ids, records.last().unwrap().stored_bytes)
    }

    fn lie_there(&self) -> usize {
        self.store.blobs.list(ObjectKind::Delta).unwrap().len()
    }
}

fn file_of(dir: &Path, delta: &KnownDelta) -> std::path::PathBuf {
    let hex = delta.digest.to_string();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else if *entry.file_name() == *hex {
                return entry.path();
            }
        }
    }
    panic!("delta {hex} lies nowhere");
}

#[test]
fn a_delta_is_made_once_kept_and_offered_to_whom_it_leads() {
    let dir = tempfile::tempdir().unwrap();
    let room = Room::open(dir.path());
    let (ids, bundle) = room.publish(3);
    let made = room.maker.make((ids[0], ids[2]), Effort::AT_ONCE).unwrap();
    assert!(
        made.bytes * 4 < bundle,
        "{made:?} beside {bundle} bytes of the bundle"
    );
    assert_eq!(room.deltas.leading_to(ids[2], &ids[..2]), [made]);
    assert_eq!(room.deltas.leading_to(ids[2], &ids[1..2]), []);
    assert_eq!(room.deltas.leading_to(ids[0], &ids[2..]), []);
    let again = room.maker.make((ids[0], ids[2]), Effort::AT_ONCE).unwrap();
    assert_eq!((again, room.lie_there()), (made, 1));

    drop(room);
    let room = Room::open(dir.path());
    assert_eq!(room.deltas.leading_to(ids[2], &ids[..2]), [made]);
}

#[test]
fn a_smaller_one_takes_the_place_of_the_one_made_in_haste() {
    let dir = tempfile::tempdir().unwrap();
    let room = Room::open(dir.path());
    let (ids, _) = room.publish(2);
    let way = (ids[0], ids[1]);
    let haste = room.maker.make(way, Effort::AT_ONCE).unwrap();
    let thorough = room.maker.make(way, Effort::THOROUGH).unwrap();
    assert!(thorough.bytes < haste.bytes && thorough.level > haste.level);
    assert_eq!(room.deltas.leading_to(ids[1], &ids[..1]), [thorough]);
    // Whoever was told of the larger one may be reading it; the next start knows that nobody is.
    assert_eq!(room.lie_there(), 2);
    drop(room);
    let room = Room::open(dir.path());
    assert_eq!(room.deltas.leading_to(ids[1], &ids[..1]), [thorough]);
    assert_eq!(room.lie_there(), 1);

    // What somebody waits for goes first.
    room.maker.wish([ids[1]], ids[0]);
    let given_up = room.maker.make(way, Effort::THOROUGH);
    assert!(matches!(given_up, Err(MakeError::Wished)), "{given_up:?}");
}

#[test]
fn what_leads_to_past_releases_is_no_longer_offered() {
    let dir = tempfile::tempdir().unwrap();
    let room = Room::open(dir.path());
    let (ids, _) = room.publish(3);
    let past = room.maker.make((ids[0], ids[1]), Effort::AT_ONCE).unwrap();
    let kept = room.maker.make((ids[1], ids[2]), Effort::AT_ONCE).unwrap();
    assert_eq!(room.deltas.retire(|target| target == ids[1]), [past.digest]);
    assert_eq!(room.deltas.len(), 1);
    assert_eq!(room.deltas.leading_to(ids[2], &ids), [kept]);
}

#[test]
fn one_that_is_damaged_is_put_aside_and_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let room = Room::open(dir.path());
    let (ids, _) = room.publish(2);
    let way = (ids[0], ids[1]);
    let made = room.maker.make(way, Effort::AT_ONCE).unwrap();
    drop(room);
    let file = file_of(dir.path(), &made);
    let whole = fs::read(&file).unwrap();
    fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    for cut in [0, 10, whole.len() - 1] {
        fs::write(&file, &whole[..cut]).unwrap();
        let room = Room::open(dir.path());
        assert!(room.deltas.is_empty(), "cut to {cut} bytes");
        assert_eq!(room.lie_there(), 0);
        assert_eq!(room.maker.make(way, Effort::AT_ONCE).unwrap(), made);
        drop(room);
        fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    }
}

#[test]
fn without_its_bundles_none_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let room = Room::open(dir.path());
    let (ids, _) = room.publish(2);
    for (bundle, _) in room.store.blobs.list(ObjectKind::Bundle).unwrap() {
        room.store.blobs.remove(bundle).unwrap();
    }
    let made = room.maker.make((ids[0], ids[1]), Effort::AT_ONCE);
    assert!(matches!(made, Err(MakeError::Spool(_))), "{made:?}");
    let nowhere = ReleaseId::from_bytes([7; 32]);
    room.store.blobs.remove(Object::Manifest(ids[0])).unwrap();
    for base in [nowhere, ids[0]] {
        let made = room.maker.make((base, ids[1]), Effort::AT_ONCE);
        assert!(
            matches!(made, Err(MakeError::Manifest { id, .. }) if id == base),
            "{made:?}"
        );
    }
    assert_eq!((room.deltas.len(), room.lie_there()), (0, 0));
}

/// What is known of each name takes memory, of which the store may have so much and no more.
#[test]
fn between_releases_of_very_many_names_none_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let room = Room::open(dir.path());
    let folder = ["n".repeat(220).as_str(); 10].join("/");
    let names: Vec<String> = (0..6_000).map(|number| format!("{folder}/{number}")).collect();
    let ids = [1, 2].map(|number| {
        let page = format!("page {number}");
        let mut files: Vec<(&str, &[u8])> = names.iter().map(|name| (&**name, &b""[..])).collect();
        files.push(("index.html", page.as_bytes()));
        publish(&room.store.publisher, &tree(&web(), &files), number)
            .unwrap()
            .id
    });
    let made = room.maker.make((ids[0], ids[1]), Effort::AT_ONCE);
    assert!(matches!(made, Err(MakeError::Large { .. })), "{made:?}");
    assert_eq!((room.deltas.len(), room.lie_there()), (0, 0));
}
