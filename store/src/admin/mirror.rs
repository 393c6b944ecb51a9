//! A folder that any web server can hand out: bundles and deltas as plain files, for `[[mirror]]`.
//!
//! ```text
//! bundles/3f9a…64 digits   deltas/07c1…   kepts/9b2e…   leaves/3f9a…   what hosts check by, when the store is away
//! ```
//! Additive: nothing is removed, and what was broken off goes on where it was. A file has its name only when it is whole;
//! its leaves are written last. It can be copied on by anything (rsync, a bucket's own tools): files never change.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use ship_durable::{FileError, LEFTOVER_PREFIX};
use ship_model::leaves::Leaves;

use crate::engine::blobs::FsBlobs;
use crate::engine::{Blobs, BlobsError, Object, ObjectKind, ObjectReader};
use crate::folder::OBJECTS;
use crate::leaves::{self, LeavesOfError};
use crate::log::whole;

/// What is mirrored, and the folders it lies in. Manifests are the store's to give.
const KINDS: [(ObjectKind, &str); 3] = [
    (ObjectKind::Bundle, "bundles"),
    (ObjectKind::Delta, "deltas"),
    // Hosts read none of them: a store that lost one takes it back.
    (ObjectKind::Kept, "kepts"),
];
const LEAVES: &str = "leaves";
/// Bytes copied at once.
const PIECE: usize = 1 << 20;

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MirrorReport {
    pub added: u64,
    pub bytes: u64,
    /// Objects that were there.
    pub there: u64,
    /// Objects of the store that are not what their names say, and why: not mirrored.
    pub damaged: Vec<String>,
}

impl fmt::Display for MirrorReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.damaged {
            writeln!(f, "not mirrored: {line}")?;
        }
        let (added, bytes, there) = (self.added, self.bytes, self.there);
        write!(f, "{added} files added ({bytes} bytes), {there} were there")
    }
}

/// Why the mirror is not complete; what was added stays.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    #[error("{} is not a store's folder: it has no {OBJECTS}", path.display())]
    NoStore { path: PathBuf },
    #[error("cannot list the store's objects")]
    List(#[source] BlobsError),
    #[error("cannot make the folder {}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("cannot put {object} into the mirror")]
    Copy { object: Object, source: io::Error },
    #[error("cannot make the mirror durable")]
    Durable(#[from] FileError),
}

/// Adds to the folder `out` what the store in `dir`, which may go on serving, has and it lacks. On the same disk files are
/// hard links.
pub fn mirror(dir: &Path, out: &Path) -> Result<MirrorReport, MirrorError> {
    let objects = dir.join(OBJECTS);
    if !objects.is_dir() {
        return Err(MirrorError::NoStore { path: dir.to_owned() });
    }
    let blobs = FsBlobs::beside(&objects);
    let mut report = MirrorReport::default();
    for (_, folder) in KINDS.iter().chain(&[(ObjectKind::Bundle, LEAVES)]) {
        let path = out.join(folder);
        let made = fs::create_dir_all(&path).and_then(|()| ship_durable::sweep_leftovers(&path));
        made.map_err(|source| MirrorError::Folder { path, source })?;
    }
    for (kind, folder) in KINDS {
        let mut all = blobs.list(kind).map_err(MirrorError::List)?;
        all.sort_unstable();
        for (object, len) in all {
            let target = out.join(folder).join(object.hex());
            let listed = out.join(LEAVES).join(object.hex());
            if listed.is_file() && fs::metadata(&target).is_ok_and(|found| found.len() == len) {
                report.there += 1;
                continue;
            }
            match leaves::read(&blobs, object) {
                Ok(leaves) => add(&blobs, object, &leaves, &target, &listed)?,
                // Swept away since it was listed.
                Err(LeavesOfError::Blobs(BlobsError::Absent { .. })) => continue,
                Err(error) => {
                    report.damaged.push(format!("{object}: {}", whole(&error)));
                    continue;
                }
            }
            report.added += 1;
            report.bytes += len;
        }
    }
    Ok(report)
}

fn add(
    blobs: &FsBlobs,
    object: Object,
    leaves: &Leaves,
    target: &Path,
    listed: &Path,
) -> Result<(), MirrorError> {
    let copied = || -> io::Result<PathBuf> {
        let name = format!("{LEFTOVER_PREFIX}{}", object.hex());
        let staged = target.with_file_name(name);
        if fs::hard_link(blobs.file_of(object), &staged).is_err() {
            let reader = blobs.open(object).map_err(io::Error::other)?;
            copy(reader.as_ref(), &staged)?;
        }
        Ok(staged)
    };
    let staged = copied().map_err(|source| MirrorError::Copy { object, source })?;
    ship_durable::rename(&staged, target)?;
    Ok(ship_durable::write_file(listed, &leaves.encode())?)
}

#[expect(
    clippy::disallowed_methods,
    reason = "when it fails the staged file is swept and never read again"
)]
fn copy(reader: &dyn ObjectReader, staged: &Path) -> io::Result<()> {
    let mut file = File::create(staged)?;
    let mut buffer = vec![0; PIECE];
    let mut at = 0;
    loop {
        match reader.read_at(&mut buffer, at)? {
            0 => return file.sync_all(),
            len => io::Write::write_all(&mut file, &buffer[..len])?,
        }
        at = file.metadata()?.len();
    }
}
