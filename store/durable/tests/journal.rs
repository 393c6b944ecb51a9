//! The journal: what is read again after crashes and damage of every kind.
#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]

use std::fs;
use std::path::Path;

use ship_durable::{Journal, JournalError, OpenError};

const MAX: u32 = 1024;

fn payloads(path: &Path) -> Vec<Vec<u8>> {
    let (_, recovered) = Journal::open(path, MAX).unwrap();
    recovered
        .records
        .into_iter()
        .map(|record| record.payload)
        .collect()
}

fn three(path: &Path) -> Vec<u8> {
    let (mut journal, _) = Journal::open(path, MAX).unwrap();
    assert!(journal.is_empty());
    assert_eq!(journal.append(b"first").unwrap(), 1);
    assert_eq!(journal.append_batch([b"second".as_slice(), b"third"]).unwrap(), 3);
    journal.sync().unwrap();
    assert_eq!(journal.len(), fs::metadata(path).unwrap().len());
    fs::read(path).unwrap()
}

#[test]
fn what_was_appended_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("j");
    three(&path);
    let (mut journal, recovered) = Journal::open(&path, MAX).unwrap();
    assert_eq!(recovered.cut, None);
    assert_eq!(
        recovered.records.iter().map(|r| r.seq).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    assert_eq!(journal.append(b"").unwrap(), 4);
    assert!(matches!(
        journal.append(&[0; 1025]),
        Err(JournalError::TooLong { .. })
    ));
    assert_eq!(journal.append(&[7; 1024]).unwrap(), 5);
    drop(journal);
    assert_eq!(
        payloads(&path),
        [
            b"first".to_vec(),
            b"second".to_vec(),
            b"third".to_vec(),
            vec![],
            vec![7; 1024]
        ]
    );
}

#[test]
fn cut_at_every_byte_it_keeps_exactly_the_whole_records() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("j");
    let bytes = three(&path);
    let ends = [20, 20 + 21, 20 + 21 + 22, 20 + 21 + 22 + 21];
    assert_eq!(bytes.len(), ends[3]);
    for len in 20..bytes.len() {
        fs::write(&path, &bytes[..len]).unwrap();
        let (mut journal, recovered) = Journal::open(&path, MAX).unwrap();
        let whole = ends.iter().filter(|end| **end <= len).count() - 1;
        assert_eq!(recovered.records.len(), whole, "cut at {len}");
        assert_eq!(recovered.cut.is_some(), len != ends[whole], "cut at {len}");
        journal.append(b"again").unwrap();
        drop(journal);
        assert_eq!(payloads(&path).len(), whole + 1);
    }
}

#[test]
fn a_tail_of_zeros_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("j");
    let mut bytes = three(&path);
    bytes.extend([0; 5000]);
    fs::write(&path, &bytes).unwrap();
    let (_, recovered) = Journal::open(&path, MAX).unwrap();
    assert_eq!(recovered.records.len(), 3);
    assert_eq!(recovered.cut.unwrap().bytes, 5000);
}

#[test]
fn any_flipped_bit_is_found_and_never_read_as_truth() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("j");
    let bytes = three(&path);
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << bit;
            fs::write(&path, &bad).unwrap();
            match Journal::open(&path, MAX) {
                // The last record's damage cannot be told from a torn write.
                Ok((_, recovered)) => {
                    assert!(at >= 63, "flip at {at}.{bit}");
                    assert_eq!(recovered.records.len(), 2);
                    assert!(recovered.cut.is_some());
                }
                Err(OpenError::NotAJournal { .. } | OpenError::Version { .. }) => assert!(at < 20),
                Err(OpenError::Damaged { offset, after, .. }) => {
                    assert_eq!(
                        (offset, after),
                        if at < 41 { (20, 0) } else { (41, 1) },
                        "flip at {at}.{bit}"
                    );
                    assert_eq!(
                        fs::read(&path).unwrap(),
                        bad,
                        "a damaged journal is left as it is"
                    );
                }
                Err(other) => unreachable!("{other}"),
            }
        }
    }
}

#[test]
fn damage_far_from_the_next_good_record_is_still_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("j");
    let (mut journal, _) = Journal::open(&path, 400_000).unwrap();
    journal.append(&vec![1; 300_000]).unwrap();
    journal.append(b"behind").unwrap();
    drop(journal);
    let mut bytes = fs::read(&path).unwrap();
    bytes[100] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(
        Journal::open(&path, 400_000),
        Err(OpenError::Damaged { offset: 20, .. })
    ));
}

#[test]
fn foreign_short_and_newer_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("j");
    for bytes in [b"".as_slice(), b"SHIP", b"#!/bin/sh\necho hello world\n"] {
        fs::write(&path, bytes).unwrap();
        assert!(matches!(
            Journal::open(&path, MAX),
            Err(OpenError::NotAJournal { .. })
        ));
    }
    let mut newer = b"SHIPJNL\x02".to_vec();
    newer.extend([0; 30]);
    fs::write(&path, newer).unwrap();
    assert!(matches!(
        Journal::open(&path, MAX),
        Err(OpenError::Version { found: 2, .. })
    ));
}

#[test]
fn a_rewrite_keeps_numbers_growing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("j");
    three(&path);
    let (mut journal, _) = Journal::open(&path, MAX).unwrap();
    journal.rewrite([b"all".as_slice()]).unwrap();
    assert_eq!(journal.append(b"more").unwrap(), 5);
    journal.rewrite([]).unwrap();
    journal.sync().unwrap();
    drop(journal);
    let (journal, recovered) = Journal::open(&path, MAX).unwrap();
    assert!(recovered.records.is_empty());
    assert_eq!(journal.next_seq(), 6);
}
