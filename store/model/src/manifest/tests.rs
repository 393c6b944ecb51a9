//! Trees that are well-formed, and those that are not.

#![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]
use super::encoding::put_bytes16;
use super::*;
use crate::path::escape;

fn spec() -> ReleaseSpec {
    ReleaseSpec::static_files("web".parse().unwrap())
}

/// `f` a file, `f*` an executable, `d/` an empty folder, `l -> t` a link.
fn entry(text: &str) -> Entry {
    let (name, kind) = if let Some((name, target)) = text.split_once(" -> ") {
        let target = target.as_bytes().into();
        (name, EntryKind::Link { target })
    } else if let Some(name) = text.strip_suffix('/') {
        (name, EntryKind::EmptyFolder)
    } else {
        let name = text.trim_end_matches('*');
        let kind = EntryKind::File {
            executable: name != text,
            size: 7,
            digest: BlobDigest::of(name.as_bytes()),
        };
        (name, kind)
    };
    Entry {
        path: TreePath::new(name.as_bytes()).unwrap(),
        kind,
    }
}

fn tree(entries: &[&str]) -> Result<Manifest, ManifestError> {
    Manifest::new(spec(), entries.iter().copied().map(entry).collect())
}

fn sample() -> Manifest {
    tree(&[
        "bin/server*",
        "index.html",
        "lib/a",
        "lib/b -> ../index.html",
        "log/",
    ])
    .unwrap()
}

/// Bytes as [`Manifest::encode`] would write them if it did not check.
fn unchecked(entries: &[Entry]) -> Vec<u8> {
    let spec = serde_json::to_vec(&spec()).unwrap();
    let mut out = MAGIC.to_vec();
    put_bytes32(&mut out, &spec);
    out.extend_from_slice(&(entries.len() as u64).to_le_bytes());
    entries.iter().for_each(|entry| put_entry(&mut out, entry));
    out
}

#[test]
fn a_manifest_reads_back_whatever_the_order_it_was_made_in() {
    let manifest = sample();
    let encoded = manifest.encoded().to_vec();
    assert_eq!(Manifest::decode(&encoded).unwrap(), manifest);
    let mut reversed = manifest
        .entries()
        .iter()
        .map(EntryRef::to_entry)
        .collect::<Vec<_>>();
    reversed.reverse();
    let again = Manifest::new(spec(), reversed).unwrap();
    assert_eq!(Manifest::id_of(again.encoded()), Manifest::id_of(&encoded));
    assert_eq!(manifest.total_bytes(), 21);
    assert_eq!(
        manifest.get(b"lib/a").map(EntryRef::to_entry),
        Some(entry("lib/a"))
    );
    assert_eq!(manifest.get(b"lib"), None);
}

#[test]
fn another_spec_keeps_the_entries() {
    let mut other = spec();
    other.keep = Some(7);
    let entries = || sample().entries().iter().map(EntryRef::to_entry).collect();
    let made = Manifest::new(other.clone(), entries()).unwrap();
    assert_eq!(sample().with_spec(other).unwrap(), made);
    assert_eq!(made.with_spec(spec()).unwrap(), sample());
    let mut bad = spec();
    bad.keep = Some(0);
    assert!(matches!(sample().with_spec(bad), Err(ManifestError::Meaning(_))));
}

#[test]
fn a_cut_manifest_is_refused_at_every_byte() {
    let encoded = sample().encoded().to_vec();
    for at in 0..encoded.len() {
        let cut = Manifest::decode(&encoded[..at]);
        assert!(
            matches!(cut, Err(DecodeError::Magic | DecodeError::Truncated { .. })),
            "{cut:?} at {at}"
        );
    }
    let mut longer = encoded.clone();
    longer.push(0);
    assert_eq!(
        Manifest::decode(&longer),
        Err(DecodeError::Trailing { at: encoded.len() })
    );
}

#[test]
fn one_tree_has_one_encoding() {
    // Whatever bytes are read without complaint are the ones that would be written: no two ids for one tree.
    let encoded = sample().encoded().to_vec();
    for at in 0..encoded.len() {
        for bit in 0..8 {
            let mut flipped = encoded.clone();
            flipped[at] ^= 1 << bit;
            if let Ok(manifest) = Manifest::decode(&flipped) {
                assert_eq!(manifest.encoded().to_vec(), flipped, "bit {bit} at {at}");
                assert_ne!(
                    manifest,
                    sample(),
                    "bit {bit} at {at} is not part of the identity"
                );
            }
        }
    }
}

