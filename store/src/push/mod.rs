//! Pushing assets to where a CDN takes them from: a folder.
//!
//! Each push is a host of class `assets` in its environment that the store itself keeps: it is told what it must have as
//! every asset host is, and reports when it has it. So the barrier waits for it, `status` and `plan` name it, policy may
//! excuse it, and what goes wrong is told, as with any other.
//!
//! It is additive: nothing is ever deleted there, so nothing is missing there that retention keeps anywhere. After a crash
//! whole files are there, and what is missing is found and pushed at the next start.
//!
//! * [`settings`]: `[[push]]` of a `store.toml`.
//! * [`place`]: what a push needs of where it goes. [`folder`]: the one there is.
//! * [`host`]: the host that it is.

mod folder;
mod host;
mod place;
mod settings;

pub use host::{Pushing, start};
pub use settings::{PushDefect, PushSettings, check};
