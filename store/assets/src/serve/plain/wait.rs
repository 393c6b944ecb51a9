//! Waiting with a deadline, with one timer for a connection's life.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFuture;

/// What becomes of a wait when the port is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnStop {
    End,
    /// What is under way may go on for as long as the limits grant.
    Finish,
}

/// How long a connection waits for anything.
pub(super) struct Patience<'a, 's> {
    /// Never later than the deadline that is waited for; earlier often: it is moved when it fires, not at every wait.
    alarm: Pin<&'a mut Sleep>,
    stopped: Pin<&'a mut WaitForCancellationFuture<'s>>,
    grace: Duration,
    /// When everything ends, once the port was told to stop.
    end: Option<Instant>,
}

impl<'a, 's> Patience<'a, 's> {
    pub fn new(
        alarm: Pin<&'a mut Sleep>,
        stopped: Pin<&'a mut WaitForCancellationFuture<'s>>,
        grace: Duration,
    ) -> Self {
        Self {
            alarm,
            stopped,
            grace,
            end: None,
        }
    }

    /// What `poll` gives; none: not before `until`, or not before the port stopped.
    pub async fn wait<T>(
        &mut self,
        until: Instant,
        on_stop: OnStop,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Option<T> {
        poll_fn(|cx| match poll(cx) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => self.poll_over(until, on_stop, cx).map(|()| None),
        })
        .await
    }

    fn poll_over(&mut self, until: Instant, on_stop: OnStop, cx: &mut Context<'_>) -> Poll<()> {
        if self.end.is_none() && self.stopped.as_mut().poll(cx).is_ready() {
            self.end = Some(Instant::now() + self.grace);
        }
        let until = match self.end {
            Some(_) if on_stop == OnStop::End => return Poll::Ready(()),
            Some(end) => until.min(end),
            None => until,
        };
        if until < self.alarm.deadline() {
            self.alarm.as_mut().reset(until);
        }
        while self.alarm.as_mut().poll(cx).is_ready() {
            if Instant::now() >= until {
                return Poll::Ready(());
            }
            self.alarm.as_mut().reset(until);
        }
        Poll::Pending
    }
}
