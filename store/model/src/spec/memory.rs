//! Whether two generations of an app have room in a host's memory, as its keeper decides it, and a plan tells it before.

use super::{ReleaseSpec, Restart, Strategy};
use crate::name::ClassName;
use crate::report::AppMemory;

/// Bytes that a new generation is expected to need where the one before has `used`: as much, and a fifth more.
pub const fn wanted(used: u64) -> u64 {
    used.saturating_add(used / 5)
}

/// Whether a process that takes over so is started beside the one before.
pub const fn starts_beside(strategy: Strategy, restart: Option<&Restart>) -> bool {
    !strategy.is_in_place() || matches!(restart, Some(Restart::Reexec(_)))
}

/// What a generation that is to come up beside the running one lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tight {
    /// Bytes that its processes are expected to need.
    pub wanted: u64,
    /// Bytes that can be had.
    pub free: u64,
    /// `on the host`; to be escaped before it is shown.
    pub whose: String,
    /// `coexist = "always"`: the switch fails. Otherwise the old generation is stopped first.
    pub fails: bool,
}

/// What `wanted` lacks on a host of these classes to run beside `running`; none where there is room, where nothing runs twice,
/// or where the host did not say.
pub fn tight(
    running: Option<&ReleaseSpec>,
    new: &ReleaseSpec,
    classes: &[ClassName],
    memory: Option<&AppMemory>,
) -> Option<Tight> {
    let (running, memory) = (running?, memory?);
    let twice = new.processes.iter().filter(|(name, next)| {
        let before = running.processes.get(*name);
        let overlaps = next.overlap && before.is_some_and(|before| before.overlap);
        overlaps && classes.contains(&next.class) && starts_beside(next.strategy, next.restart.as_ref())
    });
    let used = twice.filter_map(|(name, _)| memory.used.get(name.as_str()));
    let wanted = wanted(used.fold(0, |sum, used| sum.saturating_add(*used)));
    let mut here = new
        .processes
        .values()
        .filter(|next| classes.contains(&next.class));
    (memory.free < wanted).then(|| Tight {
        wanted,
        free: memory.free,
        whose: memory.whose.clone(),
        fails: here.any(|process| process.must_coexist),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use super::*;
    use crate::spec::ways::tests::spec;

    fn memory(free: u64) -> AppMemory {
        AppMemory {
            used: [("web".to_owned(), 1_000), ("jobs".to_owned(), 500)].into(),
            free,
            whose: "on the host".to_owned(),
        }
    }

    #[test]
    fn two_generations_need_what_one_has_and_a_fifth_more() {
        let plain = || spec("", "");
        let classes = ["web".parse().unwrap()];
        let nginx = "strategy = \"signal-reload\"\nserver = \"nginx\"";
        let table = [
            (plain(), plain(), 1_800, None),
            (plain(), plain(), 1_799, Some((1_800, false))),
            (
                plain(),
                spec("coexist = \"always\"", ""),
                1_799,
                Some((1_800, true)),
            ),
            // What does not overlap, or stays itself, is not there twice.
            (plain(), spec("", "overlap = false"), 1_200, None),
            (spec("", "overlap = false"), plain(), 1_199, Some((1_200, false))),
            (plain(), spec(nginx, ""), 600, None),
            (plain(), spec(nginx, ""), 599, Some((600, false))),
        ];
        for (old, new, free, expected) in table {
            let found = tight(Some(&old), &new, &classes, Some(&memory(free)));
            let found = found.map(|tight| (tight.wanted, tight.fails));
            assert_eq!(found, expected, "{free} for {new:?}");
        }
    }

    #[test]
    fn nothing_is_said_of_what_is_not_known() {
        let (spec, classes) = (spec("", ""), ["web".parse().unwrap()]);
        assert_eq!(tight(Some(&spec), &spec, &classes, None), None);
        assert_eq!(tight(None, &spec, &classes, Some(&memory(0))), None);
        let unmeasured = AppMemory {
            used: [].into(),
            ..memory(0)
        };
        assert_eq!(tight(Some(&spec), &spec, &classes, Some(&unmeasured)), None);
        assert_eq!(tight(Some(&spec), &spec, &[], Some(&memory(0))), None);
        assert_eq!(wanted(u64::MAX), u64::MAX);
    }
}
