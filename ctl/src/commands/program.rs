//! Whether the programs that a release names are in it: what would else be learnt only when the first host starts one.

use std::io::Read as _;
use std::path::Path;

use ship_model::manifest::{EntryKind, Manifest};
use ship_model::path::TreePath;
use ship_model::spec::ReleaseSpec;

use crate::error::{CommandError, Exit};
use crate::words::clean;

/// Longest first line of a script that is looked at.
const MAX_SHEBANG: u64 = 256;

/// Refuses a release that names a program it does not have; tells what will work here and hardly elsewhere.
pub fn check(dir: &Path, manifest: &Manifest) -> Result<Vec<String>, CommandError> {
    let spec = manifest.spec();
    let mut warnings = Vec::new();
    let mut mistakes = Vec::new();
    for (name, process) in &spec.processes {
        let Some(first) = process.command.first() else {
            continue;
        };
        let shown = clean(first);
        if !first.contains('/') {
            if is_file(manifest, first) {
                warnings.push(format!(
                    "process.{name}: \"{shown}\" has no slash and is looked up in PATH; for the release's own write \"./{shown}\""
                ));
            }
            continue;
        }
        let inside = first.strip_prefix("./").unwrap_or(first);
        if inside.starts_with('/') || is_shared(spec, inside) {
            continue;
        }
        match manifest.get(inside.as_bytes()).map(|entry| entry.kind) {
            Some(EntryKind::File { executable: true, .. }) => {
                warnings.extend(foreign_interpreter(dir, inside, name.as_str()));
            }
            Some(EntryKind::File { .. }) => {
                mistakes.push(format!(
                    "  process.{name}.command: \"{shown}\" is not executable: chmod +x {shown}"
                ));
            }
            Some(EntryKind::EmptyFolder) => {
                mistakes.push(format!("  process.{name}.command: \"{shown}\" is a folder"));
            }
            // A folder on the way may be a link; where links lead was checked.
            Some(EntryKind::Link { .. }) => {}
            None if through_link(manifest, inside) => {}
            None => mistakes.push(format!(
                "  process.{name}.command: \"{shown}\" is not in the release"
            )),
        }
    }
    if mistakes.is_empty() {
        return Ok(warnings);
    }
    let found = format!("{} could not be started:\n{}", spec.app, mistakes.join("\n"));
    Err(CommandError::new(Exit::Error, found)
        .hint("a path with a slash is looked up in the release, a name without one in PATH"))
}

fn is_file(manifest: &Manifest, name: &str) -> bool {
    let found = manifest.get(name.as_bytes());
    found.is_some_and(|entry| matches!(entry.kind, EntryKind::File { .. }))
}

fn is_shared(spec: &ReleaseSpec, name: &str) -> bool {
    let Ok(name) = TreePath::new(name.as_bytes()) else {
        return false;
    };
    let shared = &spec.shared;
    shared.files.contains(&name) || shared.dirs.iter().any(|dir| name.below(dir).is_some())
}

fn through_link(manifest: &Manifest, name: &str) -> bool {
    let ends = name.match_indices('/').map(|(at, _)| at);
    let mut folders = ends.filter_map(|at| manifest.get(name.get(..at)?.as_bytes()));
    folders.any(|entry| matches!(entry.kind, EntryKind::Link { .. }))
}

/// A script's `#!` that names a program below the folder that is published: pip, npm and bundler write such, and on a host
/// the release lies elsewhere.
fn foreign_interpreter(dir: &Path, program: &str, process: &str) -> Option<String> {
    let mut head = Vec::new();
    let file = std::fs::File::open(dir.join(program)).ok()?;
    file.take(MAX_SHEBANG).read_to_end(&mut head).ok()?;
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    let interpreter = line.split_whitespace().next()?;
    let within = Path::new(interpreter)
        .strip_prefix(dir.canonicalize().ok()?)
        .ok()?;
    Some(format!(
        "process.{process}: {} begins with #!{}, which names this folder; on a host the release lies elsewhere: run the \
         interpreter itself, for example [\"{}\", \"-m\", …]",
        clean(program),
        clean(interpreter),
        clean(&within.to_string_lossy())
    ))
}
