//! `shipctl publish`: a folder becomes a release.
//!
//! Walk, tell the store what the tree consists of, pack only what it has not, send that, and ask for a
//! number. Every step can be repeated; only the last one makes anything that others see.

use std::fs::File;
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};

use clap::Args;
use ship_bundle::{DEFAULT_LEVEL, Packed, Walked, pack};
use ship_model::digest::{BlobDigest, ReleaseId};
use ship_model::manifest::Manifest;
use ship_model::name::AppName;
use ship_proto::v1::{BeginChunk, CommitRequest, ReleaseRecord, UploadChunk};
use ship_proto::{MAX_PIECE, digests};
use std::collections::HashSet;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Fleet, Outcome, shape, tree};
use crate::args::Global;
use crate::clock::Watch;
use crate::error::{CommandError, Exit, is_passing};
use crate::request::request_id;
use crate::ui::{Bar, Ui};
use crate::words::{bytes, count, duration};

/// Longest label, in bytes.
const MAX_LABEL: usize = 200;
/// How often a commit whose answer was lost is asked for again.
const COMMIT_TRIES: u32 = 5;

/// Make a release of a folder; nothing runs it before it is promoted
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  shipctl publish                     the folder with the ship.toml you stand in
  shipctl publish build -a site       static files: no ship.toml is needed, only a name
  shipctl publish dist --label \"spring sale\"

Only content that the store has not seen is sent. The same folder published twice gets
two numbers and one id. With -o json: app, release, id, files, bytes, new_bytes,
stored_bytes and more. Next: shipctl plan, shipctl promote.")]
pub struct Publish {
    /// Folder that becomes the release
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Free text shown beside the number
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
}

