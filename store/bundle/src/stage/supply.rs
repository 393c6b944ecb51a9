//! Where each content of a new release comes from: a neighbour on this host, or a bundle.

use ship_model::digest::BlobDigest;
use ship_model::manifest::{EntryKind, Manifest};

use super::kept::Kept;
use super::staged::{Sound, StagedRelease};
use crate::beneath::Parents;

/// One content of the new release, and all names that have it.
#[derive(Debug)]
pub(crate) struct Group {
    pub digest: BlobDigest,
    pub size: u64,
    /// Entries of the manifest without and with the executable bit.
    pub names: [Vec<usize>; 2],
    pub supply: Supply,
}

#[derive(Debug)]
pub(crate) enum Supply {
    /// For each executable bit, the neighbour's file with the same bit that its names are linked to.
    Link([Option<DonorFile>; 2]),
    /// A neighbour has it, with the other executable bit.
    Copy(DonorFile),
    /// Nothing to read or fetch.
    Empty,
    /// An earlier try fetched it, under the name that gets a group's bytes first.
    Kept,
    Fetch,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct DonorFile {
    pub donor: usize,
    pub sound: Sound,
}

/// The blobs that no donor has and no earlier try left, sorted.
///
/// Donors' files are believed while they look as stamped; one with a stale stamp is hashed, and so is what was left.
pub fn missing(manifest: &Manifest, donors: &[StagedRelease], kept: Option<&Kept>) -> Vec<BlobDigest> {
    let groups = supply(manifest, donors, kept).into_iter();
    groups
        .filter(|group| matches!(group.supply, Supply::Fetch))
        .map(|group| group.digest)
        .collect()
}

/// Every content of `manifest`, sorted by digest.
pub(crate) fn supply(manifest: &Manifest, donors: &[StagedRelease], kept: Option<&Kept>) -> Vec<Group> {
    let mut groups = groups(manifest);
    for (number, donor) in donors.iter().enumerate() {
        let order = donor.by_content();
        let mut parents = Parents::of(donor.root());
        let mut buffer = Vec::new();
        let mut find = |digest, executable| {
            let mut candidates = donor.having(&order, digest, executable).iter();
            let sound = candidates.find_map(|at| donor.sound(*at as usize, &mut parents, &mut buffer))?;
            Some(DonorFile { donor: number, sound })
        };
        for group in &mut groups {
            offer(group, &mut find);
        }
    }
    if let Some(kept) = kept {
        take_kept(manifest, kept, &mut groups);
    }
    groups
}

fn take_kept(manifest: &Manifest, kept: &Kept, groups: &mut [Group]) {
    let mut buffer = Vec::new();
    for group in groups {
        let (entry, executable) = group.first();
        let path = &manifest.entries()[entry].path;
        if matches!(group.supply, Supply::Fetch)
            && kept.holds(path, executable, group.size, group.digest, &mut buffer)
        {
            group.supply = Supply::Kept;
        }
    }
}

impl Group {
    /// The name that gets the bytes first, and whether it is executable.
    pub fn first(&self) -> (usize, bool) {
        match (self.names[0].first(), self.names[1].first()) {
            (Some(plain), _) => (*plain, false),
            (None, other) => (other.copied().unwrap_or_default(), true),
        }
    }
}

/// Improves a group's supply by what one more donor has.
fn offer(group: &mut Group, find: &mut impl FnMut(BlobDigest, bool) -> Option<DonorFile>) {
    let wanted = [false, true].map(|executable| !group.names[usize::from(executable)].is_empty());
    let mut links = match group.supply {
        Supply::Link(links) => links,
        Supply::Copy(_) | Supply::Empty | Supply::Kept | Supply::Fetch => [None, None],
    };
    for executable in [false, true] {
        let at = usize::from(executable);
        if wanted[at] && links[at].is_none() {
            links[at] = find(group.digest, executable);
        }
    }
    if links.iter().any(Option::is_some) {
        group.supply = Supply::Link(links);
    } else if let Supply::Fetch = group.supply {
        let other = find(group.digest, wanted[0]);
        group.supply = other.map_or(Supply::Fetch, Supply::Copy);
    }
}

fn groups(manifest: &Manifest) -> Vec<Group> {
    let files = manifest.entries().iter().enumerate();
    let mut files: Vec<_> = files
        .filter_map(|(at, entry)| match entry.kind {
            EntryKind::File {
                executable,
                size,
                digest,
            } => Some((digest, at, executable, size)),
            EntryKind::Link { .. } | EntryKind::EmptyFolder => None,
        })
        .collect();
    files.sort_unstable();
    files.chunk_by(|a, b| a.0 == b.0).map(group).collect()
}

fn group(files: &[(BlobDigest, usize, bool, u64)]) -> Group {
    let (digest, _, _, size) = files[0];
    let names = [false, true].map(|with| {
        let names = files.iter().filter(|(_, _, executable, _)| *executable == with);
        names.map(|(_, at, _, _)| *at).collect()
    });
    let supply = if digest == BlobDigest::of(b"") {
        Supply::Empty
    } else {
        Supply::Fetch
    };
    Group {
        digest,
        size,
        names,
        supply,
    }
}
