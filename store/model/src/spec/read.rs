//! From the text of a `ship.toml` to its checked meaning.

use std::collections::BTreeMap;

use toml::de::{DeTable, Error};

use crate::name::{AppName, ProcessName};
use crate::path::TreePath;
use crate::spec::assets::{overlap, tree_path};
use crate::spec::error::SpecErrors;
use crate::spec::fields::{Fields, Keys, Mistakes};
use crate::spec::strategy::against_standby;
use crate::spec::{ListenAddr, ProcessSpec, ReleaseSpec, Shared, assets, hooks, process};

/// Largest `ship.toml` in bytes: its meaning is part of every manifest.
const MAX_TEXT: usize = 256 << 10;
/// Most shared folders and files: each is compared with every other.
pub(super) const MAX_SHARED: usize = 512;
/// Most processes of one app.
const MAX_PROCESSES: usize = 64;

const KEYS: Keys = Keys::only(&[
    "app",
    "platform",
    "process",
    "assets",
    "shared",
    "hooks",
    "needs",
    "provides",
    "links",
    "retention",
]);

const PLATFORMS: [&str; 2] = ["linux/amd64", "linux/arm64"];

/// Reads a `ship.toml`. `default_app` names the app where the file does not.
///
/// Every mistake is reported at once, in the order of the file, with line, column and the key's full name.
pub fn read_ship_toml(text: &str, default_app: Option<AppName>) -> Result<ReleaseSpec, SpecErrors> {
    let mistakes = Mistakes::new(text);
    if text.len() > MAX_TEXT {
        mistakes.add(
            0,
            "",
            format!("the file is longer than {} KiB", MAX_TEXT >> 10),
            None,
        );
        return Err(mistakes.into_errors().unwrap_or(SpecErrors(Vec::new())));
    }
    let (table, syntax) = DeTable::parse_recoverable(text);
    for error in &syntax {
        add_syntax(&mistakes, error);
    }
    // What could not be read may be half of a table: its keys would be called missing or unknown wrongly.
    let spec = syntax
        .is_empty()
        .then(|| read(&mistakes, table.get_ref(), default_app));
    match (mistakes.into_errors(), spec.flatten()) {
        (None, Some(spec)) => Ok(spec),
        (errors, _) => Err(errors.unwrap_or(SpecErrors(Vec::new()))),
    }
}

fn add_syntax(mistakes: &Mistakes<'_>, error: &Error) {
    let at = error.span().map_or(0, |span| span.start);
    let message = error.message().lines().collect::<Vec<_>>().join("; ");
    mistakes.add(at, "", message, None);
}

fn read(mistakes: &Mistakes<'_>, table: &DeTable<'_>, default_app: Option<AppName>) -> Option<ReleaseSpec> {
    // The two lifetimes of a parsed table are one here: nothing of it outlives this call.
    let fields = Fields::open(mistakes, "", table, 0..0, KEYS);
    refuse_later(&fields);
    let app = app(&fields, default_app);
    let processes = processes(&fields);
    let hooks = hooks::read(&fields);
    if let Some(found) = fields
        .get("hooks")
        .filter(|_| processes.is_empty() && !hooks.is_empty())
    {
        found.bad("need a process: without one, nothing is started or stopped");
    }
    let spec = ReleaseSpec {
        platform: platform(&fields),
        assets: assets::read(&fields, processes.is_empty()),
        processes,
        shared: shared(&fields),
        hooks,
        external_links: external_links(&fields),
        keep: keep(&fields),
        app: app?,
    };
    Some(spec)
}

fn app(fields: &Fields<'_>, default_app: Option<AppName>) -> Option<AppName> {
    match fields.get("app") {
        Some(found) => found.text()?.parse(|text| AppName::new(text)),
        None => {
            if default_app.is_none() {
                fields.missing("app", "app = \"web\"");
            }
            default_app
        }
    }
}

/// Tables whose content would have to do something that nothing here does yet; empty ones are harmless.
fn refuse_later(fields: &Fields<'_>) {
    for (table, what) in [
        ("needs", "needs between apps"),
        ("provides", "needs between apps"),
    ] {
        let Some(table) = fields.free_table(table) else {
            continue;
        };
        for (name, _) in table.entries().filter(|(name, _)| !name.starts_with("x-")) {
            table
                .key(name)
                .bad_with(format!("not yet: {what}"), "remove it for now");
        }
    }
}

