//! A stream that goes on until Ctrl-C, through restarts of the store.

use std::time::Duration;

use tonic::{Response, Status, Streaming};

use super::Outcome;
use crate::error::Exit;
use crate::patience::Patience;
use crate::signals::Stop;
use crate::ui::Ui;

/// For hosts to find a store again that was restarted, before it is asked for what they say.
const SETTLE: Duration = Duration::from_secs(1);

/// Calls `open` and takes each item, and with `again` does so anew when the stream breaks off; `take` leaves out what it
/// has seen. Ends at Ctrl-C, when nobody reads any more, and without `again` at the stream's end.
pub async fn follow<T, F>(
    again: bool,
    ui: &Ui,
    mut open: impl FnMut(bool) -> F,
    mut take: impl FnMut(&T),
) -> Outcome
where
    F: Future<Output = Result<Response<Streaming<T>>, Status>>,
{
    let mut stop = Stop::new()?;
    let mut patience = Patience::new(Duration::MAX);
    let following = async {
        let mut reopened = false;
        loop {
            let broken = match open(reopened).await {
                Ok(items) => {
                    patience.answered(|text| ui.say(text));
                    drain(items.into_inner(), ui, &mut take).await
                }
                Err(status) => Some(status),
            };
            match broken {
                _ if ui.is_deaf() => return Ok(Exit::Done),
                None if !again => return Ok(Exit::Done),
                Some(status) if !again => return Err(status.into()),
                None => {
                    patience
                        .after(Status::unavailable("it is being restarted"), |text| ui.say(text))
                        .await?
                }
                Some(status) => patience.after(status, |text| ui.say(text)).await?,
            }
            tokio::time::sleep(SETTLE).await;
            reopened = true;
        }
    };
    tokio::select! {
        ended = following => ended,
        () = stop.asked() => Ok(Exit::Done),
    }
}

/// Every item until the stream ends; the reason, when it broke off.
async fn drain<T>(mut items: Streaming<T>, ui: &Ui, take: &mut impl FnMut(&T)) -> Option<Status> {
    loop {
        match items.message().await {
            Ok(Some(item)) => take(&item),
            Ok(None) => return None,
            Err(status) => return Some(status),
        }
        if ui.is_deaf() {
            return None;
        }
    }
}
