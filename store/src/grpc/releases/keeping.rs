//! Whether a release's content is kept: pins, and what is collected.

use std::collections::BTreeMap;

use ship_model::digest::ReleaseId;
use ship_model::name::AppName;
use ship_model::release::{ReleaseNumber, ReleaseRecord};
use ship_proto::v1;
use tokio_stream::StreamExt as _;
use tonic::Status;

use super::ReleasesFace;
use crate::garbage::{Fate, Line, Subject};
use crate::grpc::face::Answers;
use crate::grpc::status;
use crate::ledger::{Collected, Ledger, LedgerError, Pin};

/// Longest reason of a pin in bytes.
const BECAUSE: usize = 1000;

/// Marks of an app's releases.
#[derive(Debug, Default)]
pub(super) struct Marks {
    pub collected: BTreeMap<ReleaseNumber, Collected>,
    pub pins: BTreeMap<ReleaseNumber, Pin>,
}

impl Marks {
    pub fn read(ledger: &Ledger, app: &AppName) -> Result<Self, LedgerError> {
        Ok(Self {
            collected: ledger.all_collected(app)?,
            pins: ledger.pins(app)?,
        })
    }

    /// As a list of releases shows them.
    pub fn flags(&self, number: ReleaseNumber) -> impl Iterator<Item = String> {
        let collected = self.collected.contains_key(&number).then_some("collected");
        let pinned = self.pins.contains_key(&number).then_some("pinned");
        collected.into_iter().chain(pinned).map(str::to_owned)
    }

    /// A record as one who asks for this one is told it.
    pub fn told(&self, record: ReleaseRecord) -> v1::ReleaseRecord {
        let collected = self.collected.get(&record.number);
        let pin = self.pins.get(&record.number);
        v1::ReleaseRecord {
            collected_at_ms: collected.map_or(0, |mark| mark.at_ms),
            pinned: pin.map_or_else(String::new, |pin| format!("{}: {}", pin.who, pin.because)),
            ..record.into()
        }
    }
}

impl ReleasesFace {
    /// Refuses to show a tree whose content was collected: parts of it may be there still.
    pub(super) async fn refuse_collected(&self, id: ReleaseId) -> Result<(), Status> {
        match self.face.ledger(move |ledger| ledger.content_of(&id)).await? {
            None => Ok(()),
            Some((app, number, mark)) => Err(status::collected(&app, number, &mark)),
        }
    }

    pub(super) async fn pinned(
        &self,
        request: v1::PinRequest,
        who: String,
    ) -> Result<v1::ReleaseRecord, Status> {
        let app = self.face.known_app(&request.app).await?;
        let number = ReleaseNumber(request.number);
        let because = request.because.trim().to_owned();
        if because.len() > BECAUSE || (because.is_empty() && !request.unpin) {
            let message = format!("say why in 1 to {BECAUSE} bytes, for whoever finds the pin in a year");
            return Err(status::invalid(message, "because"));
        }
        let pin = Pin {
            at_ms: self.face.clock.now_ms(),
            who,
            because,
        };
        // Whoever collects does not decide meanwhile.
        let _deciding = self.face.deciding.read().await;
        let (of, unpin) = (app.clone(), request.unpin);
        let done = self.face.ledger(move |ledger| {
            let Some(record) = ledger.release(&of, number)? else {
                return Ok(Err(None));
            };
            if let Some(mark) = ledger.collected(&of, number)? {
                return Ok(Err(Some(mark)));
            }
            if unpin {
                ledger.unpin(&of, number, &pin)?;
            } else {
                ledger.pin(&of, number, &pin)?;
            }
            Ok(Ok(Marks::read(ledger, &of)?.told(record)))
        });
        match done.await? {
            Ok(told) => Ok(told),
            Err(Some(mark)) => Err(status::collected(&app, number, &mark)),
            Err(None) => Err(status::no_release(&app, number)),
        }
    }

    pub(super) async fn collecting(
        &self,
        request: v1::CollectRequest,
        who: String,
    ) -> Result<Answers<v1::CollectLine>, Status> {
        let garbage = &self.rooms.garbage;
        let lines = if request.dry_run {
            let looked = garbage.look().await.map_err(status::broken_off)?;
            looked.map_err(|error| status::collect(&error))?
        } else {
            let done = garbage.collect(who, request.wait_ms).await;
            let done = done.map_err(status::broken_off)?;
            let (marked, swept) = done.map_err(|error| status::collect(&error))?;
            let mut lines = swept.lines;
            let waits = marked.into_iter().filter(|line| line.fate != Fate::Kept);
            let waits = waits.filter(|line| lines.iter().all(|gone| gone.subject != line.subject));
            let waits: Vec<Line> = waits.collect();
            lines.extend(waits);
            lines
        };
        let lines = tokio_stream::iter(lines).map(|line| Ok(worded(line)));
        Ok(Box::pin(lines))
    }
}

fn worded(line: Line) -> v1::CollectLine {
    let (kind, name) = match line.subject {
        Subject::Release { app, number } => ("release", format!("{app}@{number}")),
        Subject::Object(object) => (object.kind().as_str(), object.hex()),
    };
    let reasons = line.why.into_iter().map(|why| v1::CollectReason {
        kind: why.kind.to_owned(),
        words: why.words,
        until_ms: why.until_ms.unwrap_or(0),
    });
    v1::CollectLine {
        kind: kind.to_owned(),
        name,
        bytes: line.bytes,
        fate: line.fate.as_str().to_owned(),
        since_ms: match line.fate {
            Fate::Marked { since_ms } => since_ms,
            Fate::Kept | Fate::Unmarked | Fate::Gone => 0,
        },
        reasons: reasons.collect(),
    }
}
