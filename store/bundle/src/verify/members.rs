//! The members of a bundle's archive as they come, frame after frame.
//!
//! A file over 8 MiB may go on over several frames. It is cut again while it is read; whether its pieces or all of it must stand in the index
//! depends on the bundle's version, which is told at the end.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, BufRead, BufReader, Read};

use ship_model::digest::BlobDigest;
use ship_model::manifest::MAX_ENTRIES;
use ship_model::path::TreePath;

use super::VerifyError;
use crate::content::fill;
use crate::frame::FrameDecoder;
use crate::index::{BlobPlace, BundleIndex, Frame};
use crate::segments::{Cutter, FOLDER, LARGE, MAX_SEGMENTS, SegmentList};
use crate::tarball::{Member, TarError, next_member};

/// A content that was read.
#[derive(Debug, Clone, Copy)]
enum Content {
    Blob(BlobPlace),
    /// A large file that lies in one frame.
    Large(BlobPlace),
    /// A segment of a large file.
    Segment(BlobPlace),
}

/// A frame that was read.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub offset: u64,
    pub len: u64,
    pub raw_len: u64,
    contents: Vec<Content>,
}

impl Seen {
    pub fn at(offset: u64) -> Self {
        Self {
            offset,
            ..Self::default()
        }
    }

    fn is(&self, frame: &Frame, contents: impl Iterator<Item = BlobPlace>) -> bool {
        (self.offset, self.len, self.raw_len) == (frame.offset, frame.len, frame.raw_len)
            && contents.eq(frame.blobs.iter().copied())
    }
}

/// All that was found so far.
#[derive(Debug)]
pub(super) struct Found {
    pub frames: Vec<Seen>,
    /// Of the large files.
    pub lists: Vec<SegmentList>,
    blobs: u64,
    /// What stood already: of each path a hash under a key of this process, for there may be a million. Of bundles with so many,
    /// one in ten million is refused by chance.
    paths: HashSet<u64>,
    hashes: RandomState,
    /// A file that goes on in the next frame.
    large: Option<Large>,
    /// Some file lies in several frames.
    spread: bool,
    /// A large file has too many segments to be cut.
    uncut: bool,
    /// A segment of this name has another digest.
    misnamed: Option<TreePath>,
    pub raw_left: u64,
    pub limit: u64,
}

impl Found {
    pub fn new(limit: u64) -> Self {
        Self {
            frames: Vec::new(),
            lists: Vec::new(),
            blobs: 0,
            paths: HashSet::new(),
            hashes: RandomState::new(),
            large: None,
            spread: false,
            uncut: false,
            misnamed: None,
            raw_left: limit,
            limit,
        }
    }

    pub fn spend(&mut self, bytes: u64) -> Result<(), VerifyError> {
        let limit = self.limit;
        self.raw_left = self
            .raw_left
            .checked_sub(bytes)
            .ok_or(VerifyError::TooLarge { limit })?;
        Ok(())
    }

    /// Whether the index says of each frame what was found in it.
    pub fn is_told_by(&self, index: &BundleIndex) -> Result<bool, VerifyError> {
        if index.frames().len() != self.frames.len() {
            return Ok(false);
        }
        let pairs = || self.frames.iter().zip(index.frames());
        if index.version() == 1 {
            let told = pairs().all(|(seen, frame)| {
                let whole = seen.contents.iter().filter_map(|content| match content {
                    Content::Blob(place) | Content::Large(place) => Some(*place),
                    Content::Segment(_) => None,
                });
                seen.is(frame, whole)
            });
            return Ok(told && !self.spread);
        }
        if let Some(path) = &self.misnamed {
            return Err(VerifyError::Misnamed { path: path.clone() });
        }
        let mut stands = HashSet::new();
        let told = pairs().all(|(seen, frame)| {
            let parts = seen.contents.iter().filter_map(|content| match content {
                Content::Blob(place) | Content::Segment(place) => Some(*place),
                Content::Large(_) => None,
            });
            // Each content stands in the index where it comes first.
            seen.is(frame, parts.filter(|place| stands.insert(place.digest)))
        });
        let listed = |list: &SegmentList| {
            let at = index.lists().binary_search_by_key(&list.blob, |told| told.blob);
            at.ok().and_then(|at| index.lists().get(at)) == Some(list)
        };
        Ok(told && !self.uncut && self.lists.iter().all(listed))
    }

    /// Each path stands once, so that tar, too, unpacks what the index names.
    fn once(&mut self, frame: usize, path: &TreePath) -> Result<(), VerifyError> {
        if self.paths.insert(self.hashes.hash_one(path.as_bytes())) {
            return Ok(());
        }
        Err(VerifyError::Twice {
            frame,
            path: path.clone(),
        })
    }

    fn content(&mut self, content: Content) {
        if let Some(frame) = self.frames.last_mut() {
            frame.contents.push(content);
        }
    }

