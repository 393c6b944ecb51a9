//! What every catalog does alike.

use std::collections::BTreeMap;
use std::sync::Arc;

use ship_store::engine::catalog::{MAX_BATCH, MAX_KEY, MAX_VALUE, MemoryCatalog, SledCatalog};
use ship_store::engine::{Catalog, CatalogError, Change, Outcome, Seen, Version, Write};

type Suite = fn(&dyn Fn() -> Arc<dyn Catalog>);

/// Runs a test over every engine. What is returned anew by the factory is the same catalog for an engine
/// that outlives its handle, and an empty one for the others.
fn over_every_engine(suite: Suite) {
    suite(&|| Arc::new(MemoryCatalog::default()));
    let dir = tempfile::tempdir().unwrap();
    let next = std::cell::Cell::new(0);
    suite(&|| {
        next.set(next.get() + 1);
        let (catalog, opened) = SledCatalog::open(&dir.path().join(next.get().to_string())).unwrap();
        assert_eq!(opened.rebuilt, None);
        Arc::new(catalog)
    });
}

pub fn put(catalog: &dyn Catalog, key: &str, expected: Option<Version>, value: &[u8]) -> Outcome {
    let change = Change::put(key, expected, value.to_vec());
    catalog.compare_and_swap(vec![change]).unwrap()
}

pub fn committed(outcome: Outcome) -> Version {
    match outcome {
        Outcome::Committed(version) => version,
        Outcome::Conflict { key, .. } => panic!("conflict at {key}"),
    }
}

#[test]
fn a_record_is_changed_only_at_the_version_it_was_read() {
    over_every_engine(|new| {
        let catalog = new();
        assert_eq!(catalog.get("a").unwrap(), None);
        let first = committed(put(&*catalog, "a", None, b"1"));
        let second = committed(put(&*catalog, "a", Some(first), b"2"));
        assert!(second > first);
        for stale in [None, Some(first), Some(Version(second.0 + 1))] {
            let Outcome::Conflict { key, current } = put(&*catalog, "a", stale, b"3") else {
                panic!("{stale:?} was taken");
            };
            assert_eq!(key, "a");
            let current = current.unwrap();
            assert_eq!((current.bytes, current.version), (b"2".to_vec(), second));
        }
        let Outcome::Conflict { current: None, .. } = put(&*catalog, "b", Some(first), b"") else {
            panic!("an absent record had a version");
        };
        assert_eq!(catalog.get("b").unwrap(), None);
    });
}

#[test]
fn a_deleted_record_never_has_an_old_version_again() {
    over_every_engine(|new| {
        let catalog = new();
        let first = committed(put(&*catalog, "a", None, b"1"));
        let delete = Change {
            key: "a".to_owned(),
            expected: Some(first),
            write: Write::Delete,
        };
        committed(catalog.compare_and_swap(vec![delete.clone()]).unwrap());
        assert_eq!(catalog.get("a").unwrap(), None);
        let again = committed(put(&*catalog, "a", None, b"1"));
        assert!(again > first);
        assert!(matches!(
            catalog.compare_and_swap(vec![delete]).unwrap(),
            Outcome::Conflict { .. }
        ));
    });
}

#[test]
fn a_batch_stands_whole_or_not_at_all() {
    over_every_engine(|new| {
        let catalog = new();
        let held = committed(put(&*catalog, "held", None, b"x"));
        let batch = |expected| {
            vec![
                Change::put("a", None, b"1".to_vec()),
                Change::keep("held", expected),
                Change::put("b", None, b"2".to_vec()),
            ]
        };
        let Outcome::Conflict { key, .. } = catalog.compare_and_swap(batch(None)).unwrap() else {
            panic!("a batch with a stale part was taken");
        };
        assert_eq!(key, "held");
        assert_eq!(catalog.range("", None, 10).unwrap().len(), 1);
        let version = committed(catalog.compare_and_swap(batch(Some(held))).unwrap());
        for key in ["a", "b"] {
            assert_eq!(catalog.get(key).unwrap().unwrap().version, version);
        }
        assert_eq!(catalog.get("held").unwrap().unwrap().version, held);
    });
}

#[test]
fn ranges_are_sorted_and_resumed() {
    over_every_engine(|new| {
        let catalog = new();
        for key in ["b/2", "a", "b/10", "b/", "b", "c", "b/3", "b0"] {
            committed(put(&*catalog, key, None, key.as_bytes()));
        }
        let keys = |prefix: &str, after: Option<&str>, limit| -> Vec<String> {
            let found = catalog.range(prefix, after, limit).unwrap();
            found.into_iter().map(|entry| entry.key).collect()
        };
        assert_eq!(keys("b/", None, 10), ["b/", "b/10", "b/2", "b/3"]);
        assert_eq!(keys("b/", None, 2), ["b/", "b/10"]);
        assert_eq!(keys("b/", Some("b/10"), 10), ["b/2", "b/3"]);
        assert_eq!(keys("b/", Some("a"), 1), ["b/"]);
        assert_eq!(keys("b/", Some("b/3"), 10), [""; 0]);
        assert_eq!(keys("b/", None, 0), [""; 0]);
        assert_eq!(keys("", None, 100).len(), 8);
        assert_eq!(keys("x", None, 100), [""; 0]);
    });
}

