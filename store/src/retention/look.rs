//! Every fingerprinted asset that an app ever published, judged.

use std::collections::HashMap;
use std::sync::Arc;

use ship_assets::RecordError;
use ship_model::digest::BlobDigest;
use ship_model::host::HostState;
use ship_model::name::{AppName, EnvName, HostName};
use ship_model::release::{ReleaseNumber, Target};
use ship_model::report::{AppReport, HostReport};
use ship_model::retention::{Asked, Live, Policy, Reason, Verdict, judge, live};
use ship_model::rollout::EnvState;

use super::Evidence;
use crate::ledger::{Ledger, LedgerError};
use crate::rollout::fleet::Presence;
use crate::union::{AddAssetsError, Unions};

/// Under this name the store counts what it is asked for itself.
pub const STORE: &str = "store";

/// Hosts that are named as those that do not count.
const MOST_NAMED: usize = 3;

/// Why assets cannot be judged. Nothing is collected then.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    #[error("cannot list the releases of {app}")]
    Ledger { app: AppName, source: LedgerError },
    #[error("cannot open the assets of {app}")]
    Union { app: AppName, source: AddAssetsError },
    #[error(
        "the store does not have all assets of {app}@{release} yet, so nobody can tell what else needs them: its log says why"
    )]
    Incomplete { app: AppName, release: ReleaseNumber },
    #[error(
        "{host} has {app}@{release}, which this store does not know, so nobody can tell which assets it needs: nothing was removed"
    )]
    Stranger {
        app: AppName,
        release: ReleaseNumber,
        host: String,
    },
    #[error("cannot read which assets a release of {app} has")]
    Record { app: AppName, source: RecordError },
}

/// Whether hosts that serve assets without counting requests keep all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// What they serve may have been asked for at any moment.
    Everywhere,
    /// They are left out: an operator says that requests elsewhere are evidence enough.
    WhereToldOf,
}

/// The fleet at one moment, and what to judge by.
#[derive(Debug)]
pub struct Scene {
    /// Of every environment and app.
    pub states: Vec<Arc<EnvState>>,
    pub hosts: Vec<(EnvName, HostName, Presence)>,
    pub policy: Policy,
    pub counted: Counted,
    pub now_ms: u64,
}

/// One asset.
#[derive(Debug)]
pub struct Found<'a> {
    pub url: &'a str,
    pub digest: BlobDigest,
    pub bytes: u64,
    /// Those that name it, oldest first.
    pub releases: &'a [ReleaseNumber],
    pub verdict: Verdict<'a>,
    pub last: Option<(u64, String)>,
    /// Who serves it; only told of one asset alone.
    pub stands_on: Vec<String>,
    /// When it was given up, by the store's clock; those are looked at one by one only.
    pub expired_ms: Option<u64>,
}

/// What the releases of an app say of one path.
#[derive(Debug)]
struct Named {
    digest: BlobDigest,
    bytes: u64,
    releases: Vec<ReleaseNumber>,
}

/// Hands every asset of `app`, or the one at `path`, to `visit` by its path, until it says stop. Blocks; reads one
/// record after another and holds about 150 bytes for each path.
pub fn look(
    scene: &Scene,
    ledger: &Ledger,
    unions: &Unions,
    evidence: &Evidence,
    app: &AppName,
    path: Option<&str>,
    mut visit: impl FnMut(Found<'_>) -> bool,
) -> Result<(), LookError> {
    let live = scene.live(ledger, app)?;
    let named = named(ledger, unions, app, path)?;
    let asked = scene.asked(evidence, app);
    let mut paths: Vec<(&str, &Named)> = named.iter().map(|(url, named)| (&**url, named)).collect();
    paths.sort_unstable_by_key(|(url, _)| *url);
    for (url, named) in paths {
        let mark = path.map_or(Ok(None), |url| ledger.expired(app, url));
        let mark = mark.map_err(|source| LookError::Ledger {
            app: app.clone(),
            source,
        })?;
        let last = evidence.last(&named.digest);
        let asked = match &asked {
            Asked::Counted { since_ms, .. } => Asked::Counted {
                since_ms: *since_ms,
                last: last.clone(),
            },
            Asked::Uncounted { by } => Asked::Uncounted { by: by.clone() },
        };
        let verdict = with_request(
            judge(&live, &named.releases, &asked, scene.policy, scene.now_ms),
            &asked,
            last.as_ref(),
            scene,
        );
        let found = Found {
            url,
            digest: named.digest,
            bytes: named.bytes,
            releases: &named.releases,
            verdict,
            last,
            stands_on: match (path, &mark) {
                (Some(_), None) => scene.stands_on(app, &named.releases),
                _ => Vec::new(),
            },
            expired_ms: mark.map(|mark| mark.at_ms),
        };
        if !visit(found) {
            break;
        }
    }
    Ok(())
}

/// A request that was told is a reason also where others serve without counting.
fn with_request<'a>(
    verdict: Verdict<'a>,
    asked: &Asked,
    last: Option<&(u64, String)>,
    scene: &Scene,
) -> Verdict<'a> {
    let (Asked::Uncounted { .. }, Some((at_ms, host))) = (asked, last) else {
        return verdict;
    };
    let until_ms = at_ms.min(&scene.now_ms).saturating_add(scene.policy.idle_ms);
    match verdict {
        Verdict::Kept(mut reasons) if scene.now_ms < until_ms => {
            reasons.push(Reason::Requested {
                at_ms: *at_ms,
                host: host.clone(),
                until_ms,
            });
            Verdict::Kept(reasons)
        }
        verdict => verdict,
    }
}