    /// Puts the segments of a large file where they were met.
    fn large(&mut self, large: Large) -> Result<(), VerifyError> {
        let Large { cutter, spans, .. } = large;
        let list = cutter.finish(|_, _| Ok::<(), VerifyError>(()))?;
        match &spans[..] {
            [span] => self.content(Content::Large(BlobPlace {
                digest: list.blob,
                offset: span.at,
                size: list.size,
            })),
            _ => self.spread = true,
        }
        if list.segments.is_empty() {
            self.uncut = true;
            return Ok(());
        }
        let mut spans = spans.into_iter().peekable();
        for segment in &list.segments {
            while spans.next_if(|span| span.len == 0).is_some() {}
            let size = u64::from(segment.len);
            let Some(span) = spans.peek_mut().filter(|span| span.len >= size) else {
                return Err(VerifyError::Straddles { blob: list.blob });
            };
            if let Some(frame) = self.frames.get_mut(span.frame) {
                frame.contents.push(Content::Segment(BlobPlace {
                    digest: segment.digest,
                    offset: span.at,
                    size,
                }));
            }
            span.at += size;
            span.len -= size;
        }
        self.lists.push(list);
        Ok(())
    }
}

/// A large file that is being read.
#[derive(Debug)]
struct Large {
    member: Member,
    left: u64,
    cutter: Cutter,
    spans: Vec<Span>,
}

/// Content of a file that lies in one frame.
#[derive(Debug)]
struct Span {
    frame: usize,
    at: u64,
    len: u64,
}

/// The members of one frame.
pub(super) struct Members<'a, R: BufRead> {
    pub raw: BufReader<FrameDecoder<R>>,
    pub frame: usize,
    pub at: u64,
    pub found: &'a mut Found,
    pub buffer: &'a mut [u8],
}

impl<R: BufRead> Members<'_, R> {
    fn damaged(&self, source: io::Error) -> VerifyError {
        VerifyError::Frame {
            frame: self.frame,
            source,
        }
    }

    fn tar(&self, source: TarError) -> VerifyError {
        match source {
            TarError::Read(source) => self.damaged(source),
            source => VerifyError::Tar {
                frame: self.frame,
                source,
            },
        }
    }

    pub fn at_end(&mut self) -> Result<bool, VerifyError> {
        let empty = self.raw.fill_buf().map(<[u8]>::is_empty);
        empty.map_err(|source| self.damaged(source))
    }

    /// One member, or as much of it as lies here, with its content hashed; false for the end mark.
    pub fn next(&mut self) -> Result<bool, VerifyError> {
        if let Some(large) = self.found.large.take() {
            return self.go_on(large).map(|()| true);
        }
        let member = match next_member(&mut self.raw) {
            Ok(Some(member)) => member,
            Ok(None) => return Ok(false),
            Err(error) => return Err(self.tar(error)),
        };
        self.found.spend(member.raw_len())?;
        self.found.once(self.frame, &member.path)?;
        self.at += member.header_len() as u64;
        if member.size > LARGE {
            let large = Large {
                left: member.size,
                member,
                cutter: Cutter::new(),
                spans: Vec::new(),
            };
            return self.go_on(large).map(|()| true);
        }
        self.small(&member).map(|()| true)
    }

    fn small(&mut self, member: &Member) -> Result<(), VerifyError> {
        let offset = self.at;
        let mut hasher = blake3::Hasher::new();
        let mut left = member.size;
        while left > 0 {
            let want = left.min(self.buffer.len() as u64) as usize;
            let got = fill(&mut self.raw, &mut self.buffer[..want]).map_err(|error| self.damaged(error))?;
            if got < want {
                return Err(self.damaged(io::ErrorKind::UnexpectedEof.into()));
            }
            hasher.update(&self.buffer[..got]);
            left -= got as u64;
        }
        let digest = BlobDigest::from(hasher.finalize());
        let name = member.path.as_bytes().strip_prefix(FOLDER);
        if name.is_some_and(|name| name != digest.to_string().as_bytes()) {
            self.found.misnamed.get_or_insert_with(|| member.path.clone());
        }
        self.found.content(Content::Blob(BlobPlace {
            digest,
            offset,
            size: member.size,
        }));
        self.count()?;
        self.at += member.size;
        self.padding(member)
    }

    fn count(&mut self) -> Result<(), VerifyError> {
        self.found.blobs += 1;
        if self.found.blobs > MAX_ENTRIES + MAX_SEGMENTS as u64 {
            return Err(VerifyError::TooMany);
        }
        Ok(())
    }

    /// Reads of a large file what this frame has.
    fn go_on(&mut self, mut large: Large) -> Result<(), VerifyError> {
        let mut span = Span {
            frame: self.frame,
            at: self.at,
            len: 0,
        };
        while large.left > 0 {
            let want = large.left.min(self.buffer.len() as u64) as usize;
            let got = fill(&mut self.raw, &mut self.buffer[..want]).map_err(|error| self.damaged(error))?;
            large
                .cutter
                .push(&self.buffer[..got], |_, _| Ok::<(), VerifyError>(()))?;
            if large.cutter.count() > MAX_SEGMENTS {
                large.cutter.give_up();
            }
            span.len += got as u64;
            large.left -= got as u64;
            if got < want {
                break;
            }
        }
        self.at += span.len;
        large.spans.push(span);
        if large.left > 0 {
            self.found.large = Some(large);
            return Ok(());
        }
        self.count()?;
        self.padding(&large.member)?;
        self.found.large(large)
    }

    fn padding(&mut self, member: &Member) -> Result<(), VerifyError> {
        let mut padding = [0; 512];
        let padding = &mut padding[..member.padding()];
        self.raw
            .read_exact(padding)
            .map_err(|error| self.damaged(error))?;
        if padding.iter().any(|b| *b != 0) {
            let path = member.path.clone();
            return Err(self.tar(TarError::Padding { path }));
        }
        self.at += padding.len() as u64;
        Ok(())
    }
}
