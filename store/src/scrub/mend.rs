//! What is done about damage: a whole copy, else what can be rescued, else the object goes and what is lost is told.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use ship_durable::fault;
use ship_model::digest::{BlobDigest, ReleaseId};
use ship_model::host::HostState;
use ship_model::manifest::{Entry, EntryKind};
use ship_model::name::{EnvName, HostName};
use ship_model::retention::held_by;

use super::Scrubber;
use super::lost::{Lost, lost};
use super::rescue::{Rescue, RescueError, entries};
use super::wants::{MOST, Wanted};
use crate::copies::{BringBackError, bring_back};
use crate::engine::blobs::check_whole;
use crate::engine::{BlobsError, Object, ObjectKind};
use crate::keeping;
use crate::ledger::LedgerError;
use crate::log::whole;
use crate::segments;

/// How long a host may take to begin to give, and be silent while it does.
const PATIENCE: Duration = Duration::from_secs(30);
/// Questions to hosts in one look for what is lost; it is looked again.
const MOST_ASKED: usize = 64;

/// Why not everything was looked for. It is tried again.
#[derive(Debug, thiserror::Error)]
enum MendError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Blobs(#[from] BlobsError),
    #[error(transparent)]
    Rescue(#[from] RescueError),
    #[error("interrupted")]
    Interrupted(#[from] std::io::Error),
}

impl Scrubber {
    /// Heals what was read as damaged, twice, or puts it aside.
    pub(super) fn damaged(&self, object: Object, reason: &str) {
        self.findings.found_damaged();
        tracing::error!(%object, reason, "what lies in the store is damaged");
        let healed = match self.healed_by_copy(object) {
            true => true,
            false => match self.put_aside(object) {
                Ok(()) => self.mend(),
                Err(error) => {
                    tracing::error!(%object, error = whole(&error), "what is damaged stays as it is");
                    false
                }
            },
        };
        if healed {
            self.findings.found_healed();
        }
    }

    /// Takes the object from a mirror; it takes its name in one step, from the damaged one.
    fn healed_by_copy(&self, object: Object) -> bool {
        for copies in &self.copies {
            match bring_back(&*self.blobs, &self.places, object, copies) {
                Ok(true) => {
                    tracing::info!(%object, from = %copies, "healed");
                    return true;
                }
                Ok(false) => {}
                Err(error @ (BringBackError::Copy(_) | BringBackError::Client(_))) => {
                    tracing::warn!(%object, from = %copies, error = whole(&error), "it has no good copy");
                }
                Err(error) => {
                    tracing::warn!(%object, error = whole(&error), "a copy cannot be kept");
                    return false;
                }
            }
        }
        false
    }

    /// Rescues what can be, and takes the object out of sight.
    fn put_aside(&self, object: Object) -> Result<(), MendError> {
        match object {
            Object::Delta(delta) => {
                // Derived: it is made anew.
                let way = self.deltas.way_of(delta);
                self.deltas.forget(&*self.blobs, delta)?;
                if let Some((base, target)) = way {
                    self.maker.wish([base], target);
                }
            }
            Object::Manifest(_) => self.aside_if_damaged(object)?,
            Object::Bundle(bundle) => {
                self.rescued(object, self.rescue().bundle(bundle))?;
                fault::point("store.scrub.rescued")?;
                // Whoever brings the same bundle waits meanwhile, so that a good one is never put aside.
                let alone = self.places.placing_alone();
                self.aside_if_damaged(object)?;
                drop(alone);
                if self.blobs.len(object)?.is_none() {
                    segments::put_aside(&*self.blobs, &self.places, bundle)?;
                }
            }
            Object::Kept(delta) => {
                let links = self.places.links().into_iter();
                for (release, link) in links.filter(|(_, link)| link.delta == delta) {
                    self.rescued(object, self.rescue().kept(release, link))?;
                }
                fault::point("store.scrub.rescued")?;
                self.aside_if_damaged(object)?;
                keeping::put_aside(&*self.blobs, &self.places, delta)?;
            }
        }
        Ok(())
    }

    fn rescue(&self) -> Rescue<'_> {
        Rescue {
            blobs: &*self.blobs,
            places: &self.places,
            ledger: &self.ledger,
        }
    }

    /// What cannot be kept now, on a full disk, is rescued another time: the object stays where it is until then.
    fn rescued(&self, object: Object, rescued: Result<usize, RescueError>) -> Result<(), RescueError> {
        match rescued {
            Ok(0) => Ok(()),
            Ok(files) => {
                tracing::info!(%object, files, "what could still be read lies in another bundle now");
                Ok(())
            }
            Err(error) if error.is_about_the_object() => {
                tracing::warn!(%object, error = whole(&error), "nothing can be read of it any more");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// It was some time ago that it was read: by now it may have been brought again.
    fn aside_if_damaged(&self, object: Object) -> Result<(), BlobsError> {
        match check_whole(&*self.blobs, object) {
            Ok(_) | Err(BlobsError::Damaged { .. } | BlobsError::Absent { .. }) => Ok(()),
            // A disk that does not give it any more.
            Err(BlobsError::Io { .. }) => self.blobs.quarantine(object),
            Err(error) => Err(error),
        }
    }

    /// Looks for what is lost: in mirrors, and with hosts. Tells what stays so; whether nothing does.
    pub(super) fn mend(&self) -> bool {
        match self.mended() {
            Ok(lost) => {
                let is_whole = lost.is_empty();
                for lost in self.findings.take(lost) {
                    let (app, release) = (&lost.app, lost.release.0);
                    tracing::error!(
                        %app, release, lost = lost.words(),
                        "lost, and nobody gives it: publish the release again, or stop the store and run `shipstore verify --repair-from`"
                    );
                }
                is_whole
            }
            Err(error) => {
                tracing::warn!(error = whole(&error), "what is lost is not looked for");
                false
            }
        }
    }

    fn mended(&self) -> Result<Vec<Lost>, MendError> {
        let mut wanted = Wishes::default();
        let mut lost = self.lost(&mut wanted)?;
        if lost.is_empty() {
            return Ok(lost);
        }
        if self.quarantined()? {
            lost = self.lost(&mut wanted)?;
        }
        let mut empty_handed = BTreeSet::new();
        for _ in 0..MOST_ASKED {
            let ids: BTreeSet<ReleaseId> = lost.iter().map(|lost| lost.id).collect();
            let Some(host) = self.host_with(&ids, &empty_handed)? else {
                break;
            };
            // With a manifest that came it is known what else is to be asked for.
            if self.ask(host.clone(), &wanted)? {
                lost = self.lost(&mut wanted)?;
            } else {
                empty_handed.insert(host);
            }
            if lost.is_empty() || self.stop.is_cancelled() {
                break;
            }
        }
        Ok(lost)
    }

    fn lost(&self, wishes: &mut Wishes) -> Result<Vec<Lost>, LedgerError> {
        *wishes = Wishes::default();
        let found = lost(&*self.blobs, &self.places, &self.ledger, |manifest, missing| {
            let room = MOST.saturating_sub(wishes.named.len());
            wishes
                .named
                .extend(entries(manifest, |blob| missing.contains(blob)).take(room));
        })?;
        let bare = found.iter().filter(|lost| lost.files == 0);
        wishes.manifests.extend(bare.take(MOST).map(|lost| lost.id));
        Ok(found)
    }

    /// Asks mirrors for what was put aside earlier; whether something came.
    fn quarantined(&self) -> Result<bool, MendError> {
        let (mut any, mut kept) = (false, false);
        for object in self.blobs.quarantined()? {
            if object.kind() == ObjectKind::Delta || self.blobs.len(object)?.is_some() {
                continue;
            }
            let came = self.healed_by_copy(object);
            any |= came;
            kept |= came && object.kind() == ObjectKind::Kept;
        }
        if any {
            self.places.complete(&*self.blobs);
        }
        if kept {
            // A lost delta took its link with it: the ledger says how its release is kept.
            keeping::load(&*self.blobs, &self.places, &self.ledger)?;
        }
        Ok(any)
    }

    /// A host that is there and has one of these releases, none of those that gave nothing.
    fn host_with(
        &self,
        ids: &BTreeSet<ReleaseId>,
        empty_handed: &BTreeSet<(EnvName, HostName)>,
    ) -> Result<Option<(EnvName, HostName)>, LedgerError> {
        let here = self.fleet.all(None).into_iter();
        let mut having = here.filter_map(|(env, host, presence)| {
            let speaks = !matches!(presence.state, HostState::Uncertain | HostState::Unavailable);
            let report = presence.report.filter(|_| speaks)?;
            let has = report
                .apps
                .iter()
                .flat_map(held_by)
                .any(|target| ids.contains(&target.id));
            (has && !empty_handed.contains(&(env.clone(), host.clone()))).then_some((env, host))
        });
        Ok(having.next())
    }

    /// Asks one host; whether it gave something.
    fn ask(&self, host: (EnvName, HostName), wishes: &Wishes) -> Result<bool, MendError> {
        let blobs = wishes.named.iter().filter_map(|(blob, entry)| match entry.kind {
            EntryKind::File { size, .. } => Some((Wanted::Blob(*blob), size)),
            _ => None,
        });
        let manifests = wishes.manifests.iter();
        let manifests = manifests.map(|id| (Wanted::Manifest(*id), Wanted::MANIFEST));
        let wanted: BTreeMap<_, _> = blobs.chain(manifests).take(MOST).collect();
        let from = format!("{}/{}", host.0, host.1);
        let given = self
            .wants
            .ask(host, wanted, PATIENCE, &|| self.stop.is_cancelled());
        let manifests = given.manifests.len();
        let files = self.rescue().carry(wishes.named.clone(), given.spools)?;
        if manifests + files == 0 {
            return Ok(false);
        }
        tracing::info!(host = from, files, manifests, "a host gave back what was lost");
        self.places.complete(&*self.blobs);
        Ok(true)
    }
}

/// What hosts are asked for.
#[derive(Debug, Default)]
struct Wishes {
    named: HashMap<BlobDigest, Entry>,
    manifests: BTreeSet<ReleaseId>,
}
