//! What is kept as deltas, and what that is made against.

use ship_model::release::ReleaseNumber;
use ship_store::engine::ObjectKind;
use ship_store::ledger::Pin;

use super::super::optimize::{assert_given, optimized};
use super::super::scene::{DAY, Room};
use super::super::tree::{Tree, tree, web};
use super::{Gc, is_whole};

/// Most of it is like the number before.
fn like(number: u64) -> Tree {
    let lines = (0..3_000).map(|line: u64| {
        let hash = blake3::hash(&(line + number * 40).to_le_bytes()).to_hex();
        format!("export const c{line} = 0x{}\n", &hash[..12])
    });
    let text: String = lines.collect();
    tree(&web(), &[("app.js", text.as_bytes())])
}

/// What a pinned release is kept against stays, however collected it is; and goes with the pin.
#[test]
fn what_is_kept_as_a_delta_keeps_what_it_is_made_against() {
    let dir = tempfile::tempdir().unwrap();
    let mut room = Room::open(dir.path(), &["production"]);
    for number in 1..=6 {
        room.publish(&like(number), number);
    }
    assert_eq!(optimized(&room.store).after[0].kept, 5);
    room.now_ms += DAY;
    let pin = Pin {
        at_ms: 1,
        who: "operator/alice".to_owned(),
        because: "audit".to_owned(),
    };
    room.store.ledger.pin(&web(), ReleaseNumber(2), &pin).unwrap();
    let counted = |room: &Room| {
        let count = |kind| room.store.blobs.list(kind).unwrap().len();
        [ObjectKind::Kept, ObjectKind::Bundle, ObjectKind::Manifest].map(count)
    };
    {
        let gc = Gc::new(&room);
        gc.collect();
        assert_eq!(gc.collected(), [1, 3, 4, 5]);
    }
    assert_eq!(counted(&room), [4, 1, 5], "2 is made against 3, and so on to 6");
    is_whole(&room);
    drop(room);
    let mut room = Room::open(dir.path(), &["production"]);
    room.now_ms += DAY;
    assert_given(&room.store, &like(2));
    // A new release, and what was let go is nobody's base.
    room.publish(&like(7), 7);
    optimized(&room.store);
    is_whole(&room);
    assert_given(&room.store, &like(2));
    drop(room);
    let mut room = Room::open(dir.path(), &["production"]);
    room.now_ms += 2 * DAY;
    room.store.ledger.unpin(&web(), ReleaseNumber(2), &pin).unwrap();
    {
        let gc = Gc::new(&room);
        gc.collect();
        assert_eq!(gc.collected(), [1, 2, 3, 4, 5, 6]);
    }
    assert_eq!(counted(&room), [0, 1, 1]);
    is_whole(&room);
    assert_given(&room.store, &like(7));
    room.publish(&like(3), 8);
    optimized(&room.store);
    is_whole(&room);
    for number in [3, 7] {
        assert_given(&room.store, &like(number));
    }
}
