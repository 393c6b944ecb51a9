//! What hosts count, what an update cost, and what they could not serve.

use ship_model::release::ReleaseNumber;
use ship_model::report::{AssetIncident, AssetRot, AssetsAsked, HostFigures, SourceFault, UpdateFigures};

use super::{WireError, require};
use crate::v1;

impl From<AssetIncident> for v1::AssetIncident {
    fn from(incident: AssetIncident) -> Self {
        Self {
            release: Some(incident.release.into()),
            count: incident.count,
            url: incident.url,
        }
    }
}

impl TryFrom<v1::AssetIncident> for AssetIncident {
    type Error = WireError;
    fn try_from(wire: v1::AssetIncident) -> Result<Self, WireError> {
        Ok(Self {
            release: require(wire.release, "incident's release")?.try_into()?,
            count: wire.count,
            url: wire.url,
        })
    }
}

impl From<AssetsAsked> for v1::ReleaseAsked {
    fn from(asked: AssetsAsked) -> Self {
        Self {
            release: asked.release,
            found: asked.found,
            unknown: asked.unknown,
        }
    }
}

impl From<v1::ReleaseAsked> for AssetsAsked {
    fn from(wire: v1::ReleaseAsked) -> Self {
        Self {
            release: wire.release,
            found: wire.found,
            unknown: wire.unknown,
        }
    }
}

impl From<AssetRot> for v1::AssetRot {
    fn from(rot: AssetRot) -> Self {
        Self {
            found: rot.found,
            mended: rot.mended,
            url: rot.url,
        }
    }
}

impl From<v1::AssetRot> for AssetRot {
    fn from(wire: v1::AssetRot) -> Self {
        Self {
            found: wire.found,
            mended: wire.mended,
            url: wire.url,
        }
    }
}

impl From<UpdateFigures> for v1::UpdateFigures {
    fn from(figures: UpdateFigures) -> Self {
        Self {
            fetched_bytes: figures.fetched_bytes,
            stage_ms: figures.stage_ms,
            switch_ms: figures.switch_ms,
            lost_requests: figures.lost_requests,
            gap_ms: figures.gap_ms,
            delta_from: figures.delta_from.map(|release| release.0),
            fetched_from_mirrors: figures.fetched_from_mirrors,
            fetched_from_peers: figures.fetched_from_peers,
        }
    }
}

impl From<v1::UpdateFigures> for UpdateFigures {
    fn from(wire: v1::UpdateFigures) -> Self {
        Self {
            fetched_bytes: wire.fetched_bytes,
            stage_ms: wire.stage_ms,
            switch_ms: wire.switch_ms,
            lost_requests: wire.lost_requests,
            gap_ms: wire.gap_ms,
            delta_from: wire.delta_from.map(ReleaseNumber),
            fetched_from_mirrors: wire.fetched_from_mirrors,
            fetched_from_peers: wire.fetched_from_peers,
        }
    }
}

impl From<HostFigures> for v1::HostFigures {
    fn from(figures: HostFigures) -> Self {
        Self {
            asset_requests: figures.asset_requests,
            asset_bytes: figures.asset_bytes,
            asset_not_found: figures.asset_not_found,
            asset_broken: figures.asset_broken,
            asset_expired: figures.asset_expired,
            asset_rotten: figures.asset_rotten,
            asset_healed: figures.asset_healed,
            fetched_bytes: figures.fetched_bytes,
            fetched_from_mirrors: figures.fetched_from_mirrors,
            fetched_from_peers: figures.fetched_from_peers,
            served_to_peers: figures.served_to_peers,
        }
    }
}

impl From<v1::HostFigures> for HostFigures {
    fn from(wire: v1::HostFigures) -> Self {
        Self {
            asset_requests: wire.asset_requests,
            asset_bytes: wire.asset_bytes,
            asset_not_found: wire.asset_not_found,
            asset_broken: wire.asset_broken,
            asset_expired: wire.asset_expired,
            asset_rotten: wire.asset_rotten,
            asset_healed: wire.asset_healed,
            fetched_bytes: wire.fetched_bytes,
            fetched_from_mirrors: wire.fetched_from_mirrors,
            fetched_from_peers: wire.fetched_from_peers,
            served_to_peers: wire.served_to_peers,
        }
    }
}

impl From<SourceFault> for v1::SourceFault {
    fn from(fault: SourceFault) -> Self {
        Self {
            source: fault.source,
            reason: fault.reason,
            at_ms: fault.at_ms,
        }
    }
}

impl From<v1::SourceFault> for SourceFault {
    fn from(wire: v1::SourceFault) -> Self {
        Self {
            source: wire.source,
            reason: wire.reason,
            at_ms: wire.at_ms,
        }
    }
}