#[test]
fn a_spec_in_another_spelling_is_refused() {
    for spelling in [
        &br#"{ "app":"web"}"#[..],
        br#"{"app":"web","platform":[]}"#,
        br#"{"app":"web","surprise":1}"#,
        br#"{"app":"../web"}"#,
        b"",
        b"[]",
    ] {
        let mut bytes = MAGIC.to_vec();
        put_bytes32(&mut bytes, spelling);
        bytes.extend_from_slice(&1_u64.to_le_bytes());
        put_entry(&mut bytes, &entry("f"));
        assert!(
            matches!(
                Manifest::decode(&bytes),
                Err(DecodeError::NotCanonical | DecodeError::Spec { .. })
            ),
            "{}",
            escape(spelling)
        );
    }
}

#[test]
fn announced_sizes_cannot_ask_for_memory() {
    let mut spec = MAGIC.to_vec();
    spec.extend_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(Manifest::decode(&spec), Err(DecodeError::Limit { .. })));
    for count in [MAX_ENTRIES, MAX_ENTRIES + 1, u64::MAX] {
        let mut many = unchecked(&[]);
        let at = many.len() - 8;
        many[at..].copy_from_slice(&count.to_le_bytes());
        assert!(matches!(
            Manifest::decode(&many),
            Err(DecodeError::Tree(ManifestError::TooMany { .. }) | DecodeError::Truncated { .. })
        ));
    }
}

#[test]
fn too_many_names_are_counted_and_told_what_to_do() {
    let name = |number: u64| entry(&format!("{number:07}"));
    let most = Manifest::new(spec(), (0..MAX_ENTRIES).map(name).collect()).unwrap();
    assert_eq!(most.entries().len() as u64, MAX_ENTRIES);
    let said = Manifest::new(spec(), (0..=MAX_ENTRIES).map(name).collect()).unwrap_err();
    assert_eq!(
        said.to_string(),
        format!(
            "it has {} names, more than the {MAX_ENTRIES} that a release may have: pack folders that change together \
             into archives, or split the app",
            MAX_ENTRIES + 1
        )
    );
}

#[test]
fn entries_stand_in_order_and_once() {
    for pair in [["b", "a"], ["a", "a"], ["a/b", "a-b"]] {
        let bytes = unchecked(&pair.map(entry));
        assert!(
            matches!(
                Manifest::decode(&bytes),
                Err(DecodeError::Tree(ManifestError::Order { .. }))
            ),
            "{pair:?}"
        );
    }
    assert!(matches!(tree(&["a", "a"]), Err(ManifestError::Order { .. })));
    assert!(matches!(
        tree(&["a", "a -> b", "b"]),
        Err(ManifestError::Order { .. })
    ));
}

#[test]
fn paths_that_leave_are_refused_in_bytes_too() {
    for bad in [&b"../x"[..], b"/x", b"a/../x", b"", b"a//b", b"a/.", b"a\0"] {
        let mut bytes = unchecked(&[]);
        let at = bytes.len() - 8;
        bytes[at..].copy_from_slice(&1_u64.to_le_bytes());
        bytes.push(0);
        put_bytes16(&mut bytes, bad);
        bytes.extend_from_slice(&[0; 40]);
        assert!(
            matches!(Manifest::decode(&bytes), Err(DecodeError::Path(_))),
            "{}",
            escape(bad)
        );
    }
    let mut kind = unchecked(&[entry("f")]);
    let at = unchecked(&[]).len();
    kind[at] = 4;
    assert_eq!(Manifest::decode(&kind), Err(DecodeError::Kind { kind: 4, at }));
}

#[test]
fn a_tree_has_files_and_only_folders_hold_things() {
    for empty in [&[][..], &["d/"], &["l -> d", "d/"]] {
        assert_eq!(tree(empty), Err(ManifestError::Empty), "{empty:?}");
    }
    for below in [
        &["a", "a/b"][..],
        &["a*", "a/b/c/d"],
        &["l -> x", "l/f", "x/f"],
        &["a", "a-b", "a/b"],
    ] {
        assert!(
            matches!(tree(below), Err(ManifestError::BelowFile { .. })),
            "{below:?}"
        );
    }
    for full in [&["d/", "d/f"][..], &["d/", "d/e/"], &["d/", "d/e/f", "d-"]] {
        let result = tree(&[full, &["file"]].concat());
        assert!(matches!(result, Err(ManifestError::NotEmpty { .. })), "{full:?}");
    }
    assert!(tree(&["a", "a-b", "a.d/b", "ab/c"]).is_ok());
}

#[test]
fn links_that_leave_are_refused_wherever_they_lead_through() {
    for leaving in [
        &["l -> .."][..],
        &["l -> ../x"],
        &["a/l -> ../../x"],
        &["l -> /etc/passwd"],
        &["l -> .", "m -> l/.."],
        // By their texts both stay; walked physically, `up` is the root and `x` lies above it.
        &["a/b/up -> ../..", "x -> a/b/up/../y"],
        &["a/b/up -> ../..", "a/b/x -> up/../y"],
        &["a/up -> ..", "b/c -> ../a/up/up2", "up2 -> a/up/.."],
        &["l -> a/../../x"],
        &["abs -> /usr", "l -> abs/bin"],
        &["a -> b", "b -> c", "c -> .."],
    ] {
        let result = tree(&[leaving, &["f"]].concat());
        assert!(
            matches!(result, Err(ManifestError::Leaves { .. })),
            "{leaving:?}: {result:?}"
        );
    }
}

