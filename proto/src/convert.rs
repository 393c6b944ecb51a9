//! Wire ⇄ model. From the wire everything is checked; to the wire nothing can fail.

use ship_model::desired::{DeployNumber, Epoch};
use ship_model::digest::{BundleDigest, ExpiredDigest, ReleaseId};
use ship_model::name::NameError;
use ship_model::release::{Provenance, ReleaseNumber, ReleaseRecord, Target};
use ship_model::report::{
    AppFailure, AppPhase, AppReport, AppWait, AssetIncident, CanaryReport, DamagedRelease, HostReport,
    LocalHold, ProcessReport,
};

use crate::v1;

mod desired;
mod figures;
mod memory;
mod privileges;

/// Why a message is not well-formed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("{field} is missing from the message")]
    Missing { field: &'static str },
    #[error("{field} has {len} bytes, not the 32 of a digest")]
    Digest { field: &'static str, len: usize },
    #[error("message names something that cannot be")]
    Name(#[from] NameError),
}

/// The field's value, or an error that names the field.
pub fn require<T>(value: Option<T>, field: &'static str) -> Result<T, WireError> {
    value.ok_or(WireError::Missing { field })
}

/// Reads 32 bytes as any kind of digest, by its `from_slice`.
pub fn digest<T>(
    bytes: &[u8],
    field: &'static str,
    from_slice: impl Fn(&[u8]) -> Option<T>,
) -> Result<T, WireError> {
    from_slice(bytes).ok_or(WireError::Digest {
        field,
        len: bytes.len(),
    })
}

/// Reads a list of digests.
pub fn digests<T>(
    list: &[Vec<u8>],
    field: &'static str,
    from_slice: impl Fn(&[u8]) -> Option<T>,
) -> Result<Vec<T>, WireError> {
    list.iter()
        .map(|bytes| digest(bytes, field, &from_slice))
        .collect()
}

fn targets(list: Vec<v1::Target>) -> Result<Vec<Target>, WireError> {
    list.into_iter().map(Target::try_from).collect()
}

fn into_all<A, B: From<A>>(list: Vec<A>) -> Vec<B> {
    list.into_iter().map(B::from).collect()
}

impl From<Target> for v1::Target {
    fn from(target: Target) -> Self {
        Self {
            number: target.number.0,
            id: target.id.as_bytes().to_vec(),
        }
    }
}

impl TryFrom<v1::Target> for Target {
    type Error = WireError;
    fn try_from(wire: v1::Target) -> Result<Self, WireError> {
        let id = digest(&wire.id, "release id", ReleaseId::from_slice)?;
        Ok(Self {
            number: ReleaseNumber(wire.number),
            id,
        })
    }
}

impl From<ReleaseRecord> for v1::ReleaseRecord {
    fn from(record: ReleaseRecord) -> Self {
        Self {
            release: Some(record.target().into()),
            app: record.app.to_string(),
            label: record.provenance.label,
            commit: record.provenance.commit,
            dirty: record.provenance.dirty,
            publisher: record.publisher,
            published_at_ms: record.published_at_ms,
            bundle: record.bundle.map(|digest| digest.as_bytes().to_vec()),
            files: record.files,
            bytes: record.bytes,
            new_bytes: record.new_bytes,
            stored_bytes: record.stored_bytes,
            // Not the record's to say.
            collected_at_ms: 0,
            pinned: String::new(),
        }
    }
}

impl TryFrom<v1::ReleaseRecord> for ReleaseRecord {
    type Error = WireError;
    fn try_from(wire: v1::ReleaseRecord) -> Result<Self, WireError> {
        let target = Target::try_from(require(wire.release, "release")?)?;
        let bundle = wire
            .bundle
            .map(|bytes| digest(&bytes, "bundle", BundleDigest::from_slice));
        Ok(Self {
            app: wire.app.parse()?,
            number: target.number,
            id: target.id,
            provenance: Provenance {
                label: wire.label,
                commit: wire.commit,
                dirty: wire.dirty,
            },
            publisher: wire.publisher,
            published_at_ms: wire.published_at_ms,
            bundle: bundle.transpose()?,
            files: wire.files,
            bytes: wire.bytes,
            new_bytes: wire.new_bytes,
            stored_bytes: wire.stored_bytes,
        })
    }
}

impl From<AppPhase> for v1::AppPhase {
    fn from(phase: AppPhase) -> Self {
        match phase {
            AppPhase::Idle => Self::Idle,
            AppPhase::Fetching => Self::Fetching,
            AppPhase::Staging => Self::Staging,
            AppPhase::Switching => Self::Switching,
            AppPhase::Soaking => Self::Soaking,
            AppPhase::Draining => Self::Draining,
            AppPhase::Reverting => Self::Reverting,
        }
    }
}

impl From<v1::AppPhase> for AppPhase {
    /// A phase that this version does not know says only that the host is busy.
    fn from(wire: v1::AppPhase) -> Self {
        match wire {
            v1::AppPhase::Idle => Self::Idle,
            v1::AppPhase::Fetching => Self::Fetching,
            v1::AppPhase::Staging => Self::Staging,
            v1::AppPhase::Switching | v1::AppPhase::Unspecified => Self::Switching,
            v1::AppPhase::Soaking => Self::Soaking,
            v1::AppPhase::Draining => Self::Draining,
            v1::AppPhase::Reverting => Self::Reverting,
        }
    }
}

impl From<AppFailure> for v1::AppFailure {
    fn from(failure: AppFailure) -> Self {
        Self {
            epoch: failure.epoch.0,
            release: Some(failure.release.into()),
            step: failure.step,
            reason: failure.reason,
            last_lines: failure.last_lines,
            transient: failure.transient,
        }
    }
}

impl TryFrom<v1::AppFailure> for AppFailure {
    type Error = WireError;
    fn try_from(wire: v1::AppFailure) -> Result<Self, WireError> {
        Ok(Self {
            epoch: Epoch(wire.epoch),
            release: require(wire.release, "failed release")?.try_into()?,
            step: wire.step,
            reason: wire.reason,
            last_lines: wire.last_lines,
            transient: wire.transient,
        })
    }
}

impl From<LocalHold> for v1::LocalHold {
    fn from(hold: LocalHold) -> Self {
        Self {
            epoch: hold.epoch.0,
            from: hold.from.map(Into::into),
            to: Some(hold.to.into()),
            reason: hold.reason,
            at_ms: hold.at_ms,
        }
    }
}

impl TryFrom<v1::LocalHold> for LocalHold {
    type Error = WireError;
    fn try_from(wire: v1::LocalHold) -> Result<Self, WireError> {
        Ok(Self {
            epoch: Epoch(wire.epoch),
            from: wire.from.map(Target::try_from).transpose()?,
            to: require(wire.to, "hold's release")?.try_into()?,
            reason: wire.reason,
            at_ms: wire.at_ms,
        })
    }
}

impl From<AppReport> for v1::AppReport {
    fn from(report: AppReport) -> Self {
        Self {
            app: report.app.to_string(),
            epoch: report.epoch.0,
            running: report.running.map(Into::into),
            deploy: report.deploy.0,
            healthy: report.healthy,
            phase: v1::AppPhase::from(report.phase).into(),
            previous: report.previous.map(Into::into),
            staged: into_all(report.staged),
            assets: into_all(report.assets),
            failure: report.failure.map(Into::into),
            held: report.held.map(Into::into),
            listen: report.listen.into_iter().collect(),
            update: Some(report.update.into()),
            connections: report.connections,
            restarts: report.restarts,
            damaged: into_all(report.damaged),
            standby: report.standby.unwrap_or_default(),
            balancers: report.balancers,
            canary: report.canary.map(Into::into),
            processes: into_all(report.processes),
            waits: report.waits.map(Into::into),
            remarks: report.remarks,
            incidents: into_all(report.incidents),
            asked: into_all(report.asked),
            rot: report.rot.map(Into::into),
            older_connections: report.older_connections,
            generations: report.generations,
            switched_ms: report.switched_ms,
            memory: report.memory.map(Into::into),
            expired: report
                .expired
                .map(|list| list.as_bytes().to_vec())
                .unwrap_or_default(),
        }
    }
}

impl From<ProcessReport> for v1::ProcessReport {
    fn from(process: ProcessReport) -> Self {
        Self {
            name: process.name,
            release: process.release,
            pid: process.pid,
            state: process.state,
            said: process.said,
        }
    }
}

impl From<v1::ProcessReport> for ProcessReport {
    fn from(wire: v1::ProcessReport) -> Self {
        Self {
            name: wire.name,
            release: wire.release,
            pid: wire.pid,
            state: wire.state,
            said: wire.said,
        }
    }
}

impl From<AppWait> for v1::AppWait {
    fn from(wait: AppWait) -> Self {
        Self {
            on: wait.on,
            until_ms: wait.until_ms,
            overrules: wait.overrules,
        }
    }
}

impl From<v1::AppWait> for AppWait {
    fn from(wire: v1::AppWait) -> Self {
        Self {
            on: wire.on,
            until_ms: wire.until_ms,
            overrules: wire.overrules,
        }
    }
}

impl From<CanaryReport> for v1::Canary {
    fn from(canary: CanaryReport) -> Self {
        Self {
            release: Some(canary.release.into()),
            percent: canary.percent.into(),
            until_ms: canary.until_ms,
        }
    }
}

impl TryFrom<v1::Canary> for CanaryReport {
    type Error = WireError;
    fn try_from(wire: v1::Canary) -> Result<Self, WireError> {
        Ok(Self {
            release: require(wire.release, "canary's release")?.try_into()?,
            percent: u8::try_from(wire.percent).unwrap_or(100),
            until_ms: wire.until_ms,
        })
    }
}

impl From<DamagedRelease> for v1::DamagedRelease {
    fn from(damaged: DamagedRelease) -> Self {
        Self {
            release: Some(damaged.release.into()),
            reason: damaged.reason,
        }
    }
}

impl TryFrom<v1::DamagedRelease> for DamagedRelease {
    type Error = WireError;
    fn try_from(wire: v1::DamagedRelease) -> Result<Self, WireError> {
        Ok(Self {
            release: require(wire.release, "damaged release")?.try_into()?,
            reason: wire.reason,
        })
    }
}

impl TryFrom<v1::AppReport> for AppReport {
    type Error = WireError;
    fn try_from(wire: v1::AppReport) -> Result<Self, WireError> {
        Ok(Self {
            phase: wire.phase().into(),
            app: wire.app.parse()?,
            epoch: Epoch(wire.epoch),
            running: wire.running.map(Target::try_from).transpose()?,
            deploy: DeployNumber(wire.deploy),
            healthy: wire.healthy,
            previous: wire.previous.map(Target::try_from).transpose()?,
            staged: targets(wire.staged)?,
            assets: targets(wire.assets)?,
            failure: wire.failure.map(AppFailure::try_from).transpose()?,
            held: wire.held.map(LocalHold::try_from).transpose()?,
            listen: wire.listen.into_iter().collect(),
            update: wire.update.unwrap_or_default().into(),
            connections: wire.connections,
            restarts: wire.restarts,
            standby: Some(wire.standby).filter(|words| !words.is_empty()),
            balancers: wire.balancers,
            damaged: wire
                .damaged
                .into_iter()
                .map(TryFrom::try_from)
                .collect::<Result<_, _>>()?,
            canary: wire.canary.map(CanaryReport::try_from).transpose()?,
            processes: wire.processes.into_iter().map(Into::into).collect(),
            waits: wire.waits.map(Into::into),
            remarks: wire.remarks,
            incidents: wire
                .incidents
                .into_iter()
                .map(AssetIncident::try_from)
                .collect::<Result<_, _>>()?,
            asked: wire.asked.into_iter().map(Into::into).collect(),
            rot: wire.rot.map(Into::into),
            older_connections: wire.older_connections,
            generations: wire.generations,
            switched_ms: wire.switched_ms,
            memory: wire.memory.map(Into::into),
            // One that this version cannot read is none.
            expired: ExpiredDigest::from_slice(&wire.expired),
        })
    }
}

impl From<HostReport> for v1::HostReport {
    fn from(report: HostReport) -> Self {
        Self {
            classes: report.classes.iter().map(ToString::to_string).collect(),
            apps: into_all(report.apps),
            disk_free: report.disk_free,
            disk_total: report.disk_total,
            asset_url: report.asset_url,
            agent_version: report.agent_version,
            platform: report.platform.unwrap_or_default(),
            figures: Some(report.figures.into()),
            privileges: report.privileges.map(Into::into),
            peer_address: report.peer_address,
            faults: into_all(report.faults),
        }
    }
}

impl TryFrom<v1::HostReport> for HostReport {
    type Error = WireError;
    fn try_from(wire: v1::HostReport) -> Result<Self, WireError> {
        Ok(Self {
            classes: wire
                .classes
                .iter()
                .map(|class| class.parse())
                .collect::<Result<_, _>>()?,
            apps: wire
                .apps
                .into_iter()
                .map(AppReport::try_from)
                .collect::<Result<_, _>>()?,
            disk_free: wire.disk_free,
            disk_total: wire.disk_total,
            asset_url: wire.asset_url,
            agent_version: wire.agent_version,
            platform: Some(wire.platform).filter(|platform| !platform.is_empty()),
            figures: wire.figures.unwrap_or_default().into(),
            privileges: wire.privileges.map(Into::into),
            peer_address: wire.peer_address,
            faults: into_all(wire.faults),
        })
    }
}
