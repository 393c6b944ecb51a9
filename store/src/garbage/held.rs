//! What hosts say they have, written down.

use std::collections::{BTreeMap, BTreeSet};

use ship_model::host::HostState;
use ship_model::name::{AppName, EnvName, HostName};
use ship_model::release::Target;
use ship_model::report::HostReport;
use ship_model::retention::held_by;

use crate::ledger::{HeldReleases, Ledger, LedgerError};
use crate::rollout::fleet::Presence;

/// Writes down which releases hosts have, as far as it is news: the last word of a host that is silent stands, and that of one
/// that is gone for good is forgotten. Blocks; durable when it returns.
pub fn remember_held(ledger: &Ledger, hosts: &[(EnvName, HostName, Presence)]) -> Result<(), LedgerError> {
    let known = ledger.held()?;
    let envs: BTreeSet<&EnvName> = hosts.iter().map(|(env, ..)| env).chain(known.keys()).collect();
    for env in envs {
        let mut held = known.get(env).cloned().unwrap_or_default();
        for (of, host, presence) in hosts {
            if of == env {
                take(&mut held, host, presence);
            }
        }
        ledger.put_held(env, &held)?;
    }
    Ok(())
}

fn take(held: &mut HeldReleases, host: &HostName, presence: &Presence) {
    use HostState::{Archived, Retired, Terminated};
    if matches!(presence.state, Retired | Archived | Terminated) {
        // An empty word: it is known to have nothing that anybody waits for.
        held.hosts.insert(host.clone(), BTreeMap::new());
    } else if let Some(report) = &presence.report {
        held.hosts.insert(host.clone(), said(report));
    }
}

fn said(report: &HostReport) -> BTreeMap<AppName, Vec<Target>> {
    let mut said = BTreeMap::new();
    for app in &report.apps {
        let mut has: Vec<Target> = held_by(app).collect();
        has.sort_unstable_by_key(|target| (target.number, *target.id.as_bytes()));
        has.dedup();
        if !has.is_empty() {
            said.insert(app.app.clone(), has);
        }
    }
    said
}