#[test]
fn a_link_that_leaves_says_what_to_allow() {
    let said = tree(&["f", "bin/python -> python3", "bin/python3 -> /usr/bin/python3"]);
    assert_eq!(
        said.unwrap_err().to_string(),
        "link \"bin/python\" -> \"python3\" leaves the release for /usr/bin/python3; if that is meant, and lies on \
         every host, say so in ship.toml: [links] external = [\"/usr/bin/python3\"]"
    );
    let said = tree(&["l -> ../x", "f"]).unwrap_err().to_string();
    assert!(
        said.ends_with("only absolute targets can be allowed, by [links] external"),
        "{said}"
    );
}

#[test]
fn links_that_stay_are_kept() {
    for staying in [
        &["l -> f"][..],
        &["a/l -> ../f"],
        &["a/b/up -> ../..", "x -> a/b/up/f"],
        &["l -> absent"],
        &["l -> l"],
        &["a -> b", "b -> a"],
        &["a/l -> .."],
        &["l -> ./a/./../f"],
    ] {
        let result = tree(&[staying, &["f"]].concat());
        assert!(result.is_ok(), "{staying:?}: {result:?}");
    }
    let many: Vec<String> = (0..100).map(|n| format!("l{n:03} -> l{:03}", n + 1)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).chain(["f"]).collect();
    assert!(
        tree(&many).is_ok(),
        "a chain that no kernel follows to its end leads nowhere"
    );
}

#[test]
fn links_cannot_keep_the_reader_busy() {
    // Each link leads through forty others by detours of thousands of components.
    let detour = "./".repeat(2000);
    let links: Vec<String> = (0..400)
        .map(|n| format!("l{n:03} -> {detour}l{:03}", n + 1))
        .collect();
    let links: Vec<&str> = links.iter().map(String::as_str).chain(["f"]).collect();
    assert_eq!(tree(&links), Err(ManifestError::Tangled));
}

#[test]
fn sizes_cannot_overflow_a_sum() {
    let sized = |name: &str, size| Entry {
        path: TreePath::new(name.as_bytes()).unwrap(),
        kind: EntryKind::File {
            executable: false,
            size,
            digest: BlobDigest::of(b""),
        },
    };
    for (a, b) in [
        (u64::MAX, 1),
        (u64::MAX, 0),
        (MAX_BYTES, 1),
        (MAX_BYTES / 2 + 1, MAX_BYTES / 2),
    ] {
        let bytes = unchecked(&[sized("a", a), sized("b", b)]);
        assert_eq!(
            Manifest::decode(&bytes),
            Err(DecodeError::Tree(ManifestError::TooLarge))
        );
    }
    assert!(Manifest::new(spec(), vec![sized("a", MAX_BYTES)]).is_ok());
}

#[test]
fn link_targets_are_bytes_within_limits() {
    let with = |target: &[u8]| {
        let link = Entry {
            path: TreePath::new(b"l").unwrap(),
            kind: EntryKind::Link {
                target: target.into(),
            },
        };
        Manifest::new(spec(), vec![link, entry("f")])
    };
    for bad in [&b""[..], b"a\0b", &[b'a'; MAX_TARGET + 1]] {
        assert!(
            matches!(with(bad), Err(ManifestError::Target { .. })),
            "{} bytes",
            bad.len()
        );
    }
    assert!(with(b"not\xffutf8").is_ok());
    let long = with(&[b'a'; MAX_TARGET]).unwrap();
    assert_eq!(Manifest::decode(long.encoded()).unwrap(), long);
}

#[test]
fn an_external_target_is_allowed_by_its_whole_text_only() {
    let mut spec = spec();
    spec.external_links = vec!["/usr/bin/python3".to_owned()];
    let with = |entries: &[&str]| Manifest::new(spec.clone(), entries.iter().copied().map(entry).collect());
    assert!(with(&["f", "bin/python -> /usr/bin/python3"]).is_ok());
    assert!(with(&["f", "bin/python -> /usr/bin/python3", "p -> bin/python"]).is_ok());
    for bad in [
        "p -> /usr/bin/python3.11",
        "p -> /usr/bin/../bin/python3",
        "p -> /usr/bin/python3/",
        "p -> ../usr/bin/python3",
    ] {
        assert!(with(&["f", bad]).is_err(), "{bad}");
    }
    let through = with(&["d -> /usr/bin/python3", "f", "p -> d/x"]);
    assert!(matches!(through, Err(ManifestError::Leaves { .. })));
}