#[derive(Debug, thiserror::Error)]
enum PackError {
    #[error("make a temporary file for the bundle")]
    Temporary(#[source] io::Error),
    #[error(transparent)]
    Pack(#[from] ship_bundle::PackError),
    #[error("the thread that packs was lost")]
    Lost,
}

pub async fn run(verb: Publish, global: &Global, ui: &Ui) -> Outcome {
    if verb.label.as_ref().is_some_and(|label| label.len() > MAX_LABEL) {
        return Err(CommandError::usage(format!(
            "a label has at most {MAX_LABEL} bytes"
        )));
    }
    let time = Watch::start();
    let spec = tree::read_spec(&verb.dir, global.app.as_ref())?;
    // Who cannot reach the store learns it before a large folder is read.
    let fleet = Fleet::reach(global).await?;
    let walked = tree::read_tree(&verb.dir, &spec, ui).await?;
    tree::warn(&walked, ui);
    let record = Box::pin(send(&verb, &spec.app, walked, &fleet, ui)).await?;
    if ui.is_json() {
        ui.json(&shape::Release::from(&record));
        return Ok(Exit::Done);
    }
    tell(&record, time, ui);
    Ok(Exit::Done)
}

fn tell(record: &ReleaseRecord, time: Watch, ui: &Ui) {
    let number = record.release.as_ref().map_or(0, |target| target.number);
    ui.line(format!(
        "{}@{number}  {}, {}; {} new, stored as {}; {}",
        record.app,
        count(record.files, "file"),
        bytes(record.bytes),
        bytes(record.new_bytes),
        bytes(record.stored_bytes),
        duration(time.elapsed()),
    ));
    ui.hint(format!(
        "shipctl plan {0}@{number}, then shipctl promote {0}@{number}",
        record.app
    ));
}

async fn send(
    verb: &Publish,
    app: &AppName,
    walked: Walked,
    fleet: &Fleet,
    ui: &Ui,
) -> Result<ReleaseRecord, CommandError> {
    let encoded = walked.manifest.encode();
    let encoded = encoded.map_err(|error| CommandError::of(Exit::Error, &error))?;
    let id = Manifest::id_of(&encoded);
    let wanted = begin(app, encoded, fleet).await?;
    let bundle = if wanted.is_empty() {
        None
    } else {
        let (packed, file) = pack_missing(&verb.dir, walked.manifest, wanted, ui).await?;
        Some(upload(packed, file, fleet, ui).await?)
    };
    commit(verb, app, id, bundle, fleet).await
}

/// Tells the manifest; what comes back are the blobs that the store has not.
async fn begin(app: &AppName, encoded: Vec<u8>, fleet: &Fleet) -> Result<HashSet<BlobDigest>, CommandError> {
    let mut name = Some(app.to_string());
    let pieces: Vec<BeginChunk> = encoded
        .chunks(MAX_PIECE)
        .map(|piece| BeginChunk {
            app: name.take().unwrap_or_default(),
            manifest: piece.to_vec().into(),
        })
        .collect();
    let mut missing = fleet
        .client
        .releases()
        .begin(tokio_stream::iter(pieces))
        .await?
        .into_inner();
    let mut wanted = HashSet::new();
    while let Some(message) = missing.message().await? {
        let blobs = digests(&message.blobs, "missing blob", BlobDigest::from_slice);
        wanted.extend(blobs.map_err(|error| CommandError::of(Exit::Error, &error))?);
    }
    Ok(wanted)
}

/// Packs into a file without a name: nothing is left of it whenever this process ends.
async fn pack_missing(
    dir: &Path,
    manifest: Manifest,
    wanted: HashSet<BlobDigest>,
    ui: &Ui,
) -> Result<(Packed, File), CommandError> {
    let bar = Bar::bytes(ui, "pack", 1);
    let (dir, told) = (dir.to_owned(), tree::Told(bar.clone()));
    let packing = tokio::task::spawn_blocking(move || {
        let mut file = tempfile::tempfile().map_err(PackError::Temporary)?;
        let packed = pack(&dir, &manifest, &wanted, DEFAULT_LEVEL, &mut file, &told)?;
        file.rewind().map_err(PackError::Temporary)?;
        Ok((packed, file))
    });
    let packed = packing.await.unwrap_or(Err(PackError::Lost));
    bar.clear();
    packed.map_err(|error| {
        let fault = CommandError::of(Exit::Error, &error);
        match error {
            PackError::Temporary(_) => fault.hint("TMPDIR names the folder for it"),
            _ => fault,
        }
    })
}

async fn upload(packed: Packed, file: File, fleet: &Fleet, ui: &Ui) -> Result<Vec<u8>, CommandError> {
    let bar = Bar::bytes(ui, "send", packed.bytes);
    let digest = packed.digest.as_bytes().to_vec();
    let (pieces, received) = mpsc::channel::<UploadChunk>(2);
    let reading = tokio::task::spawn_blocking({
        let (digest, bar) = (digest.clone(), bar.clone());
        move || read_pieces(file, digest, &bar, &pieces)
    });
    let sent = fleet
        .client
        .releases()
        .upload(ReceiverStream::new(received))
        .await;
    bar.clear();
    // A read that failed cut the stream short: that is the reason, whatever the store says of it.
    match reading.await {
        Ok(Ok(())) => {}
        Ok(Err(source)) => return Err(CommandError::internal("read the packed bundle", source)),
        Err(source) => return Err(CommandError::internal("read the packed bundle", source)),
    }
    let stored = sent?.into_inner().bundle;
    if stored == digest {
        return Ok(digest);
    }
    Err(CommandError::new(
        Exit::Error,
        "the store has another bundle than the one that was sent",
    ))
}

/// Ends early, and well, when nobody takes the pieces any more.
fn read_pieces(
    mut file: File,
    digest: Vec<u8>,
    bar: &Bar,
    pieces: &mpsc::Sender<UploadChunk>,
) -> io::Result<()> {
    let mut bundle = Some(digest);
    loop {
        let mut data = vec![0; MAX_PIECE / 4];
        let length = file.read(&mut data)?;
        if length == 0 {
            return Ok(());
        }
        data.truncate(length);
        let piece = UploadChunk {
            bundle: bundle.take(),
            data: data.into(),
        };
        if pieces.blocking_send(piece).is_err() {
            return Ok(());
        }
        bar.add(length as u64);
    }
}

/// Asks for the number. The same request id makes one release, so a lost answer is asked for again.
async fn commit(
    verb: &Publish,
    app: &AppName,
    id: ReleaseId,
    bundle: Option<Vec<u8>>,
    fleet: &Fleet,
) -> Result<ReleaseRecord, CommandError> {
    let (commit, dirty) = checkout(&verb.dir).await;
    let request = CommitRequest {
        app: app.to_string(),
        id: id.as_bytes().to_vec(),
        bundle,
        label: verb.label.clone(),
        commit,
        dirty,
        request_id: request_id(),
    };
    let mut tries = 0;
    loop {
        tries += 1;
        match fleet.client.releases().commit(request.clone()).await {
            Ok(record) => return Ok(record.into_inner()),
            Err(status) if is_passing(&status) && tries < COMMIT_TRIES => {
                tokio::time::sleep(std::time::Duration::from_millis(200) * 2_u32.pow(tries)).await;
            }
            Err(status) => return Err(status.into()),
        }
    }
}

/// The commit of the checkout that `dir` lies in, and whether it had changes; nothing where there is no
/// checkout, or no git.
async fn checkout(dir: &Path) -> (Option<String>, bool) {
    let Some(commit) = git(dir, &["rev-parse", "HEAD"]).await else {
        return (None, false);
    };
    let changes = git(dir, &["status", "--porcelain", "--untracked-files=no"]).await;
    let commit = commit.trim().to_owned();
    let dirty = changes.is_none_or(|changes| !changes.trim().is_empty());
    (Some(commit), dirty)
}

async fn git(dir: &Path, words: &[&str]) -> Option<String> {
    let mut command = tokio::process::Command::new("git");
    command
        .arg("-C")
        .arg(dir)
        .args(words)
        // Looking must not write to somebody's index.
        .env("GIT_OPTIONAL_LOCKS", "0")
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(std::time::Duration::from_secs(10), command.output()).await;
    let output = output.ok()?.ok()?;
    output.status.success().then_some(())?;
    String::from_utf8(output.stdout).ok()
}