fn named(
    ledger: &Ledger,
    unions: &Unions,
    app: &AppName,
    path: Option<&str>,
) -> Result<HashMap<Box<str>, Named>, LookError> {
    let union = unions.union(app).map_err(|source| LookError::Union {
        app: app.clone(),
        source,
    })?;
    let (holds, faded) = (union.holds(), union.faded());
    let collected = ledger.all_collected(app).map_err(|source| LookError::Ledger {
        app: app.clone(),
        source,
    })?;
    for release in targets(ledger, app)? {
        // Nothing of it is promised.
        if collected.get(&release.number).is_some_and(|mark| mark.bare) {
            continue;
        }
        if !holds.contains(&release) && !faded.contains(&release) {
            return Err(LookError::Incomplete {
                app: app.clone(),
                release: release.number,
            });
        }
    }
    let mut named: HashMap<Box<str>, Named> = HashMap::new();
    let mut take = |release: Target, url: &str, digest, bytes| {
        if path.is_some_and(|path| path != url) {
            return;
        }
        if let Some(known) = named.get_mut(url) {
            known.releases.push(release.number);
            return;
        }
        let first = Named {
            digest,
            bytes,
            releases: vec![release.number],
        };
        named.insert(url.into(), first);
    };
    let mut walked = union.walk_records(&mut take);
    if path.is_some() {
        walked = walked.and_then(|()| union.walk_forgotten(&mut take));
    }
    walked.map_err(|source| LookError::Record {
        app: app.clone(),
        source,
    })?;
    named
        .values_mut()
        .for_each(|named| named.releases.sort_unstable());
    Ok(named)
}

fn targets(ledger: &Ledger, app: &AppName) -> Result<Vec<Target>, LookError> {
    let releases = ledger.releases(app, usize::MAX);
    let releases = releases.map_err(|source| LookError::Ledger {
        app: app.clone(),
        source,
    })?;
    Ok(releases.iter().map(|release| release.target()).collect())
}

impl Scene {
    fn live(&self, ledger: &Ledger, app: &AppName) -> Result<Live, LookError> {
        let releases = ledger.releases(app, usize::MAX);
        let releases = releases.map_err(|source| LookError::Ledger {
            app: app.clone(),
            source,
        })?;
        let states = self.states.iter().filter(|state| state.app == *app);
        Ok(live(
            states.map(|state| &**state),
            self.reports(app),
            releases
                .iter()
                .map(|release| (release.number, release.published_at_ms)),
        ))
    }

    /// Refuses where a host runs or goes back to a release that the ledger does not have: one of a store that was lost.
    pub(super) fn check_known(&self, ledger: &Ledger, app: &AppName) -> Result<(), LookError> {
        let known = targets(ledger, app)?;
        for (env, host, report) in self.reports(app) {
            let has = [report.running, report.previous].into_iter().flatten();
            let mut has = has.chain(report.staged.iter().copied());
            if let Some(stranger) = has.find(|release| !known.contains(release)) {
                return Err(LookError::Stranger {
                    app: app.clone(),
                    release: stranger.number,
                    host: format!("{env}/{host}"),
                });
            }
        }
        Ok(())
    }

    fn reports(&self, app: &AppName) -> impl Iterator<Item = (&EnvName, &HostName, &AppReport)> {
        self.hosts.iter().filter_map(move |(env, host, presence)| {
            let report = presence.report.as_deref()?;
            Some((env, host, said_of(report, app)?))
        })
    }

    /// What all who serve the app's assets know together; without the last request for one of them.
    fn asked(&self, evidence: &Evidence, app: &AppName) -> Asked {
        let mut since_ms = evidence.counts_since(STORE).unwrap_or(self.now_ms);
        let mut by = Vec::new();
        for (env, host, presence) in self.serving(app) {
            let name = format!("{env}/{host}");
            let away = matches!(presence.state, HostState::Uncertain | HostState::Unavailable);
            match evidence.counts_since(&name) {
                _ if away || presence.report.is_none() => by.push(format!("{name} (away)")),
                Some(counts) => since_ms = since_ms.max(counts),
                None if self.counted == Counted::Everywhere => by.push(name),
                None => {}
            }
        }
        if by.is_empty() {
            return Asked::Counted { since_ms, last: None };
        }
        if by.len() > MOST_NAMED {
            let more = by.len() - MOST_NAMED;
            by.truncate(MOST_NAMED);
            by.push(format!("{more} more"));
        }
        Asked::Uncounted { by }
    }

    /// Hosts that have the app's assets and are not on their way out.
    fn serving(&self, app: &AppName) -> impl Iterator<Item = &(EnvName, HostName, Presence)> {
        use HostState::{Archived, Retired, Terminated};
        self.hosts.iter().filter(move |(env, host, presence)| {
            let gone = matches!(presence.state, Retired | Archived | Terminated);
            let has = |state: &&Arc<EnvState>| {
                state.app == *app && state.env == *env && state.hosts.contains_key(host)
            };
            !gone && self.states.iter().any(|state| has(&state))
        })
    }

    fn stands_on(&self, app: &AppName, releases: &[ReleaseNumber]) -> Vec<String> {
        let holds = |report: &AppReport| {
            report
                .assets
                .iter()
                .any(|target| releases.contains(&target.number))
        };
        let hosts = self.reports(app).filter(|(_, _, report)| holds(report));
        let mut names: Vec<String> = hosts.map(|(env, host, _)| format!("{env}/{host}")).collect();
        names.push(STORE.to_owned());
        names
    }
}

fn said_of<'a>(report: &'a HostReport, app: &AppName) -> Option<&'a AppReport> {
    report.apps.iter().find(|said| said.app == *app)
}
