//! Makes the delta between two folders, reads it back, compares every byte, and prints what it took.
//!
//!   delta OLD NEW [--thorough]
//!
//! One line of JSON: bytes of the delta, seconds to hash the trees, to make it and to read it, and the peak of memory.
#![allow(
    clippy::print_stdout,
    reason = "it is a command, and its figures are what it says"
)]

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::Instant;

use ship_bundle::delta::{
    BlobBytes, DeltaBlobs, DeltaFooter, DeltaIndex, Effort, FOOTER, TreeBlobs, make_delta, read_manifest,
};
use ship_bundle::walk;
use ship_model::digest::BlobDigest;
use ship_model::manifest::Manifest;
use ship_model::spec::ReleaseSpec;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (folders, options): (Vec<_>, Vec<_>) = words.iter().partition(|word| !word.starts_with("--"));
    let [old, new] = folders.as_slice() else {
        return Err("usage: delta OLD NEW [--thorough]".into());
    };
    let effort = match options.first().map(|option| option.as_str()) {
        Some("--thorough") => Effort::THOROUGH,
        _ => Effort::AT_ONCE,
    };
    let (old, new) = (Path::new(old), Path::new(new));
    let began = Instant::now();
    let (base, target) = (manifest(old)?, manifest(new)?);
    let walked = began.elapsed();
    let (from, to) = (TreeBlobs::open(old, &base)?, TreeBlobs::open(new, &target)?);
    let began = Instant::now();
    let mut delta = Vec::new();
    let made = make_delta((&base, &from), (&target, &to), effort, &mut delta, &())?;
    let making = began.elapsed();
    let peak_making = peak();
    let began = Instant::now();
    let blobs = read(&delta, &base, &from)?;
    println!(
        "{{\"bytes\": {}, \"manifest\": {}, \"raw\": {}, \"blobs\": {blobs}, \"walk_s\": {:.3}, \"make_s\": {:.3}, \"read_s\": {:.3}, \"peak_kib\": {}}}",
        made.bytes,
        made.manifest_bytes,
        made.raw_bytes,
        walked.as_secs_f64(),
        making.as_secs_f64(),
        began.elapsed().as_secs_f64(),
        peak_making,
    );
    Ok(())
}

fn manifest(folder: &Path) -> Result<Manifest, Box<dyn Error>> {
    let spec = ReleaseSpec::static_files("web".parse()?);
    Ok(walk(folder, &spec, &())?.manifest)
}

fn read(delta: &[u8], base: &Manifest, from: &dyn BlobBytes) -> Result<u64, Box<dyn Error>> {
    let footer = DeltaFooter::from_tail(&delta[delta.len() - FOOTER..], delta.len() as u64)?;
    let target = read_manifest(&footer, &delta[..footer.manifest_len as usize], base)?;
    let index = &delta[footer.index_at as usize..delta.len() - FOOTER];
    let index = DeltaIndex::parse(&footer, index, base, &target)?;
    let mut blobs = 0;
    for part in index.parts() {
        let range = index.range(&part);
        let input = &delta[range.start as usize..range.end as usize];
        let mut part = DeltaBlobs::new(&index, &part, input, base, from);
        while let Some((digest, _)) = part.next_blob() {
            let mut hasher = blake3::Hasher::new();
            part.content(|piece| {
                hasher.update(piece);
                Ok(())
            })?;
            if BlobDigest::from(hasher.finalize()) != digest {
                return Err(format!("blob {digest} came out wrong").into());
            }
            blobs += 1;
        }
    }
    Ok(blobs)
}

fn peak() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.unwrap_or_default().trim().trim_end_matches(" kB").to_owned()
}
