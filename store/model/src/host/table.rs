//! The table of states as people read it, made from the code.

use super::{HostEvent, HostState};

impl HostState {
    /// What the state means, in one sentence.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Installing => "has not yet reported that it runs what it should",
            Self::Available => "reports, and runs what it should, healthy",
            Self::Restarting => "runs what it should, and that is not healthy",
            Self::Upgrading => "goes from one release to another",
            Self::Uncertain => {
                "silent for a while: neither healthy nor dead; not counted, not restarted, never first"
            }
            Self::Unavailable => "silent for long: counts as lost until it reports, which restarts nothing",
            Self::Retiring => "leaves rotation, then stops what it runs; no rollout goes there",
            Self::Retired => {
                "runs nothing of ours; its certificate is not accepted, and its agent is told so"
            }
            Self::Archived => "retired, and listed with `--all` only",
            Self::Terminated => "its machine is gone by an operator's word; its certificate is not accepted",
        }
    }
}

impl HostEvent {
    const fn title(self) -> &'static str {
        match self {
            Self::Serves => "runs what it should, healthy",
            Self::Ails => "runs what it should, unwell",
            Self::Lags => "runs something else",
            Self::FellSilent => "silent for a while",
            Self::Lost => "silent for long",
            Self::Retire => "`host retire`",
            Self::Emptied => "nothing runs there any more",
            Self::Recall => "`host undrain`",
            Self::Archive => "`host archive`",
            Self::Vanish => "`host retire --gone`",
        }
    }
}

const HEAD: &str = "\
# States of a host

Made from `HostState::after` in `store/model/src/host.rs`; a test fails when the two differ (`SHIP_BLESS=1` writes this file
anew). How long \"a while\" and \"long\" are stands in `store.toml`: `uncertain_after_ms` and `unavailable_after_ms`.

A drained host (`host drain`) keeps its state and is marked beside it: it stays out of rotation, is kept up to date after all
others, and is neither first to run a release nor counted among those that serve.
";

/// The whole file.
pub fn markdown() -> String {
    let mut text = String::from(HEAD);
    text.push_str("\n| State | Meaning |\n| --- | --- |\n");
    for state in HostState::ALL {
        text.push_str(&format!("| {state} | {} |\n", state.meaning()));
    }
    text.push_str("\nWhat an event makes of a state; `·`: it means nothing there.\n\n| |");
    for state in HostState::ALL {
        text.push_str(&format!(" {state} |"));
    }
    text.push_str("\n|");
    text.push_str(&" --- |".repeat(HostState::ALL.len() + 1));
    for event in HostEvent::ALL {
        text.push_str(&format!("\n| {} |", event.title()));
        for state in HostState::ALL {
            let then = state.after(event).map_or("·", HostState::as_str);
            text.push_str(&format!(" {then} |"));
        }
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::disallowed_methods,
        reason = "a test may fail loudly, and writes what it was told to"
    )]
    use super::*;

    #[test]
    fn the_file_says_what_the_code_does() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../HOST_STATES.md");
        if std::env::var("SHIP_BLESS").is_ok_and(|bless| bless == "1") {
            std::fs::write(path, markdown()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), markdown());
    }

    /// Every state is reached, and who has left is only ever taken back by an operator.
    #[test]
    fn no_state_is_out_of_reach_and_nobody_returns_alone() {
        let mut reached = vec![HostState::Installing];
        let mut at = 0;
        while let Some(state) = reached.get(at).copied() {
            at += 1;
            for event in HostEvent::ALL {
                let Some(then) = state.after(event) else { continue };
                if state.is_leaving() && !then.is_leaving() {
                    assert_eq!(event, HostEvent::Recall, "{state} became {then}");
                }
                if !reached.contains(&then) {
                    reached.push(then);
                }
            }
        }
        reached.sort();
        assert_eq!(reached, HostState::ALL);
    }
}
