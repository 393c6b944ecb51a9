//! Taking what should be: a newer word is made durable before anything is done about it, an older one is refused.

use ship_model::converge::{Offer, offer};
use ship_model::desired::DesiredApp;

use super::app::App;
use super::mailbox::Wish;
use crate::session::chain;

impl App {
    /// Takes a wish, and once it stands what expired with it and whether the host is drained. Those alone may be new: they
    /// change nothing of an epoch's content.
    pub(super) fn hear_wish(&mut self, wish: Wish) {
        self.offer(&wish);
        if self.record().desired.as_ref() == Some(&wish.app) {
            self.unsaved = (!self.hear_drained(wish.drained)).then(|| wish.clone());
            self.hear_expired(wish.expired);
        }
    }

    /// The fence: a newer epoch is made durable and then acted on; an older one is refused whoever sends it.
    fn offer(&mut self, wish: &Wish) {
        let desired: DesiredApp = wish.app.clone();
        if self.refused.as_ref() == Some(&desired) {
            return;
        }
        let record = self.record();
        let (epoch, seen) = (desired.epoch, record.epoch);
        match offer(seen, record.desired.as_ref(), &desired, &self.config.env) {
            Offer::Known => return,
            Offer::Take => {}
            Offer::Refuse(why) => {
                tracing::warn!(%epoch, %seen, %why, "desired state refused");
                self.refused = Some(desired);
                return;
            }
        }
        let (run, deploy) = (desired.run, desired.deploy);
        let _ = ship_durable::fault::point("agent.fence.before");
        let taken = desired.clone();
        if let Err(error) = self.journal.change(|record| record.take(taken)) {
            if self.unsaved.is_none() {
                tracing::error!(
                    error = chain(&error),
                    "desired state not taken yet: it cannot be saved"
                );
            }
            self.unsaved = Some(wish.clone());
            return;
        }
        let _ = ship_durable::fault::point("agent.fence.after");
        let release = run.map_or_else(|| "-".to_owned(), |run| run.number.to_string());
        tracing::info!(%epoch, release, %deploy, "desired state taken");
        self.refused = None;
        self.unsaved = None;
        self.unsaved_failure = None;
        self.given_up.clear();
        self.untidy = true;
        let goal = self.goal();
        self.asked = self.asked.take().filter(|asked| Some(asked.target) == goal);
    }
}
