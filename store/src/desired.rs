//! What everyone should know now: the newest durable state of every app in every environment, and what each host
//! should run because of it.
//!
//! Levels, never edges: a listener sees the newest value and may miss those between. Nothing is put up here before
//! it is durable.
//!
//! Which assets have expired goes with it: whoever takes marks away in the ledger puts up what is left before a host is
//! told of a release that needs them, so that no host hears of the one without the other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ship_model::desired::DesiredHost;
use ship_model::name::{AppName, EnvName, HostName};
use ship_model::retention::{Expired, ExpiredList};
use ship_model::rollout::EnvState;
use tokio::sync::watch;

type AppKey = (EnvName, AppName);
type HostKey = (EnvName, HostName);

/// The board on the wall; everyone reads it. States are the controller's to write, what expired is retention's.
#[derive(Debug, Default)]
pub struct Board {
    held: Mutex<Held>,
    /// Held from when marks are read until they are put up: an older reading never covers a newer one.
    reading: Mutex<()>,
}

#[derive(Debug, Default)]
struct Held {
    states: BTreeMap<AppKey, watch::Sender<Arc<EnvState>>>,
    hosts: BTreeMap<HostKey, watch::Sender<DesiredHost>>,
    expired: BTreeMap<AppName, Expired>,
    /// Hosts that are to stay out of rotation.
    drained: BTreeSet<HostKey>,
}

impl Board {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts up a state that is durable, and tells those hosts whose desired state it changes.
    pub fn put_up(&self, state: Arc<EnvState>) {
        let mut held = self.held();
        let (env, key) = (state.env.clone(), (state.env.clone(), state.app.clone()));
        match held.states.get(&key) {
            Some(shown) => {
                shown.send_replace(state);
            }
            None => {
                held.states.insert(key, watch::Sender::new(state));
            }
        }
        held.tell(|of| *of == env);
    }

    /// Puts up which assets of an app have expired, as `read` tells it from the ledger. Blocks while it reads.
    pub fn expire<E>(&self, app: &AppName, read: impl FnOnce() -> Result<ExpiredList, E>) -> Result<(), E> {
        let _reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let list = read()?;
        let expired = Expired {
            app: app.clone(),
            list: list.digest(app),
            paths: list.len() as u64,
        };
        drop(list);
        let mut held = self.held();
        if held.expired.get(app) != Some(&expired) {
            held.expired.insert(app.clone(), expired);
            held.tell(|_| true);
        }
        Ok(())
    }

    /// Puts up whether a host is to stay out of rotation, which its record says already.
    pub fn drain(&self, env: &EnvName, host: &HostName, drained: bool) {
        let (mut held, key) = (self.held(), (env.clone(), host.clone()));
        let changed = match drained {
            true => held.drained.insert(key),
            false => held.drained.remove(&key),
        };
        if changed {
            held.tell(|of| of == env);
        }
    }

    /// What is put up of an app's expired assets.
    pub fn expired(&self, app: &AppName) -> Option<Expired> {
        self.held().expired.get(app).cloned()
    }

    /// What `host` should have and run, now and whenever it changes.
    pub fn listen(&self, env: &EnvName, host: &HostName) -> watch::Receiver<DesiredHost> {
        let mut held = self.held();
        let key = (env.clone(), host.clone());
        if let Some(listeners) = held.hosts.get(&key) {
            return listeners.subscribe();
        }
        let (sender, receiver) = watch::channel(held.desired_of(env, host));
        held.hosts.insert(key, sender);
        receiver
    }

    pub fn desired(&self, env: &EnvName, host: &HostName) -> DesiredHost {
        self.held().desired_of(env, host)
    }

    /// The state of one app in one environment, now and whenever it changes.
    pub fn watch(&self, env: &EnvName, app: &AppName) -> Option<watch::Receiver<Arc<EnvState>>> {
        let key = (env.clone(), app.clone());
        self.held().states.get(&key).map(watch::Sender::subscribe)
    }

    pub fn state(&self, env: &EnvName, app: &AppName) -> Option<Arc<EnvState>> {
        self.watch(env, app).map(|state| Arc::clone(&state.borrow()))
    }

    /// Every state, sorted by environment and app.
    pub fn states(&self) -> Vec<Arc<EnvState>> {
        let held = self.held();
        held.states
            .values()
            .map(|state| Arc::clone(&state.borrow()))
            .collect()
    }
}

