//! Taking away what was marked for long enough and is needed by nothing still.

use std::collections::BTreeSet;
use std::time::Duration;

use ship_durable::fault;

use super::needs::Needs;
use super::roots::{Judged, Roots};
use super::{CollectError, Collector, Fate, Line, Subject};
use crate::engine::Object;
use crate::keeping::{remove, unkeep};
use crate::ledger::{Act, Collected, Marks};
use crate::locate::read_index;

/// What went.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swept {
    /// Releases that lost their content, and objects that are no more.
    pub lines: Vec<Line>,
    pub releases: u64,
    pub objects: u64,
    /// Of the objects.
    pub bytes: u64,
}

/// What is to be removed; dropped, it is found again at the next look.
#[derive(Debug)]
#[must_use]
pub struct Decided {
    swept: Swept,
    objects: Vec<(Object, u64)>,
}

/// Who sweeps, and how.
#[derive(Debug, Clone, Copy)]
pub struct Sweep<'a> {
    pub now_ms: u64,
    /// How long something must have been marked, in milliseconds.
    pub wait_ms: u64,
    /// Role and name, `operator/alice`.
    pub who: &'a str,
    /// Between two removals, so that whoever reads and writes hardly notices.
    pub pause: Duration,
}

impl Collector<'_> {
    /// Takes away what has been marked for `wait_ms` and is needed by nothing now. `ended` is asked between two removals: what is
    /// left then is found at the next look.
    pub fn sweep(&self, sweep: &Sweep<'_>, ended: &dyn Fn() -> bool) -> Result<Swept, CollectError> {
        self.finish(self.decide(sweep)?, sweep, ended)
    }

    /// The second half of a sweep: what was decided is removed.
    pub fn finish(
        &self,
        decided: Decided,
        sweep: &Sweep<'_>,
        ended: &dyn Fn() -> bool,
    ) -> Result<Swept, CollectError> {
        let mut swept = decided.swept;
        for (object, bytes) in decided.objects {
            if ended() {
                break;
            }
            if self.remove(object)? {
                swept.objects += 1;
                swept.bytes += bytes;
                swept.lines.push(gone(Subject::Object(object), bytes));
            }
            std::thread::sleep(sweep.pause);
        }
        Ok(swept)
    }

    /// The first half of a sweep, while nobody relies on what has no record. What is decided stands: releases are marked as collected, oldest first, and
    /// nobody finds bundles any more that go. Nobody may promote or revert meanwhile.
    pub fn decide(&self, sweep: &Sweep<'_>) -> Result<Decided, CollectError> {
        let mut swept = Swept::default();
        let _unrelied = self.places.once_unrelied();
        let marks = self.ledger.marks()?;
        let roots = self.roots(&marks, sweep.now_ms)?;
        let is_due = |key: &str| is_due(&marks, key, sweep);
        let goes = |release: &Judged| release.goes() && is_due(&release.key());
        let needs = self.needs(&roots, goes)?;
        let mut due = Vec::new();
        for (object, bytes) in self.objects()? {
            if self.why(object, &needs).is_none() && is_due(&object.to_string()) {
                due.push((object, bytes));
            }
        }
        for begun in &roots.given_up {
            self.ledger.forget_begun(&begun.id, begun.version)?;
        }
        self.collect(&roots, &needs, goes, sweep, &mut swept)?;
        fault::point("store.gc.collected").map_err(CollectError::Interrupted)?;
        self.hide(&due, &needs, sweep)?;
        fault::point("store.gc.decided").map_err(CollectError::Interrupted)?;
        Ok(Decided { swept, objects: due })
    }

    /// Nobody is told of them any more.
    fn hide(&self, due: &[(Object, u64)], needs: &Needs, sweep: &Sweep<'_>) -> Result<(), CollectError> {
        let mut deltas = BTreeSet::new();
        for (object, _) in due {
            match *object {
                Object::Bundle(bundle) => {
                    let index = read_index(self.blobs, bundle)?;
                    self.places.let_go(self.blobs, bundle, &index)?;
                }
                Object::Kept(delta) => {
                    if let Some(id) = self.kept_by(delta) {
                        let act = Act {
                            at_ms: sweep.now_ms,
                            who: sweep.who.to_owned(),
                            what: "collect".to_owned(),
                            subject: format!("kept {}", id.short()),
                            detail: delta.to_string(),
                        };
                        unkeep(self.places, self.ledger, id, &act)?;
                    }
                }
                Object::Delta(delta) => drop(deltas.insert(delta)),
                Object::Manifest(_) => {}
            }
        }
        let may = |base, target| needs.kept.contains(&base) && needs.kept.contains(&target);
        self.deltas.withdraw(&deltas, may);
        Ok(())
    }

    fn collect(
        &self,
        roots: &Roots,
        needs: &Needs,
        goes: impl Fn(&Judged) -> bool,
        sweep: &Sweep<'_>,
        swept: &mut Swept,
    ) -> Result<(), CollectError> {
        let bare: BTreeSet<usize> = needs.bare.iter().copied().collect();
        // The roots are sorted newest first.
        for (at, release) in roots.releases.iter().enumerate().rev() {
            let (app, number) = (&release.record.app, release.record.number);
            let is_bare = bare.contains(&at);
            match &release.collected {
                None if goes(release) => {
                    let mark = Collected {
                        at_ms: sweep.now_ms,
                        who: sweep.who.to_owned(),
                        bare: is_bare,
                    };
                    self.ledger
                        .collect(app, number, &mark, Some(&act(release, sweep)))?;
                    swept.releases += 1;
                    let subject = Subject::Release {
                        app: app.clone(),
                        number,
                    };
                    swept.lines.push(gone(subject, release.record.bytes));
                    fault::point("store.gc.collect").map_err(CollectError::Interrupted)?;
                }
                Some(mark) if mark.bare != is_bare => {
                    let mark = Collected {
                        bare: is_bare,
                        ..mark.clone()
                    };
                    self.ledger.collect(app, number, &mark, None)?;
                }
                None | Some(_) => {}
            }
        }
        Ok(())
    }

    /// Removes one object, unless somebody brought it back since it was decided.
    fn remove(&self, object: Object) -> Result<bool, CollectError> {
        let _unrelied = self.places.once_unrelied();
        // After the other, as a commit does it: whoever lays out a chain holds it while it reads.
        let _turn = matches!(object, Object::Kept(_)).then(|| self.places.bringing());
        let is_back = match object {
            Object::Bundle(bundle) => self.places.has_bundle(bundle),
            Object::Kept(delta) => self.kept_by(delta).is_some(),
            Object::Manifest(id) => {
                let named = self.ledger.releases_of_id(&id)?;
                let mut kept = false;
                for (app, number) in named {
                    kept |= self.ledger.collected(&app, number)?.is_none();
                }
                // Kept against meanwhile, or given as a delta.
                kept |= self
                    .places
                    .links()
                    .iter()
                    .any(|(of, link)| *of == id || link.base == id);
                kept || self.ledger.begun_publish(&id)?.is_some()
            }
            Object::Delta(delta) => self.deltas.way_of(delta).is_some(),
        };
        if is_back {
            return Ok(false);
        }
        fault::point("store.gc.remove").map_err(CollectError::Interrupted)?;
        remove(self.blobs, self.places, object)?;
        if let Object::Bundle(bundle) = object {
            fault::point("store.gc.removed").map_err(CollectError::Interrupted)?;
            self.ledger.forget_bundle(&bundle)?;
        }
        Ok(true)
    }
}

fn is_due(marks: &Marks, key: &str, sweep: &Sweep<'_>) -> bool {
    let since = marks.since_ms.get(key);
    since.is_some_and(|since_ms| since_ms.saturating_add(sweep.wait_ms) <= sweep.now_ms)
}

fn gone(subject: Subject, bytes: u64) -> Line {
    Line {
        subject,
        bytes,
        fate: Fate::Gone,
        why: Vec::new(),
    }
}

fn act(release: &Judged, sweep: &Sweep<'_>) -> Act {
    Act {
        at_ms: sweep.now_ms,
        who: sweep.who.to_owned(),
        what: "collect".to_owned(),
        subject: format!("{}@{}", release.record.app, release.record.number),
        detail: release.record.id.to_string(),
    }
}
