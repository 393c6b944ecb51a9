//! Which old files a new one most likely resembles, and which go into a frame together.

use std::collections::{HashMap, HashSet};

use ship_model::digest::BlobDigest;
use ship_model::manifest::{EntryKind, EntryRef, Manifest};

use super::{LARGE, MAX_PREFIX, MAX_RAW};

/// Size and digest; none for what is no file.
pub(super) fn file(entry: EntryRef<'_>) -> Option<(u64, BlobDigest)> {
    match entry.kind {
        EntryKind::File { size, digest, .. } => Some((size, digest)),
        EntryKind::Link { .. } | EntryKind::EmptyFolder => None,
    }
}

/// Old files that nobody asked for by name, before one frame. Whoever reads the delta opens each of them, and of very many
/// small ones the first ones serve as well.
const MOST_FILLING: usize = 4096;

/// A file by its place in a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub entry: u32,
    pub size: u64,
    pub digest: BlobDigest,
}

/// New files that are coded together, and the old ones before them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Group {
    pub new: Vec<Known>,
    pub old: Vec<Known>,
}

/// A large new file, and the old one that it most likely was.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Grown {
    pub new: Known,
    pub old: Option<Known>,
}

/// What a delta must give, and from what.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Matched {
    pub groups: Vec<Group>,
    pub grown: Vec<Grown>,
}

/// A path without those of its parts that look like a fingerprint: at least eight letters and digits that are no word.
///
/// A mistake costs bytes of a delta, nothing else.
pub(crate) fn key(path: &[u8]) -> Vec<u8> {
    let is_end = |byte: &u8| matches!(byte, b'/' | b'.' | b'-' | b'_');
    let mut key = Vec::with_capacity(path.len());
    for part in path.split_inclusive(is_end) {
        let (word, end) = match part.split_last() {
            Some((last, word)) if is_end(last) => (word, &part[word.len()..]),
            _ => (part, &[][..]),
        };
        if !looks_made(word) {
            key.extend_from_slice(word);
        }
        key.extend_from_slice(end);
    }
    key
}

fn looks_made(word: &[u8]) -> bool {
    let digits = word.iter().filter(|byte| byte.is_ascii_digit()).count();
    let upper = word.iter().filter(|byte| byte.is_ascii_uppercase()).count();
    let all = word.iter().all(u8::is_ascii_alphanumeric);
    all && word.len() >= 6 && (digits > 0 || (upper > 0 && upper < word.len()))
}

/// Each blob once, with the first path that has it.
fn files(manifest: &Manifest) -> Vec<Known> {
    let mut seen = HashSet::with_capacity(manifest.entries().iter().len());
    let entries = (0..).zip(manifest.entries().iter());
    let known = entries.filter_map(|(entry, found)| {
        let (size, digest) = file(found)?;
        let known = Known { entry, size, digest };
        seen.insert(digest).then_some(known)
    });
    known.collect()
}

/// What `target` has and `base` has not, each with its key: relatives stand side by side, so that they share what they have in
/// common.
fn news(target: &Manifest, old: &[Known]) -> Vec<(Vec<u8>, Known)> {
    let there: HashSet<BlobDigest> = old.iter().map(|file| file.digest).collect();
    let files = files(target).into_iter();
    let new = files.filter(|file| !there.contains(&file.digest));
    let mut new: Vec<_> = new.map(|file| (key_of(target, &file), file)).collect();
    new.sort_by(|(a, one), (b, other)| (a, one.entry).cmp(&(b, other.entry)));
    new
}

fn key_of(manifest: &Manifest, file: &Known) -> Vec<u8> {
    let entry = manifest.entries().get(file.entry as usize);
    entry.map(|entry| key(entry.path.as_bytes())).unwrap_or_default()
}

