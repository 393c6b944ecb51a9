//! What a `store.toml` says of pushes.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use ship_bucket::{BucketDefect, BucketSettings};
use ship_model::name::{AppName, EnvName, HostName};

/// What a new `store.toml` says of pushes.
pub const TEMPLATE: &str = r#"# [[push]]                                    # assets go there before any host is switched
# name = "cdn"
# env = "production"
# folder = "/mnt/cdn"
# keep = true                                 # `shipctl asset gc` removes nothing there: others rely on it as well
# [[push]]
# name = "bucket"
# env = "production"
# s3 = { bucket = "assets", endpoint = "https://s3.example.com", credentials = "s3.toml", ca = "s3-ca.pem" }
"#;

/// One `[[push]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushSettings {
    /// Its name among the hosts of its environment.
    pub name: HostName,
    pub env: EnvName,
    /// Only the assets of these apps; none: of all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub apps: Vec<AppName>,
    /// Where pages find what was pushed, as `status` tells it: `https://cdn.example.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// A folder that is there, such as another machine's that is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// Nothing is ever removed there, also not what has expired: where others rely on it as well.
    #[serde(default, skip_serializing_if = "is_false")]
    pub keep: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<BucketSettings>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

impl PushSettings {
    /// Whether another goes to the same place.
    pub fn goes_where(&self, other: &Self) -> bool {
        match (&self.s3, &other.s3) {
            (Some(one), Some(two)) => {
                let place = |bucket: &BucketSettings| {
                    let endpoint = bucket.endpoint.as_deref().unwrap_or(&bucket.region);
                    let endpoint = endpoint.trim_end_matches('/').to_owned();
                    (endpoint, bucket.bucket.clone(), bucket.prefix.clone())
                };
                place(one) == place(two)
            }
            (None, None) => self.folder == other.folder,
            _ => false,
        }
    }
}

/// What is wrong with a `[[push]]`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PushDefect {
    #[error("{env}/{name} is there twice")]
    Twice { env: EnvName, name: HostName },
    #[error("{name} goes nowhere, or to two places: it needs either `folder` or `[push.s3]`")]
    Places { name: HostName },
    #[error("{name}: folder must be an absolute path, not {}", folder.display())]
    Relative { name: HostName, folder: PathBuf },
    #[error("{name}: endpoint must be https://HOST, or http://HOST with plain_http = true, not {endpoint:?}")]
    Endpoint { name: HostName, endpoint: String },
    #[error("{name}: {defect}")]
    Bucket { name: HostName, defect: BucketDefect },
}

/// The first thing that is wrong with `pushes`.
pub fn check(pushes: &[PushSettings]) -> Result<(), PushDefect> {
    let mut names = BTreeSet::new();
    for push in pushes {
        let name = || push.name.clone();
        if !names.insert((&push.env, &push.name)) {
            return Err(PushDefect::Twice {
                env: push.env.clone(),
                name: name(),
            });
        }
        match (&push.folder, &push.s3) {
            (Some(folder), None) if folder.is_absolute() => {}
            (Some(folder), None) => {
                return Err(PushDefect::Relative {
                    name: name(),
                    folder: folder.clone(),
                });
            }
            (None, Some(bucket)) => check_bucket(bucket, &push.name)?,
            _ => return Err(PushDefect::Places { name: name() }),
        }
    }
    Ok(())
}

fn check_bucket(bucket: &BucketSettings, name: &HostName) -> Result<(), PushDefect> {
    let name = name.clone();
    bucket.check().map_err(|defect| match defect {
        BucketDefect::Endpoint { endpoint } => PushDefect::Endpoint { name, endpoint },
        defect => PushDefect::Bucket { name, defect },
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;

    #[derive(Deserialize)]
    struct Given {
        push: Vec<PushSettings>,
    }

    #[test]
    fn what_is_wrong_with_a_push_is_named() {
        let checked = |text: &str| {
            let read: Given = toml::from_str(text).unwrap();
            check(&read.push).map_err(|defect| defect.to_string())
        };
        let head = "[[push]]\nname = \"cdn\"\nenv = \"dev\"\n";
        let s3 =
            |words: &str| format!("{head}[push.s3]\nbucket = \"b\"\ncredentials = \"s3.toml\"\n{words}\n");
        assert_eq!(checked(&format!("{head}folder = \"/mnt/cdn\"\n")), Ok(()));
        assert_eq!(checked(&s3("")), Ok(()));
        assert_eq!(checked(&s3("endpoint = \"http://x\"\nplain_http = true")), Ok(()));
        for (text, part) in [
            (head.to_owned(), "either `folder` or"),
            (format!("{head}folder = \"cdn\"\n"), "absolute"),
            (
                format!("{head}folder = \"/a\"\n{head}folder = \"/b\"\n"),
                "dev/cdn is there twice",
            ),
            (s3("endpoint = \"http://x\""), "plain_http"),
            (s3("prefix = \"/web\""), "prefix"),
            (s3("answer_seconds = 0"), "answer_seconds"),
        ] {
            let said = checked(&text).unwrap_err();
            assert!(said.contains(part), "{said}");
        }
    }
}
