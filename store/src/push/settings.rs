//! What a `store.toml` says of pushes.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use ship_model::name::{AppName, EnvName, HostName};

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
    pub folder: PathBuf,
}

/// What is wrong with a `[[push]]`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PushDefect {
    #[error("{env}/{name} is there twice")]
    Twice { env: EnvName, name: HostName },
    #[error("{name}: folder must be an absolute path, not {}", folder.display())]
    Relative { name: HostName, folder: PathBuf },
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
        if !push.folder.is_absolute() {
            return Err(PushDefect::Relative {
                name: name(),
                folder: push.folder.clone(),
            });
        }
    }
    Ok(())
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
        let checked = |folders: &[&str]| {
            let one =
                |folder: &&str| format!("[[push]]\nname = \"cdn\"\nenv = \"dev\"\nfolder = \"{folder}\"\n");
            let read: Given = toml::from_str(&folders.iter().map(one).collect::<String>()).unwrap();
            check(&read.push).map_err(|defect| defect.to_string())
        };
        assert_eq!(checked(&["/mnt/cdn"]), Ok(()));
        assert!(checked(&["cdn"]).unwrap_err().contains("absolute"));
        assert!(
            checked(&["/a", "/b"])
                .unwrap_err()
                .contains("dev/cdn is there twice")
        );
    }
}
