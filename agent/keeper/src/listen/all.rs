//! All listeners of the app, by the names under which they outlive releases.

use std::collections::BTreeMap;

use super::{Address, Group, ListenError, OutsideGroup};
use crate::protocol::{Intent, ListenSpec, ProcessSpec};

/// Begins the key of a listener that the app binds by itself.
const OUTSIDE: &str = "outside ";

/// All listeners of the app, by key.
#[derive(Debug, Default)]
pub struct Listeners {
    groups: BTreeMap<String, Group>,
}

/// The name under which a listener outlives releases: its address, or, as port 0 says nothing, whose it is.
#[must_use]
pub fn key(process: &ProcessSpec, listener: &ListenSpec) -> String {
    if process.strategy.is_outside() {
        return format!("{OUTSIDE}{}", listener.addr);
    }
    match Address::parse(&listener.addr) {
        Ok(address) if address.inet().is_some_and(|(_, addr)| addr.port() == 0) => {
            format!("{address}#{}.{}", process.name, listener.name)
        }
        Ok(address) => address.to_string(),
        Err(_) => listener.addr.clone(),
    }
}

impl Listeners {
    /// Binds what `intent` needs and is not there yet. `bound` tells where port 0 was before. Answers the keys bound anew.
    ///
    /// # Errors
    /// When one cannot be had; those bound by this call are closed again.
    pub fn prepare(
        &mut self,
        intent: &Intent,
        bound: &BTreeMap<String, String>,
        steering: bool,
    ) -> Result<Vec<String>, ListenError> {
        let mut fresh: Vec<String> = Vec::new();
        for (process, listener) in listeners_of(intent) {
            let key = key(process, listener);
            if self.groups.contains_key(&key) {
                continue;
            }
            let made = Address::parse(&listener.addr)
                .map_err(|source| ListenError::Address {
                    name: listener.name.clone(),
                    source,
                })
                .and_then(|address| {
                    if process.strategy.is_outside() {
                        return Ok(Group::Outside(OutsideGroup::new(address)));
                    }
                    Group::bind(&address, bound.get(&key).map(String::as_str), steering)
                });
            // The app itself still listens there: it is bound when that has ended.
            let until_it_ends = self.groups.contains_key(&format!("{OUTSIDE}{}", listener.addr));
            if until_it_ends && matches!(made, Err(ListenError::Taken { .. })) {
                continue;
            }
            match made {
                Ok(group) => {
                    self.groups.insert(key.clone(), group);
                    fresh.push(key);
                }
                Err(error) => {
                    for key in fresh {
                        self.groups.remove(&key);
                    }
                    return Err(error);
                }
            }
        }
        Ok(fresh)
    }

    /// The group under `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Group> {
        self.groups.get(key)
    }

    /// The group under `key`.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut Group> {
        self.groups.get_mut(key)
    }

    /// Puts an adopted group in place.
    pub fn insert(&mut self, key: String, group: Group) {
        self.groups.insert(key, group);
    }

    /// All groups with their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Group)> {
        self.groups.iter()
    }

    /// All groups with their keys.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&String, &mut Group)> {
        self.groups.iter_mut()
    }

    /// Closes what is held of the addresses that the app's own processes are about to bind.
    pub fn give_up(&mut self, process: &ProcessSpec) {
        if process.strategy.is_outside() {
            for listener in &process.listen {
                self.groups.remove(&listener.addr);
            }
        }
    }

    /// Closes groups that no generation uses.
    pub fn close_unused(&mut self) {
        self.groups.retain(|_, group| !group.is_unused());
    }
}

/// All listeners of an intent with their processes.
pub fn listeners_of(intent: &Intent) -> impl Iterator<Item = (&ProcessSpec, &ListenSpec)> {
    intent
        .processes
        .iter()
        .flat_map(|process| process.listen.iter().map(move |listener| (process, listener)))
}
