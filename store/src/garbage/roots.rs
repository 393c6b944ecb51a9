//! Which releases keep their content, and which publishes are under way.

use std::collections::BTreeSet;

use ship_model::digest::{BundleDigest, ReleaseId};
use ship_model::name::{AppName, EnvName, HostName};
use ship_model::release::{ReleaseNumber, ReleaseRecord, Target};
use ship_model::retention::{ContentReason, KnownRelease, Sight, judge_content};
use ship_model::rollout::EnvState;

use super::Collector;
use crate::engine::Version;
use crate::ledger::{Collected, LedgerError, Marks, NotAcceptedError};

/// From when a begun publish was first seen until it counts as given up: longer than any upload takes, in milliseconds.
pub const LEASE_MS: u64 = 24 * 3_600_000;

/// Why nobody can tell what is needed. Nothing goes then.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    #[error("cannot read who needs which release")]
    Ledger(#[from] LedgerError),
    #[error("a store that was put back from a backup does not know what is needed: nothing was removed")]
    NotAccepted(#[source] NotAcceptedError),
    #[error(
        "{host} in {env} has {app}@{release}, which this store does not know, so nobody can tell what it needs: nothing was removed"
    )]
    Stranger {
        env: EnvName,
        host: HostName,
        app: AppName,
        release: ReleaseNumber,
    },
}

/// One release.
#[derive(Debug, Clone)]
pub(super) struct Judged {
    pub record: ReleaseRecord,
    pub collected: Option<Collected>,
    /// Of one whose content is there; none: it goes.
    pub reasons: Vec<ContentReason>,
    /// Some host is told to have its assets.
    pub told: bool,
}

impl Judged {
    /// Nothing keeps its content any longer.
    pub fn goes(&self) -> bool {
        self.collected.is_none() && self.reasons.is_empty()
    }

    /// `release web@3`: how it is marked.
    pub fn key(&self) -> String {
        format!("release {}@{}", self.record.app, self.record.number)
    }
}

/// A publish that was begun.
#[derive(Debug, Clone)]
pub(super) struct Begun {
    pub id: ReleaseId,
    pub app: AppName,
    /// With segments that it relies on.
    pub bundles: BTreeSet<BundleDigest>,
    pub version: Version,
}

/// All of them, at one moment.
#[derive(Debug, Default)]
pub(super) struct Roots {
    /// By app, newest first.
    pub releases: Vec<Judged>,
    pub begun: Vec<Begun>,
    /// Begun long ago, and never committed.
    pub given_up: Vec<Begun>,
}

struct Fleet {
    states: Vec<EnvState>,
    held: Vec<(EnvName, HostName, AppName, Target)>,
    unheard: Vec<(EnvName, HostName)>,
}

impl Collector<'_> {
    /// Reads the ledger and judges every release.
    pub(super) fn roots(&self, marks: &Marks, now_ms: u64) -> Result<Roots, RootsError> {
        if let Some(mark) = self.ledger.restored()? {
            return Err(RootsError::NotAccepted(mark.not_accepted()));
        }
        let fleet = self.fleet()?;
        let mut roots = Roots::default();
        let apps = self.ledger.apps()?;
        if let Some((env, host, app, target)) = fleet.held.iter().find(|(_, _, app, _)| !apps.contains(app)) {
            return Err(stranger(env, host, app, *target));
        }
        for app in &apps {
            roots.releases.extend(self.judged(app, &fleet, now_ms)?);
        }
        for (id, begun, version) in self.ledger.begun_publishes()? {
            let seen = marks.begun.get(&id.to_string());
            let since = seen
                .filter(|(of, _)| *of == version.0)
                .map_or(now_ms, |(_, since_ms)| *since_ms);
            let begun = Begun {
                id,
                app: begun.app,
                bundles: begun.bundles,
                version,
            };
            if since.saturating_add(LEASE_MS) <= now_ms {
                roots.given_up.push(begun);
            } else {
                roots.begun.push(begun);
            }
        }
        Ok(roots)
    }

    fn fleet(&self) -> Result<Fleet, LedgerError> {
        let states = self.ledger.env_states(None)?;
        let said = self.ledger.held()?;
        let mut unheard = Vec::new();
        for host in self.ledger.hosts(None)? {
            let (env, host) = (host.record.env, host.record.host);
            if !said.get(&env).is_some_and(|held| held.hosts.contains_key(&host)) {
                unheard.push((env, host));
            }
        }
        let mut held = Vec::new();
        for (env, of_env) in said {
            for (host, apps) in of_env.hosts {
                for (app, targets) in apps {
                    let all = targets.into_iter();
                    held.extend(all.map(|target| (env.clone(), host.clone(), app.clone(), target)));
                }
            }
        }
        Ok(Fleet {
            states: states.into_iter().map(|state| state.record).collect(),
            held,
            unheard,
        })
    }

    fn judged(&self, app: &AppName, fleet: &Fleet, now_ms: u64) -> Result<Vec<Judged>, RootsError> {
        let records = self.ledger.releases(app, usize::MAX)?;
        let (collected, pins) = (self.ledger.all_collected(app)?, self.ledger.pins(app)?);
        let sight = fleet.sight(app, &records)?;
        let there = records
            .iter()
            .filter(|record| !collected.contains_key(&record.number));
        let known: Vec<KnownRelease> = there
            .map(|record| KnownRelease {
                target: record.target(),
                published_at_ms: record.published_at_ms,
                pin: pins
                    .get(&record.number)
                    .map(|pin| (pin.who.clone(), pin.because.clone())),
            })
            .collect();
        let mut judged = judge_content(&sight, &known, &self.settings.keeping(app), now_ms);
        let told = told(&sight);
        let releases = records.into_iter().map(|record| Judged {
            collected: collected.get(&record.number).cloned(),
            reasons: judged.remove(&record.number).unwrap_or_default(),
            told: told.contains(&record.number),
            record,
        });
        Ok(releases.collect())
    }
}

impl Fleet {
    fn sight(&self, app: &AppName, records: &[ReleaseRecord]) -> Result<Sight<'_>, RootsError> {
        let of_app = self.held.iter().filter(|(_, _, of, _)| of == app);
        let mut held = Vec::new();
        for (env, host, _, target) in of_app {
            // Numbers have no gaps that matter: the list is sorted by number, newest first.
            let at = records.binary_search_by(|record| target.number.cmp(&record.number));
            let known = at.ok().and_then(|at| records.get(at));
            if known.is_none_or(|record| record.id != target.id) {
                return Err(stranger(env, host, app, *target));
            }
            held.push((env, host, *target));
        }
        Ok(Sight {
            states: self.states.iter().filter(|state| state.app == *app).collect(),
            held,
            unheard: self.unheard.iter().map(|(env, host)| (env, host)).collect(),
        })
    }
}

/// Releases whose assets hosts are told to have.
fn told(sight: &Sight<'_>) -> BTreeSet<ReleaseNumber> {
    let of_state = |state: &&EnvState| {
        let hosts = state.hosts.values().flat_map(|host| &host.assets);
        let all = state.asset_releases.iter().chain(hosts);
        all.map(|target| target.number).collect::<Vec<_>>()
    };
    sight.states.iter().flat_map(of_state).collect()
}

fn stranger(env: &EnvName, host: &HostName, app: &AppName, target: Target) -> RootsError {
    RootsError::Stranger {
        env: env.clone(),
        host: host.clone(),
        app: app.clone(),
        release: target.number,
    }
}
