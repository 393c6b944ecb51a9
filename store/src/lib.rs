//! The shared store: immutable objects under their digests, and the small records that give them meaning.
//!
//! * [`engine`]: where bytes lie: narrow traits and the engines behind them.
//! * [`ledger`]: what records mean; nothing else touches the catalog.
//! * [`publish`], [`locate`]: how a tree becomes a release, and where its blobs lie.
//! * [`folder`], [`admin`]: a store's folder as a whole: opened, verified, rebuilt, copied, put back.
//!
//! Everything in these rooms blocks; whoever calls from async code goes through one bridge. No room here
//! reads the clock: the time of an act is handed down with it.

#![forbid(unsafe_code)]

pub mod admin;
pub mod engine;
pub mod folder;
pub mod ledger;
pub mod locate;
pub mod publish;
