//! Named places where a test may kill the process or make a step fail.
//!
//! They are compiled into every build, so that what is tested is what ships; an unarmed point costs one look at a
//! static. Armed by the environment, read once:
//!
//! * `SHIP_FAULT=name=kill` ends the process by SIGKILL at the point `name`;
//! * `SHIP_FAULT=name=kill@3` does so the third time the point is passed;
//! * `SHIP_FAULT=name=error` (also with `@n`) makes the point return an error;
//! * `SHIP_FAULT_TRACE=/path` appends the name of every point passed, one per line, so that a test can learn which
//!   points a scenario passes and then kill at each of them.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The variable that arms one point.
pub const FAULT_VARIABLE: &str = "SHIP_FAULT";
/// The variable that names a file for the names of all points passed.
pub const TRACE_VARIABLE: &str = "SHIP_FAULT_TRACE";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Kill,
    Error,
}

#[derive(Debug, PartialEq, Eq)]
struct Armed {
    name: String,
    kind: Kind,
    turn: u64,
}

#[derive(Debug)]
struct Plan {
    armed: Option<Armed>,
    trace: Option<PathBuf>,
    passed: AtomicU64,
}

static PLAN: OnceLock<Option<Plan>> = OnceLock::new();

/// Passes the fault point `name`.
///
/// # Errors
/// Only when the point is armed with `error`.
#[inline]
pub fn point(name: &str) -> io::Result<()> {
    match PLAN.get_or_init(read_plan) {
        None => Ok(()),
        Some(plan) => plan.pass(name),
    }
}

impl Plan {
    #[cold]
    fn pass(&self, name: &str) -> io::Result<()> {
        if let Some(path) = &self.trace {
            let mut file = OpenOptions::new().create(true).append(true).open(path)?;
            file.write_all(format!("{name}\n").as_bytes())?;
        }
        let Some(armed) = self.armed.as_ref().filter(|armed| armed.name == name) else {
            return Ok(());
        };
        if self.passed.fetch_add(1, Ordering::Relaxed) + 1 != armed.turn {
            return Ok(());
        }
        match armed.kind {
            Kind::Error => Err(io::Error::other(format!("fault point {name}"))),
            Kind::Kill => kill_self(),
        }
    }
}

fn kill_self() -> io::Result<()> {
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
    // SIGKILL is on its way; no further step may be taken.
    loop {
        std::thread::park();
    }
}

fn read_plan() -> Option<Plan> {
    let armed = std::env::var(FAULT_VARIABLE).ok().and_then(|text| parse(&text));
    let trace = std::env::var_os(TRACE_VARIABLE).map(PathBuf::from);
    (armed.is_some() || trace.is_some()).then(|| Plan {
        armed,
        trace,
        passed: AtomicU64::new(0),
    })
}

fn parse(text: &str) -> Option<Armed> {
    let (name, action) = text.split_once('=')?;
    let (kind, turn) = match action.split_once('@') {
        Some((kind, turn)) => (kind, turn.parse().ok().filter(|turn| *turn > 0)?),
        None => (action, 1),
    };
    let kind = match kind {
        "kill" => Kind::Kill,
        "error" => Kind::Error,
        _ => return None,
    };
    Some(Armed {
        name: name.to_owned(),
        kind,
        turn,
    })
}

#[cfg(test)]
mod tests {
    use super::{Armed, Kind, parse};

    #[test]
    fn reads_name_kind_and_turn() {
        let armed = |name: &str, kind, turn| {
            Some(Armed {
                name: name.to_owned(),
                kind,
                turn,
            })
        };
        assert_eq!(parse("a.b=kill"), armed("a.b", Kind::Kill, 1));
        assert_eq!(parse("a.b=kill@3"), armed("a.b", Kind::Kill, 3));
        assert_eq!(parse("a.b=error"), armed("a.b", Kind::Error, 1));
        for bad in ["", "a", "a=", "a=boom", "a=kill@0", "a=kill@x"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
