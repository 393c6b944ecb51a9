//! The shared store: immutable objects under their digests, the small records that give them meaning, who runs
//! what, and the controller that changes it.
//!
//! * [`engine`]: where bytes lie: narrow traits and the engines behind them.
//! * [`ledger`]: what records mean; nothing else touches the catalog.
//! * [`publish`], [`locate`], [`union`]: how a tree becomes a release, where its blobs and its assets lie.
//! * [`deltas`]: how a release is told by what changed since another one, to hosts that have that.
//! * [`keeping`]: how older releases are kept as what changed after them.
//! * [`folder`], [`admin`], [`settings`]: a store's folder as a whole: opened, verified, rebuilt, copied, put back.
//! * [`scrub`], [`copies`]: what lies here is read again, and healed from wherever it lies whole.
//! * [`push`]: assets on their way to where a CDN takes them from.
//! * [`retention`]: how long assets are kept, and why; [`garbage`]: which releases keep their content, and what else goes.
//! * [`rollout`], [`desired`]: who is there, what each host should run, and how that changes.
//! * [`ca`], [`identity`], [`tls`], [`listen`]: who may talk to the store, and the ports they use.
//! * [`grpc`], [`http`]: the faces. [`serve`] puts it all together.
//!
//! The rooms that keep bytes block; whoever calls them from async code goes through the one [`bridge`]. Only
//! [`clock`] reads the time; to the rooms below the faces it is handed down.

#![forbid(unsafe_code)]

pub mod admin;
pub mod bridge;
pub mod ca;
pub mod clock;
pub mod copies;
pub mod deltas;
pub mod desired;
pub mod engine;
pub mod folder;
pub mod garbage;
pub mod grpc;
pub mod http;
pub mod identity;
pub mod keeping;
pub mod leaves;
pub mod ledger;
pub mod listen;
pub mod locate;
pub mod log;
pub mod near;
pub mod notify;
pub mod program;
pub mod publish;
pub mod push;
pub mod retention;
pub mod rollout;
pub mod scrub;
pub mod segments;
pub mod serve;
pub mod settings;
mod spool;
pub mod tls;
pub mod union;
mod yielding;
