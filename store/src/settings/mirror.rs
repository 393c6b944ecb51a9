//! `[[mirror]]`: where hosts may get bundles besides the store.

use serde::{Deserialize, Serialize};
use ship_model::mirror::MirrorUrl;
use ship_model::name::{ClassName, EnvName};

/// A server that has bundles and deltas as plain files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MirrorSettings {
    pub url: MirrorUrl,
    /// For hosts of this environment only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<EnvName>,
    /// For hosts of this class only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<ClassName>,
}

impl MirrorSettings {
    /// Whether a host of these classes may ask it.
    pub fn is_for(&self, env: &EnvName, classes: &[ClassName]) -> bool {
        self.env.as_ref().is_none_or(|only| only == env)
            && self.class.as_ref().is_none_or(|only| classes.contains(only))
    }
}

/// For whoever opens the file.
pub(super) const TEMPLATE: &str = r#"# [[mirror]]                                  # hosts ask it before this store, and check every byte; first in the file, first asked
# url = "https://mirror.example.com/ship"     # has bundles/DIGEST and deltas/DIGEST, as `shipstore mirror` writes them
# env = "production"                          # optional: for its hosts only
# class = "web"                               # optional: for hosts of this class only
"#;
