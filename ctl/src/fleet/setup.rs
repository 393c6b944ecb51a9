//! Makes what a fleet's folder needs before anything runs: the store, certificates, and the files that
//! agents and shipctl read. Whatever is there already stays.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde::Serialize;
use ship_durable::{FileError, remove_tree, write_file};
use tokio::process::Command;

use super::Binaries;
use super::address::{ASSET_PORT, GRPC_PORT, METRICS_PORT, Net};
use super::own::FleetPlan;
use super::place::{Place, host_name};
use crate::error::{CommandError, Exit};

/// The environment of every such fleet.
pub const ENV: &str = "dev";
/// What every host is there for.
const CLASSES: [&str; 3] = ["web", "worker", "assets"];

#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    #[error("make the folder {}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("write {}", path.display())]
    Write { path: PathBuf, source: FileError },
    #[error("encode {}", path.display())]
    Encode { path: PathBuf, source: toml::ser::Error },
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not TOML", path.display())]
    Parse {
        path: PathBuf,
        source: Box<toml_edit::TomlError>,
    },
    #[error("start {}", program.display())]
    Start { program: PathBuf, source: io::Error },
    #[error("{what} failed: {said}")]
    Tool { what: String, said: String },
    #[error("take away the unfinished folder {}", path.display())]
    Remove {
        path: PathBuf,
        source: ship_durable::RemoveTreeError,
    },
}

impl From<SetUpError> for CommandError {
    fn from(error: SetUpError) -> Self {
        Self::of(Exit::Error, &error)
    }
}

