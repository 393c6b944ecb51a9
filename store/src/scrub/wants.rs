//! What the store lost and hosts are asked to give: one host at a time, and only what its releases name.
//!
//! ```text
//! ask      the scrub names a host and what it is asked for; the host's session tells it
//! take     the host gives in a call of its own: each blob is staged, hashed, and believed when its digest is right
//! wait     the scrub hears that the host has ended, or that nothing came in a while, and asks the next one
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write as _};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ship_model::digest::{BlobDigest, ReleaseId};
use ship_model::manifest::MAX_ENCODED;
use ship_model::name::{EnvName, HostName};
use tokio::sync::watch;

use crate::engine::{Blobs, BlobsError, Object};
use crate::spool::Spool;

/// Blobs and manifests that one host is asked for at once.
pub(super) const MOST: usize = 1024;
/// How often whoever waits looks whether the store ends.
const LOOK: Duration = Duration::from_millis(200);

/// One thing that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wanted {
    Blob(BlobDigest),
    Manifest(ReleaseId),
}

/// What one host is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Grows with each question.
    pub number: u64,
    pub env: EnvName,
    pub host: HostName,
    /// With how many bytes there are at most.
    pub wanted: BTreeMap<Wanted, u64>,
}

/// Why nothing more is taken from a host.
#[derive(Debug, thiserror::Error)]
pub enum GiveError {
    #[error("nothing is asked of this host, or no longer")]
    Unasked,
    #[error("{0} was not asked for, or was given already")]
    Other(String),
    #[error("more bytes came than {0} has")]
    Long(String),
    #[error("the bytes that came are not those of {0}")]
    Wrong(String),
    #[error("cannot keep what came")]
    Blobs(#[from] BlobsError),
    #[error("cannot write what came")]
    Write(#[from] io::Error),
}

/// The one question there is, if any.
#[derive(Debug)]
pub struct Wants {
    blobs: Arc<dyn Blobs>,
    asked: watch::Sender<Option<Arc<Asked>>>,
    now: Mutex<Now>,
    come: Condvar,
}

#[derive(Debug, Default)]
struct Now {
    number: u64,
    answer: Answer,
    /// When something last came.
    heard: Option<Instant>,
    given: Vec<Spool>,
    manifests: BTreeSet<ReleaseId>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Answer {
    #[default]
    None,
    UnderWay,
    Ended,
}

/// What a host gave.
#[derive(Debug, Default)]
pub(super) struct Given {
    pub spools: Vec<Spool>,
    pub manifests: BTreeSet<ReleaseId>,
}

impl Wants {
    /// Nothing is asked yet; what comes is staged in `blobs`.
    pub fn new(blobs: Arc<dyn Blobs>) -> Self {
        Self {
            blobs,
            asked: watch::Sender::new(None),
            now: Mutex::default(),
            come: Condvar::new(),
        }
    }

    /// What is asked, for the hosts' sessions.
    pub fn listen(&self) -> watch::Receiver<Option<Arc<Asked>>> {
        self.asked.subscribe()
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks `host`, and waits until it has given what it has, or nothing came for `patience`. Blocks.
    pub(super) fn ask(
        &self,
        (env, host): (EnvName, HostName),
        wanted: BTreeMap<Wanted, u64>,
        patience: Duration,
        ended: &dyn Fn() -> bool,
    ) -> Given {
        let mut now = self.now();
        *now = Now {
            number: now.number + 1,
            heard: Some(Instant::now()),
            ..Now::default()
        };
        let number = now.number;
        self.asked.send_replace(Some(Arc::new(Asked {
            number,
            env,
            host,
            wanted,
        })));
        while now.answer != Answer::Ended
            && now.heard.is_some_and(|heard| heard.elapsed() < patience)
            && !ended()
        {
            let waited = self.come.wait_timeout(now, LOOK.min(patience));
            now = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        self.asked.send_replace(None);
        // Who comes late finds another number.
        now.number += 1;
        Given {
            spools: std::mem::take(&mut now.given),
            manifests: std::mem::take(&mut now.manifests),
        }
    }

    /// Begins to take what `host` gives as its answer to question `number`.
    ///
    /// # Errors
    /// [`GiveError::Unasked`], and when nothing can be staged.
    pub fn take(&self, (env, host): (&EnvName, &HostName), number: u64) -> Result<Taking<'_>, GiveError> {
        let asked = self.asked.borrow().clone();
        let asked = asked.filter(|asked| asked.number == number && (&asked.env, &asked.host) == (env, host));
        let asked = asked.ok_or(GiveError::Unasked)?;
        let spool = Some(Spool::new(&*self.blobs)?);
        let mut now = self.now();
        if now.number != number || now.answer != Answer::None {
            return Err(GiveError::Unasked);
        }
        now.answer = Answer::UnderWay;
        Ok(Taking {
            wants: self,
            number,
            left: asked.wanted.clone(),
            spool,
            taken: 0,
        })
    }
}

/// One host's answer. Dropped, it is ended; what came whole until then counts.
#[derive(Debug)]
pub struct Taking<'a> {
    wants: &'a Wants,
    number: u64,
    left: BTreeMap<Wanted, u64>,
    spool: Option<Spool>,
    taken: u64,
}

impl Taking<'_> {
    /// How many things were taken.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Takes one thing, whose bytes `next` gives piece by piece. Blocks.
    ///
    /// # Errors
    /// [`GiveError`]: nothing more is to be taken then.
    pub fn one(
        &mut self,
        what: Wanted,
        next: &mut dyn FnMut() -> Result<Option<Bytes>, GiveError>,
    ) -> Result<(), GiveError> {
        let most = self
            .left
            .remove(&what)
            .ok_or_else(|| GiveError::Other(what.to_string()))?;
        let (wants, number) = (self.wants, self.number);
        let mut came = 0;
        let mut bounded = || -> Result<Option<Bytes>, GiveError> {
            let piece = next()?;
            let mut now = wants.now();
            if now.number != number {
                return Err(GiveError::Unasked);
            }
            now.heard = Some(Instant::now());
            came += piece.as_ref().map_or(0, |piece| piece.len() as u64);
            match came > most {
                true => Err(GiveError::Long(what.to_string())),
                false => Ok(piece),
            }
        };
        let is_it = match what {
            Wanted::Blob(blob) => {
                let spool = self.spool.as_mut().ok_or(GiveError::Unasked)?;
                spool.room(&*wants.blobs)?;
                spool.add(blob, |sink| {
                    while let Some(piece) = bounded()? {
                        sink(&piece)?;
                    }
                    Ok::<_, GiveError>(())
                })?
            }
            Wanted::Manifest(id) => {
                let mut staged = wants.blobs.stage()?;
                while let Some(piece) = bounded()? {
                    staged.write_all(&piece)?;
                }
                match wants.blobs.keep(staged, Object::Manifest(id)) {
                    Ok(()) => {
                        self.wants.now().manifests.insert(id);
                        true
                    }
                    Err(BlobsError::Mismatch { .. }) => false,
                    Err(error) => return Err(error.into()),
                }
            }
        };
        if !is_it {
            return Err(GiveError::Wrong(what.to_string()));
        }
        self.taken += 1;
        Ok(())
    }
}

impl Drop for Taking<'_> {
    fn drop(&mut self) {
        let mut now = self.wants.now();
        if now.number == self.number {
            now.answer = Answer::Ended;
            now.given.extend(self.spool.take().map(Spool::ready));
            self.wants.come.notify_all();
        }
    }
}

impl Wanted {
    /// Bytes that it has at most, when nothing else is known.
    pub(super) const MANIFEST: u64 = MAX_ENCODED as u64;
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Blob(blob) => write!(f, "blob {blob}"),
            Self::Manifest(id) => write!(f, "manifest {id}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;
    use crate::engine::blobs::MemoryBlobs;

    #[test]
    fn only_what_was_asked_of_this_host_is_taken_and_no_more_of_it() {
        let wants = Wants::new(Arc::new(MemoryBlobs::default()));
        let (env, host): (EnvName, HostName) = ("dev".parse().unwrap(), "h1".parse().unwrap());
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        let blobs = ["one", "two", "three"].map(|text| Wanted::Blob(BlobDigest::of(text.as_bytes())));
        let give = |taking: &mut Taking<'_>, what, text| {
            let mut piece = Some(bytes(text));
            taking.one(what, &mut || Ok(piece.take()))
        };
        let mut asked = wants.listen();
        std::thread::scope(|scope| {
            let wanted = blobs
                .iter()
                .zip([3, 3, 5])
                .map(|(blob, len)| (*blob, len))
                .collect();
            let asking = scope.spawn(|| {
                let from = (env.clone(), host.clone());
                wants.ask(from, wanted, Duration::from_secs(600), &|| false)
            });
            let question = loop {
                if let Some(question) = asked.borrow_and_update().clone() {
                    break question;
                }
                std::thread::yield_now();
            };
            let other = "h2".parse().unwrap();
            for (host, number) in [(&other, question.number), (&host, question.number + 1)] {
                let refused = wants.take((&env, host), number).unwrap_err();
                assert!(matches!(refused, GiveError::Unasked), "{refused}");
            }
            let mut taking = wants.take((&env, &host), question.number).unwrap();
            let twice = wants.take((&env, &host), question.number).unwrap_err();
            assert!(matches!(twice, GiveError::Unasked), "{twice}");
            give(&mut taking, blobs[0], "one").unwrap();
            let again = give(&mut taking, blobs[0], "one").unwrap_err();
            assert!(matches!(again, GiveError::Other(_)), "{again}");
            let unasked = Wanted::Blob(BlobDigest::of(b"four"));
            assert!(matches!(
                give(&mut taking, unasked, "four"),
                Err(GiveError::Other(_))
            ));
            assert!(matches!(
                give(&mut taking, blobs[1], "two!"),
                Err(GiveError::Long(_))
            ));
            assert!(matches!(
                give(&mut taking, blobs[2], "threE"),
                Err(GiveError::Wrong(_))
            ));
            assert_eq!(taking.taken(), 1);
            drop(taking);
            let given = asking.join().unwrap();
            let came: Vec<_> = given.spools.iter().flat_map(Spool::blobs).collect();
            assert_eq!(came, [BlobDigest::of(b"one")]);
            assert!(
                wants.take((&env, &host), question.number).is_err(),
                "nobody waits any more"
            );
        });
    }
}
