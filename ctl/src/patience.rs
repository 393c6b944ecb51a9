//! Waiting for a store that is away. A store is restarted now and then, so what may be asked again is asked again,
//! aloud, until a deadline.

use std::time::Duration;

use tonic::Status;

use crate::clock::Watch;
use crate::error::{CommandError, is_passing};
use crate::words::duration;

/// Between two tries: first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Most that one failing try counts: a long upload that broke at its end was no waiting.
const TRY: Duration = Duration::from_secs(10);

/// How long one command waits for the store, and how long it has.
#[derive(Debug)]
pub struct Patience {
    limit: Duration,
    pause: Duration,
    waited: Duration,
    /// The try under way began here; none before the first failure.
    tried: Option<Watch>,
    away: Option<Watch>,
}

/// A call that is not made again.
#[derive(Debug)]
pub struct GaveUp {
    /// How long the store was waited for; none when it answered, and refused.
    pub waited: Option<Duration>,
    pub status: Box<Status>,
}

impl Patience {
    /// Gives up after waiting for `limit`, all times together: a store that dies of every call is not asked for ever.
    pub const fn new(limit: Duration) -> Self {
        Self {
            limit,
            pause: PAUSE.0,
            waited: Duration::ZERO,
            tried: None,
            away: None,
        }
    }

    /// Returns when it is time to call again; the failure, when no further call may help.
    pub async fn after(&mut self, status: Status, say: impl Fn(&str)) -> Result<(), GaveUp> {
        let passing = is_passing(&status);
        self.waited += self
            .tried
            .map_or(Duration::ZERO, |tried| tried.elapsed().min(TRY));
        if !passing || self.waited >= self.limit {
            return Err(GaveUp {
                waited: passing.then_some(self.waited),
                status: Box::new(status),
            });
        }
        if self.away.is_none() {
            say(&format!("store unreachable, trying again: {}", reason(&status)));
            self.away = Some(Watch::start());
        }
        let pause = self.pause.min(self.limit - self.waited);
        tokio::time::sleep(pause).await;
        self.waited += pause;
        self.pause = (self.pause * 2).min(PAUSE.1);
        self.tried = Some(Watch::start());
        Ok(())
    }

    /// The store has answered.
    pub fn answered(&mut self, say: impl Fn(&str)) {
        self.tried = None;
        if let Some(away) = self.away.take() {
            say(&format!("the store is back after {}", duration(away.elapsed())));
        }
    }
}

/// The innermost cause says most: `Connection refused`.
fn reason(status: &Status) -> String {
    let told = CommandError::from(status.clone());
    let reason = match told.causes().last() {
        Some(cause) => cause.clone(),
        None => crate::words::clean(status.message()),
    };
    // Where a library explains itself is not why the store is away.
    match reason.split_once(": https://") {
        Some((reason, _)) => reason.to_owned(),
        None => reason,
    }
}

impl From<GaveUp> for CommandError {
    fn from(gave_up: GaveUp) -> Self {
        let fault = Self::from(*gave_up.status);
        match gave_up.waited {
            None => fault,
            Some(waited) => fault.after_waiting(&format!(
                "gave up after waiting {} for the store",
                duration(waited)
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use std::cell::RefCell;

    use super::*;

    #[tokio::test]
    async fn it_is_said_once_that_the_store_is_away_and_once_that_it_is_back() {
        let said = RefCell::new(Vec::new());
        let say = |text: &str| said.borrow_mut().push(text.to_owned());
        let mut patience = Patience::new(Duration::from_secs(60));
        for _ in 0..2 {
            patience.after(Status::unavailable("gone"), say).await.unwrap();
        }
        patience.answered(say);
        patience.answered(say);
        let said = said.into_inner();
        assert_eq!(said.len(), 2, "{said:?}");
        assert_eq!(said[0], "store unreachable, trying again: gone");
        assert!(said[1].starts_with("the store is back after"), "{said:?}");
    }

    #[test]
    fn a_reason_is_no_manual() {
        let long = Status::unavailable("peer closed connection: https://docs.rs/rustls/latest#eof");
        assert_eq!(reason(&long), "peer closed connection");
    }

    #[tokio::test]
    async fn patience_has_an_end_and_none_for_a_refusal() {
        let mut patience = Patience::new(Duration::from_millis(150));
        let gave_up = loop {
            if let Err(gave_up) = patience.after(Status::unavailable("gone"), |_| ()).await {
                break gave_up;
            }
        };
        assert!(gave_up.waited.is_some());
        let fault = CommandError::from(gave_up);
        assert!(fault.message().starts_with("gave up after waiting"), "{fault:?}");
        assert_eq!(fault.causes(), ["the store did not answer: gone"]);
        let refused = Status::invalid_argument("no");
        assert!(
            patience
                .after(refused, |_| ())
                .await
                .unwrap_err()
                .waited
                .is_none()
        );
    }
}
