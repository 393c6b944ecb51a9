//! A stream that goes on until Ctrl-C, through restarts of the store.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tonic::{Response, Status, Streaming};

use super::Outcome;
use crate::error::Exit;
use crate::patience::Patience;
use crate::signals::Stop;
use crate::ui::Ui;

/// For hosts to find a store again that was restarted, before it is asked for what they say.
const SETTLE: Duration = Duration::from_secs(1);

/// Before a stream in which somebody is missing is begun again: first, and at most.
const MISSING: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));

/// What an item says of the stream it is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    Item,
    /// Somebody is missing in this stream and may be there in the next.
    Missing,
}

/// Calls `open` and takes each item, and with `again` does so anew when the stream breaks off, or when somebody is
/// missing in it; `take` leaves out what it has seen. Ends at Ctrl-C, when nobody reads any more, and without `again` at the stream's end.
pub async fn follow<T, F>(
    again: bool,
    ui: &Ui,
    mut open: impl FnMut(bool) -> F,
    mut take: impl FnMut(&T) -> Said,
) -> Outcome
where
    F: Future<Output = Result<Response<Streaming<T>>, Status>>,
{
    let mut stop = Stop::new()?;
    let mut patience = Patience::new(Duration::MAX);
    let following = async {
        let (mut reopened, mut missing) = (false, MISSING.0);
        loop {
            let end = match open(reopened).await {
                Ok(items) => {
                    patience.answered(|text| ui.say(text));
                    drain(items.into_inner(), again.then_some(missing), ui, &mut take).await
                }
                Err(status) => End::Broke(status),
            };
            let broke = match end {
                _ if ui.is_deaf() => return Ok(Exit::Done),
                End::Whole if !again => return Ok(Exit::Done),
                End::Broke(status) if !again => return Err(status.into()),
                End::Missing => {
                    missing = (missing * 2).min(MISSING.1);
                    None
                }
                End::Whole => Some(Status::unavailable("it is being restarted")),
                End::Broke(status) => Some(status),
            };
            if let Some(status) = broke {
                patience.after(status, |text| ui.say(text)).await?;
                tokio::time::sleep(SETTLE).await;
                missing = MISSING.0;
            }
            reopened = true;
        }
    };
    tokio::select! {
        ended = following => ended,
        () = stop.asked() => Ok(Exit::Done),
    }
}

/// How one stream ended.
enum End {
    Whole,
    Broke(Status),
    /// It would have gone on, but without somebody.
    Missing,
}

/// Every item until the stream ends, or for `patience` after somebody was found missing.
#[allow(clippy::disallowed_methods, reason = "tokio's own clock, for its own timer")]
async fn drain<T>(
    mut items: Streaming<T>,
    patience: Option<Duration>,
    ui: &Ui,
    take: &mut impl FnMut(&T) -> Said,
) -> End {
    let mut until: Option<Instant> = None;
    while !ui.is_deaf() {
        let next = async {
            match until {
                Some(until) => timeout_at(until, items.message()).await.map_err(drop),
                None => Ok(items.message().await),
            }
        };
        match next.await {
            Ok(Ok(Some(item))) => {
                if take(&item) == Said::Missing
                    && until.is_none()
                    && let Some(patience) = patience
                {
                    until = Instant::now().checked_add(patience);
                }
            }
            Ok(Ok(None)) => return End::Whole,
            Ok(Err(status)) => return End::Broke(status),
            Err(()) => return End::Missing,
        }
    }
    End::Whole
}
