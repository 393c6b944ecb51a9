//! Real servers under a keeper of their own: one app, its switches and reverts by the control socket, real users beside it.
//!
//! * [`Subject`]: a server, how it is started, what it can do.
//! * [`Stage`]: a keeper in a temporary folder with a subject's releases; ends every process it started.

mod bare;
mod front;
mod in_place;
mod join;
mod otp;
mod stage;
mod subject;

pub use bare::Bare;
pub use stage::{BY_HAND, ByHand, Manners, Stage, Users};
pub use subject::Subject;