#[test]
fn limits_are_the_same_everywhere() {
    over_every_engine(|new| {
        let catalog = new();
        let refused = |batch| catalog.compare_and_swap(batch).unwrap_err();
        let long = "k".repeat(MAX_KEY + 1);
        for key in ["", &long] {
            let change = Change::put(key, None, Vec::new());
            assert!(matches!(refused(vec![change]), CatalogError::Key { .. }));
            assert!(catalog.get(key).is_err());
        }
        let large = Change::put("a", None, vec![0; MAX_VALUE + 1]);
        assert!(matches!(refused(vec![large]), CatalogError::Value { .. }));
        let twice = Change::put("a", None, Vec::new());
        assert!(matches!(
            refused(vec![twice.clone(), twice]),
            CatalogError::Twice { .. }
        ));
        let many = (0..=MAX_BATCH).map(|n| Change::put(n.to_string(), None, Vec::new()));
        assert!(matches!(refused(many.collect()), CatalogError::Batch { .. }));
        let heavy = (0..5).map(|n| Change::put(n.to_string(), None, vec![0; MAX_VALUE]));
        assert!(matches!(refused(heavy.collect()), CatalogError::Batch { .. }));
        assert_eq!(catalog.range("", None, 10).unwrap(), []);

        let longest = "k".repeat(MAX_KEY);
        committed(put(&*catalog, &longest, None, &vec![7; MAX_VALUE]));
        assert_eq!(catalog.get(&longest).unwrap().unwrap().bytes.len(), MAX_VALUE);
        let full = (0..MAX_BATCH).map(|n| Change::put(n.to_string(), None, vec![1]));
        committed(catalog.compare_and_swap(full.collect()).unwrap());
    });
}

#[test]
fn of_many_that_race_each_round_has_one_winner() {
    over_every_engine(|new| {
        let catalog = new();
        let (threads, rounds) = (8, 25);
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let catalog = catalog.clone();
                scope.spawn(move || {
                    for _ in 0..rounds {
                        increment(&*catalog, "counter", &thread.to_string());
                    }
                });
            }
        });
        let count = catalog.get("counter").unwrap().unwrap().bytes;
        assert_eq!(String::from_utf8(count).unwrap(), (threads * rounds).to_string());
        // Every increment left its own mark, so none was done on another's ground.
        let marks = catalog.range("mark/", None, 1000).unwrap();
        assert_eq!(marks.len(), threads * rounds);
    });
}

fn increment(catalog: &dyn Catalog, key: &str, who: &str) {
    loop {
        let found = catalog.get(key).unwrap();
        let version = found.as_ref().map(|value| value.version);
        let count: u64 = found.map_or(0, |value| {
            String::from_utf8(value.bytes).unwrap().parse().unwrap()
        });
        let batch = vec![
            Change::put(key, version, (count + 1).to_string().into_bytes()),
            Change::put(format!("mark/{count}"), None, who.as_bytes().to_vec()),
        ];
        if let Outcome::Committed(_) = catalog.compare_and_swap(batch).unwrap() {
            return;
        }
    }
}

#[test]
fn a_watcher_hears_what_is_below_its_prefix() {
    over_every_engine(|new| {
        let catalog = new();
        committed(put(&*catalog, "a/0", None, b""));
        let mut watch = catalog.watch("a/");
        assert_eq!(watch.try_next(), None);
        committed(put(&*catalog, "b/1", None, b""));
        let batch = vec![
            Change::put("a/1", None, Vec::new()),
            Change::put("b/2", None, Vec::new()),
            Change::put("a/2", None, Vec::new()),
        ];
        committed(catalog.compare_and_swap(batch).unwrap());
        assert!(matches!(
            put(&*catalog, "a/1", None, b""),
            Outcome::Conflict { .. }
        ));
        let keys = vec!["a/1".to_owned(), "a/2".to_owned()];
        assert_eq!(watch.try_next(), Some(Seen::Keys(keys)));
        assert_eq!(watch.try_next(), None);
    });
}

#[test]
fn a_watcher_that_sleeps_is_told_to_look_again() {
    let catalog = MemoryCatalog::default();
    let mut watch = catalog.watch("");
    for n in 0..5000 {
        committed(put(&catalog, &n.to_string(), None, b""));
    }
    assert_eq!(watch.try_next(), Some(Seen::Resync));
}

/// A random history gives the same answers on every engine.
#[test]
fn engines_agree_on_random_histories() {
    let dir = tempfile::tempdir().unwrap();
    for seed in 1..=4_u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = move |n: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % n
        };
        let memory = MemoryCatalog::default();
        let path = dir.path().join(seed.to_string());
        let (mut sled, _) = SledCatalog::open(&path).unwrap();
        for step in 0..200 {
            let mut batch = BTreeMap::new();
            for _ in 0..=next(3) {
                let key = format!("k{}", next(12));
                let found = memory.get(&key).unwrap().map(|value| value.version);
                let expected = if next(8) == 0 {
                    Some(Version(next(50)))
                } else {
                    found
                };
                let write = match next(5) {
                    0 => Write::Delete,
                    1 => Write::Keep,
                    _ => Write::Put(vec![step as u8; next(40) as usize]),
                };
                let change = Change {
                    key: key.clone(),
                    expected,
                    write,
                };
                batch.insert(key, change);
            }
            let mut batch: Vec<Change> = batch.into_values().collect();
            // Only batches that write have a version of their own on every engine.
            batch.push(Change::put(format!("step/{step}"), None, Vec::new()));
            assert_eq!(
                memory.compare_and_swap(batch.clone()).unwrap(),
                sled.compare_and_swap(batch).unwrap()
            );
            if next(40) == 0 {
                drop(sled);
                let opened;
                (sled, opened) = SledCatalog::open(&path).unwrap();
                assert_eq!((opened.rebuilt, opened.cut), (None, None));
            }
            if next(40) == 0 {
                sled.checkpoint().unwrap();
            }
        }
        assert_eq!(
            memory.range("", None, 1000).unwrap(),
            sled.range("", None, 1000).unwrap()
        );
    }
}
