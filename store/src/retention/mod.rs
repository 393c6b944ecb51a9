//! Why fingerprinted assets are kept: what is known of requests, and the rule of [`ship_model::retention`] over it.
//!
//! * [`Evidence`]: who was asked for what, and when.
//! * [`count`]: what the store itself is asked for.
//! * [`promised()`]: what stands at a path; [`FromBundles`]: where the store gets it when its file is missing.
//! * [`look()`]: every asset of an app with the reasons that keep it. [`Sweep`]: giving up what none keeps.

mod evidence;
mod look;
mod promised;
mod sweep;
mod tell;

pub use evidence::{Evidence, SaveEvidenceError};
pub use look::{Counted, Found, LookError, STORE, Scene, look};
pub use promised::{FromBundles, PromisedError, promised, standing};
pub use sweep::{BringBackError, Marked, Sweep, SweepError, Swept, bring_back};
pub use tell::count;
