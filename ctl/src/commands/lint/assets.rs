//! Names: assets that keep theirs while their bytes change, and what everybody can fetch.

use ship_model::assets::Asset;
use ship_model::manifest::Manifest;
use ship_model::path::PathRef;
use ship_model::spec::AssetRoot;

use super::finding::{Finding, Findings, Kind};

/// What keeps its name by its nature: pages, and what browsers and crawlers ask for under one name.
const BY_NATURE: &[&str] = &["html", "htm", "xhtml", "xml", "txt", "webmanifest", "ico", "json"];
/// Scripts that a browser keeps by their address: a new name would be another service worker.
const WORKERS: &[&str] = &[
    "sw.js",
    "service-worker.js",
    "serviceworker.js",
    "ngsw-worker.js",
    "safety-worker.js",
];

/// The root that a file lies in, with its part below it.
pub fn root_of<'m, 'p>(manifest: &'m Manifest, path: PathRef<'p>) -> Option<(&'m AssetRoot, &'p [u8])> {
    let mut roots = manifest.spec().assets.iter();
    roots.find_map(|root| Some((root, root.inside(path)?)))
}

pub fn look(manifest: &Manifest, assets: &[Asset], findings: &mut Findings) {
    let is_mutable = |asset: &Asset| {
        root_of(manifest, asset.path.by_ref())
            .is_some_and(|(root, below)| root.mutable.iter().any(|path| path.as_bytes() == below))
    };
    let plain = assets.iter().filter(|asset| !asset.fingerprinted);
    for asset in plain.filter(|asset| !is_by_nature(&asset.path.by_ref()) && !is_mutable(asset)) {
        findings.add(Finding {
            kind: Kind::NoFingerprint,
            path: asset.path.to_string(),
            line: None,
            url: Some(asset.url_path.clone()),
            text: format!("no fingerprint in the name of {}", asset.url_path),
        });
    }
    let mut maps = assets
        .iter()
        .filter(|asset| asset.path.as_bytes().ends_with(b".map"));
    if let Some(first) = maps.next() {
        let more = maps.count();
        findings.add(Finding {
            kind: Kind::PublicMaps,
            path: first.path.to_string(),
            line: None,
            url: Some(first.url_path.clone()),
            text: match more {
                0 => "a source map that everybody can fetch".to_owned(),
                _ => format!("this source map and {more} more can be fetched by everybody"),
            },
        });
    }
    unused_patterns(manifest, findings);
}

fn unused_patterns(manifest: &Manifest, findings: &mut Findings) {
    for root in &manifest.spec().assets {
        let inside = || manifest.files().filter_map(|(path, ..)| root.inside(path));
        for pattern in &root.private {
            if !inside().any(|below| pattern.matches(below)) {
                findings.add(Finding {
                    kind: Kind::NothingPrivate,
                    path: root.folder(),
                    line: None,
                    url: None,
                    text: format!("no file fits private = [\"{}\"]", pattern.as_str()),
                });
            }
        }
    }
}

fn is_by_nature(path: &PathRef<'_>) -> bool {
    let name = String::from_utf8_lossy(path.file_name()).to_ascii_lowercase();
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    let hidden = path.components().any(|part| part.starts_with(b"."));
    hidden || BY_NATURE.contains(&extension) || WORKERS.contains(&name.as_str())
}
