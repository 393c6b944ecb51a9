//! Where a folder came from, as far as git knows.

use std::path::Path;
use std::time::Duration;

/// For one question to git.
const ANSWER: Duration = Duration::from_secs(10);

/// The commit of the checkout that `dir` lies in, and whether it had changes; nothing where there is no
/// checkout, or no git.
pub async fn checkout(dir: &Path) -> (Option<String>, bool) {
    let Some(commit) = git(dir, &["rev-parse", "HEAD"]).await else {
        return (None, false);
    };
    let changes = git(dir, &["status", "--porcelain", "--untracked-files=no"]).await;
    let commit = commit.trim().to_owned();
    let dirty = changes.is_none_or(|changes| !changes.trim().is_empty());
    (Some(commit), dirty)
}

async fn git(dir: &Path, words: &[&str]) -> Option<String> {
    let mut command = tokio::process::Command::new("git");
    command
        .arg("-C")
        .arg(dir)
        .args(words)
        // Looking must not write to somebody's index.
        .env("GIT_OPTIONAL_LOCKS", "0")
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(ANSWER, command.output()).await;
    let output = output.ok()?.ok()?;
    output.status.success().then_some(())?;
    String::from_utf8(output.stdout).ok()
}
