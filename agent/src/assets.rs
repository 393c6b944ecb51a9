//! The union of fingerprinted assets on this host: grown from staged releases, else from the store's bundles.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};

use rustix::fs::{Mode, OFlags};
use ship_assets::{AddError, Union};
use ship_bundle::segments::{ReadListError, SegmentList, read_listed};
use ship_bundle::stage::{FetchRange, fetch_plan};
use ship_bundle::{BundleIndex, FrameError, FrameReader};
use ship_model::assets::{Asset, assets_of};
use ship_model::digest::{BlobDigest, BundleDigest};
use ship_model::path::TreePath;
use ship_model::release::Target;
use thiserror::Error;

use crate::fetch::{FetchError, Indexed, RangeError};
use crate::layout::AppLayout;
use crate::stage::{self, Supply};

/// A larger blob goes through a file on its way into the union.
const IN_MEMORY: u64 = 4 << 20;

/// Why a release's assets are not in the union; those that came before stay.
#[derive(Debug, Error)]
pub enum AssetsError {
    #[error("cannot fetch the assets of release {release}")]
    Fetch { release: String, source: FetchError },
    #[error("no bundle holds an asset of release {release}")]
    Nowhere {
        release: String,
        source: ship_bundle::stage::NoBundle,
    },
    #[error("cannot unpack the assets of release {release} from bundle {bundle}")]
    Unpack {
        release: String,
        bundle: BundleDigest,
        source: FrameError,
    },
    #[error("cannot put asset {blob} of release {release} together")]
    Segments {
        release: String,
        blob: BlobDigest,
        source: Box<ReadListError>,
    },
    #[error("cannot add the assets of release {release}")]
    Add { release: String, source: AddError },
}

impl AssetsError {
    /// Whether trying again later may help by itself.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Fetch { source, .. } => source.is_transient(),
            Self::Unpack {
                source: FrameError::Read(error),
                ..
            } => broken_off(error),
            Self::Segments { source, .. } => match &**source {
                ReadListError::Source { source: error, .. }
                | ReadListError::Frame {
                    source: FrameError::Read(error),
                    ..
                } => broken_off(error),
                _ => false,
            },
            _ => false,
        }
    }
}

fn broken_off(error: &io::Error) -> bool {
    RangeError::within(error).is_some_and(RangeError::is_transient)
}

/// Adds every fingerprinted asset of `target` to the union and records it; durable when it returns. One that is not staged
/// comes without what `is_gone` holds for.
///
/// # Errors
/// [`AssetsError`].
pub fn add(
    layout: &AppLayout,
    union: &Union,
    target: &Target,
    supply: &Supply,
    is_gone: &dyn Fn(&str) -> bool,
) -> Result<(), AssetsError> {
    let release = || target.folder();
    let adding = |source| AssetsError::Add {
        release: release(),
        source,
    };
    if let Ok(staged) = stage::manifest(layout, target) {
        let tree = layout.release(target);
        return union
            .add_tree(*target, staged.manifest(), &tree)
            .map(drop)
            .map_err(adding);
    }
    let fetching = |source| AssetsError::Fetch {
        release: release(),
        source,
    };
    let fetched = supply
        .runtime
        .block_on(supply.fetcher.manifest(target.id))
        .map_err(fetching)?;
    let assets = assets_of(&fetched).map_err(|source| adding(source.into()))?;
    drop(fetched);
    let mut missing = union.missing(&assets);
    missing.retain(|asset| !is_gone(&asset.url_path));
    fetch(layout, union, target, &missing, supply)?;
    union.record_kept(*target, &assets, is_gone).map_err(adding)
}

/// Puts `missing` into the union, out of the store's bundles; durable when they are recorded. `target` is a release that
/// has them.
///
/// # Errors
/// [`AssetsError`].
pub fn fetch(
    layout: &AppLayout,
    union: &Union,
    target: &Target,
    missing: &[Asset],
    supply: &Supply,
) -> Result<(), AssetsError> {
    let release = || target.folder();
    let adding = |source| AssetsError::Add {
        release: release(),
        source,
    };
    let fetching = |source| AssetsError::Fetch {
        release: release(),
        source,
    };
    let mut wanted: HashMap<BlobDigest, Vec<&Asset>> = HashMap::new();
    for asset in missing {
        wanted.entry(asset.digest).or_default().push(asset);
    }
    // Bundles carry no empty file.
    let mut blobs: Vec<_> = wanted.keys().copied().collect();
    blobs.retain(|blob| *blob != BlobDigest::of(b""));
    blobs.sort_unstable();
    for asset in wanted.get(&BlobDigest::of(b"")).into_iter().flatten() {
        union.add_blob(asset, &mut io::empty()).map_err(adding)?;
    }
    let bundles = supply.bundles.holding(&blobs, &[]).map_err(fetching)?;
    let unpack = Unpack {
        layout,
        union,
        target,
        wanted: &wanted,
    };
    let listed: Vec<_> = bundles.iter().flat_map(|(_, index)| index.lists()).collect();
    blobs.retain(|blob| listed.iter().all(|list| list.blob != *blob));
    let ranges = fetch_plan(&blobs, &bundles).map_err(|source| AssetsError::Nowhere {
        release: release(),
        source,
    })?;
    for range in &ranges {
        unpack.range(range, &bundles, supply)?;
    }
    for list in listed {
        unpack.listed(list, &bundles, supply)?;
    }
    Ok(())
}

