//! What goes into a bundle, in which order, and where frames end.

use std::collections::HashSet;

use ship_model::digest::BlobDigest;
use ship_model::manifest::{EntryKind, EntryRef, Manifest};
use ship_model::path::TreePath;

use super::{FRAMES, LARGEST, LISTED, PackError, Parts, SMALLEST};
use crate::delta::key;
use crate::index::BlobPlace;
use crate::segments::{FOLDER, LARGE, Segment, SegmentList};
use crate::tarball::Member;

/// Something that is written as a whole. A few bytes, for there may be hundreds of thousands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Item {
    /// A file, by its entry.
    File(u32),
    /// So many segments of a file that is cut, and where in it they begin; the first ones come with its header.
    Part {
        list: u32,
        from: u32,
        to: u32,
        offset: u64,
    },
    /// One segment, as a member of its own.
    Segment { list: u32, at: u32, offset: u64 },
}

/// One member to come, with the digest its content must have.
#[derive(Debug)]
pub(super) struct Planned {
    pub member: Member,
    pub digest: BlobDigest,
}

pub(super) struct Plan<'a> {
    manifest: &'a Manifest,
    lists: &'a [SegmentList],
    /// By list: the first entry that has the blob.
    entries: Vec<u32>,
    /// Raw bytes after which a frame is closed.
    pub frame: u64,
    pub frames: Vec<Vec<Item>>,
}

impl<'a> Plan<'a> {
    pub fn new(manifest: &'a Manifest, parts: &Parts<'a>) -> Result<Self, PackError> {
        let mut plan = Self {
            manifest,
            lists: parts.lists,
            entries: vec![0; parts.lists.len()],
            frame: 0,
            frames: Vec::new(),
        };
        let items = plan.items(parts)?;
        let raw: u64 = items.iter().map(|item| plan.raw_len_of(*item)).sum();
        plan.frame = (raw / FRAMES).clamp(SMALLEST, LARGEST);
        plan.fill(items);
        Ok(plan)
    }

    /// Segments, then files by [likeness], then whole files of lists, each as one part.
    fn items(&mut self, parts: &Parts<'_>) -> Result<Vec<Item>, PackError> {
        let mut sorted: Vec<BlobDigest> = parts.wanted.iter().copied().collect();
        sorted.sort_unstable();
        let mut open = vec![true; sorted.len()];
        let mut packed = HashSet::new();
        let (mut files, mut items, mut parted) = (Vec::new(), Vec::new(), Vec::new());
        for (at, entry) in (0_u32..).zip(self.manifest.entries().iter()) {
            let Some(planned) = planned(entry) else { continue };
            let found = sorted.binary_search(&planned.digest).ok();
            let Some(open) = found.and_then(|at| open.get_mut(at)).filter(|open| **open) else {
                continue;
            };
            *open = false;
            let list = self.lists.binary_search_by_key(&planned.digest, |list| list.blob);
            match list {
                Ok(list) => {
                    self.entries[list] = at;
                    self.listed(list, parts.known, &mut packed, &mut parted, &mut items);
                }
                Err(_) if planned.member.size > LARGE && !self.lists.is_empty() => {
                    return Err(PackError::Uncut {
                        path: planned.member.path,
                    });
                }
                Err(_) => files.push((at, planned.member.path)),
            }
        }
        if let Some((digest, _)) = sorted.into_iter().zip(open).find(|(_, open)| *open) {
            return Err(PackError::Unknown { digest });
        }
        files.sort_by_cached_key(|(_, path)| likeness(path.as_bytes()));
        items.extend(files.into_iter().map(|(at, _)| Item::File(at)));
        items.extend(parted);
        Ok(items)
    }

    /// A file of which nothing is known stays one member; of another one only what is new is packed.
    fn listed(
        &self,
        number: usize,
        known: &HashSet<BlobDigest>,
        packed: &mut HashSet<BlobDigest>,
        items: &mut Vec<Item>,
        segments: &mut Vec<Item>,
    ) {
        let list = number as u32;
        let of = &self.lists[number];
        let is_new = |segment: &Segment, packed: &HashSet<_>| {
            !known.contains(&segment.digest) && !packed.contains(&segment.digest)
        };
        if of.segments.iter().all(|segment| is_new(segment, packed)) {
            packed.extend(of.segments.iter().map(|segment| segment.digest));
            items.push(Item::Part {
                list,
                from: 0,
                to: of.segments.len() as u32,
                offset: 0,
            });
            return;
        }
        for (at, (offset, segment)) in (0..).zip(of.places()) {
            if is_new(&segment, packed) {
                packed.insert(segment.digest);
                segments.push(Item::Segment { list, at, offset });
            }
        }
    }

    fn fill(&mut self, items: Vec<Item>) {
        let mut frame = Vec::new();
        let mut raw = 0;
        for item in items {
            if let Item::Part { list, .. } = item {
                self.frames
                    .extend((!frame.is_empty()).then(|| std::mem::take(&mut frame)));
                raw = 0;
                self.spread(list);
                continue;
            }
            let len = self.raw_len_of(item);
            if raw + len > self.frame && !frame.is_empty() {
                self.frames.push(std::mem::take(&mut frame));
                raw = 0;
            }
            raw += len;
            frame.push(item);
        }
        self.frames.extend((!frame.is_empty()).then_some(frame));
    }

