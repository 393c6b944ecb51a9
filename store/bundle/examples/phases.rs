//! Publishes and stages two folders as one program, without a network, and prints what each phase took.
//!
//!   phases OLD NEW WORK [ROUNDS]
//!
//! WORK is made, must not exist, and is on the file system where a host would be. One line of JSON a round; times in milliseconds.
//! "again" is a walk that remembers, "next" the new folder staged beside the old one, "links" `cp -al` of the old one.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "it is a command, and its figures are what it says"
)]

use std::collections::HashSet;
use std::error::Error;
use std::fs::{self, File};
use std::io::{Read, Seek as _, SeekFrom};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use ship_bundle::segments::SegmentList;
use ship_bundle::stage::{BlobSource, Place, StageTask, StagedRelease, stage};
use ship_bundle::walk::{Reading, Seen};
use ship_bundle::{BundleIndex, DEFAULT_LEVEL, Parts, Walked, pack_parts, walk_with};
use ship_model::digest::{BlobDigest, BundleDigest};
use ship_model::manifest::Manifest;
use ship_model::spec::ReleaseSpec;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [old, new, work, rounds @ ..] = words.as_slice() else {
        return Err("usage: phases OLD NEW WORK [ROUNDS]".into());
    };
    let rounds: usize = rounds.first().map_or(Ok(1), |rounds| rounds.parse())?;
    fs::create_dir(work)?;
    for round in 0..rounds {
        let work = Path::new(work).join(round.to_string());
        fs::create_dir(&work)?;
        one(Path::new(old), Path::new(new), &work)?;
    }
    Ok(())
}

fn one(old: &Path, new: &Path, work: &Path) -> Result<(), Box<dyn Error>> {
    let mut times = Vec::new();
    let first = timed("walk", &mut times, || walked(old, None))?;
    let again = timed("again", &mut times, || walked(old, Some(&first.seen)))?;
    let second = walked(new, None)?;
    let (old_pack, new_pack) = (work.join("old.bundle"), work.join("new.bundle"));
    let all: HashSet<BlobDigest> = first.manifest.files().map(|file| file.3).collect();
    let lists = first.seen.clone().into_lists();
    let old_index = timed("pack_all", &mut times, || {
        packed(old, &first.manifest, &all, &lists, &HashSet::new(), &old_pack)
    })?;
    let fresh: HashSet<_> = second
        .manifest
        .files()
        .map(|file| file.3)
        .filter(|blob| !all.contains(blob))
        .collect();
    let held = old_index.1.blobs().map(|place| place.digest).collect();
    let lists: Vec<_> = second.seen.clone().into_lists();
    let lists: Vec<_> = lists
        .into_iter()
        .filter(|list| fresh.contains(&list.blob))
        .collect();
    let new_index = timed("pack_next", &mut times, || {
        packed(new, &second.manifest, &fresh, &lists, &held, &new_pack)
    })?;
    let releases = work.join("releases");
    fs::create_dir(&releases)?;
    let source = Files([(old_index.0, old_pack), (new_index.0, new_pack)]);
    let old_bundles = [old_index];
    let old_place = Place::new(&releases, "1")?;
    timed("stage_cold", &mut times, || {
        staged(old_place, &first.manifest, &[], &old_bundles, &source)
    })?;
    let donors = [StagedRelease::open(old_place)?];
    let [old_index] = old_bundles;
    let new_place = Place::new(&releases, "2")?;
    timed("stage_next", &mut times, || {
        staged(
            new_place,
            &second.manifest,
            &donors,
            &[old_index, new_index],
            &source,
        )
    })?;
    let copied = timed("links", &mut times, || {
        Command::new("cp")
            .arg("-al")
            .arg(old_place.tree())
            .arg(work.join("links"))
            .status()
    })?;
    timed("links_synced", &mut times, || {
        Command::new("sync").arg("-f").arg(work).status()
    })?;
    if !copied.success() || again.manifest != first.manifest {
        return Err("cp -al failed, or what is remembered is wrong".into());
    }
    let fields: Vec<_> = times
        .iter()
        .map(|(name, took)| format!("\"{name}\": {:.1}", took.as_secs_f64() * 1000.0))
        .collect();
    println!(
        "{{\"files\": {}, \"bytes\": {}, \"new_files\": {}, {}}}",
        second.manifest.files().count(),
        second.manifest.total_bytes(),
        fresh.len(),
        fields.join(", ")
    );
    Ok(())
}

fn timed<T, E: Into<Box<dyn Error>>>(
    name: &'static str,
    times: &mut Vec<(&'static str, Duration)>,
    phase: impl FnOnce() -> Result<T, E>,
) -> Result<T, Box<dyn Error>> {
    let began = Instant::now();
    let done = phase();
    times.push((name, began.elapsed()));
    done.map_err(Into::into)
}

/// An hour ahead: what was just written is remembered as well, for these folders lie still.
fn clock() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as i64 + 3_600_000_000_000)
}

fn walked(folder: &Path, seen: Option<&Seen>) -> Result<Walked, Box<dyn Error>> {
    let spec = ReleaseSpec::static_files("web".parse()?);
    let reading = Reading {
        seen,
        clock: Some(&clock),
        cut: true,
    };
    Ok(walk_with(folder, &spec, &reading, &())?)
}

fn packed(
    folder: &Path,
    manifest: &Manifest,
    wanted: &HashSet<BlobDigest>,
    lists: &[SegmentList],
    known: &HashSet<BlobDigest>,
    to: &Path,
) -> Result<(BundleDigest, BundleIndex), Box<dyn Error>> {
    let parts = Parts { wanted, lists, known };
    let packed = pack_parts(folder, manifest, &parts, DEFAULT_LEVEL, File::create(to)?, &())?;
    Ok((packed.digest, packed.index))
}

fn staged(
    place: Place<'_>,
    manifest: &Manifest,
    donors: &[StagedRelease],
    bundles: &[(BundleDigest, BundleIndex)],
    source: &Files,
) -> Result<(), Box<dyn Error>> {
    let task = StageTask {
        place,
        manifest,
        donors,
        kept: None,
        keep: false,
        delta: None,
        bundles,
        source,
        progress: &(),
    };
    stage(&task)?;
    Ok(())
}

/// Bundles in files.
struct Files([(BundleDigest, std::path::PathBuf); 2]);

impl BlobSource for Files {
    fn frames(&self, bundle: BundleDigest, offset: u64, len: u64) -> std::io::Result<Box<dyn Read + Send>> {
        let found = self.0.iter().find(|(digest, _)| *digest == bundle);
        let (_, path) = found.ok_or(std::io::ErrorKind::NotFound)?;
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Box::new(file.take(len)))
    }
}