/// Puts the union's files right that shared their bytes with names of a release that were mended.
///
/// # Errors
/// [`AssetsError::Add`].
pub fn mend(
    layout: &AppLayout,
    union: &Union,
    target: &Target,
    mended: &[TreePath],
) -> Result<(), AssetsError> {
    let adding = |source| AssetsError::Add {
        release: target.folder(),
        source,
    };
    if mended.is_empty() || !union.holds().contains(target) {
        return Ok(());
    }
    let Ok(staged) = stage::manifest(layout, target) else {
        return Ok(());
    };
    let assets = assets_of(staged.manifest()).map_err(|source| adding(source.into()))?;
    let tree = layout.release(target);
    for asset in assets
        .iter()
        .filter(|asset| asset.fingerprinted && mended.contains(&asset.path))
    {
        let file = File::open(tree.join(asset.path.as_path())).map_err(|source| AddError::Write {
            url: asset.url_path.clone(),
            source,
        });
        file.and_then(|mut file| union.add_blob(asset, &mut file))
            .map_err(adding)?;
    }
    union.record(*target, &assets).map_err(adding)
}

struct Unpack<'a> {
    layout: &'a AppLayout,
    union: &'a Union,
    target: &'a Target,
    wanted: &'a HashMap<BlobDigest, Vec<&'a Asset>>,
}

impl Unpack<'_> {
    fn range(&self, range: &FetchRange, bundles: &Indexed, supply: &Supply) -> Result<(), AssetsError> {
        let bundle = range.bundle;
        let Some((_, index)) = bundles.iter().find(|(digest, _)| *digest == bundle) else {
            return Ok(());
        };
        let mut input =
            BufReader::with_capacity(256 << 10, supply.bundles.range(bundle, range.offset, range.len));
        let frames = BundleIndex::frames(index)
            .get(range.frames.clone())
            .unwrap_or_default();
        let broken = |source| AssetsError::Unpack {
            release: self.target.folder(),
            bundle,
            source,
        };
        // Both are in the bundle's order.
        let mut wanted = range.blobs.iter().peekable();
        for frame in frames {
            let mut reader = FrameReader::new(&mut input, frame).map_err(broken)?;
            for blob in &frame.blobs {
                if wanted.next_if(|next| **next == blob.digest).is_none() {
                    continue;
                }
                let mut spool = Spool::new(self.layout, blob.size);
                reader.blob(blob, |piece| spool.write(piece)).map_err(broken)?;
                self.settle(blob.digest, &mut spool)?;
            }
            reader.finish().map_err(broken)?;
        }
        Ok(())
    }

    /// A large asset out of its segments.
    fn listed(&self, list: &SegmentList, bundles: &Indexed, supply: &Supply) -> Result<(), AssetsError> {
        let mut spool = Spool::new(self.layout, list.size);
        let read = read_listed(list, bundles, &supply.bundles, |piece| spool.write(piece));
        read.map_err(|source| AssetsError::Segments {
            release: self.target.folder(),
            blob: list.blob,
            source: Box::new(source),
        })?;
        self.settle(list.blob, &mut spool)
    }

    fn settle(&self, blob: BlobDigest, spool: &mut Spool<'_>) -> Result<(), AssetsError> {
        for asset in self.wanted.get(&blob).into_iter().flatten() {
            let added = spool.read().map_err(|source| AddError::Write {
                url: asset.url_path.clone(),
                source,
            });
            added
                .and_then(|mut content| self.union.add_blob(asset, &mut content))
                .map_err(|source| AssetsError::Add {
                    release: self.target.folder(),
                    source,
                })?;
        }
        Ok(())
    }
}

/// One blob on its way: in memory, or in a file without a name when it is large.
struct Spool<'a> {
    layout: &'a AppLayout,
    memory: Vec<u8>,
    file: Option<File>,
    large: bool,
}

impl<'a> Spool<'a> {
    fn new(layout: &'a AppLayout, size: u64) -> Self {
        Self {
            layout,
            memory: Vec::new(),
            file: None,
            large: size > IN_MEMORY,
        }
    }

    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        if !self.large {
            self.memory.extend_from_slice(piece);
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(nameless(self.layout)?),
        };
        file.write_all(piece)
    }

    /// What was written, from its start.
    fn read(&mut self) -> io::Result<Box<dyn Read + '_>> {
        match &mut self.file {
            Some(file) => {
                file.rewind()?;
                Ok(Box::new(file))
            }
            None => Ok(Box::new(&self.memory[..])),
        }
    }
}

/// A file that vanishes with its last handle; by a name for a moment where the file system knows no other way.
fn nameless(layout: &AppLayout) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(&layout.home, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file.into()),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::NOENT) => {
            let path = layout.asset_records().join("incoming").join("spool");
            let file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(&path)?;
            std::fs::remove_file(&path)?;
            Ok(file)
        }
        Err(error) => Err(error.into()),
    }
}
