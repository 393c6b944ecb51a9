//! `[gates]`: what this machine offers to the gates of environments.
//!
//! An environment's file comes from operators over the network; this one from whoever keeps the machine. So the former
//! names checks, and only what stands here can be run or asked: no operator runs programs of his own on the store's
//! machine, or looks at what only that machine can reach.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Most sites.
const MAX_SITES: usize = 100;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateSettings {
    /// A folder of programs that gates may run; none: no gate runs any. A relative path begins at the store's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub programs: Option<PathBuf>,
    /// Servers that gates may ask.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub site: Vec<GateSite>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateSite {
    /// What the URL of a gate begins with; ends in `/`.
    pub url: String,
    /// A file of headers that are sent, `Name: value` in each line; nobody but its owner may read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<PathBuf>,
}

impl GateSettings {
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// What is wrong with it.
    pub(super) fn defect(&self) -> Option<String> {
        if self.site.len() > MAX_SITES {
            return Some(format!("has more than {MAX_SITES} sites"));
        }
        let wrong = self.site.iter().find(|site| {
            let url = reqwest::Url::parse(&site.url).ok();
            !url.is_some_and(|url| {
                let web = matches!(url.scheme(), "http" | "https");
                let plain = url.username().is_empty() && url.password().is_none();
                let prefix = url.query().is_none() && url.fragment().is_none() && url.path().ends_with('/');
                web && plain && prefix
            })
        });
        wrong.map(|site| {
            format!(
                "has the site {:?}: it must be http://… or https://…, end in '/', and have no user, query or fragment",
                site.url
            )
        })
    }

    /// Paths begin at the store's `folder`.
    #[must_use]
    pub fn within(mut self, folder: &Path) -> Self {
        let begin = |path: &mut PathBuf| *path = folder.join(&*path);
        self.programs.iter_mut().for_each(begin);
        self.site
            .iter_mut()
            .flat_map(|site| &mut site.headers)
            .for_each(begin);
        self
    }
}

/// For whoever opens the file.
pub(super) const TEMPLATE: &str = r#"# [gates]                                     # what gates of environments may use on this machine; nothing unless it stands here
# programs = "/etc/ship/gates"                # a folder; its programs and itself are written by root or the store's user only
# [[gates.site]]                              # servers that gates may ask
# url = "http://prometheus:9090/"             # what their URLs begin with
# headers = "/etc/ship/prometheus.headers"    # optional: "Authorization: Bearer ..." in a file with mode 0600
"#;
