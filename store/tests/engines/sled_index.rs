//! The embedded catalog: its journal is the truth, and whatever happens to sled is healed from it.

use std::fs;
use std::path::Path;

use ship_store::engine::catalog::{CatalogOpenError, SledCatalog};
use ship_store::engine::{Catalog, Entry};

use super::catalog::{committed, put};

fn filled(dir: &Path) -> Vec<Entry> {
    let (catalog, _) = SledCatalog::open(dir).unwrap();
    for n in 0..300 {
        let key = format!("k/{}", n % 100);
        let version = catalog.get(&key).unwrap().map(|value| value.version);
        committed(put(&catalog, &key, version, format!("value {n}").as_bytes()));
    }
    all(&catalog)
}

fn all(catalog: &SledCatalog) -> Vec<Entry> {
    catalog.range("", None, 10_000).unwrap()
}

/// Opens it, expecting the content of before, and tells whether the index was made anew.
fn reopen(dir: &Path, before: &[Entry]) -> Option<String> {
    let (catalog, opened) = SledCatalog::open(dir).unwrap();
    assert_eq!(all(&catalog), before);
    let next = committed(put(&catalog, "after", None, b""));
    assert!(before.iter().all(|entry| entry.value.version < next));
    opened.rebuilt
}

fn index_files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![dir.join("index")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => files.push(entry.path()),
            }
        }
    }
    files.sort();
    files
}

#[test]
fn what_was_committed_is_there_again() {
    let dir = tempfile::tempdir().unwrap();
    let before = filled(dir.path());
    assert_eq!(before.len(), 100);
    assert_eq!(reopen(dir.path(), &before), None);
}

#[test]
fn a_missing_index_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let before = filled(dir.path());
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    let told = reopen(dir.path(), &before).unwrap();
    assert!(told.contains("missing"), "{told}");
}

#[test]
fn rebuild_makes_the_index_anew() {
    let dir = tempfile::tempdir().unwrap();
    let before = filled(dir.path());
    let opened = SledCatalog::rebuild(dir.path()).unwrap();
    assert!(opened.rebuilt.is_some());
    assert_eq!(opened.batches, 300);
    assert_eq!(reopen(dir.path(), &before), None);
}

#[test]
fn a_damaged_index_is_put_aside_and_made_anew() {
    let origin = tempfile::tempdir().unwrap();
    let before = filled(origin.path());
    let mut healed = 0;
    for (number, file) in index_files(origin.path()).into_iter().enumerate() {
        let name = file.strip_prefix(origin.path()).unwrap();
        for damage in ["truncate", "flip", "zeros", "garbage", "empty"] {
            let copy = tempfile::tempdir().unwrap();
            copy_tree(origin.path(), copy.path());
            hurt(&copy.path().join(name), damage, number);
            if let Some(reason) = reopen(copy.path(), &before) {
                healed += 1;
                let aside = copy.path().join("index.broken-1");
                assert!(aside.is_dir(), "{damage} of {}: {reason}", name.display());
            }
            // Where nothing was made anew, the damage hit nothing that is read: `reopen` compared it all.
        }
    }
    assert!(healed >= 3, "only {healed} damages were noticed");
}

fn hurt(file: &Path, damage: &str, seed: usize) {
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    match damage {
        "truncate" => bytes.truncate(middle),
        "empty" => bytes.clear(),
        "zeros" => bytes.fill(0),
        "garbage" => bytes
            .iter_mut()
            .enumerate()
            .for_each(|(at, byte)| *byte = (at * 31 + seed) as u8),
        _ => {
            for at in (0..bytes.len()).step_by(61) {
                bytes[at] ^= 1 << (at % 8);
            }
        }
    }
    fs::write(file, bytes).unwrap();
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_tree(&entry.path(), &target),
            false => {
                fs::copy(entry.path(), target).unwrap();
            }
        }
    }
}

#[test]
fn an_index_of_another_time_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let before = filled(dir.path());
    let older = tempfile::tempdir().unwrap();
    copy_tree(dir.path(), older.path());

    // Behind the journal: the tail is replayed.
    let (catalog, _) = SledCatalog::open(dir.path()).unwrap();
    committed(put(&catalog, "more", None, b"1"));
    let more = all(&catalog);
    drop(catalog);
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    copy_tree(&older.path().join("index"), &dir.path().join("index"));
    assert_eq!(reopen(dir.path(), &more), None);

    // Ahead of the journal: made anew.
    fs::remove_dir_all(older.path().join("index")).unwrap();
    copy_tree(&dir.path().join("index"), &older.path().join("index"));
    let told = reopen(older.path(), &before).unwrap();
    assert!(told.contains("journal ends at"), "{told}");
}

#[test]
fn an_index_older_than_the_checkpoint_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path());
    let older = tempfile::tempdir().unwrap();
    copy_tree(dir.path(), older.path());
    let (catalog, _) = SledCatalog::open(dir.path()).unwrap();
    committed(put(&catalog, "more", None, b"1"));
    catalog.checkpoint().unwrap();
    committed(put(&catalog, "and more", None, b"2"));
    let all = all(&catalog);
    drop(catalog);
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    copy_tree(&older.path().join("index"), &dir.path().join("index"));
    let told = reopen(dir.path(), &all).unwrap();
    assert!(told.contains("checkpoint"), "{told}");
}

#[test]
fn a_torn_end_is_cut_and_damage_in_the_middle_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let before = filled(dir.path());
    let journal = dir.path().join("journal");
    let good = fs::read(&journal).unwrap();

    let mut torn = good.clone();
    torn.extend_from_slice(&[9; 21]);
    fs::write(&journal, torn).unwrap();
    let (catalog, opened) = SledCatalog::open(dir.path()).unwrap();
    assert_eq!(opened.cut, Some(21));
    assert_eq!(all(&catalog), before);
    drop(catalog);

    let mut damaged = good.clone();
    damaged[good.len() / 2] ^= 1;
    fs::write(&journal, &damaged).unwrap();
    let refused = SledCatalog::open(dir.path()).unwrap_err();
    assert!(matches!(refused, CatalogOpenError::Journal(_)), "{refused}");
    assert_eq!(
        fs::read(&journal).unwrap(),
        damaged,
        "what is damaged is left alone"
    );
}

#[test]
fn the_journal_does_not_grow_with_history() {
    let dir = tempfile::tempdir().unwrap();
    let (catalog, _) = SledCatalog::open(dir.path()).unwrap();
    let mut version = None;
    for _ in 0..60 {
        version = Some(committed(put(&catalog, "same", version, &vec![7; 512 << 10])));
    }
    let len = fs::metadata(dir.path().join("journal")).unwrap().len();
    assert!(len < 10 << 20, "{len} bytes for one record of 512 KiB");
    let before = all(&catalog);
    drop(catalog);
    assert_eq!(reopen(dir.path(), &before), None);
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    let (catalog, _) = SledCatalog::open(dir.path()).unwrap();
    assert_eq!(catalog.get("same").unwrap().unwrap().version, version.unwrap());
}

#[test]
fn a_second_opening_names_the_holder() {
    let dir = tempfile::tempdir().unwrap();
    let (_catalog, _) = SledCatalog::open(dir.path()).unwrap();
    let Err(CatalogOpenError::Locked(held)) = SledCatalog::open(dir.path()) else {
        panic!("it was opened twice");
    };
    assert!(
        held.to_string().contains(&std::process::id().to_string()),
        "{held}"
    );
}