    /// Frames of whole segments.
    fn spread(&mut self, list: u32) {
        let (mut from, mut begins, mut raw) = (0, 0, 0);
        let mut frames = Vec::new();
        let part = |from, to, offset| {
            vec![Item::Part {
                list,
                from,
                to,
                offset,
            }]
        };
        for (at, (offset, segment)) in (0..).zip(self.lists[list as usize].places()) {
            if raw + u64::from(segment.len) > LISTED && raw > 0 {
                frames.push(part(from, at, begins));
                (from, begins, raw) = (at, offset, 0);
            }
            raw += u64::from(segment.len);
        }
        let to = self.lists[list as usize].segments.len() as u32;
        frames.push(part(from, to, begins));
        self.frames.extend(frames);
    }

    /// The file of an item, with its whole digest.
    pub fn planned(&self, item: Item) -> Option<Planned> {
        let entry = match item {
            Item::File(entry) => entry,
            Item::Part { list, .. } | Item::Segment { list, .. } => self.entries[list as usize],
        };
        planned(self.manifest.entries().get(entry as usize)?)
    }

    /// The segments of an item, one after another in its file from its offset on; none for a whole file.
    pub fn segments(&self, item: Item) -> (u64, &'a [Segment]) {
        let of = |list: u32| &self.lists[list as usize].segments[..];
        match item {
            Item::File(_) => (0, &[]),
            Item::Part {
                list,
                from,
                to,
                offset,
            } => (offset, &of(list)[from as usize..to as usize]),
            Item::Segment { list, at, offset } => (offset, &of(list)[at as usize..=at as usize]),
        }
    }

    /// The member whose header stands before the item's content, and the one whose padding stands behind it.
    pub fn around(&self, item: Item) -> (Option<Member>, Option<Member>) {
        let member = || self.planned(item).map(|planned| planned.member);
        match item {
            Item::File(_) => (member(), member()),
            Item::Part { list, from, to, .. } => {
                let ends = to as usize == self.lists[list as usize].segments.len();
                ((from == 0).then(member).flatten(), ends.then(member).flatten())
            }
            Item::Segment { .. } => {
                let (_, segments) = self.segments(item);
                let member = || segments.first().and_then(segment_member);
                (member(), member())
            }
        }
    }

    fn content_of(&self, item: Item) -> u64 {
        match item {
            Item::File(_) => self.planned(item).map_or(0, |planned| planned.member.size),
            _ => {
                let (_, segments) = self.segments(item);
                segments.iter().map(|segment| u64::from(segment.len)).sum()
            }
        }
    }

    fn raw_len_of(&self, item: Item) -> u64 {
        let (head, tail) = self.around(item);
        let head = head.map_or(0, |member| member.header_len() as u64);
        head + self.content_of(item) + tail.map_or(0, |member| member.padding() as u64)
    }

    /// Bytes of all content.
    pub fn content(&self) -> u64 {
        let items = self.frames.iter().flatten();
        items.map(|item| self.content_of(*item)).sum()
    }

    pub fn raw_len(&self, frame: &[Item]) -> u64 {
        frame.iter().map(|item| self.raw_len_of(*item)).sum()
    }

    /// Whether the frame is a file of its own that may be too large for memory.
    pub fn is_streamed(&self, frame: &[Item]) -> bool {
        matches!(frame, [Item::File(_)]) && self.raw_len(frame) > self.frame
    }

    /// Where each content of the frame lies once it is raw.
    pub fn places(&self, frame: &[Item]) -> Vec<BlobPlace> {
        let mut places = Vec::with_capacity(frame.len());
        let mut begins = 0;
        for item in frame {
            let (head, _) = self.around(*item);
            let mut offset = begins + head.map_or(0, |member| member.header_len() as u64);
            let mut place = |digest, size| {
                places.push(BlobPlace { digest, offset, size });
                offset += size;
            };
            match self.planned(*item) {
                Some(planned) if matches!(item, Item::File(_)) => place(planned.digest, planned.member.size),
                _ => {
                    let (_, segments) = self.segments(*item);
                    segments
                        .iter()
                        .for_each(|segment| place(segment.digest, segment.len.into()));
                }
            }
            begins += self.raw_len_of(*item);
        }
        places
    }

    /// The lists of all that was wanted.
    pub fn lists(&self, wanted: &HashSet<BlobDigest>) -> Vec<SegmentList> {
        let lists = self.lists.iter();
        lists
            .filter(|list| wanted.contains(&list.blob))
            .cloned()
            .collect()
    }
}

/// What brings files together that compress well together: their kind, their name without its fingerprint, their name. The
/// same file of two builds, such as `dist/server.js` and `dist/esm/server.js`, comes within one window.
fn likeness(path: &[u8]) -> [Vec<u8>; 3] {
    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    let stem = key(name);
    let kind = stem.iter().position(|byte| *byte == b'.').unwrap_or(stem.len());
    [stem[kind..].to_vec(), stem, name.to_vec()]
}

/// None only if the folder's name could not be one.
fn segment_member(segment: &Segment) -> Option<Member> {
    let name = [FOLDER, segment.digest.to_string().as_bytes()].concat();
    Some(Member {
        path: TreePath::new(&name).ok()?,
        executable: false,
        size: segment.len.into(),
    })
}

/// None for what is no file.
fn planned(entry: EntryRef<'_>) -> Option<Planned> {
    let EntryKind::File {
        executable,
        size,
        digest,
    } = entry.kind
    else {
        return None;
    };
    let member = Member {
        path: entry.path.to_path(),
        executable,
        size,
    };
    Some(Planned { member, digest })
}