pub(super) fn matched(base: &Manifest, target: &Manifest) -> Matched {
    let old = files(base);
    let new = news(target, &old);
    let mut likely = Likely::new(base, target, &old, &new);
    let (large, small): (Vec<_>, Vec<_>) = new.into_iter().partition(|(_, file)| file.size >= LARGE);
    let mut found = Matched::default();
    for (key, new) in large {
        let old = likely.take(base, target, &key, &new);
        let old = old.filter(|old| old.size >= LARGE / 4).cloned();
        found.grown.push(Grown { new, old });
    }
    let mut group = Group::default();
    let mut room = Room::default();
    for (key, new) in small {
        let old = likely.take(base, target, &key, &new);
        let old = old.filter(|old| old.size < LARGE);
        let taken = old.map_or(0, |old| old.size);
        if room.new + new.size > MAX_RAW || room.old + taken > MAX_PREFIX {
            found.groups.push(std::mem::take(&mut group));
            room = Room::default();
        }
        room.new += new.size;
        room.old += taken;
        group.old.extend(old.cloned());
        group.new.push(new);
    }
    if !group.new.is_empty() {
        found.groups.push(group);
    }
    for group in &mut found.groups {
        likely.fill(group);
    }
    found
}

#[derive(Default)]
struct Room {
    new: u64,
    old: u64,
}

/// Old files by what they are called.
struct Likely<'a> {
    old: &'a [Known],
    /// Of keys that new files have; there may be a hundred thousand others.
    by_key: HashMap<Vec<u8>, Vec<u32>>,
    /// Those that the target no longer has, then the others.
    spare: Vec<u32>,
    used: Vec<bool>,
}

impl<'a> Likely<'a> {
    fn new(base: &Manifest, target: &Manifest, old: &'a [Known], new: &[(Vec<u8>, Known)]) -> Self {
        let kept: HashSet<BlobDigest> = target
            .entries()
            .iter()
            .filter_map(|entry| file(entry).map(|(_, digest)| digest))
            .collect();
        let keys = new.iter().map(|(key, _)| (key.clone(), Vec::new()));
        let mut by_key: HashMap<Vec<u8>, Vec<u32>> = keys.collect();
        // Taken from the end: the first of a name goes first, those that are gone before those that stay.
        let (gone, stays): (Vec<u32>, Vec<u32>) = (0..old.len() as u32).partition(|at| {
            !old.get(*at as usize)
                .is_some_and(|old| kept.contains(&old.digest))
        });
        for at in stays.iter().rev().chain(gone.iter().rev()) {
            if let Some(old) = old.get(*at as usize)
                && let Some(named) = by_key.get_mut(&key_of(base, old))
            {
                named.push(*at);
            }
        }
        Self {
            old,
            by_key,
            spare: gone.into_iter().chain(stays).collect(),
            used: vec![false; old.len()],
        }
    }

    /// The old file of the same path, else one whose path differs by fingerprints only. None is given twice by name.
    fn take(&mut self, base: &Manifest, target: &Manifest, key: &[u8], new: &Known) -> Option<&'a Known> {
        let path = target.entries().get(new.entry as usize)?.path;
        let same = base.entries().find(path.as_bytes()).and_then(|(at, _)| {
            let found = self.old.binary_search_by_key(&(at as u32), |old| old.entry);
            found.ok()
        });
        let named = || self.by_key.get_mut(key).and_then(Vec::pop).map(|at| at as usize);
        let at = same.or_else(named)?;
        if let Some(used) = self.used.get_mut(at) {
            *used = true;
        }
        self.old.get(at)
    }

    /// What is left of the prefix's room holds old files that nobody asked for by name: code moves between files.
    fn fill(&self, group: &mut Group) {
        let mut in_it: HashSet<u32> = HashSet::new();
        group.old.retain(|old| in_it.insert(old.entry));
        let mut room = MAX_PREFIX - group.old.iter().map(|old| old.size).sum::<u64>();
        let mut filling = Vec::new();
        for only_unused in [true, false] {
            for at in self.spare.iter().map(|at| *at as usize) {
                let (Some(old), Some(used)) = (self.old.get(at), self.used.get(at)) else {
                    continue;
                };
                if filling.len() == MOST_FILLING {
                    break;
                }
                let fits = old.size > 0 && old.size <= room && (!only_unused || !used);
                if fits && in_it.insert(old.entry) {
                    room -= old.size;
                    filling.push(old.clone());
                }
            }
        }
        filling.append(&mut group.old);
        group.old = filling;
    }
}
