//! What was served, and what was lost.

use std::time::Duration;

use super::load::{Followed, Report};
use crate::ui::{BAD, BOLD, GOOD, Ui, paint};
use crate::words::{bytes, clean, duration, thousands};

/// The figures of one demo.
#[derive(Debug, Default)]
pub struct Account {
    /// One report of each group of users.
    pub users: Vec<Report>,
    pub followed: Vec<Followed>,
    /// Bytes by which publishes made the store grow, and that hosts fetched for versions 1 and 2.
    pub stored_bytes: u64,
    pub fetched_bytes: u64,
    /// From the command to the first answer of the new release, and to its end.
    pub promote_first: Duration,
    pub promote_all: Duration,
    pub revert_first: Duration,
    pub revert_last_old: Duration,
    pub revert_all: Duration,
    /// Requests that the broken release answered: users saw it.
    pub broken_answers: u64,
}

impl Account {
    fn sum(&self, of: impl Fn(&Report) -> u64) -> u64 {
        self.users.iter().map(of).sum()
    }

    fn assets(&self, of: impl Fn(&Followed) -> u64) -> u64 {
        self.followed.iter().map(of).sum()
    }

    fn lost_assets(&self) -> u64 {
        self.assets(|followed| followed.missing + followed.changed + followed.bad)
    }

    /// Whether nothing was lost.
    pub fn is_clean(&self) -> bool {
        self.sum(|users| users.failed) == 0
            && self.sum(|users| users.sent) > 0
            && self.lost_assets() == 0
            && self.assets(|followed| followed.assets_asked) > 0
            && self.broken_answers == 0
    }

    pub fn show(&self, took: Duration, ui: &Ui) {
        if ui.is_json() {
            ui.json(&self.json(took));
            return;
        }
        ui.line("");
        let verdict = match self.is_clean() {
            true => paint(GOOD, "Nothing was lost."),
            false => paint(BAD, "Something was lost."),
        };
        ui.line(paint(BOLD, verdict));
        for (name, value) in self.lines(took) {
            ui.line(format!("  {name:<34} {value}"));
        }
        self.losses()
            .iter()
            .for_each(|line| ui.line(format!("  {}", paint(BAD, line))));
    }

    fn lines(&self, took: Duration) -> Vec<(&'static str, String)> {
        let worst = |of: fn(&Report) -> f64| self.users.iter().map(of).fold(0.0, f64::max);
        let mut lines = vec![
            (
                "requests sent / failed",
                format!(
                    "{} / {}",
                    thousands(self.sum(|users| users.sent)),
                    thousands(self.sum(|users| users.failed))
                ),
            ),
            ("answers of the broken release", thousands(self.broken_answers)),
            (
                "assets asked / missing",
                format!(
                    "{} / {}",
                    thousands(self.assets(|followed| followed.assets_asked)),
                    thousands(self.lost_assets())
                ),
            ),
            (
                "bytes published / fetched by hosts",
                format!("{} / {}", bytes(self.stored_bytes), bytes(self.fetched_bytes)),
            ),
            (
                "promote: first new answer / done",
                format!(
                    "{} / {}",
                    duration(self.promote_first),
                    duration(self.promote_all)
                ),
            ),
            (
                "revert: first old answer / last new",
                format!(
                    "{} / {}",
                    duration(self.revert_first),
                    duration(self.revert_last_old)
                ),
            ),
            ("revert: done everywhere", duration(self.revert_all)),
            (
                "slowest 1 % of answers",
                format!(
                    "{:.1} ms new connections, {:.1} ms kept open",
                    worst(|users| users.connection.latency_ms.p99),
                    worst(|users| users.keep_alive.latency_ms.p99)
                ),
            ),
            ("all of it took", duration(took)),
        ];
        let late = self.sum(|users| users.late_starts);
        if late > 0 {
            lines.push(("requests that this machine sent late", thousands(late)));
        }
        lines
    }

    fn losses(&self) -> Vec<String> {
        let classes = self.users.iter().flat_map(|users| &users.failures);
        let requests = classes.filter(|(_, count)| **count > 0);
        let requests = requests.map(|(class, count)| format!("{count} × {}", clean(class)));
        let assets = self
            .followed
            .iter()
            .flat_map(|followed| &followed.failed)
            .take(20);
        let assets = assets.map(|asset| format!("{} {}", clean(&asset.url), clean(&asset.detail)));
        requests.chain(assets).collect()
    }

    fn json(&self, took: Duration) -> serde_json::Value {
        let ms = |length: Duration| u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
        serde_json::json!({
            "clean": self.is_clean(),
            "requests_sent": self.sum(|users| users.sent),
            "requests_failed": self.sum(|users| users.failed),
            "broken_answers": self.broken_answers,
            "pages": self.assets(|followed| followed.pages),
            "assets_asked": self.assets(|followed| followed.assets_asked),
            "assets_missing": self.lost_assets(),
            "stored_bytes": self.stored_bytes,
            "fetched_bytes": self.fetched_bytes,
            "promote_first_answer_ms": ms(self.promote_first),
            "promote_ms": ms(self.promote_all),
            "revert_first_answer_ms": ms(self.revert_first),
            "revert_last_new_answer_ms": ms(self.revert_last_old),
            "revert_ms": ms(self.revert_all),
            "late_starts": self.sum(|users| users.late_starts),
            "took_ms": ms(took),
            "losses": self.losses(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Account {
        Account {
            users: vec![Report {
                sent: 10,
                ok: 10,
                ..Report::default()
            }],
            followed: vec![Followed {
                pages: 1,
                assets_asked: 5,
                ..Followed::default()
            }],
            ..Account::default()
        }
    }

    #[test]
    fn one_loss_of_any_kind_is_a_loss() {
        assert!(good().is_clean());
        let mut bad = [good(), good(), good(), good(), good()];
        bad[0].users[0].failed = 1;
        bad[1].followed[0].missing = 1;
        bad[2].followed[0].changed = 1;
        bad[3].broken_answers = 1;
        bad[4].users[0].sent = 0;
        for account in bad {
            assert!(!account.is_clean(), "{account:?}");
        }
        assert!(!Account::default().is_clean(), "nothing asked proves nothing");
    }
}
