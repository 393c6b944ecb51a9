//! What lies on this host: listed, and swept of what nobody wants.

use ship_model::release::Target;

use super::app::App;
use crate::session::chain;
use crate::stage::{self, Here};

impl App {
    pub(super) fn sweep(&self) {
        let links = crate::switch::Links::read(self.layout());
        let mut spare: Vec<String> = links.current.into_iter().chain(links.previous).collect();
        spare.extend(super::retire::folders_in_use(self.layout()));
        let spare: Vec<&str> = spare.iter().map(String::as_str).collect();
        let wanted = self.wanted_folders();
        let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
        match stage::sweep(self.layout(), &spare, &wanted) {
            Ok(swept) if swept.is_empty() => {}
            Ok(swept) => tracing::info!(swept = swept.join(", "), "leftovers taken away"),
            Err(error) => tracing::warn!(error = chain(&error), "leftovers not taken away"),
        }
    }

    /// Folders of all that should lie here, and of what a word on this host holds.
    fn wanted_folders(&self) -> Vec<String> {
        let record = self.record();
        let desired = record.desired.iter();
        let wanted = desired.flat_map(|desired| desired.stage.iter().chain(&desired.run));
        let held = record.held.iter().map(|held| &held.to);
        wanted.chain(held).map(Target::folder).collect()
    }

    /// What unfinished stagings left of releases that nobody wants any more goes as soon as nothing else is under way.
    pub(super) fn tidy(&mut self) {
        if !self.untidy || self.job.is_some() {
            return;
        }
        self.untidy = false;
        let wanted = self.wanted_folders();
        let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
        match stage::sweep_kept(self.layout(), &wanted) {
            Ok(swept) if swept.is_empty() => {}
            Ok(swept) => tracing::info!(
                swept = swept.join(", "),
                "what was fetched for nothing is taken away"
            ),
            Err(error) => tracing::warn!(
                error = chain(&error),
                "what was fetched for nothing is not taken away"
            ),
        }
    }

    pub(super) fn relist(&mut self) {
        match stage::list(self.layout()) {
            Ok(here) => self.here = here,
            Err(error) => tracing::error!(error = chain(&error), "releases cannot be listed"),
        }
    }

    /// Somebody may have taken a release away by hand.
    pub(super) fn relist_if_gone(&mut self) {
        let gone = |release: &Here| !self.layout().release(&release.target).is_dir();
        if self.here.iter().any(gone) {
            tracing::warn!("a release is gone from this host");
            self.relist();
        }
    }

    /// Releases that lie here as they were published.
    pub(super) fn staged(&self) -> Vec<Target> {
        let whole = self.here.iter().filter(|release| release.is_whole());
        whole.map(|release| release.target).collect()
    }

    /// As [`Self::staged`], for the rule: a damaged release that should lie here counts as missing, so that it is mended;
    /// one that nobody wants counts as there, so that it is taken away; and one that somebody forced the host to is used.
    pub(super) fn lying(&self) -> Vec<Target> {
        let wanted = self.wanted_folders();
        let held = self.record().held.as_ref().map(|held| held.to);
        let counts = |release: &&Here| {
            release.is_whole() || held == Some(release.target) || !wanted.contains(&release.target.folder())
        };
        self.here
            .iter()
            .filter(counts)
            .map(|release| release.target)
            .collect()
    }
}
