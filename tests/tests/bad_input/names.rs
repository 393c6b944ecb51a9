//! Names that are odd and allowed: they arrive byte for byte, and no terminal obeys them.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::state::{good, with_one_release};

const NAMES: [&[u8]; 5] = [b"new\nline", b"not\xffutf8", b"\x1b]0;title\x07", b" ", b"..."];

/// Every name in a folder with its content.
fn content(root: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let entries = fs::read_dir(root).unwrap().map(Result::unwrap);
    entries
        .map(|entry| {
            (
                entry.file_name().as_bytes().to_vec(),
                fs::read(entry.path()).unwrap(),
            )
        })
        .collect()
}

#[test]
fn any_name_travels_intact_and_is_escaped() {
    let fleet = with_one_release(1);
    let root = good(&fleet, "odd");
    for name in NAMES {
        let mut content = b"content of ".to_vec();
        content.extend_from_slice(name);
        fs::write(root.join(OsStr::from_bytes(name)), content).unwrap();
    }
    fleet.shipctl(&["publish", root.to_str().unwrap()]).expect(0);
    fleet.shipctl(&["promote", "site@2"]).expect(0);
    assert_eq!(content(&fleet.home("h1", "site").join("current")), content(&root));
    let out = fleet.beside("out").join("odd");
    fleet
        .shipctl(&["export", "site@2", out.to_str().unwrap()])
        .expect(0);
    assert_eq!(content(&out), content(&root));

    for args in [
        &["diff", "site@1", "site@2"][..],
        &["show", "site@2"],
        &["releases", "site"],
    ] {
        let said = fleet.shipctl(args).expect(0);
        let obeyed = |c: char| c.is_control() && c != '\n';
        assert!(
            !said.stdout.contains(obeyed) && !said.stderr.contains(obeyed),
            "{said}"
        );
    }
    let diff = fleet.shipctl(&["diff", "site@1", "site@2"]).expect(0);
    for escaped in ["new\\nline", "not\\xffutf8", "\\u{1b}]0;title\\u{7}"] {
        assert!(diff.stdout.contains(escaped), "{escaped}: {diff}");
    }
    fleet.shipctl(&["revert", "site"]).expect(0);
    assert_eq!(content(&fleet.home("h1", "site").join("current")).len(), 2);
}
