//! `bind-join`: a server that binds by itself gets the socket that the keeper has bound for it.
//!
//! The process runs under a filter that stops each `bind` until the keeper has answered
//! ([`crate::processes::Binds`]). If the address is one of its `listen` addresses, the keeper puts its own socket of that
//! generation, bound and listening and a member of the steered group, in the place of the process's, under the same
//! descriptor number, and answers that the bind has succeeded. The `listen` that follows changes nothing but the queue's
//! length. From then on all is as under `listen-fds`: the group's order is the keeper's alone, the spare stays last, a
//! probe reaches this generation only, and the queue outlives the process.
//!
//! Two other ways were left. To set SO_REUSEPORT on the process's socket and let its bind go on, or to bind it in its
//! place: then the process's `listen` makes it the group's last member, before the keeper can put a spare behind it; a
//! socket of the other family (Java binds everything as IPv6) becomes a group of its own that is not steered; and an
//! address read here and used by the kernel later may have been changed in between by another thread. Here the address
//! that was read is the one acted upon. A bind that is let go on is not checked again, which is no harm: it can only do
//! what the process may do anyway.
//!
//! What the process has set on its socket goes with it, as far as a listener passes it on to its connections
//! ([`Given::dress`]). What it loses is a registration with epoll or a copy made *before* the bind; no server is known that
//! does so.
//!
//! Unix sockets are not joined: their servers remove the path before they bind it, and so would cut the running release.

mod address;
mod given;
mod notice;

pub use address::{names, read};
pub use given::Given;
pub use notice::{Bind, Notices};
