//! The shared store: immutable objects under their digests, the small records that give them meaning, who runs
//! what, and the controller that changes it.
//!
//! * [`engine`]: where bytes lie: narrow traits and the engines behind them.
//! * [`ledger`]: what records mean; nothing else touches the catalog.
//! * [`rollout`], [`desired`]: who is there, what each host should run, and how that changes.
//! * [`ca`], [`identity`], [`tls`], [`listen`]: who may talk to the store, and the port they use.
//! * [`grpc`], [`http`]: the faces.
//!
//! `engine` and `ledger` block; whoever calls them from async code goes through the one [`bridge`]. Only [`clock`]
//! reads the time; to the rooms below the faces it is handed down.

#![forbid(unsafe_code)]

pub mod bridge;
pub mod ca;
pub mod clock;
pub mod desired;
pub mod engine;
pub mod grpc;
pub mod http;
pub mod identity;
pub mod ledger;
pub mod listen;
pub mod near;
pub mod rollout;
pub mod settings;
pub mod tls;
