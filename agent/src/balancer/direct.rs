//! How the host itself is asked, with no balancer between.

use std::net::SocketAddr;

use ship_keeper::protocol::Status;
use ship_model::name::ClassName;
use ship_model::spec::{ProbeKind, ReleaseSpec};

/// Where and what the host itself is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Direct {
    pub address: SocketAddr,
    /// What the release's own probe asks; none: it must accept.
    pub path: Option<String>,
}

impl Direct {
    /// By the first process of `spec` that serves on a host of these classes; none where none does, or not by TCP.
    #[must_use]
    pub fn of(spec: &ReleaseSpec, classes: &[ClassName], status: &Status) -> Option<Self> {
        let mut serving = spec
            .processes
            .values()
            .filter(|process| classes.contains(&process.class) && !process.listen.is_empty());
        let process = serving.next()?;
        let probe = process.probe.as_ref();
        let path = probe.and_then(|probe| match &probe.kind {
            ProbeKind::Http { path } => Some(path.clone()),
            ProbeKind::Tcp | ProbeKind::Grpc { .. } | ProbeKind::Command { .. } => None,
        });
        let named = probe
            .and_then(|probe| probe.listener.as_ref())
            .or(process.listen.keys().next())?;
        let mut listeners = status.listeners.iter();
        let bound = listeners.find(|listener| listener.name == *named)?;
        let address = bound.bound.strip_prefix("tcp:")?.parse().ok()?;
        Some(Self { address, path })
    }
}
