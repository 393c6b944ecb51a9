//! Bundles that were cut, flipped, lengthened or made to hurt: never believed, never a panic, bounded memory.

use std::collections::HashSet;

use ship_bundle::stage::StageError;
use ship_bundle::{Expected, PackError, VerifyError, pack, verify_bundle, walk};
use ship_model::digest::{BlobDigest, BundleDigest};

use crate::fixture::*;

fn tiny() -> Published {
    let tree = tempfile::tempdir().unwrap();
    put(tree.path(), "a", "some bytes");
    put(tree.path(), "b*", "others");
    published(tree.path())
}

fn verify(bytes: &[u8]) -> Result<ship_bundle::Verified, VerifyError> {
    verify_bundle(bytes, &Expected::default())
}

#[test]
fn a_bundle_cut_anywhere_is_refused() {
    let good = tiny().bytes;
    assert!(verify(&good).is_ok());
    for at in 0..good.len() {
        assert!(verify(&good[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn a_flipped_bit_never_changes_what_is_believed() {
    let tiny = tiny();
    let named = Expected {
        digest: Some(tiny.digest),
        ..Expected::default()
    };
    let unpacked = zstd::decode_all(&tiny.bytes[..]).unwrap();
    for at in 0..tiny.bytes.len() {
        for bit in 0..8 {
            let mut bad = tiny.bytes.clone();
            bad[at] ^= 1 << bit;
            assert!(verify_bundle(&bad[..], &named).is_err(), "bit {bit} at {at}");
            // Without its name, the format alone sees all but what zstd itself ignores: the unused bit of a frame's
            // header, and some ways to say the same within a block. Such a bundle has a name of its own, and every
            // byte that anybody gets from it is the same.
            if let Ok(verified) = verify(&bad) {
                assert_eq!(verified.index, tiny.index, "bit {bit} at {at}");
                assert_eq!(verified.digest, BundleDigest::of(&bad), "bit {bit} at {at}");
                assert_eq!(zstd::decode_all(&bad[..]).unwrap(), unpacked, "bit {bit} at {at}");
            }
        }
    }
}

#[test]
fn nothing_can_be_added() {
    let tiny = tiny();
    let good = &tiny.bytes;
    let frames = tiny.index.frames();
    let data = (frames[1].offset + frames[1].len) as usize;
    let skippable = [&0x184D_2A50_u32.to_le_bytes()[..], &4_u32.to_le_bytes(), b"evil"].concat();
    let empty = zstd::bulk::compress(b"", 3).unwrap();
    let zeros = zstd::bulk::compress(&[0; 1024], 3).unwrap();
    for (at, extra) in [
        (0, &skippable[..]),
        (frames[1].offset as usize, &skippable),
        (data, &skippable),
        (good.len(), &skippable),
        (0, &empty),
        (frames[1].offset as usize, &empty),
        (frames[1].offset as usize, &zeros),
        (data, &zeros),
        (data, &good[..data]),
        (good.len(), b"x"),
        (good.len(), &good[..]),
    ] {
        let mut bad = good.clone();
        bad.splice(at..at, extra.iter().copied());
        assert!(verify(&bad).is_err(), "{} bytes at {at}", extra.len());
    }
}

#[test]
fn another_bundles_name_is_refused() {
    let expected = Expected {
        digest: Some(BundleDigest::of(b"other")),
        ..Expected::default()
    };
    assert!(matches!(
        verify_bundle(&tiny().bytes[..], &expected),
        Err(VerifyError::Digest { .. })
    ));
}

#[test]
fn a_bomb_is_stopped_by_its_limit() {
    let tree = tempfile::tempdir().unwrap();
    let bomb = std::fs::File::create(tree.path().join("zeros")).unwrap();
    bomb.set_len(200 << 20).unwrap();
    let published = published(tree.path());
    assert!(published.bytes.len() < 100_000);
    let expected = Expected {
        digest: None,
        max_raw_bytes: 1 << 20,
    };
    assert!(matches!(
        verify_bundle(&published.bytes[..], &expected),
        Err(VerifyError::TooLarge { .. })
    ));
}

#[test]
fn a_window_that_needs_much_memory_is_refused() {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.window_log(27).unwrap();
    std::io::Write::write_all(&mut encoder, &[0; 4096]).unwrap();
    let frame = encoder.finish().unwrap();
    assert!(matches!(verify(&frame), Err(VerifyError::Frame { frame: 0, .. })));
}

#[test]
fn random_bytes_are_no_bundle() {
    for seed in 0..200 {
        let mut bytes = noise(seed, 300);
        assert!(verify(&bytes).is_err());
        bytes[..4].copy_from_slice(&0xFD2F_B528_u32.to_le_bytes());
        assert!(verify(&bytes).is_err());
    }
}

#[test]
fn a_source_that_lies_stages_nothing() {
    let tree = tempfile::tempdir().unwrap();
    sample_tree(tree.path());
    let published = published(tree.path());
    let frame = &published.index.frames()[0];
    for at in (frame.offset..frame.offset + frame.len).step_by(frame.len as usize / 60) {
        let host = Host::new();
        let mut source = Source::of(&[&published]);
        source
            .bundles
            .values_mut()
            .for_each(|bytes| bytes[at as usize] ^= 0x10);
        let staged = host.stage_from("1", &published.manifest, &[], &[&published], &source);
        assert!(matches!(staged, Err(StageError::Build(_))), "{staged:?} at {at}");
        assert_eq!(host.names(), [""; 0]);
    }
    let host = Host::new();
    let mut source = Source::of(&[&published]);
    source.bundles.values_mut().for_each(|bytes| bytes.truncate(1000));
    assert!(
        host.stage_from("1", &published.manifest, &[], &[&published], &source)
            .is_err()
    );
    let absent = host.stage_from("1", &published.manifest, &[], &[&published], &Source::default());
    assert!(absent.is_err());
    let unknown = host.stage_from("1", &published.manifest, &[], &[], &source);
    assert!(matches!(unknown, Err(StageError::Missing(_))));
    assert_eq!(host.names(), [""; 0]);
}

#[test]
fn a_lying_index_stages_nothing() {
    let tree = tempfile::tempdir().unwrap();
    put(tree.path(), "a", "aaaa");
    put(tree.path(), "b", "bbbb");
    let real = published(tree.path());
    // The same lengths with other bytes: an index that fits and tells the wrong digests.
    put(tree.path(), "a", "cccc");
    put(tree.path(), "b", "dddd");
    let other = published(tree.path());
    let host = Host::new();
    let mut source = Source::of(&[&real]);
    source.bundles.insert(other.digest, real.bytes.clone());
    let staged = host.stage_from("1", &other.manifest, &[], &[&other], &source);
    assert!(matches!(staged, Err(StageError::Build(_))), "{staged:?}");
    assert_eq!(host.names(), [""; 0]);
}

#[test]
fn packing_sees_what_changed_since_the_walk() {
    let tree = tempfile::tempdir().unwrap();
    put(tree.path(), "a", "aaaa");
    put(tree.path(), "large", noise(1, 5 << 20));
    let manifest = walk(tree.path(), &spec(), &()).unwrap().manifest;
    let all: HashSet<BlobDigest> = manifest.files().map(|file| file.3).collect();
    let packed = |wanted: &HashSet<BlobDigest>| pack(tree.path(), &manifest, wanted, 3, std::io::sink(), &());
    let unknown = HashSet::from([BlobDigest::of(b"nobody has this")]);
    assert!(matches!(packed(&unknown), Err(PackError::Unknown { .. })));
    for (name, content) in [
        ("a", &b"bbbb"[..]),
        ("a", b"aaaaa"),
        ("a", b"aaa"),
        ("large", b"small"),
    ] {
        let before = std::fs::read(tree.path().join(name)).unwrap();
        put(tree.path(), name, content);
        assert!(matches!(packed(&all), Err(PackError::Changed { .. })), "{name}");
        put(tree.path(), name, before);
    }
    std::fs::remove_file(tree.path().join("a")).unwrap();
    std::os::unix::fs::symlink("large", tree.path().join("a")).unwrap();
    assert!(packed(&all).is_err());
}
