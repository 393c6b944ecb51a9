//! A real fleet on this machine's loopback: one `shipstore`, one `ship-agent` for each host, and the keepers
//! and apps that those start. `up` keeps it, `demo` makes one and throws it away.
//!
//! ```text
//! D/up.json            what stays: the loopback net, how many hosts, which processes are ours
//! D/context.toml       for shipctl; written when everything is up, and left when it is stopped
//! D/tls/               the operator's certificate
//! D/store/             the store's folder
//! D/hosts/h1/{agent.toml,tls,apps,state,run}
//! D/logs/{store,h1,…}.log
//! ```
//!
//! Each host has its own loopback address `127.X.Y.n`, where X and Y are drawn once and kept, so that two
//! fleets on one machine do not meet; the store has `127.X.Y.200`.

mod address;
mod binaries;
mod child;
mod keepers;
mod log;
mod orphans;
mod own;
mod place;
mod process;
mod record;
mod setup;

pub use address::MAX_HOSTS;
pub use binaries::{Binaries, FLEET, LOAD, SAMPLE};
pub use own::{FleetPlan, OwnFleet};
pub use setup::tool as run_tool;
