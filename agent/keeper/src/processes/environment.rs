//! The environment of an app's process: what the host gives, what the release says, what the operator keeps, what is ours.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Variables taken over from the keeper's own environment.
const INHERITED: [&str; 7] = ["PATH", "LANG", "TZ", "HOME", "USER", "LOGNAME", "TMPDIR"];
/// When the keeper itself has no PATH.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Bytes of an environment file.
const MAX_FILE: u64 = 1024 * 1024;

/// Variables by name.
pub type Environment = BTreeMap<String, String>;

/// Why an environment file cannot be used.
#[derive(Debug, Error)]
pub enum EnvironmentError {
    /// It cannot be read.
    #[error("cannot read the environment file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line is no `KEY=VALUE`. The line itself is not shown: it may hold a secret.
    #[error("line {line} of {} is no KEY=VALUE", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Its number, from 1.
        line: usize,
    },
}

/// What the host gives, then the file, then the release's own, later ones winning.
///
/// # Errors
/// When the file is named but cannot be used.
pub fn environment(
    file: Option<&Path>,
    release: &BTreeMap<String, String>,
) -> Result<Environment, EnvironmentError> {
    let mut all: Environment = std::env::vars()
        .filter(|(name, _)| INHERITED.contains(&name.as_str()) || name.starts_with("LC_"))
        .collect();
    all.entry("PATH".to_owned()).or_insert_with(|| PATH.to_owned());
    if let Some(path) = file {
        all.extend(read_file(path)?);
    }
    all.extend(release.iter().map(|(name, value)| (name.clone(), value.clone())));
    Ok(all)
}

fn read_file(path: &Path) -> Result<Environment, EnvironmentError> {
    let read_error = |source| EnvironmentError::Read {
        path: path.to_owned(),
        source,
    };
    let length = match std::fs::metadata(path) {
        Ok(found) => found.len(),
        // An app without secrets has no such file.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Environment::new()),
        Err(source) => return Err(read_error(source)),
    };
    if length > MAX_FILE {
        return Err(read_error(io::Error::other("it is larger than 1 MiB")));
    }
    let text = std::fs::read_to_string(path).map_err(read_error)?;
    let mut all = Environment::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let parsed = parse(line.strip_prefix("export ").unwrap_or(line));
        let (name, value) = parsed.ok_or_else(|| EnvironmentError::Line {
            path: path.to_owned(),
            line: number + 1,
        })?;
        all.insert(name, value);
    }
    Ok(all)
}

fn parse(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once('=')?;
    let name = name.trim();
    let good = !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let value = value.trim();
    let quoted = ['"', '\'']
        .iter()
        .find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
    (good && !value.contains('\0')).then(|| (name.to_owned(), quoted.unwrap_or(value).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn reads_key_and_value_with_or_without_quotes() {
        let pair = |name: &str, value: &str| Some((name.to_owned(), value.to_owned()));
        assert_eq!(parse("A=b=c"), pair("A", "b=c"));
        assert_eq!(parse("A_1 = \"b c\""), pair("A_1", "b c"));
        assert_eq!(parse("A='b\"'"), pair("A", "b\""));
        assert_eq!(parse("A="), pair("A", ""));
        for bad in ["A", "=b", "1A=b", "A-B=c"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
