//! The shared store: immutable releases, who runs what, and the controller that changes it.

pub mod bridge;
pub mod ca;
pub mod clock;
pub mod desired;
pub mod identity;
pub mod listen;
pub mod near;
pub mod rollout;
pub mod settings;
pub mod tls;
