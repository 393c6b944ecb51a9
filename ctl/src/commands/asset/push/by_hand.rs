//! To a folder or bucket that the store does not know: from the store to this machine, and from here to there.
//!
//! Some assets at a time: what was brought before something failed, or before somebody ended it, is found there by the next push.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ship_bucket::{Bucket, BucketError, BucketSettings, Door, Put};
use ship_model::assets::{Asset, assets_of};
use ship_model::release::{ReleaseNumber, ReleaseRef};
use ship_model::retention::{ExpiredList, UrlHash};
use ship_proto::v1::{ExpiredRequest, FailureKind, GetReleaseRequest, ReleaseRecord};
use tempfile::TempDir;
use tonic::Code;

use super::super::super::bundles::Remote;
use super::super::super::subject::Subject;
use super::super::super::{Fleet, Outcome, manifest, subject};
use super::fetched::{Fetched, parts};
use super::folder::{Folder, FolderError};
use super::{AGAIN, Pushed, report};
use crate::error::{CommandError, Exit};
use crate::signals::Stop;
use crate::ui::{Bar, Ui};
use crate::words::{bytes, clean, count};

pub async fn to_folder(
    typed: Option<&ReleaseRef>,
    folder: &Path,
    dry_run: bool,
    fleet: &Fleet,
    ui: &Ui,
) -> Outcome {
    let place = Place::Folder(Arc::new(Folder::open(folder)?));
    push(typed, &folder.display().to_string(), &place, dry_run, fleet, ui).await
}

pub async fn to_bucket(
    typed: Option<&ReleaseRef>,
    settings: BucketSettings,
    dry_run: bool,
    fleet: &Fleet,
    ui: &Ui,
) -> Outcome {
    let name = format!("s3://{}/{}", settings.bucket, settings.prefix);
    let door = Door::new(settings, Path::new(""));
    let place = Place::Bucket(door.open()?);
    push(typed, name.trim_end_matches('/'), &place, dry_run, fleet, ui).await
}

impl From<FolderError> for CommandError {
    fn from(error: FolderError) -> Self {
        let exit = match error {
            FolderError::Busy { .. } => Exit::Busy,
            _ => Exit::Error,
        };
        Self::of(exit, &error)
    }
}

impl From<BucketError> for CommandError {
    fn from(error: BucketError) -> Self {
        Self::of(Exit::Error, &error)
    }
}

enum Place<'a> {
    Folder(Arc<Folder>),
    Bucket(Bucket<'a>),
}

impl Place<'_> {
    async fn lacking(&self, assets: Vec<Asset>) -> Result<Vec<Asset>, CommandError> {
        match self {
            Self::Folder(folder) => {
                let folder = Arc::clone(folder);
                let looking = tokio::task::spawn_blocking(move || folder.lacking(&assets)).await;
                Ok(looking.map_err(|source| CommandError::internal("look into the folder", source))??)
            }
            Self::Bucket(bucket) => Ok(bucket.lacking(&assets).await?),
        }
    }

    /// Where assets wait: for a folder, on its own file system.
    fn aside(&self) -> Result<TempDir, CommandError> {
        match self {
            Self::Folder(folder) => Ok(folder.aside()?),
            Self::Bucket(_) => tempfile::tempdir()
                .map_err(|source| CommandError::internal("make a temporary folder", source)),
        }
    }

    async fn take(&self, fetched: Fetched, told: &Told) -> Result<(), CommandError> {
        match self {
            Self::Folder(folder) => {
                let (folder, told) = (Arc::clone(folder), told.clone());
                let taking = tokio::task::spawn_blocking(move || {
                    folder.take(fetched.files(), &|asset| told.tell(asset, Put::Sent))
                });
                let taken = taking.await;
                Ok(taken.map_err(|source| CommandError::internal("write into the folder", source))??)
            }
            Self::Bucket(bucket) => {
                let told = |asset: &Asset, put: Put| told.tell(asset, put);
                Ok(bucket.put_all(fetched.files(), &told).await?)
            }
        }
    }
}

/// Counts what came there.
#[derive(Debug, Clone)]
struct Told {
    bar: Bar,
    sent: Arc<Mutex<(u64, u64)>>,
}

impl Told {
    fn tell(&self, asset: &Asset, put: Put) {
        self.bar.add(asset.size);
        if put == Put::Sent {
            let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
            *sent = (sent.0 + 1, sent.1 + asset.size);
        }
    }

