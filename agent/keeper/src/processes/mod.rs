//! The app's processes: started with exactly what they may have, found again, asked and forced to end.

mod binds;
mod environment;
mod groups;
mod in_place;
mod launch;
mod rlimits;
mod scan;
mod spawn;
mod tree;
mod user;

pub use binds::{Binds, News, nudge, receive, told_binds};
pub use environment::{Environment, EnvironmentError, environment};
pub use groups::{Controller, Groups, GroupsAt, Held, amount, keeper_name, mapped, resident};
pub use in_place::{become_command, hold};
pub use launch::{Place, assemble, surroundings};
pub use rlimits::{LimitError, check_limits};
pub use scan::{
    Found, Table, boot_id, descriptor_of, each_socket, is_alive, is_member, is_own_child, members,
    start_ticks,
};
pub use spawn::{Child, Launch, RUN, SpawnError, StartFailure, fork, read_failure};
pub use tree::Tree;
pub use user::{Account, AccountError, account};

use rustix::process::Signal;

/// The signal of that name, with or without `SIG`.
#[must_use]
pub fn signal(name: &str) -> Option<Signal> {
    Some(match name.strip_prefix("SIG").unwrap_or(name) {
        "TERM" => Signal::TERM,
        "QUIT" => Signal::QUIT,
        "INT" => Signal::INT,
        "HUP" => Signal::HUP,
        "USR1" => Signal::USR1,
        "USR2" => Signal::USR2,
        "WINCH" => Signal::WINCH,
        "KILL" => Signal::KILL,
        _ => return None,
    })
}

/// Sends `signal` to one process, if it is still the one that started at `start`.
pub fn send(pid: u32, start: u64, signal: Signal) {
    // 0 and 1 would mean our own group and everybody.
    let Some(target) = i32::try_from(pid)
        .ok()
        .filter(|pid| *pid > 1)
        .and_then(rustix::process::Pid::from_raw)
    else {
        return;
    };
    if start_ticks(pid) == Some(start) {
        let _ = rustix::process::kill_process(target, signal);
    }
}
