//! Where each content of a new release comes from: a neighbour on this host, or a bundle.

use std::collections::HashMap;

use ship_model::digest::BlobDigest;
use ship_model::manifest::{EntryKind, Manifest};

use super::kept::Kept;
use super::staged::StagedRelease;
use crate::stamp::FileStamp;

/// Every content of a release, sorted by digest, and where it comes from. A content takes 32 bytes and a name four: there
/// may be hundreds of thousands.
#[derive(Debug)]
pub(crate) struct Groups<'a> {
    manifest: &'a Manifest,
    /// Files' entries by digest, those without the executable bit first, then by name.
    order: Vec<u32>,
    spans: Vec<Span>,
    /// Donors' files whose stamp was stale, with what they look like, by donor and entry; any other looks as stamped.
    renewed: HashMap<(u16, u32), FileStamp>,
}

#[derive(Debug)]
struct Span {
    /// In `order`: names without and with the executable bit.
    from: u32,
    split: u32,
    to: u32,
    supply: Supply,
}

/// One content of the new release, and all names that have it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group<'a> {
    pub digest: BlobDigest,
    pub size: u64,
    /// Entries of the manifest without and with the executable bit.
    pub names: [&'a [u32]; 2],
    pub supply: &'a Supply,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Supply {
    /// The neighbours' files that names without and with the executable bit are linked to; one at least is found.
    Link([Option<DonorFile>; 2]),
    /// A neighbour has it, with the other executable bit.
    Copy(DonorFile),
    /// Nothing to read or fetch.
    Empty,
    /// An earlier try fetched it, under the name that gets a group's bytes first.
    Kept,
    Fetch,
}

/// A file of a donor that was found to be as it was hashed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DonorFile {
    pub donor: u16,
    pub entry: u32,
}

/// The blobs that no donor has and no earlier try left, sorted.
///
/// Donors' files are believed while they look as stamped; one with a stale stamp is hashed, and so is what was left.
pub fn missing(manifest: &Manifest, donors: &[StagedRelease], kept: Option<&Kept>) -> Vec<BlobDigest> {
    supply(manifest, donors, kept).missing()
}

/// Every content of `manifest`, sorted by digest.
pub(crate) fn supply<'a>(
    manifest: &'a Manifest,
    donors: &[StagedRelease],
    kept: Option<&Kept>,
) -> Groups<'a> {
    let mut groups = Groups::of(manifest);
    for (number, donor) in (0_u16..).zip(donors) {
        let order = donor.by_content();
        let looks = donor.looks(|digest| groups.wants(digest));
        let mut buffer = Vec::new();
        let mut renewed = Vec::new();
        groups.offer(|digest, executable| {
            let mut candidates = donor.having(&order, digest, executable).iter();
            let (entry, stamp) = candidates.find_map(|at| {
                let look = *looks.get(*at as usize)?;
                donor
                    .is_sound(*at as usize, look, &mut buffer)
                    .then_some((*at, look))
            })?;
            if donor.stamps.entries.get(entry as usize) != Some(&stamp) {
                renewed.push(((number, entry), stamp));
            }
            Some(DonorFile { donor: number, entry })
        });
        groups.renewed.extend(renewed);
    }
    if let Some(kept) = kept {
        groups.take_kept(kept);
    }
    groups
}

fn content(manifest: &Manifest, at: u32) -> (BlobDigest, bool, u64) {
    match manifest.entries().get(at as usize).map(|entry| entry.kind) {
        Some(EntryKind::File {
            executable,
            size,
            digest,
        }) => (digest, executable, size),
        _ => (BlobDigest::from_bytes([0; 32]), false, 0),
    }
}

impl<'a> Groups<'a> {
    fn of(manifest: &'a Manifest) -> Self {
        let files = (0_u32..).zip(manifest.entries().iter());
        let files = files.filter(|(_, entry)| entry.is_file());
        let mut order: Vec<u32> = files.map(|(at, _)| at).collect();
        let key = |at: &u32| {
            let (digest, executable, _) = content(manifest, *at);
            (digest, executable, *at)
        };
        order.sort_by_cached_key(key);
        let nothing = BlobDigest::of(b"");
        let mut spans = Vec::new();
        let mut from = 0_u32;
        for names in order.chunk_by(|a, b| content(manifest, *a).0 == content(manifest, *b).0) {
            let plain = names.partition_point(|at| !content(manifest, *at).1);
            let empty = names
                .first()
                .is_some_and(|at| content(manifest, *at).0 == nothing);
            let to = from + names.len() as u32;
            spans.push(Span {
                from,
                split: from + plain as u32,
                to,
                supply: if empty { Supply::Empty } else { Supply::Fetch },
            });
            from = to;
        }
        spans.shrink_to_fit();
        Self {
            manifest,
            order,
            spans,
            renewed: HashMap::new(),
        }
    }

