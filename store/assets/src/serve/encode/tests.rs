#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
use super::*;
use ship_model::path::TreePath;

fn wanted(bytes: &[u8]) -> Wanted {
    Wanted {
        root: Path::new("/").into(),
        name: TreePath::new(b"a.js").unwrap(),
        digest: BlobDigest::of(bytes),
        size: bytes.len() as u64,
        links: false,
        union: None,
    }
}

#[test]
fn what_is_encoded_decodes_to_the_same() {
    for size in [1_500, 200_000, 3_000_000] {
        let text: Vec<u8> = (0..size).map(|n: u32| b"var a=;"[n as usize / 7 % 7]).collect();
        for encoding in Encoding::ALL {
            let coded = encode(encoding, u64::from(size), &text[..], u64::from(size) / 20 * 19);
            let coded = coded.unwrap().unwrap();
            assert!(decodes_to(encoding, &coded, &wanted(&text)).unwrap());
            assert!(!decodes_to(encoding, &coded, &wanted(&text[1..])).unwrap());
            let half = decodes_to(encoding, &coded[..coded.len() / 2], &wanted(&text));
            assert!(!half.unwrap_or(false));
        }
    }
}

#[test]
fn names_are_read_back() {
    let (blob, own) = (BlobDigest::of(b"a"), BlobDigest::of(b"b"));
    for encoding in Encoding::ALL {
        for own in [None, Some(own)] {
            let name = file_name(&blob, own.as_ref(), encoding);
            assert_eq!(parse_name(&name), Some((blob, own, encoding)), "{name}");
        }
    }
    for bad in [
        "",
        "x.br",
        "-.br",
        ".tmp-0011.br",
        &format!("{blob}.gz"),
        &format!("{blob}-none.zip"),
    ] {
        assert_eq!(parse_name(bad), None, "{bad}");
    }
}

#[test]
fn only_what_grows_smaller_is_worth_it() {
    for (kind, size, worth) in [
        ("text/javascript; charset=utf-8", 1024, true),
        ("text/javascript; charset=utf-8", 1023, false),
        ("application/wasm", CEILING, true),
        ("application/wasm", CEILING + 1, false),
        ("image/svg+xml", 5000, true),
        ("image/png", 5000, false),
        ("font/woff2", 5000, false),
        ("application/octet-stream", 5000, false),
    ] {
        assert_eq!(is_worth_it(kind, size), worth, "{kind} {size}");
    }
}
