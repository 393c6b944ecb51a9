//! Bars for work of a known length: on a terminal only.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Ui;

/// How far something is. On a pipe it shows nothing.
#[derive(Debug, Clone)]
pub struct Bar(ProgressBar);

impl Bar {
    /// Something that is told in bytes; 0: nobody knows how many.
    pub fn bytes(ui: &Ui, what: &str, total: u64) -> Self {
        let shape = if total == 0 {
            "{spinner} {msg} {decimal_bytes} {elapsed}"
        } else {
            "{spinner} {msg} [{bar:30}] {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}"
        };
        Self::new(ui, what, total, shape)
    }

    /// Something that only turns.
    pub fn spinner(ui: &Ui, what: &str) -> Self {
        Self::new(ui, what, 0, "{spinner} {msg} {elapsed}")
    }

    fn new(ui: &Ui, what: &str, total: u64, shape: &str) -> Self {
        let target = if ui.is_lively() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let length = (total > 0).then_some(total);
        let bar = ProgressBar::with_draw_target(length, target);
        if let Ok(style) = ProgressStyle::with_template(shape) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_message(what.to_owned());
        if ui.is_lively() {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        Self(bar)
    }

    /// Now it is known how much there is.
    pub fn set_length(&self, total: u64) {
        self.0.set_length(total);
    }

    pub fn add(&self, more: u64) {
        self.0.inc(more);
    }

    pub fn set_message(&self, what: impl Into<String>) {
        self.0.set_message(what.into());
    }

    /// A line above the bar; the only place for it while the bar moves.
    pub fn say(&self, ui: &Ui, text: &str) {
        if ui.is_lively() {
            self.0.suspend(|| ui.say(text));
        } else {
            ui.say(text);
        }
    }

    /// Takes the bar away; what there is to say is said in a line.
    pub fn clear(&self) {
        self.0.finish_and_clear();
    }
}
