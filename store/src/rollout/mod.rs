//! Carrying rollouts out: who is there, and the one controller that moves every environment.

pub mod fleet;