#[derive(Debug, Serialize)]
struct AgentFile {
    version: u32,
    env: &'static str,
    host: String,
    classes: [&'static str; 3],
    store: String,
    address: String,
    asset_listen: String,
    metrics_listen: String,
    apps_dir: PathBuf,
    state_dir: PathBuf,
    run_dir: PathBuf,
    /// Where releases come from, if an operator said so: carried over.
    #[serde(flatten)]
    sources: toml::Table,
    tls: TlsFiles,
    /// An operator's own, carried over; so is the next.
    #[serde(skip_serializing_if = "Option::is_none")]
    asset_port: Option<toml::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    balancer: Option<toml::Value>,
}

#[derive(Debug, Serialize)]
struct TlsFiles {
    ca: &'static str,
    cert: &'static str,
    key: &'static str,
}

const TLS: TlsFiles = TlsFiles {
    ca: "tls/ca.pem",
    cert: "tls/cert.pem",
    key: "tls/key.pem",
};

#[derive(Debug, Serialize)]
struct ContextFile {
    version: u32,
    store: String,
    env: &'static str,
    ca: &'static str,
    cert: &'static str,
    key: &'static str,
    assets: String,
}

pub fn store_url(net: Net) -> String {
    format!("https://{}:{GRPC_PORT}", net.store())
}

/// Everything that must be there before the store starts.
pub async fn prepare(
    place: &Place,
    plan: &FleetPlan,
    net: Net,
    hosts: u8,
    binaries: &Binaries,
) -> Result<(), SetUpError> {
    let shipstore = binaries.path("shipstore");
    make_store(place, plan, shipstore).await?;
    let store = place.store();
    let operator = ["--role", "operator", "--name", "operator"];
    issue(shipstore, &store, &operator, &place.tls()).await?;
    for number in 1..=hosts {
        make_host(place, net, number, shipstore).await?;
    }
    Ok(())
}

/// A store that was only half made, by a process that died then, is made anew: nothing is in it yet.
async fn make_store(place: &Place, plan: &FleetPlan, shipstore: &Path) -> Result<(), SetUpError> {
    let store = place.store();
    let settings = store.join("store.toml");
    if !settings.exists() {
        if store.exists() {
            remove_tree(&store).map_err(|source| SetUpError::Remove {
                path: store.clone(),
                source,
            })?;
        }
        let name = format!("{ENV}-{}", std::process::id());
        let words: [&OsStr; 5] = [
            "init".as_ref(),
            "--dir".as_ref(),
            store.as_ref(),
            "--fleet".as_ref(),
            name.as_ref(),
        ];
        tool(shipstore, &words).await?;
    }
    tune(&settings, plan)
}

/// One machine answers sooner than a fleet: what the store's settings have of these is set.
fn tune(path: &Path, plan: &FleetPlan) -> Result<(), SetUpError> {
    let text = std::fs::read_to_string(path).map_err(|source| SetUpError::Read {
        path: path.to_owned(),
        source,
    })?;
    // What somebody wrote into it, comments too, stays as it is.
    let mut settings: toml_edit::DocumentMut = text.parse().map_err(|source| SetUpError::Parse {
        path: path.to_owned(),
        source: Box::new(source),
    })?;
    for (key, value) in [("heartbeat_ms", plan.heartbeat_ms), ("soak_ms", plan.soak_ms)] {
        if let Some(toml_edit::Item::Value(set)) = settings.get_mut(key) {
            let about = set.decor().clone();
            *set = i64::try_from(value).unwrap_or(i64::MAX).into();
            *set.decor_mut() = about;
        }
    }
    let tuned = settings.to_string();
    if tuned == text {
        return Ok(());
    }
    write_file(path, tuned.as_bytes()).map_err(|source| SetUpError::Write {
        path: path.to_owned(),
        source,
    })
}

const SOURCE_KEYS: [&str; 5] = [
    "mirrors",
    "fetch_limit",
    "peer_listen",
    "peer_cache",
    "peer_limit",
];

async fn make_host(place: &Place, net: Net, number: u8, shipstore: &Path) -> Result<(), SetUpError> {
    let name = host_name(number);
    let folder = place.host(&name);
    for part in ["apps", "state", "run"] {
        make_folder(&folder.join(part))?;
    }
    let agent = ["--role", "agent", "--name", &name, "--env", ENV];
    issue(shipstore, &place.store(), &agent, &folder.join("tls")).await?;
    let mut own = written_by_hand(&folder.join("agent.toml"));
    let file = AgentFile {
        version: 1,
        env: ENV,
        host: name,
        classes: CLASSES,
        store: store_url(net),
        address: net.host(number).to_string(),
        asset_listen: format!("{}:{ASSET_PORT}", net.host(number)),
        metrics_listen: format!("{}:{METRICS_PORT}", net.host(number)),
        apps_dir: folder.join("apps"),
        state_dir: folder.join("state"),
        run_dir: folder.join("run"),
        sources: SOURCE_KEYS
            .iter()
            .filter_map(|key| Some(((*key).to_owned(), own.remove(*key)?)))
            .collect(),
        tls: TLS,
        asset_port: own.remove("asset_port"),
        balancer: own.remove("balancer"),
    };
    write_toml(&folder.join("agent.toml"), &file)
}

/// What was written into the file by hand since the last start.
fn written_by_hand(path: &Path) -> toml::Table {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.parse().unwrap_or_default()
}

/// Written last, when everything is up: whoever waits for it finds a fleet that works.
pub fn write_context(place: &Place, net: Net) -> Result<(), SetUpError> {
    let file = ContextFile {
        version: 1,
        store: store_url(net),
        env: ENV,
        ca: TLS.ca,
        cert: TLS.cert,
        key: TLS.key,
        assets: format!("http://{}:{ASSET_PORT}", net.store()),
    };
    write_toml(&place.context(), &file)
}

pub fn make_folder(path: &Path) -> Result<(), SetUpError> {
    std::fs::create_dir_all(path).map_err(|source| SetUpError::Folder {
        path: path.to_owned(),
        source,
    })
}

fn write_toml(path: &Path, value: &impl Serialize) -> Result<(), SetUpError> {
    let text = toml::to_string(value).map_err(|source| SetUpError::Encode {
        path: path.to_owned(),
        source,
    })?;
    write_file(path, text.as_bytes()).map_err(|source| SetUpError::Write {
        path: path.to_owned(),
        source,
    })
}

/// A certificate in `out`, unless one is there: the key is written last of its three files.
async fn issue(shipstore: &Path, store: &Path, what: &[&str], out: &Path) -> Result<(), SetUpError> {
    let files = ["ca.pem", "cert.pem", "key.pem"];
    if files.iter().all(|file| out.join(file).is_file()) {
        return Ok(());
    }
    if out.exists() {
        remove_tree(out).map_err(|source| SetUpError::Remove {
            path: out.to_owned(),
            source,
        })?;
    }
    let mut words: Vec<&OsStr> = vec!["issue".as_ref(), "--dir".as_ref(), store.as_ref()];
    words.extend(what.iter().map(|word| OsStr::new(*word)));
    words.extend([OsStr::new("--out"), out.as_ref()]);
    tool(shipstore, &words).await
}

/// Runs a program that ends by itself.
pub async fn tool(program: &Path, words: &[&OsStr]) -> Result<(), SetUpError> {
    tool_output(program, words).await.map(drop)
}

async fn tool_output(program: &Path, words: &[&OsStr]) -> Result<Output, SetUpError> {
    let output = Command::new(program)
        .args(words)
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|source| SetUpError::Start {
            program: program.to_owned(),
            source,
        })?;
    if output.status.success() {
        return Ok(output);
    }
    let shown: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let name = program
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    Err(SetUpError::Tool {
        what: format!("{name} {}", shown.join(" ")),
        said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
