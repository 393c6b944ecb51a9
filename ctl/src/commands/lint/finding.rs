//! What was found, so that a person sees the first of each kind and a program all of them.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::ui::Ui;
use crate::words::{clean, count};

/// Most of one kind that are kept.
const KEPT: usize = 1000;
/// Most of one kind that a person is shown.
const SHOWN: usize = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The store would refuse the release.
    Clash,
    /// Named, and not there.
    Missing,
    /// A mutable asset whose bytes are not those of the running release.
    Changes,
    /// Neither a fingerprint nor named mutable.
    NoFingerprint,
    /// Source maps that everybody can fetch.
    PublicMaps,
    /// A pattern of private files that no file fits.
    NothingPrivate,
    /// Too large, or gone: not looked into.
    Unread,
}

impl Kind {
    /// What to do about it.
    const fn hint(self) -> &'static str {
        match self {
            Self::Clash => "a fingerprinted name never changes its bytes: rebuild, or list it as mutable",
            Self::Missing => {
                "whoever opens the page will not find it; if the app itself answers there, all is well"
            }
            Self::Changes => "pages that are open get the new bytes under the old name",
            Self::NoFingerprint => {
                "an open page gets other bytes for these after the next release, or none: let the build name them by their \
                 content, or list them as mutable if that is meant"
            }
            Self::PublicMaps => "private = [\"*.map\"] in [[assets]] keeps source maps from the public",
            Self::NothingPrivate => {
                "a pattern is relative to the root; without a slash it is compared with names alone"
            }
            Self::Unread => "",
        }
    }
}

#[derive(Debug, Serialize)]
pub struct Finding {
    pub kind: Kind,
    /// The file of the release.
    pub path: String,
    /// Where in it, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The address that is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    pub text: String,
}

#[derive(Debug, Default)]
pub struct Findings {
    by_kind: BTreeMap<Kind, Vec<Finding>>,
    left_out: BTreeMap<Kind, u64>,
}

impl Findings {
    pub fn add(&mut self, finding: Finding) {
        let known = self.by_kind.entry(finding.kind).or_default();
        if known.len() < KEPT {
            known.push(finding);
        } else {
            *self.left_out.entry(finding.kind).or_default() += 1;
        }
    }

    pub fn any(&self) -> bool {
        !self.by_kind.is_empty()
    }

    pub fn all(&self) -> Vec<&Finding> {
        self.by_kind.values().flatten().collect()
    }

    pub fn left_out(&self) -> u64 {
        self.left_out.values().sum()
    }

    pub fn show(&self, ui: &Ui) {
        for (kind, all) in &self.by_kind {
            for finding in all.iter().take(SHOWN) {
                let line = finding.line.map(|line| format!(":{line}")).unwrap_or_default();
                ui.warn(format!(
                    "{}{line}: {}",
                    clean(&finding.path),
                    clean(&finding.text)
                ));
            }
            let left_out = self.left_out.get(kind).copied().unwrap_or_default();
            let more = all.len().saturating_sub(SHOWN) as u64 + left_out;
            if more > 0 {
                ui.warn(format!(
                    "and {} of this kind (-o json)",
                    count(more, "more finding")
                ));
            }
            if !kind.hint().is_empty() {
                ui.hint(kind.hint());
            }
        }
    }
}
