//! `shipctl diff`.

use clap::Args;
use serde::Serialize;
use ship_model::assets::assets_of;
use ship_model::manifest::{EntryKind, EntryRef, Manifest};
use ship_model::release::{ReleaseNumber, ReleaseRef};
use std::cmp::Ordering;
use std::collections::BTreeSet;

use super::{Fleet, Outcome, manifest, subject};
use crate::args::Global;
use crate::error::{CommandError, Exit};
use crate::ui::{BAD, DOUBT, GOOD, Ui, paint};
use crate::words::{bytes, clean, count};

/// Compare two releases: files, assets, and how they run
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  shipctl diff web@4 web@5
  shipctl diff web@5          the one before it, and it
  shipctl diff 4 5 -a web")]
pub struct Diff {
    /// The older release; alone: the newer one
    #[arg(value_name = "A")]
    a: ReleaseRef,
    /// The newer release
    #[arg(value_name = "B")]
    b: Option<ReleaseRef>,
    /// Name every file, however many
    #[arg(long)]
    all: bool,
}

/// Most files that are named without `--all`.
const NAMED: usize = 60;

#[derive(Debug, Serialize)]
struct Difference {
    app: String,
    from: u64,
    to: u64,
    added: Vec<Change>,
    removed: Vec<Change>,
    changed: Vec<Change>,
    /// Bytes of content that the older release has not, each content once.
    new_bytes: u64,
    assets_added: usize,
    assets_removed: usize,
    spec_changed: bool,
    #[serde(skip)]
    spec: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Change {
    path: String,
    from_bytes: u64,
    to_bytes: u64,
}

pub async fn run(verb: Diff, global: &Global, ui: &Ui) -> Outcome {
    let fleet = Fleet::reach(global).await?;
    let (older, newer) = pair(&verb, &fleet).await?;
    let (from, to) = (older.record(&fleet).await?, newer.record(&fleet).await?);
    let (old, new) = (
        manifest::fetch(&from, &fleet).await?,
        manifest::fetch(&to, &fleet).await?,
    );
    let mut found = compare(&old, &new);
    found.app = newer.app.to_string();
    found.from = from.release.map_or(0, |target| target.number);
    found.to = to.release.map_or(0, |target| target.number);
    if ui.is_json() {
        ui.json(&found);
    } else {
        show(&found, verb.all, ui);
    }
    Ok(Exit::Done)
}

/// Both releases; of one alone, the one before it comes first.
async fn pair(verb: &Diff, fleet: &Fleet) -> Result<(subject::Subject, subject::Subject), CommandError> {
    let first = subject::subject(Some(&verb.a), &fleet.context)?;
    if let Some(b) = &verb.b {
        let mut second = b.clone();
        // `diff web@4 5` means the same app.
        second.app = second.app.or_else(|| Some(first.app.clone()));
        return Ok((first, subject::subject(Some(&second), &fleet.context)?));
    }
    let newer = first
        .record(fleet)
        .await?
        .release
        .map_or(0, |target| target.number);
    if newer < 2 {
        return Err(CommandError::new(
            Exit::Error,
            format!("{}@{newer} has no release before it", first.app),
        ));
    }
    let older = subject::Subject {
        number: Some(ReleaseNumber(newer - 1)),
        ..first.clone()
    };
    Ok((older, first))
}

fn size(entry: EntryRef<'_>) -> u64 {
    match entry.kind {
        EntryKind::File { size, .. } => size,
        EntryKind::Link { .. } | EntryKind::EmptyFolder => 0,
    }
}

fn change(old: Option<EntryRef<'_>>, new: Option<EntryRef<'_>>) -> Change {
    let path = new.or(old).map(|entry| entry.path.to_string());
    Change {
        path: path.unwrap_or_default(),
        from_bytes: old.map_or(0, size),
        to_bytes: new.map_or(0, size),
    }
}

/// Walks both sorted lists side by side.
fn compare(old: &Manifest, new: &Manifest) -> Difference {
    let (mut added, mut removed, mut changed) = (Vec::new(), Vec::new(), Vec::new());
    let mut olds = old.entries().iter().peekable();
    let mut news = new.entries().iter().peekable();
    loop {
        let order = match (olds.peek(), news.peek()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => a.path.cmp(&b.path),
        };
        match order {
            Ordering::Less => removed.push(change(olds.next(), None)),
            Ordering::Greater => added.push(change(None, news.next())),
            Ordering::Equal => {
                let (a, b) = (olds.next(), news.next());
                if a != b {
                    changed.push(change(a, b));
                }
            }
        }
    }
    let (gone, come) = assets(old, new);
    Difference {
        app: String::new(),
        from: 0,
        to: 0,
        added,
        removed,
        changed,
        new_bytes: new_bytes(old, new),
        assets_added: come,
        assets_removed: gone,
        spec_changed: old.spec().as_written() != new.spec().as_written(),
        spec: spec_lines(old, new),
    }
}

fn new_bytes(old: &Manifest, new: &Manifest) -> u64 {
    let mut known: BTreeSet<_> = old.files().map(|(_, _, _, digest)| digest).collect();
    let fresh = new.files().filter(|(_, _, _, digest)| known.insert(*digest));
    fresh.map(|(_, _, size, _)| size).sum()
}

fn assets(old: &Manifest, new: &Manifest) -> (usize, usize) {
    let urls = |manifest: &Manifest| -> BTreeSet<String> {
        // A release whose assets cannot be told was refused at publish.
        let all = assets_of(manifest).unwrap_or_default();
        all.into_iter().map(|asset| asset.url_path).collect()
    };
    let (old, new) = (urls(old), urls(new));
    (old.difference(&new).count(), new.difference(&old).count())
}

/// What the meaning of `ship.toml` lost and won, line by line.
fn spec_lines(old: &Manifest, new: &Manifest) -> Vec<String> {
    let lines = |manifest: &Manifest| -> Vec<String> {
        let text = serde_json::to_string_pretty(&manifest.spec().as_written()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    };
    let (old, new) = (lines(old), lines(new));
    let gone = old.iter().filter(|line| !new.contains(line));
    let come = new.iter().filter(|line| !old.contains(line));
    let gone = gone.map(|line| format!("- {}", line.trim()));
    gone.chain(come.map(|line| format!("+ {}", line.trim())))
        .collect()
}

fn show(found: &Difference, all: bool, ui: &Ui) {
    ui.line(format!("{}  {} → {}", found.app, found.from, found.to));
    let groups = [
        ("+", GOOD, &found.added),
        ("-", BAD, &found.removed),
        ("~", DOUBT, &found.changed),
    ];
    for (sign, style, changes) in groups {
        let shown = if all { changes.len() } else { NAMED };
        for change in changes.iter().take(shown) {
            ui.line(format!(
                "  {} {}  {}",
                paint(style, sign),
                change.path,
                sizes(sign, change)
            ));
        }
        if changes.len() > shown {
            let more = (changes.len() - shown) as u64;
            ui.line(format!(
                "  {} and {more} more (--all names them)",
                paint(style, sign)
            ));
        }
    }
    for line in &found.spec {
        ui.line(format!("  ship.toml {}", clean(line)));
    }
    ui.line(format!(
        "{} added, {} removed, {} changed; {} of new content; assets +{} -{}",
        count(found.added.len() as u64, "file"),
        found.removed.len(),
        found.changed.len(),
        bytes(found.new_bytes),
        found.assets_added,
        found.assets_removed
    ));
}

fn sizes(sign: &str, change: &Change) -> String {
    match sign {
        "+" => bytes(change.to_bytes),
        "-" => bytes(change.from_bytes),
        _ if change.from_bytes == change.to_bytes => bytes(change.to_bytes),
        _ => format!("{} → {}", bytes(change.from_bytes), bytes(change.to_bytes)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::*;
    use ship_model::digest::BlobDigest;
    use ship_model::manifest::Entry;
    use ship_model::path::TreePath;
    use ship_model::spec::{AssetRoot, Marks, ReleaseSpec};

    fn tree(files: &[(&str, &str)]) -> Manifest {
        let entry = |(path, text): &(&str, &str)| Entry {
            path: TreePath::new(path.as_bytes()).unwrap(),
            kind: EntryKind::File {
                executable: false,
                size: text.len() as u64,
                digest: BlobDigest::of(text.as_bytes()),
            },
        };
        let spec = ReleaseSpec::static_files("web".parse().unwrap());
        Manifest::new(spec, files.iter().map(entry).collect()).unwrap()
    }

    #[test]
    fn every_change_is_in_one_list() {
        let old = tree(&[("a", "1"), ("b", "same"), ("c", "x"), ("e", "moved")]);
        let new = tree(&[("a", "22"), ("b", "same"), ("d", "new!"), ("f", "moved")]);
        let found = compare(&old, &new);
        let paths = |list: &[Change]| -> Vec<String> { list.iter().map(|c| c.path.clone()).collect() };
        assert_eq!(paths(&found.added), ["d", "f"]);
        assert_eq!(paths(&found.removed), ["c", "e"]);
        assert_eq!(paths(&found.changed), ["a"]);
        assert_eq!(found.new_bytes, 6, "moved content is not new");
        assert!(!found.spec_changed && found.spec.is_empty());
    }

    /// Which files carry a fingerprint is no setting.
    #[test]
    fn marks_are_no_change_of_ship_toml() {
        let with = |marks: Marks| {
            let manifest = tree(&[("a", "1")]);
            let mut spec = manifest.spec().clone();
            let root = AssetRoot::new(None, "/");
            spec.assets = vec![AssetRoot {
                marks: Some(marks),
                ..root
            }];
            manifest.with_spec(spec).unwrap()
        };
        let found = compare(&with(Marks::new([true])), &with(Marks::new([false])));
        assert!(!found.spec_changed && found.spec.is_empty());
    }
}