fn platform(fields: &Fields<'_>) -> Vec<String> {
    let mut platform = Vec::new();
    for text in fields.texts("platform") {
        if !PLATFORMS.contains(&text.value) {
            text.bad(format!("{:?} is not one of {}", text.value, PLATFORMS.join(", ")));
        } else if platform.iter().any(|known| known == text.value) {
            text.bad("stands there twice");
        }
        platform.push(text.value.to_owned());
    }
    platform.sort();
    platform
}

fn processes(fields: &Fields<'_>) -> BTreeMap<ProcessName, ProcessSpec> {
    let mut processes = BTreeMap::new();
    let Some(table) = fields.free_table("process") else {
        return processes;
    };
    let mut ports: BTreeMap<String, String> = BTreeMap::new();
    for (at, (name, found)) in table.entries().enumerate() {
        if at == MAX_PROCESSES {
            table
                .key(name)
                .bad(format!("is one process too many: {MAX_PROCESSES} are allowed"));
            break;
        }
        let Some(process_name) = table.key(name).parse(|()| ProcessName::new(name)) else {
            continue;
        };
        let Some(spec) = process::read(&process_name, &found) else {
            continue;
        };
        for (listener, addr) in &spec.listen {
            let here = format!("process.{name}.listen.{listener}");
            if let Some(other) = place(addr).and_then(|place| ports.insert(place, here.clone())) {
                found.bad(format!("{here} is the same address as {other}"));
            }
        }
        processes.insert(process_name, spec);
    }
    for (name, other, reason) in against_standby(&processes) {
        let message = format!(
            "\"cut-over\" keeps the whole old release to go back to, but of process {other} {reason}"
        );
        table
            .key(name.as_str())
            .bad_with(message, "\"listen-fds\" or \"auto\"");
    }
    processes
}

/// What two listeners cannot share; none for a port the kernel chooses.
fn place(addr: &ListenAddr) -> Option<String> {
    match addr {
        ListenAddr::Tcp { port: 0, .. } | ListenAddr::Udp { port: 0, .. } => None,
        ListenAddr::Tcp { ip, port } => {
            let ip = ip.filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string());
            Some(format!("{}:{port}", ip.unwrap_or_default()))
        }
        ListenAddr::Udp { ip, port } => {
            let ip = ip.filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string());
            Some(format!("udp:{}:{port}", ip.unwrap_or_default()))
        }
        ListenAddr::Unix { path } => Some(path.clone()),
    }
}

fn shared(fields: &Fields<'_>) -> Shared {
    let Some(table) = fields.table("shared", Keys::only(&["dirs", "files"])) else {
        return Shared::default();
    };
    let mut all: Vec<TreePath> = Vec::new();
    let mut paths = |key: &str| {
        let mut paths: Vec<TreePath> = Vec::new();
        for text in table.texts(key) {
            let Some(path) = tree_path(&text) else {
                continue;
            };
            if all.len() == MAX_SHARED {
                text.bad(format!("is one too many: {MAX_SHARED} are allowed"));
                break;
            }
            if let Some(other) = all.iter().find(|other| overlap(other, &path)) {
                text.bad(format!("overlaps with \"{other}\""));
            }
            all.push(path.clone());
            paths.push(path);
        }
        paths.sort();
        paths
    };
    Shared {
        dirs: paths("dirs"),
        files: paths("files"),
    }
}

fn external_links(fields: &Fields<'_>) -> Vec<String> {
    let Some(table) = fields.table("links", Keys::only(&["external"])) else {
        return Vec::new();
    };
    let mut links = Vec::new();
    for text in table.texts("external") {
        if !text.value.starts_with('/') {
            text.bad(format!("{:?} must be an absolute path", text.value));
        }
        links.push(text.value.to_owned());
    }
    links.sort();
    links.dedup();
    links
}

fn keep(fields: &Fields<'_>) -> Option<u32> {
    let table = fields.table("retention", Keys::only(&["keep"]))?;
    table.number("keep", 1..=1000)?.try_into().ok()
}
