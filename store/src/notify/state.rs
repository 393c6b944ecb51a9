//! How each route is doing, for `status` and `/metrics`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use ship_model::name::HostName;

/// One route.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteState {
    /// Messages that a sink took since the store was started.
    pub told: u64,
    /// Tries that failed since then.
    pub failed: u64,
    /// What is wrong now: no sink takes the message that is to be told next.
    pub trouble: Option<Trouble>,
}

/// Nobody can be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Since when; milliseconds since 1970.
    pub since_ms: u64,
    /// Number of the event that waits.
    pub seq: u64,
    /// What the last sink said.
    pub words: String,
}

/// All routes of a store.
#[derive(Debug, Default)]
pub struct Routes(Mutex<BTreeMap<HostName, RouteState>>);

impl Routes {
    pub fn all(&self) -> BTreeMap<HostName, RouteState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes what is known of one route, which begins with nothing.
    pub fn note(&self, route: &HostName, change: impl FnOnce(&mut RouteState)) {
        let mut routes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(routes.entry(route.clone()).or_default());
    }
}
