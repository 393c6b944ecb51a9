//! A request that no file here answers: what was published is fetched from elsewhere, verified, and served in the same
//! request.
//!
//! Four kinds are told apart. What nobody ever published is **unknown**: 404. What was published and nothing keeps any
//! more has **expired**: 404 as well, which no cache may keep, since a release that names it brings it back; 410 would say
//! that it never comes back. What was published otherwise is **promised**: it is fetched once however many ask, and stands
//! from then on. What was promised and cannot be had is an **incident**: 503 with `Retry-After`, so that no cache
//! remembers it as gone, counted for the release that first brought it.
//!
//! All of it is bounded: so many paths at once, so many remembered as unknown or failed, for a short time. Whoever asks
//! for more than that is answered as if nothing was known here, with a 404 that no cache keeps.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ship_model::assets::{Asset, canonical_url, folder_name};
use ship_model::digest::BlobDigest;
use ship_model::name::AppName;
use ship_model::release::Target;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

/// Paths that are looked for elsewhere at once.
const AT_ONCE: usize = 16;
/// Paths whose end is remembered.
const REMEMBERED: usize = 4096;
/// How long a path counts as unknown.
const UNKNOWN_FOR: Duration = Duration::from_secs(10);
/// How long it is not tried again after it failed.
const FAILED_FOR: Duration = Duration::from_secs(1);
/// Releases whose incidents are counted; more are counted with the last.
const RELEASES: usize = 64;

/// An asset that some release named, and that must be served for as long as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promised {
    pub app: AppName,
    /// The release that first brought it.
    pub release: Target,
    /// As pages name it, in its canonical spelling.
    pub url: String,
    pub digest: BlobDigest,
    pub size: u64,
}

impl Promised {
    /// The asset, as a union takes it; none for a url that is no file's.
    pub fn asset(&self) -> Option<Asset> {
        Some(Asset {
            url_path: self.url.clone(),
            path: folder_name(&self.url)?,
            digest: self.digest,
            size: self.size,
            fingerprinted: true,
        })
    }
}

/// What the ledger of all that was published says of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nobody ever published it.
    Never,
    /// It was published, and nothing keeps it any more.
    Expired,
    Promised(Promised),
}

/// Why something could not be had from elsewhere.
pub type ElsewhereError = Box<dyn std::error::Error + Send + Sync>;

/// Who knows and has more than this folder: the store for a host, its bundles for the store. Every method blocks.
pub trait Elsewhere: Send + Sync + 'static {
    /// What was published at `url`.
    fn find(&self, url: &str) -> Result<Standing, ElsewhereError>;

    /// Puts it into its union, verified ([`crate::Union::add_blob`], then [`crate::Union::adopt`]).
    fn fetch(&self, promised: &Promised) -> Result<(), ElsewhereError>;
}

/// What came of a miss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// Nobody ever published it, or nobody can tell now.
    Unknown,
    /// It was published once, and nothing keeps it any more.
    Expired,
    /// It stands now.
    Here,
    /// It was published, and nobody can serve it.
    Incident,
}

/// [`Missed`], with what an incident is counted for.
#[derive(Debug, Clone)]
enum Landed {
    Unknown,
    Expired,
    Here,
    Incident(Arc<Promised>),
}

impl Landed {
    const fn missed(&self) -> Missed {
        match self {
            Self::Unknown => Missed::Unknown,
            Self::Expired => Missed::Expired,
            Self::Here => Missed::Here,
            Self::Incident(_) => Missed::Incident,
        }
    }
}

type Flight = watch::Receiver<Option<Landed>>;

#[derive(Debug, Clone)]
struct Remembered {
    landed: Landed,
    until: Instant,
    /// For [`Landed::Here`]: whoever began to look before may not have seen it. Later ones look again.
    before: u64,
}

enum Boarded {
    Known(Landed),
    Flight(Flight),
    /// There are too many flights.
    Full,
}

/// What could not be served of what a release brought, since the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incident {
    pub app: AppName,
    pub release: Target,
    /// Requests.
    pub count: u64,
    /// The last of them.
    pub url: String,
}

/// When a request began to look for a file here.
#[derive(Debug, Clone, Copy)]
pub struct Moment(u64);

/// Misses, and what became of them. Cheap to share.
pub struct Misses {
    elsewhere: Arc<dyn Elsewhere>,
    flights: Mutex<HashMap<String, Flight>>,
    remembered: Mutex<HashMap<String, Remembered>>,
    /// How many were fetched, which is what moments are counted by.
    landings: AtomicU64,
    places: Arc<Semaphore>,
    incidents: Mutex<BTreeMap<(AppName, u64), Incident>>,
    /// Assets that were missing here and were fetched.
    healed: AtomicU64,
}

impl std::fmt::Debug for Misses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Misses").finish_non_exhaustive()
    }
}

impl Misses {
    pub fn new(elsewhere: Arc<dyn Elsewhere>) -> Arc<Self> {
        Arc::new(Self {
            elsewhere,
            flights: Mutex::default(),
            remembered: Mutex::default(),
            landings: AtomicU64::new(0),
            places: Arc::new(Semaphore::new(AT_ONCE)),
            incidents: Mutex::default(),
            healed: AtomicU64::new(0),
        })
    }

    pub fn healed(&self) -> u64 {
        self.healed.load(Ordering::Relaxed)
    }

