//! Why fingerprinted assets are kept: what is known of requests, and the rule of [`ship_model::retention`] over it.
//!
//! * [`Evidence`]: who was asked for what, and when.
//! * [`count`]: what the store itself is asked for.
//! * [`promised()`]: what stands at a path; [`FromBundles`]: where the store gets it when its file is missing.
//! * [`look()`]: every asset of an app with the reasons that keep it. [`Sweep`]: giving up what none keeps.
//! * [`tell_expired`]: hosts and pushes follow.
//!
//! The ledger's marks decide, and everybody else follows a level: the list of what is marked now, by its digest. A host
//! asks for a list that it does not know, judges again what it needs itself, and lets go of the rest
//! ([`ship_model::retention::Sparing`]). A publish or promote takes marks away first, then the new list is put up, and only
//! then is anybody told of the release: a host that has heard of the release has heard of the list, and what it had begun to
//! forget by an older one does not count as held. So nothing has to be in step: a host that was away, was killed in the
//! middle or comes late does on the newest list what it has not done yet.

mod evidence;
mod look;
mod promised;
mod sweep;
mod tell;
mod told;

pub use evidence::{Evidence, SaveEvidenceError};
pub use look::{Counted, Found, LookError, STORE, Scene, look};
pub use promised::{FromBundles, PromisedError, promised, standing};
pub use sweep::{BringBackError, Marked, Sweep, SweepError, Swept, bring_back};
pub use tell::count;
pub use told::{tell_all_expired, tell_expired};