    fn read(&self) -> (u64, u64) {
        *self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn push(
    typed: Option<&ReleaseRef>,
    name: &str,
    place: &Place<'_>,
    dry_run: bool,
    fleet: &Fleet,
    ui: &Ui,
) -> Outcome {
    let subject = subject::subject(typed, &fleet.context)?;
    let mut walk = Walk {
        place,
        subject: &subject,
        fleet,
        ui,
        dry_run,
        remote: Arc::new(Remote::new(fleet)),
        looked_at: match subject.number {
            // Asked for by its number, a release is brought whole.
            Some(_) => HashSet::new(),
            None => expired(&subject, fleet).await?,
        },
        pushed: Pushed::new(name),
    };
    let mut stop = Stop::new()?;
    let ended = tokio::select! {
        ended = walk.all() => ended,
        () = stop.asked() => Err(CommandError::new(Exit::Interrupted, "interrupted")),
    };
    let mut pushed = walk.pushed;
    pushed.error = ended.as_ref().err().map(|fault| fault.message().to_owned());
    report(&subject.app, fleet, std::slice::from_ref(&pushed), ui);
    ended.map(|()| Exit::Done).map_err(|fault| {
        fault
            .after_waiting(&format!("not all is pushed to {}", clean(name)))
            .hint(AGAIN)
    })
}

/// What nothing keeps any more: it would be given up again. A store of before assets could expire has none.
async fn expired(subject: &Subject, fleet: &Fleet) -> Result<HashSet<UrlHash>, CommandError> {
    let request = ExpiredRequest {
        app: subject.app.to_string(),
    };
    let mut parts = match fleet.client.assets().expired(request).await {
        Ok(parts) => parts.into_inner(),
        Err(status) if status.code() == Code::Unimplemented => return Ok(HashSet::new()),
        Err(status) => return Err(status.into()),
    };
    let mut list = ExpiredList::default();
    while let Some(part) = parts.message().await? {
        list.take(&part.paths)
            .map_err(|error| CommandError::of(Exit::Error, &error))?;
    }
    Ok(list.hashes().collect())
}

/// One push, release after release.
struct Walk<'a> {
    place: &'a Place<'a>,
    subject: &'a Subject,
    fleet: &'a Fleet,
    ui: &'a Ui,
    dry_run: bool,
    remote: Arc<Remote>,
    /// By URL path, with what has expired: releases have most of their assets in common.
    looked_at: HashSet<UrlHash>,
    pushed: Pushed,
}

impl Walk<'_> {
    async fn all(&mut self) -> Result<(), CommandError> {
        let first = self.subject.record(self.fleet).await?;
        let newest = first.release.as_ref().map_or(0, |release| release.number);
        self.release(&first).await?;
        if self.subject.number.is_some() {
            return Ok(());
        }
        for number in (1..newest).rev() {
            if let Some(record) = self.record(number).await? {
                self.release(&record).await?;
            }
        }
        Ok(())
    }

    /// None: there is no such release any more.
    async fn record(&self, number: u64) -> Result<Option<ReleaseRecord>, CommandError> {
        let request = GetReleaseRequest {
            app: self.subject.app.to_string(),
            number,
        };
        match self.fleet.client.releases().get(request).await {
            Ok(record) => Ok(Some(record.into_inner())),
            Err(status) => match ship_proto::failure_of(&status) {
                Some(failure) if failure.kind() == FailureKind::NotFound => Ok(None),
                _ => Err(status.into()),
            },
        }
    }

    async fn release(&mut self, record: &ReleaseRecord) -> Result<(), CommandError> {
        let number = ReleaseNumber(record.release.as_ref().map_or(0, |release| release.number));
        let assets = self.assets(record).await?;
        let (count, bar) = (assets.len(), Bar::spinner(self.ui, "looking for what lacks"));
        let lacking = self.place.lacking(assets).await;
        bar.clear();
        let lacking = lacking?;
        let there = (count - lacking.len()) as u64;
        self.pushed.there += there;
        self.pushed.lacking += lacking.len() as u64;
        self.pushed.lacking_bytes += lacking.iter().map(|asset| asset.size).sum::<u64>();
        if !self.dry_run && !lacking.is_empty() {
            self.bring(&lacking).await?;
        }
        self.pushed.releases += u64::from(!self.dry_run || lacking.is_empty());
        self.say(number, &lacking, there);
        Ok(())
    }

    /// The fingerprinted assets of a release that were not looked at yet.
    async fn assets(&mut self, record: &ReleaseRecord) -> Result<Vec<Asset>, CommandError> {
        let manifest = manifest::fetch(record, self.fleet).await?;
        let mut assets = assets_of(&manifest).map_err(|error| CommandError::of(Exit::Error, &error))?;
        assets.retain(|asset| asset.fingerprinted && self.looked_at.insert(UrlHash::of(&asset.url_path)));
        Ok(assets)
    }

    async fn bring(&mut self, lacking: &[Asset]) -> Result<(), CommandError> {
        let bar = Bar::bytes(self.ui, "push", lacking.iter().map(|asset| asset.size).sum());
        let told = Told {
            bar: bar.clone(),
            sent: Arc::default(),
        };
        let brought = self.bring_parts(lacking, &told).await;
        bar.clear();
        let (sent, sent_bytes) = told.read();
        self.pushed.sent += sent;
        self.pushed.sent_bytes += sent_bytes;
        self.pushed.lacking -= sent;
        self.pushed.lacking_bytes -= sent_bytes;
        brought
    }

    async fn bring_parts(&self, lacking: &[Asset], told: &Told) -> Result<(), CommandError> {
        let aside = self.place.aside()?;
        for part in parts(lacking) {
            let fetched = Fetched::fetch(&self.subject.app, part, &self.remote, aside.path()).await?;
            self.place.take(fetched, told).await?;
        }
        Ok(())
    }

    fn say(&self, number: ReleaseNumber, lacking: &[Asset], there: u64) {
        let size = bytes(lacking.iter().map(|asset| asset.size).sum());
        let what = if self.dry_run { "lacking" } else { "sent" };
        self.ui.say(format!(
            "{}  {}@{number}  {} {what}, {size}, {there} there already",
            clean(&self.pushed.push),
            self.subject.app,
            count(lacking.len() as u64, "asset")
        ));
    }
}
