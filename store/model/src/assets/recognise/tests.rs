//! What is found out at publish, and that everybody reads the same of it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

use super::*;
use crate::assets::{AssetsError, assets_of};
use crate::digest::BlobDigest;
use crate::manifest::{Entry, EntryKind};
use crate::path::TreePath;
use crate::spec::Pattern;

fn path(text: &str) -> TreePath {
    TreePath::new(text.as_bytes()).unwrap()
}

fn release(root: AssetRoot, names: &[&str]) -> Manifest {
    let mut spec = ReleaseSpec::static_files("web".parse().unwrap());
    spec.assets.push(root);
    let entry = |name: &&str| Entry {
        path: path(name),
        kind: EntryKind::File {
            executable: false,
            size: 1,
            digest: BlobDigest::of(name.as_bytes()),
        },
    };
    Manifest::new(spec, names.iter().map(entry).collect()).unwrap()
}

/// The fingerprinted files of the release as publish makes it, read back from its bytes.
fn kept(manifest: &Manifest, built: &Built) -> Vec<String> {
    let made = match recognise(manifest, built) {
        Some(spec) => manifest.with_spec(spec).unwrap(),
        None => manifest.clone(),
    };
    let read = Manifest::decode(made.encoded()).unwrap();
    let assets = assets_of(&read).unwrap();
    let kept = assets.iter().filter(|asset| asset.fingerprinted);
    kept.map(|asset| asset.path.to_string()).collect()
}

#[test]
fn what_names_tell_needs_no_marks() {
    let names = ["a/index.html", "a/main.3f9a12bc.js", "a/x-qwertzui.js"];
    let manifest = release(AssetRoot::new(None, "/"), &names);
    assert_eq!(recognise(&manifest, &Built::default()), None);
}

#[test]
fn a_manifest_tells_what_names_do_not() {
    let names = [
        "a/app-3f9a1.js",
        "a/app-qwertzui.js",
        "a/assets.json",
        "a/page-birthday.css",
        "a/z.html",
    ];
    let mut root = AssetRoot::new(Some(path("a")), "/");
    let mut built = Built::default();
    let text = br#"{"app.js": "app-qwertzui.js"}"#;
    built
        .read(&release(root.clone(), &names), &path("a/assets.json"), text)
        .unwrap();
    assert_eq!(
        kept(&release(root.clone(), &names), &built),
        ["a/app-qwertzui.js"]
    );
    assert_eq!(kept(&release(root.clone(), &names), &Built::default()), [""; 0]);
    // What a user names mutable is so, whatever a tool says; what is private is no asset at all.
    root.mutable.push(path("app-qwertzui.js"));
    assert_eq!(kept(&release(root.clone(), &names), &built), [""; 0]);
    root.mutable.clear();
    root.private.push(Pattern::new("app-3*").unwrap());
    assert_eq!(kept(&release(root, &names), &built), ["a/app-qwertzui.js"]);
}

#[test]
fn originals_beside_digested_files_are_mutable_unless_their_names_tell_surely() {
    let names = [
        "s/base-Checkins.css",
        "s/base-Checkins.5af66c1b1797.css",
        "s/chunk-BxY3k_9Q.js",
        "s/chunk-BxY3k_9Q.5af66c1b1797.js",
        "s/more-DiwrgTda.5af66c1b1797.js",
        "s/staticfiles.json",
    ];
    let manifest = release(AssetRoot::new(Some(path("s")), "/static"), &names);
    let mut built = Built::default();
    let text = br#"{"paths": {"base-Checkins.css": "base-Checkins.5af66c1b1797.css",
        "chunk-BxY3k_9Q.js": "chunk-BxY3k_9Q.5af66c1b1797.js"}, "version": "1.1"}"#;
    let all_but_one = [names[1], names[3], names[2], names[4]];
    assert_eq!(
        kept(&manifest, &Built::default()).len(),
        5,
        "the company vouches for it"
    );
    assert_eq!(built.read(&manifest, &path("s/staticfiles.json"), text), Ok(2));
    assert_eq!(kept(&manifest, &built), all_but_one);
}

