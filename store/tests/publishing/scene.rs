//! A store's releases and assets without its faces: environments that are said to run something, and a sweep.

use std::path::Path;
use std::sync::Arc;

use ship_assets::Shelf;
use ship_model::desired::DeployNumber;
use ship_model::digest::BlobDigest;
use ship_model::release::Target;
use ship_model::retention::Policy;
use ship_model::rollout::{DeployEntry, DeployKind, End, EnvState};
use ship_store::folder::StoreFolder;
use ship_store::retention::{Counted, Evidence, STORE, Scene, Sweep, Swept, bring_back};
use ship_store::union::Unions;

use super::tree::{Tree, open, prepare, tree, web};

pub const DAY: u64 = 86_400_000;
/// Publishing in these tests happens about then.
pub const THEN: u64 = 1_700_000_000_000;

pub struct Room {
    pub store: StoreFolder,
    pub unions: Unions,
    pub evidence: Evidence,
    /// What each environment runs.
    pub states: Vec<EnvState>,
    pub now_ms: u64,
}

/// The path of an asset that is called so, and whose content is its name.
pub fn url(name: &str) -> String {
    format!("/static/{name}")
}

/// A fingerprinted name for each number.
pub fn name(number: u64) -> String {
    format!("app.{}.js", &blake3::hash(&number.to_le_bytes()).to_hex()[..16])
}

/// A release that has these assets, and a page that no other has.
pub fn release(page: &str, names: &[String]) -> Tree {
    let paths: Vec<String> = names.iter().map(|name| format!("static/{name}")).collect();
    let mut files: Vec<(&str, &[u8])> = vec![("index.html", page.as_bytes())];
    let assets = paths.iter().zip(names);
    files.extend(assets.map(|(path, name)| (&**path, name.as_bytes())));
    tree(&web(), &files)
}

impl Room {
    /// As a store at its start.
    pub fn open(dir: &Path, envs: &[&str]) -> Self {
        let store = open(dir);
        let (places, blobs) = (Arc::clone(&store.places), Arc::clone(&store.blobs));
        let unions = Unions::new(dir.join("assets"), blobs, places, Arc::new(Shelf::new()));
        let failed = unions.catch_up(&store.ledger).unwrap();
        assert!(failed.is_empty(), "{failed:?}");
        let evidence = Evidence::open(dir, 0);
        assert!(evidence.hear(STORE, 0, [], 0));
        let state = |env: &&str| EnvState::new(env.parse().unwrap(), web());
        Self {
            store,
            unions,
            evidence,
            states: envs.iter().map(state).collect(),
            now_ms: THEN,
        }
    }

    /// As the face does it: a release, and then its assets.
    pub fn publish(&self, tree: &Tree, request: u64) -> Target {
        let mut commit = prepare(&self.store.publisher, tree, request);
        commit.at_ms = self.now_ms;
        let record = self.store.publisher.commit(&commit).unwrap().record;
        self.unions.add(&record).unwrap();
        record.target()
    }

    /// As the face does it, and at once.
    pub fn promote(&mut self, env: usize, release: Target, kind: DeployKind) {
        bring_back(&self.store.ledger, &self.unions, &web(), release.number).unwrap();
        let (now_ms, state) = (self.now_ms, &mut self.states[env]);
        state.last_deploy = DeployNumber(state.last_deploy.0 + 1);
        state.history.push(DeployEntry {
            deploy: state.last_deploy,
            release,
            kind,
            end: End::Done,
            when_ms: now_ms,
            who: "operator/alice".to_owned(),
            message: None,
            reason: None,
        });
        state.retained = state.current.into_iter().chain([release]).collect();
        state.current = Some(release);
    }

    pub fn ask(&self, name: &str) {
        let asked = [BlobDigest::of(name.as_bytes())];
        assert!(self.evidence.hear(STORE, 0, asked, self.now_ms));
    }

    pub fn scene(&self) -> Scene {
        Scene {
            states: self.states.iter().cloned().map(Arc::new).collect(),
            hosts: Vec::new(),
            policy: Policy::default(),
            counted: Counted::Everywhere,
            now_ms: self.now_ms,
        }
    }

    pub fn sweep(&self) -> Swept {
        let (app, scene) = (web(), self.scene());
        let sweep = Sweep {
            ledger: &self.store.ledger,
            unions: &self.unions,
            evidence: &self.evidence,
            app: &app,
        };
        let marked = sweep.mark(&scene).unwrap();
        sweep.sweep(&scene, &marked, "operator/alice").unwrap()
    }

    /// The bytes that stand at the path of `name`.
    pub fn stands(&self, name: &str) -> Option<Vec<u8>> {
        let union = self.unions.union(&web()).unwrap();
        std::fs::read(union.folder().join("static").join(name)).ok()
    }
}
