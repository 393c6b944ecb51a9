//! Every release and every object with what keeps it, or since when nothing does.

use std::fmt;

use ship_model::digest::{DeltaDigest, ReleaseId};
use ship_model::name::AppName;
use ship_model::release::ReleaseNumber;

use super::needs::Needs;
use super::roots::Roots;
use super::{CollectError, Collector};
use crate::engine::{Object, ObjectKind};
use crate::ledger::Marks;

/// What may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A release's content, as far as nothing else needs it.
    Release {
        app: AppName,
        number: ReleaseNumber,
    },
    Object(Object),
}

impl fmt::Display for Subject {
    /// `release web@3`, `bundle 3f9a…`: how it is marked, too.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Release { app, number } => write!(f, "release {app}@{number}"),
            Self::Object(object) => object.fmt(f),
        }
    }
}

/// One reason to keep it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    /// One word for programs; stable.
    pub kind: &'static str,
    pub words: String,
    /// When the reason ends by itself.
    pub until_ms: Option<u64>,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Kept,
    /// Nothing needs it, since then at the latest; it goes once `grace` is over.
    Marked {
        since_ms: u64,
    },
    /// Nothing needs it, which nobody has written down yet.
    Unmarked,
    /// It went.
    Gone,
}

impl Fate {
    /// One word for people and programs; stable.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Marked { .. } => "marked",
            Self::Unmarked => "unmarked",
            Self::Gone => "gone",
        }
    }
}

/// One release, or one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub subject: Subject,
    /// Of an object: what it takes on the disk. Of a release: all of its files.
    pub bytes: u64,
    pub fate: Fate,
    /// At least one of what is kept.
    pub why: Vec<Why>,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fate = self.fate.as_str();
        write!(f, "{fate:<8} {}, {} bytes", self.subject, self.bytes)?;
        for (at, why) in self.why.iter().enumerate() {
            let between = if at == 0 { ": " } else { "; " };
            write!(f, "{between}{}", why.words)?;
        }
        Ok(())
    }
}

impl Collector<'_> {
    /// What is there, and what keeps it. Changes nothing.
    pub fn look(&self, now_ms: u64) -> Result<Vec<Line>, CollectError> {
        let marks = self.ledger.marks()?;
        let roots = self.roots(&marks, now_ms)?;
        let needs = self.needs(&roots, |release| release.goes())?;
        let mut lines = of_releases(&roots, &marks);
        for (object, bytes) in self.objects()? {
            lines.push(self.of_object(object, bytes, &needs, &marks));
        }
        Ok(lines)
    }

    /// Writes down what nothing needs, with since when; gives all that is there.
    pub fn mark(&self, now_ms: u64) -> Result<Vec<Line>, CollectError> {
        let before = self.ledger.marks()?;
        let mut marks = Marks {
            at_ms: now_ms,
            ..Marks::default()
        };
        let roots = self.roots(&before, now_ms)?;
        for begun in roots.begun.iter().chain(&roots.given_up) {
            let id = begun.id.to_string();
            let seen = before.begun.get(&id).filter(|(of, _)| *of == begun.version.0);
            let since_ms = seen.map_or(now_ms, |(_, since_ms)| (*since_ms).min(now_ms));
            marks.begun.insert(id, (begun.version.0, since_ms));
        }
        let mut lines = self.look(now_ms)?;
        let free = lines.iter_mut().filter(|line| line.fate != Fate::Kept);
        // More are marked the next time: a record has its bounds.
        for line in free.take(MOST_MARKS) {
            let since_ms = match line.fate {
                // A clock that was set back waits the longer.
                Fate::Marked { since_ms } => since_ms.min(now_ms),
                _ => now_ms,
            };
            line.fate = Fate::Marked { since_ms };
            marks.since_ms.insert(line.subject.to_string(), since_ms);
        }
        self.ledger.put_marks(&marks)?;
        Ok(lines)
    }

    /// Every object of the store: manifests and deltas first, which are small.
    pub(super) fn objects(&self) -> Result<Vec<(Object, u64)>, CollectError> {
        let mut all = Vec::new();
        for kind in ObjectKind::ALL {
            all.extend(self.blobs.list(kind)?);
        }
        all.sort_unstable();
        Ok(all)
    }

    fn of_object(&self, object: Object, bytes: u64, needs: &Needs, marks: &Marks) -> Line {
        let why = self.why(object, needs);
        let subject = Subject::Object(object);
        Line {
            fate: if why.is_some() {
                Fate::Kept
            } else {
                marked(&subject, marks)
            },
            subject,
            bytes,
            why: why.into_iter().collect(),
        }
    }

    /// What keeps an object.
    pub(super) fn why(&self, object: Object, needs: &Needs) -> Option<Why> {
        let kept = |kind, words| {
            Some(Why {
                kind,
                words,
                until_ms: None,
            })
        };
        if let Some(need) = needs.of(object) {
            return kept("needed", need.to_string());
        }
        match object {
            // Who could not read it does not know what it carries; and what was let go is removed by whoever did that.
            Object::Bundle(bundle) if !self.places.has_bundle(bundle) => {
                let words =
                    "it is about to go, or its index could not be read: `shipstore verify` tells more";
                kept("unread", words.to_owned())
            }
            // One that keeps nothing is being made.
            Object::Kept(delta) if self.kept_by(delta).is_none() => {
                kept("new", "it keeps no release yet".to_owned())
            }
            Object::Delta(delta) => match self.deltas.way_of(delta) {
                Some((base, target)) if needs.kept.contains(&base) && needs.kept.contains(&target) => {
                    kept("needed", "both of its releases are kept".to_owned())
                }
                Some(_) => None,
                None => kept(
                    "retired",
                    "a better one took its place, and it is about to go".to_owned(),
                ),
            },
            Object::Bundle(_) | Object::Manifest(_) | Object::Kept(_) => None,
        }
    }

    /// The tree that a kept delta gives.
    pub(super) fn kept_by(&self, delta: DeltaDigest) -> Option<ReleaseId> {
        let links = self.places.links();
        let mut of = links.iter().filter(|(_, link)| link.delta == delta);
        of.next().map(|(id, _)| *id)
    }
}

/// Things that are marked at most at a time.
const MOST_MARKS: usize = 10_000;

fn of_releases(roots: &Roots, marks: &Marks) -> Vec<Line> {
    let there = roots
        .releases
        .iter()
        .filter(|release| release.collected.is_none());
    let line = |release: &super::roots::Judged| {
        let subject = Subject::Release {
            app: release.record.app.clone(),
            number: release.record.number,
        };
        let why = release.reasons.iter().map(|reason| Why {
            kind: reason.kind(),
            words: reason.to_string(),
            until_ms: reason.until_ms(),
        });
        Line {
            fate: if release.goes() {
                marked(&subject, marks)
            } else {
                Fate::Kept
            },
            subject,
            bytes: release.record.bytes,
            why: why.collect(),
        }
    };
    there.map(line).collect()
}

fn marked(subject: &Subject, marks: &Marks) -> Fate {
    let since = marks.since_ms.get(&subject.to_string());
    since.map_or(Fate::Unmarked, |since_ms| Fate::Marked { since_ms: *since_ms })
}