    /// What the donor's file looked like when it was found sound.
    pub fn look(&self, file: DonorFile, donors: &[StagedRelease]) -> FileStamp {
        let stamped = || {
            let donor = donors.get(usize::from(file.donor))?;
            donor.stamps.entries.get(file.entry as usize).copied()
        };
        let renewed = self.renewed.get(&(file.donor, file.entry)).copied();
        renewed.or_else(stamped).unwrap_or(FileStamp::NONE)
    }

    pub fn get(&self, at: usize) -> Option<Group<'_>> {
        self.spans.get(at).map(|span| self.group(span))
    }

    pub fn iter(&self) -> impl Iterator<Item = Group<'_>> {
        self.spans.iter().map(|span| self.group(span))
    }

    pub fn find(&self, digest: BlobDigest) -> Option<Group<'_>> {
        let digest_of = |span: &Span| content(self.manifest, self.order[span.from as usize]).0;
        let at = self.spans.binary_search_by_key(&digest, digest_of).ok()?;
        self.get(at)
    }

    /// Whether a donor's file with this content may improve a supply.
    fn wants(&self, digest: BlobDigest) -> bool {
        let Some(group) = self.find(digest) else {
            return false;
        };
        match group.supply {
            Supply::Link(links) => group
                .names
                .iter()
                .zip(links)
                .any(|(names, link)| !names.is_empty() && link.is_none()),
            Supply::Copy(_) | Supply::Empty | Supply::Kept | Supply::Fetch => true,
        }
    }

    /// What must be fetched, sorted.
    pub fn missing(&self) -> Vec<BlobDigest> {
        let fetched = self.iter().filter(|group| matches!(group.supply, Supply::Fetch));
        fetched.map(|group| group.digest).collect()
    }

    fn group<'g>(&'g self, span: &'g Span) -> Group<'g> {
        let (digest, _, size) = content(self.manifest, self.order[span.from as usize]);
        let [from, split, to] = [span.from, span.split, span.to].map(|at| at as usize);
        Group {
            digest,
            size,
            names: [&self.order[from..split], &self.order[split..to]],
            supply: &span.supply,
        }
    }

    /// Improves every supply by what one more donor has.
    fn offer(&mut self, mut find: impl FnMut(BlobDigest, bool) -> Option<DonorFile>) {
        for at in 0..self.spans.len() {
            let Some(group) = self.get(at) else { continue };
            if let Some(better) = improved(&group, &mut find) {
                self.spans[at].supply = better;
            }
        }
    }

    fn take_kept(&mut self, kept: &Kept) {
        let mut buffer = Vec::new();
        for at in 0..self.spans.len() {
            let Some(group) = self.get(at) else { continue };
            let (entry, executable) = group.first();
            let path = self.manifest.entries().at(entry).path;
            if matches!(group.supply, Supply::Fetch)
                && kept.holds(path, executable, group.size, group.digest, &mut buffer)
            {
                self.spans[at].supply = Supply::Kept;
            }
        }
    }
}

impl Group<'_> {
    /// The name that gets the bytes first, and whether it is executable.
    pub fn first(&self) -> (usize, bool) {
        match (self.names[0].first(), self.names[1].first()) {
            (Some(plain), _) => (*plain as usize, false),
            (None, other) => (other.copied().unwrap_or_default() as usize, true),
        }
    }
}

/// A better supply than a group has, where `find` finds one.
fn improved(
    group: &Group<'_>,
    find: &mut impl FnMut(BlobDigest, bool) -> Option<DonorFile>,
) -> Option<Supply> {
    let mut links = match group.supply {
        Supply::Link(links) => *links,
        Supply::Copy(_) | Supply::Empty | Supply::Kept | Supply::Fetch => [None; 2],
    };
    let mut better = false;
    for (executable, link) in [false, true].into_iter().zip(&mut links) {
        let wanted = !group.names[usize::from(executable)].is_empty();
        if wanted && link.is_none() {
            *link = find(group.digest, executable);
            better |= link.is_some();
        }
    }
    if better {
        return Some(Supply::Link(links));
    }
    if !matches!(group.supply, Supply::Fetch) {
        return None;
    }
    let other = find(group.digest, !group.names[0].is_empty());
    other.map(Supply::Copy)
}
