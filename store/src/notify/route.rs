//! One route at work: from the chain of acts to whoever takes a message.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::settings::NotifySettings;
use super::sink::Sink;
use super::state::{Routes, Trouble};
use super::{Message, RouteState};
use crate::bridge::{Bridge, BrokenOff};
use crate::clock::Clock;
use crate::ledger::{AuditLink, Ledger, LedgerError};
use crate::log::whole;

/// Links that are read at once.
const PAGE: usize = 100;
/// Events that may wait for a route; of more, the newest are told, and the first of them says how many were left out.
const MOST_WAITING: u64 = 1000;
/// A sink that failed is left alone for so long, as long as another one takes what is to be told.
const REST: Duration = Duration::from_secs(30);
/// Pauses between tries when no sink takes a message.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);

/// What routes need.
#[derive(Debug, Clone)]
pub struct Parts {
    pub ledger: Ledger,
    pub bridge: Bridge,
    pub clock: Clock,
    /// The store's folder.
    pub dir: PathBuf,
    pub routes: Arc<Routes>,
    pub stop: CancellationToken,
}

/// Why no route is at work.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot tell how far `[[notify]]` is")]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    BrokenOff(#[from] BrokenOff),
}

/// Starts every route. One that is new tells what happens from here on; one that is no longer there is forgotten.
///
/// # Errors
/// [`StartError`]; no route was started.
pub async fn start(settings: &[NotifySettings], parts: &Parts) -> Result<(), StartError> {
    let (ledger, of) = (parts.ledger.clone(), settings.to_owned());
    let names = move || -> Result<Vec<u64>, LedgerError> {
        let names: Vec<_> = of.iter().map(|route| route.name.clone()).collect();
        ledger.keep_told(&names)?;
        names.iter().map(|name| ledger.told(name)).collect()
    };
    let told = parts.bridge.run(names).await??;
    for (settings, told) in settings.iter().zip(told) {
        parts.routes.note(&settings.name, |_| {});
        let sinks = settings.sinks.iter();
        let route = Route {
            sinks: sinks
                .map(|sink| (Sink::new(sink.clone(), &parts.dir), None))
                .collect(),
            settings: settings.clone(),
            parts: parts.clone(),
            told,
        };
        tokio::spawn(route.work());
    }
    Ok(())
}

/// The store ends.
struct Ended;

struct Route {
    settings: NotifySettings,
    /// With the time until which each is left alone.
    sinks: Vec<(Sink, Option<Instant>)>,
    parts: Parts,
    /// The last link that needs nothing any more.
    told: u64,
}

impl Route {
    async fn work(mut self) {
        // Listening begins before the first look, so that nothing falls between.
        let mut watch = self.parts.ledger.watch_audit();
        let stop = self.parts.stop.clone();
        let mut pause = FIRST_PAUSE;
        loop {
            match self.catch_up().await {
                Ok(Ok(())) => pause = FIRST_PAUSE,
                Ok(Err(Ended)) => return,
                Err(error) => {
                    let error = whole(&error);
                    tracing::warn!(route = %self.settings.name, error, "cannot read what is to be told");
                    tokio::select! {
                        () = tokio::time::sleep(pause) => pause = LAST_PAUSE.min(pause * 2),
                        () = stop.cancelled() => return,
                    }
                    continue;
                }
            }
            tokio::select! {
                seen = watch.next() => if seen.is_none() { return },
                () = stop.cancelled() => return,
            }
        }
    }

    /// Tells everything that is there.
    async fn catch_up(&mut self) -> Result<Result<(), Ended>, StartError> {
        let mut left_out = 0;
        let mut seen = self.told;
        loop {
            let (links, newest) = self.next_page(seen).await?;
            let Some(last) = links.last().map(|link| link.seq) else {
                return Ok(Ok(()));
            };
            for link in links {
                if !self.is_told(&link) {
                    continue;
                }
                if newest.saturating_sub(link.seq) >= MOST_WAITING {
                    left_out += 1;
                    continue;
                }
                let seq = link.seq;
                let message = Message::of(&self.settings, link, left_out).to_json();
                if let Err(ended) = self.deliver(&message, seq).await {
                    return Ok(Err(ended));
                }
                left_out = 0;
                self.remember(seq).await?;
            }
            seen = last;
            // As long as some are only counted, a crash must count them again.
            if left_out == 0 && seen > self.told {
                self.remember(seen).await?;
            }
        }
    }

