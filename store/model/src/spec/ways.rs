//! How the processes of a release take over from those of the one before on a host, and when nobody serves meanwhile.

use crate::name::{ClassName, ProcessName};
use crate::spec::{ProcessSpec, ReleaseSpec, Standby, Strategy};

/// How one process takes over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessWay {
    pub process: ProcessName,
    pub strategy: Strategy,
    /// Why the old one ends before the new one serves; none: it does not.
    pub gap: Option<Gap>,
    /// Who takes connections while there is a gap.
    pub waiting: Waiting,
    /// What stays of the old one.
    pub standby: Option<Standby>,
}

/// Why a process ends before its successor serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gap {
    /// `strategy = "stop-start"` of a process of the release.
    StopStart,
    /// `coexist = false` of a process of either release.
    Apart,
    /// `overlap = false`.
    NoOverlap,
    /// An address goes from Ship's hands into the app's own, or back.
    Hands,
    /// Both generations have no room in the host's memory; see [`super::tight`].
    Memory,
}

impl Gap {
    /// In words that go on from "the old one ends first: ".
    pub fn words(self) -> &'static str {
        match self {
            Self::StopStart => "strategy = \"stop-start\"",
            Self::Apart => "coexist = false",
            Self::NoOverlap => "overlap = false",
            Self::Hands => "its address changes hands",
            Self::Memory => "no memory for two generations",
        }
    }
}

/// What becomes of those who come during a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// It listens nowhere.
    Nobody,
    /// Ship holds its listeners: connections wait in the kernel's queue.
    Queued,
    /// It listens by itself: connections are refused, unless a balancer sends them elsewhere.
    Refused,
}

/// The ways of all processes that a host of these classes runs; `running` is what it runs now, if anything.
pub fn ways(running: Option<&ReleaseSpec>, wanted: &ReleaseSpec, classes: &[ClassName]) -> Vec<ProcessWay> {
    let old: Vec<_> = running.into_iter().flat_map(|spec| here(spec, classes)).collect();
    let new: Vec<_> = here(wanted, classes).collect();
    let all = whole_gap(&old, &new);
    let way = |(name, spec): &(&ProcessName, &ProcessSpec)| {
        let before = old.iter().find(|(known, _)| known == name).map(|(_, spec)| spec);
        let apart = before.is_some_and(|before| !before.overlap || !spec.overlap);
        ProcessWay {
            process: (*name).clone(),
            strategy: spec.strategy,
            gap: all.or(apart.then_some(Gap::NoOverlap)),
            waiting: if spec.listen.is_empty() {
                Waiting::Nobody
            } else if spec.strategy.is_outside() {
                Waiting::Refused
            } else {
                Waiting::Queued
            },
            standby: spec.standby().filter(|_| before.is_some()),
        }
    };
    new.iter().map(way).collect()
}

fn here<'s>(
    spec: &'s ReleaseSpec,
    classes: &'s [ClassName],
) -> impl Iterator<Item = (&'s ProcessName, &'s ProcessSpec)> {
    let all = spec.processes.iter();
    all.filter(|(_, process)| classes.contains(&process.class))
}

type Named<'s> = (&'s ProcessName, &'s ProcessSpec);

/// Why all of the old ones end first: a generation is taken over as a whole.
fn whole_gap(old: &[Named<'_>], new: &[Named<'_>]) -> Option<Gap> {
    if old.is_empty() {
        None
    } else if new.iter().any(|(_, spec)| spec.strategy == Strategy::StopStart) {
        Some(Gap::StopStart)
    } else if old.iter().chain(new).any(|(_, spec)| !spec.coexist) {
        Some(Gap::Apart)
    } else if new
        .iter()
        .any(|(_, spec)| !spec.overlap && !spec.listen.is_empty())
    {
        Some(Gap::NoOverlap)
    } else if new.iter().any(|(_, spec)| changes_hands(spec, old)) {
        Some(Gap::Hands)
    } else {
        None
    }
}

fn changes_hands(new: &ProcessSpec, old: &[Named<'_>]) -> bool {
    let outside = new.strategy.is_outside();
    let others = old.iter().filter(|(_, old)| old.strategy.is_outside() != outside);
    let mut addresses = others.flat_map(|(_, old)| old.listen.values());
    addresses.any(|address| new.listen.values().any(|own| own == address))
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use super::*;
    use crate::spec::read_ship_toml;

    /// Two processes, with these lines for each.
    pub(in crate::spec) fn spec(web: &str, jobs: &str) -> ReleaseSpec {
        let text = format!(
            "app = \"a\"\n[process.web]\ncommand = [\"x\"]\nlisten = {{ http = \"tcp:80\" }}\n{web}\n[process.jobs]\nclass = \"web\"\ncommand = [\"x\"]\n{jobs}\n"
        );
        read_ship_toml(&text, None).unwrap()
    }

    #[test]
    fn a_gap_is_told_with_its_cause_and_who_waits() {
        use Gap::*;
        use Waiting::*;
        let smooth = || spec("", "");
        let table = [
            (Some(smooth()), smooth(), [(None, Nobody), (None, Queued)]),
            (
                None,
                spec("strategy = \"stop-start\"", ""),
                [(None, Nobody), (None, Refused)],
            ),
            (
                Some(smooth()),
                spec("strategy = \"stop-start\"", ""),
                [(Some(StopStart), Nobody), (Some(StopStart), Refused)],
            ),
            (
                Some(spec("coexist = false", "")),
                smooth(),
                [(Some(Apart), Nobody), (Some(Apart), Queued)],
            ),
            (
                Some(smooth()),
                spec("", "overlap = false"),
                [(Some(NoOverlap), Nobody), (None, Queued)],
            ),
            (
                Some(smooth()),
                spec("strategy = \"signal-reload\"\nserver = \"nginx\"", ""),
                [(Some(Hands), Nobody), (Some(Hands), Refused)],
            ),
        ];
        let classes = ["web".parse().unwrap()];
        for (old, new, wanted) in table {
            let found = ways(old.as_ref(), &new, &classes);
            let found: Vec<_> = found.iter().map(|way| (way.gap, way.waiting)).collect();
            assert_eq!(found, wanted, "{new:?}");
        }
        let kept = spec("strategy = \"cut-over\"", "");
        let found = ways(Some(&smooth()), &kept, &classes);
        assert_eq!(found[1].standby.unwrap().hold_ms, Some(600_000));
        assert_eq!(ways(None, &kept, &classes)[1].standby, None);
        assert_eq!(ways(Some(&smooth()), &smooth(), &[]), Vec::new());
    }
}
