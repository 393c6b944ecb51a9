//! What the keeper says for itself: lines in the app's log, and notes for operators.

use super::{Keeper, MAX_NOTES};
use crate::clock::rfc3339_now;
use crate::log::Line;

/// Generations whose release and deploy are remembered for the log; more than live at once.
const MAX_LABELS: usize = 16;

/// What a generation's lines are marked with.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Label {
    release: u64,
    deploy: u64,
}

impl Keeper {
    /// Writes a line of the keeper's own into the app's log. Without a generation, it is about the one that is on its way, or
    /// else the one that users get.
    pub(super) fn tell(&mut self, generation: Option<u64>, words: &str) {
        let (number, label) = match generation {
            Some(number) => (number, self.labels.get(&number).copied().unwrap_or_default()),
            None => self.subject(),
        };
        let line = Line {
            ts: &rfc3339_now(),
            app: &self.config.app,
            host: &self.config.host,
            release: label.release,
            deploy: label.deploy,
            r#gen: number,
            process: "",
            pid: std::process::id(),
            stream: "keeper",
            line: words,
            more: false,
        };
        self.log.write(&line);
    }

    fn subject(&self) -> (u64, Label) {
        let rising = self.state.rising.as_ref().map(|rising| &rising.generation);
        let number = rising.or(self.state.active.as_ref()).map(|found| found.number);
        let known = number.and_then(|number| self.labels.get_key_value(&number));
        // With nothing there, the latest that was.
        let known = known.or_else(|| self.labels.last_key_value());
        known.map_or((0, Label::default()), |(number, label)| (*number, *label))
    }

    /// Lines about a generation name its release, also when the machine has forgotten it.
    pub(super) fn remember_labels(&mut self) {
        for (generation, _) in self.state.generations() {
            let label = Label {
                release: generation.intent.release,
                deploy: generation.intent.deploy,
            };
            self.labels.insert(generation.number, label);
        }
        while self.labels.len() > MAX_LABELS {
            self.labels.pop_first();
        }
    }

    /// Tells operators something they should know, in status and log.
    pub(super) fn note(&mut self, words: String) {
        self.tell(None, &words);
        if self.notes.back() != Some(&words) {
            if self.notes.len() >= MAX_NOTES {
                self.notes.pop_front();
            }
            self.notes.push_back(words);
            self.revision += 1;
        }
    }
}