impl Held {
    /// Tells every host of environments that `concerns` holds for what is new to it.
    fn tell(&mut self, concerns: impl Fn(&EnvName) -> bool) {
        // Nobody listens any longer: the session is gone.
        self.hosts.retain(|_, listeners| !listeners.is_closed());
        for ((of, host), listeners) in self.hosts.iter().filter(|((of, _), _)| concerns(of)) {
            let desired = self.desired_of(of, host);
            listeners.send_if_modified(|shown| {
                let changed = *shown != desired;
                *shown = desired;
                changed
            });
        }
    }

    fn desired_of(&self, env: &EnvName, host: &HostName) -> DesiredHost {
        let of_env = self.states.iter().filter(|((of, _), _)| of == env);
        let apps: Vec<_> = of_env
            .filter_map(|(_, state)| state.borrow().desired(host))
            .collect();
        let expired = apps.iter().filter_map(|app| self.expired.get(&app.app));
        DesiredHost {
            expired: expired.cloned().collect(),
            apps,
            drained: self.drained.contains(&(env.clone(), host.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use ship_model::desired::Epoch;
    use ship_model::retention::UrlHash;

    use super::*;

    fn state(app: &str, hosts: &[(&str, u64)]) -> Arc<EnvState> {
        let mut state = EnvState::new("dev".parse().unwrap(), app.parse().unwrap());
        for (host, epoch) in hosts {
            let target = state.hosts.entry(host.parse().unwrap()).or_default();
            target.epoch = Epoch(*epoch);
        }
        Arc::new(state)
    }

    #[test]
    fn a_host_hears_of_its_own_changes_only() {
        let board = Board::default();
        let (dev, other): (EnvName, EnvName) = ("dev".parse().unwrap(), "prod".parse().unwrap());
        let (h1, h2) = ("h1".parse().unwrap(), "h2".parse().unwrap());
        board.put_up(state("web", &[("h1", 1), ("h2", 1)]));
        let mut first = board.listen(&dev, &h1);
        let second = board.listen(&dev, &h2);
        let elsewhere = board.listen(&other, &h1);
        assert_eq!(first.borrow_and_update().apps.len(), 1);
        board.put_up(state("web", &[("h1", 2), ("h2", 1)]));
        board.put_up(state("shop", &[("h1", 1)]));
        assert!(first.has_changed().unwrap());
        assert!(!second.has_changed().unwrap());
        assert!(!elsewhere.has_changed().unwrap());
        let desired = first.borrow_and_update().clone();
        let apps: Vec<_> = desired
            .apps
            .iter()
            .map(|app| (app.app.as_str(), app.epoch.0))
            .collect();
        assert_eq!(apps, [("shop", 1), ("web", 2)]);
        assert_eq!(board.states().len(), 2);
    }

    #[test]
    fn a_drained_host_hears_of_it_at_once() {
        let board = Board::default();
        let (dev, h1, h2): (EnvName, _, _) = (
            "dev".parse().unwrap(),
            "h1".parse().unwrap(),
            "h2".parse().unwrap(),
        );
        board.put_up(state("web", &[("h1", 1), ("h2", 1)]));
        let (mut told, other) = (board.listen(&dev, &h1), board.listen(&dev, &h2));
        assert!(!told.borrow_and_update().drained);
        board.drain(&dev, &h1, true);
        assert!(told.has_changed().unwrap() && told.borrow_and_update().drained);
        board.drain(&dev, &h1, true);
        assert!(!told.has_changed().unwrap(), "it says the same");
        board.drain(&dev, &h1, false);
        assert!(!told.borrow_and_update().drained);
        assert!(!other.has_changed().unwrap());
    }

    #[test]
    fn what_expired_goes_with_the_app_it_is_of() {
        let board = Board::default();
        let (dev, h1) = ("dev".parse().unwrap(), "h1".parse().unwrap());
        board.put_up(state("web", &[("h1", 1)]));
        let mut told = board.listen(&dev, &h1);
        assert_eq!(told.borrow_and_update().expired, []);
        let expire = |app: &str, urls: &[&str]| {
            let list: ExpiredList = urls.iter().map(|url| UrlHash::of(url)).collect();
            board.expire(&app.parse().unwrap(), || Ok::<_, ()>(list)).unwrap();
        };
        expire("web", &["/a.js", "/b.js"]);
        assert!(told.has_changed().unwrap());
        let expired = told.borrow_and_update().expired.clone();
        assert_eq!((expired.len(), expired[0].paths), (1, 2));
        expire("web", &["/b.js", "/a.js"]);
        expire("shop", &["/a.js"]);
        assert!(!told.has_changed().unwrap(), "it says the same");
        expire("web", &[]);
        let nothing = told.borrow_and_update().expired.clone();
        assert_eq!(nothing[0].paths, 0);
        assert_ne!(nothing[0].list, expired[0].list);
    }
}