#[test]
fn the_folder_of_a_next_build_is_a_fingerprint() {
    let in_folder = |folder: &str| {
        let names = [
            format!("{folder}/_buildManifest.js"),
            format!("{folder}/_ssgManifest.js"),
            format!("{folder}/deep/data.json"),
            "n/chunks/plain.js".to_owned(),
        ];
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let manifest = release(AssetRoot::new(Some(path("n")), "/_next/static"), &names);
        kept(&manifest, &Built::default()).len()
    };
    assert_eq!(in_folder("n/kX9pQz_3vB-7mWcR2tLyA"), 3);
    assert_eq!(in_folder("n/kXzpQz_vvB-xmWcRztLyA"), 3, "without a digit");
    assert_eq!(in_folder("n/3f9a12b"), 3, "a commit");
    for same_for_all in [
        "n/production",
        "n/build",
        "n/development",
        "n/1234567",
        "n/MyApplication",
    ] {
        assert_eq!(in_folder(same_for_all), 0, "{same_for_all}");
    }
}

#[test]
fn turbopacks_names_are_known_beside_a_build_alone() {
    let kept_in = |folder: &str| {
        let names = [
            format!("{folder}/build/_buildManifest.js"),
            format!("{folder}/chunks/0cz1d0mv5g_q7.js"),
            format!("{folder}/chunks/turbopack-0zq_vp9s-5ndp.js.map"),
            format!("{folder}/media/logo.1-aeeazy_b-s3.png"),
            format!("{folder}/chunks/9cz1d0mv5g_q7.js"),
            format!("{folder}/chunks/0cz1d0mv5g.js"),
            "n/0cz1d0mv5g_q7.js".to_owned(),
        ];
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let manifest = release(AssetRoot::new(Some(path("n")), "/"), &names);
        kept(&manifest, &Built::default()).len()
    };
    assert_eq!(kept_in("n/static"), 3);
    let elsewhere = release(AssetRoot::new(Some(path("n")), "/"), &["n/0cz1d0mv5g_q7.js"]);
    assert_eq!(kept(&elsewhere, &Built::default()), [""; 0]);
}

#[test]
fn late_names() {
    for (name, kept) in [
        ("main-ABCDEFGH.js", true),
        ("styles-QWERTYUI.css", true),
        ("chunk-ABCDEFGH.js.map", true),
        ("app-dxh3f9a12bc77d0.js", true),
        ("logo-ABCDEFGH.png", false),
        ("LOGO-ABCDEFGH.js", false),
        ("module-FACEBOOK.js", false),
        ("main-ABCDEFG1.js", false),
        ("a-dxhello.js", false),
    ] {
        assert_eq!(late_name(name.as_bytes()), kept, "{name}");
    }
}

#[test]
fn marks_of_other_files_are_refused() {
    let mut root = AssetRoot::new(Some(path("a")), "/");
    root.marks = Some(Marks::new([true; 9]));
    let refused = assets_of(&release(root, &["a/b.js"])).unwrap_err();
    assert!(
        matches!(&refused, AssetsError::Marks { root } if root == "a"),
        "{refused:?}"
    );
}

/// Private files are in the release and nowhere else, in any encoding.
#[test]
fn private_files_are_no_assets() {
    let mut root = AssetRoot::new(Some(path("a")), "/");
    root.private = vec![Pattern::new("**/*.map").unwrap()];
    let names = [
        "a/m.3f9a12bc.js",
        "a/m.3f9a12bc.js.map",
        "a/m.3f9a12bc.js.map.gz",
        "a/n.3f9a12bc.js.gz",
    ];
    let manifest = release(root, &names);
    assert_eq!(manifest.entries().len(), 4);
    let urls = assets_of(&manifest)
        .unwrap()
        .into_iter()
        .map(|asset| asset.url_path);
    assert_eq!(urls.collect::<Vec<_>>(), ["/m.3f9a12bc.js", "/n.3f9a12bc.js.gz"]);
}