    async fn next_page(&self, seen: u64) -> Result<(Vec<AuditLink>, u64), StartError> {
        let ledger = self.parts.ledger.clone();
        let read = move || -> Result<_, LedgerError> {
            let links = ledger.audit_after(seen, PAGE)?;
            let newest = ledger.audit_tail(1)?.last().map_or(0, |link| link.seq);
            Ok((links, newest))
        };
        Ok(self.parts.bridge.run(read).await??)
    }

    fn is_told(&self, link: &AuditLink) -> bool {
        matches(&self.settings.what, &link.what) && matches(&self.settings.subject, &link.subject)
    }

    async fn remember(&mut self, seq: u64) -> Result<(), StartError> {
        let (ledger, name) = (self.parts.ledger.clone(), self.settings.name.clone());
        let remember = move || ledger.set_told(&name, seq);
        self.parts.bridge.run(remember).await??;
        self.told = seq;
        Ok(())
    }

    /// Hands a message to the first sink that takes it; tries for ever, or until the store ends.
    async fn deliver(&mut self, message: &[u8], seq: u64) -> Result<(), Ended> {
        let mut pause = FIRST_PAUSE;
        // When all have failed, those that rest are asked, too.
        let mut is_last_resort = false;
        let stop = self.parts.stop.clone();
        loop {
            let round = self.round(message, seq, is_last_resort);
            let taken = tokio::select! {
                taken = round => taken,
                () = stop.cancelled() => return Err(Ended),
            };
            if taken {
                return Ok(());
            }
            if is_last_resort {
                tokio::select! {
                    () = tokio::time::sleep(pause) => pause = LAST_PAUSE.min(pause * 2),
                    () = stop.cancelled() => return Err(Ended),
                }
            }
            is_last_resort = true;
        }
    }

    /// Asks one sink after another; true when one took it.
    async fn round(&mut self, message: &[u8], seq: u64, also_resting: bool) -> bool {
        let name = &self.settings.name;
        let mut words = None;
        for (sink, rests_until) in &mut self.sinks {
            let rests = rests_until.is_some_and(|until| Instant::now() < until);
            if rests && !also_resting {
                continue;
            }
            match sink.tell(message).await {
                Ok(()) => {
                    if rests_until.take().is_some() {
                        tracing::info!(route = %name, sink = sink.name(), "the sink takes messages again");
                    }
                    self.parts.routes.note(name, |state| {
                        state.told += 1;
                        state.trouble = None;
                    });
                    return true;
                }
                Err(error) => {
                    let error = whole(&error);
                    if rests_until.is_none() {
                        tracing::warn!(route = %name, sink = sink.name(), error, "a sink did not take a message");
                    }
                    *rests_until = Some(Instant::now() + REST);
                    self.parts.routes.note(name, |state| state.failed += 1);
                    words = Some(format!("{}: {error}", sink.name()));
                }
            }
        }
        if let Some(words) = words.filter(|_| also_resting) {
            self.trouble(seq, words);
        }
        false
    }

    fn trouble(&self, seq: u64, words: String) {
        let since_ms = self.parts.clock.now_ms();
        self.parts
            .routes
            .note(&self.settings.name, |state: &mut RouteState| {
                let since_ms = state
                    .trouble
                    .as_ref()
                    .map_or(since_ms, |trouble| trouble.since_ms);
                state.trouble = Some(Trouble { since_ms, seq, words });
            });
    }
}

/// Whether a text is one of `patterns`: the same, or beginning as one that ends in `*`. Every text is one of none.
fn matches(patterns: &[String], text: &str) -> bool {
    patterns.is_empty()
        || patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(beginning) => text.starts_with(beginning),
            None => text == pattern,
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;

    #[test]
    fn patterns_are_words_or_their_beginning() {
        let of = |patterns: &[&str], text: &str| {
            let patterns: Vec<_> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
            matches(&patterns, text)
        };
        assert!(of(&[], "anything") && of(&["*"], "") && of(&["revert"], "revert"));
        assert!(of(&["promote", "deploy *"], "deploy 12"));
        assert!(!of(&["promote", "deploy *"], "revert") && !of(&["revert"], "reverted"));
    }
}
