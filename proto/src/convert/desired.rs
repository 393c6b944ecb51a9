//! What a host should run and hold, and what it need not hold any more.

use ship_model::desired::{DeployNumber, DesiredApp, DesiredHost, Epoch};
use ship_model::digest::ExpiredDigest;
use ship_model::release::Target;
use ship_model::retention::Expired;

use super::{WireError, digest, into_all, targets};
use crate::v1;

impl From<DesiredApp> for v1::DesiredApp {
    fn from(app: DesiredApp) -> Self {
        Self {
            app: app.app.to_string(),
            env: app.env.to_string(),
            epoch: app.epoch.0,
            deploy: app.deploy.0,
            run: app.run.map(Into::into),
            runs_app: app.runs_app,
            stage: into_all(app.stage),
            assets: into_all(app.assets),
        }
    }
}

impl TryFrom<v1::DesiredApp> for DesiredApp {
    type Error = WireError;
    fn try_from(wire: v1::DesiredApp) -> Result<Self, WireError> {
        Ok(Self {
            app: wire.app.parse()?,
            env: wire.env.parse()?,
            epoch: Epoch(wire.epoch),
            deploy: DeployNumber(wire.deploy),
            run: wire.run.map(Target::try_from).transpose()?,
            runs_app: wire.runs_app,
            stage: targets(wire.stage)?,
            assets: targets(wire.assets)?,
        })
    }
}

impl From<DesiredHost> for v1::DesiredHost {
    fn from(host: DesiredHost) -> Self {
        Self {
            apps: into_all(host.apps),
            expired: into_all(host.expired),
            drained: host.drained,
        }
    }
}

impl TryFrom<v1::DesiredHost> for DesiredHost {
    type Error = WireError;
    fn try_from(wire: v1::DesiredHost) -> Result<Self, WireError> {
        let apps = wire
            .apps
            .into_iter()
            .map(DesiredApp::try_from)
            .collect::<Result<_, _>>()?;
        let expired = wire.expired.into_iter().map(Expired::try_from);
        Ok(Self {
            apps,
            expired: expired.collect::<Result<_, _>>()?,
            drained: wire.drained,
        })
    }
}

impl From<Expired> for v1::Expired {
    fn from(expired: Expired) -> Self {
        Self {
            app: expired.app.to_string(),
            list: expired.list.as_bytes().to_vec(),
            paths: expired.paths,
        }
    }
}

impl TryFrom<v1::Expired> for Expired {
    type Error = WireError;
    fn try_from(wire: v1::Expired) -> Result<Self, WireError> {
        Ok(Self {
            app: wire.app.parse()?,
            list: digest(&wire.list, "list of expired assets", ExpiredDigest::from_slice)?,
            paths: wire.paths,
        })
    }
}