    /// Every release that has incidents, by app and number.
    pub fn incidents(&self) -> Vec<Incident> {
        lock(&self.incidents).values().cloned().collect()
    }

    /// Taken before a file is looked for here, and given to [`Misses::miss`] when there is none.
    pub fn moment(&self) -> Moment {
        Moment(self.landings.load(Ordering::SeqCst))
    }

    /// Looks elsewhere for what a request asks for by `url_path`, and did not find here since `moment`. Of many that ask at
    /// once one does the work, and it is done to its end when all of them hang up; who saw no file and asks when the work is
    /// done does not begin it again. Each that cannot be served counts.
    pub async fn miss(self: &Arc<Self>, url_path: &str, moment: Moment) -> Missed {
        let Some(url) = canonical_url(url_path) else {
            return Missed::Unknown;
        };
        let landed = self.seek(&url, Some(moment)).await;
        if let Landed::Incident(promised) = &landed {
            self.count(promised);
        }
        landed.missed()
    }

    /// The same for what nobody asks for: it counts as no request, and what has just failed is tried all the same.
    pub async fn repair(self: &Arc<Self>, url_path: &str) -> Missed {
        match canonical_url(url_path) {
            Some(url) => self.seek(&url, None).await.missed(),
            None => Missed::Unknown,
        }
    }

    async fn seek(self: &Arc<Self>, url: &str, moment: Option<Moment>) -> Landed {
        let mut flight = match self.board(url, moment) {
            Boarded::Known(landed) => return landed,
            Boarded::Flight(flight) => flight,
            Boarded::Full => return Landed::Unknown,
        };
        match flight.wait_for(Option::is_some).await {
            Ok(landed) => landed.clone().unwrap_or(Landed::Unknown),
            // It broke down.
            Err(_) => Landed::Unknown,
        }
    }

    fn recall(&self, url: &str, moment: Moment) -> Option<Landed> {
        let remembered = lock(&self.remembered);
        let known = remembered.get(url)?;
        let holds = match known.landed {
            Landed::Here => moment.0 < known.before,
            _ => Instant::now() < known.until,
        };
        holds.then(|| known.landed.clone())
    }

    /// The flight that looks for `url`, unless its end is remembered.
    fn board(self: &Arc<Self>, url: &str, moment: Option<Moment>) -> Boarded {
        let mut flights = lock(&self.flights);
        if let Some(flight) = flights.get(url) {
            return Boarded::Flight(flight.clone());
        }
        // What a flight found is remembered before it leaves the list, so one of the two is seen.
        if let Some(landed) = moment.and_then(|moment| self.recall(url, moment)) {
            return Boarded::Known(landed);
        }
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Boarded::Full;
        };
        let (land, flight) = watch::channel(None);
        flights.insert(url.to_owned(), flight.clone());
        drop(flights);
        let (misses, url) = (Arc::clone(self), url.to_owned());
        tokio::task::spawn_blocking(move || {
            let _place = place;
            let landed = misses.look(&url);
            misses.remember(&url, &landed);
            lock(&misses.flights).remove(&url);
            land.send_replace(Some(landed));
        });
        Boarded::Flight(flight)
    }

    fn look(&self, url: &str) -> Landed {
        let promised = match self.elsewhere.find(url) {
            Ok(Standing::Promised(promised)) => promised,
            Ok(Standing::Expired) => return Landed::Expired,
            Ok(Standing::Never) => return Landed::Unknown,
            Err(error) => {
                tracing::debug!(
                    url,
                    error = &*error as &dyn std::error::Error,
                    "cannot ask for a missing asset"
                );
                return Landed::Unknown;
            }
        };
        match self.elsewhere.fetch(&promised) {
            Ok(()) => {
                self.healed.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(app = %promised.app, release = %promised.release.number, url, "asset was missing here and was fetched");
                Landed::Here
            }
            Err(error) => {
                let error = &*error as &dyn std::error::Error;
                tracing::error!(app = %promised.app, release = %promised.release.number, url, error, "a published asset cannot be served");
                Landed::Incident(Arc::new(promised))
            }
        }
    }

    fn count(&self, promised: &Promised) {
        let mut incidents = lock(&self.incidents);
        let mut key = (promised.app.clone(), promised.release.number.0);
        if incidents.len() >= RELEASES
            && !incidents.contains_key(&key)
            && let Some(last) = incidents.keys().next_back()
        {
            key = last.clone();
        }
        let incident = incidents.entry(key).or_insert_with(|| Incident {
            app: promised.app.clone(),
            release: promised.release,
            count: 0,
            url: String::new(),
        });
        incident.count += 1;
        incident.url.clone_from(&promised.url);
    }

    fn remember(&self, url: &str, landed: &Landed) {
        let (length, before) = match landed {
            Landed::Here => (UNKNOWN_FOR, self.landings.fetch_add(1, Ordering::SeqCst) + 1),
            Landed::Unknown | Landed::Expired => (UNKNOWN_FOR, 0),
            Landed::Incident(_) => (FAILED_FOR, 0),
        };
        let mut remembered = lock(&self.remembered);
        if remembered.len() >= REMEMBERED {
            let now = Instant::now();
            remembered.retain(|_, known| now < known.until);
        }
        if remembered.len() < REMEMBERED {
            let (landed, until) = (landed.clone(), Instant::now() + length);
            remembered.insert(
                url.to_owned(),
                Remembered {
                    landed,
                    until,
                    before,
                },
            );
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
