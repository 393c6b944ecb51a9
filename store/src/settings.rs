//! `store.toml`: what a store's folder is told, and the addresses it remembers.

mod content;
mod gates;
mod mirror;
mod retention;

pub use content::Content;
pub use gates::{GateSettings, GateSite};
pub use mirror::MirrorSettings;
pub use retention::{Retention, Uncounted};

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use ship_assets::serve::{PortSettings, TlsFiles};
use ship_durable::{FileError, write_file};
use ship_model::name::HostName;
use ship_model::rollout::Thresholds;
use toml_edit::{DocumentMut, Item};

use crate::notify::{NotifyDefect, NotifySettings, settings as notify};
use crate::push::{self, PushDefect, PushSettings};

/// The form of `store.toml`; another is refused.
pub const VERSION: u32 = 1;

/// What `store.toml` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub version: u32,
    /// The fleet's name: the trust domain of its certificates.
    pub fleet: String,
    /// Where gRPC and bundles are served, with TLS.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// Where assets and metrics are served.
    #[serde(default = "default_assets_listen")]
    pub assets_listen: SocketAddr,
    /// Where pages find the asset port from outside, `https://assets.example.com`; none: its own address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assets_url: Option<String>,
    /// Whether the asset port may listen on other addresses than loopback while it speaks plain HTTP.
    #[serde(default)]
    pub plain_http_anywhere: bool,
    /// How often agents report at least.
    #[serde(default = "default_heartbeat")]
    pub heartbeat_ms: u64,
    /// Silence after which a host is uncertain.
    #[serde(default = "default_uncertain")]
    pub uncertain_after_ms: u64,
    /// Silence after which a host is unavailable.
    #[serde(default = "default_unavailable")]
    pub unavailable_after_ms: u64,
    /// How long a wave must stay healthy before the next.
    #[serde(default = "default_soak")]
    pub soak_ms: u64,
    /// How long one host may take from being asked to switch to being healthy, besides what a release's own words let it
    /// take: its `ready_timeout`, `lock_wait`, canary, hooks and, where the old one ends first, `drain` and `stop_timeout`.
    #[serde(default = "default_switch_deadline")]
    pub switch_deadline_ms: u64,
    /// How long hosts may take to fetch and unpack a release.
    #[serde(default = "default_prefetch_deadline")]
    pub prefetch_deadline_ms: u64,
    /// How long asset hosts may take to serve a release's assets.
    #[serde(default = "default_barrier_deadline")]
    pub barrier_deadline_ms: u64,
    /// App hosts that may be away at once; none: a quarter of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<u32>,
    /// Hosts that only hold assets and that no rollout waits for while they do not report.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub optional_asset_hosts: BTreeSet<HostName>,
    /// Bytes of bundles and deltas that leave the store in a second, for all hosts together; none: as fast as they go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle_limit: Option<u64>,
    /// Whether older releases are kept as deltas, in idle time.
    #[serde(default = "default_optimize", skip_serializing_if = "is_on")]
    pub optimize_when_idle: bool,
    /// How long assets are kept that no release in reach names.
    #[serde(default, skip_serializing_if = "Retention::is_default")]
    pub retention: Retention,
    /// Which releases keep their content.
    #[serde(default, skip_serializing_if = "Content::is_default")]
    pub content: Content,
    /// What gates of environments may use on this machine.
    #[serde(default, skip_serializing_if = "GateSettings::is_default")]
    pub gates: GateSettings,
    /// How assets are handed out. Tables come last: in TOML one ends the keys before it.
    #[serde(default, skip_serializing_if = "is_usual")]
    pub asset_port: PortSettings,
    /// Where assets are pushed to, each an asset host of its environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub push: Vec<PushSettings>,
    /// Where hosts may get bundles besides the store, in the order in which they ask.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirror: Vec<MirrorSettings>,
    /// Who is told of what is done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notify: Vec<NotifySettings>,
}

/// Milliseconds of a time as store.toml spells it: `30d`, `12h`, `90m`, `45s`.
pub fn span_ms(text: &str) -> Option<u64> {
    retention::span::read(text)
}

fn is_usual(port: &PortSettings) -> bool {
    *port == PortSettings::default()
}

const fn default_optimize() -> bool {
    true
}
const fn is_on(set: &bool) -> bool {
    *set
}
const fn default_heartbeat() -> u64 {
    5_000
}
const fn default_uncertain() -> u64 {
    15_000
}
const fn default_unavailable() -> u64 {
    60_000
}
const fn default_soak() -> u64 {
    5_000
}
const fn default_switch_deadline() -> u64 {
    5 * 60_000
}
const fn default_prefetch_deadline() -> u64 {
    30 * 60_000
}
const fn default_barrier_deadline() -> u64 {
    10 * 60_000
}
fn default_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7400))
}
fn default_assets_listen() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 7480))
}

/// Why a folder's settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error(
        "{} is not a store's folder: it has no store.toml; make one with `shipstore init --dir {}`",
        .folder.display(), .folder.display()
    )]
    NoStore { folder: PathBuf },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not as it should be", path.display())]
    Parse { path: PathBuf, source: toml::de::Error },
    #[error("{} is not as it should be", path.display())]
    Edit {
        path: PathBuf,
        source: toml_edit::TomlError,
    },
    #[error("{}: version is {found}, this program knows {VERSION}", path.display())]
    Version { path: PathBuf, found: u32 },
    #[error("{}: {key} {problem}", path.display())]
    Value {
        path: PathBuf,
        key: &'static str,
        problem: String,
    },
    #[error("{}: a [[push]] is not as it should be", path.display())]
    Push { path: PathBuf, source: PushDefect },
    #[error("{}: a [[notify]] is not as it should be", path.display())]
    Notify { path: PathBuf, source: NotifyDefect },
    #[error("cannot write {} as TOML", path.display())]
    Render { path: PathBuf, source: toml::ser::Error },
    #[error("cannot write the store's settings")]
    Write(#[from] FileError),
}

impl Settings {
    /// The settings of a new store.
    pub fn new(fleet: &str) -> Self {
        Self {
            version: VERSION,
            fleet: fleet.to_owned(),
            listen: default_listen(),
            assets_listen: default_assets_listen(),
            assets_url: None,
            plain_http_anywhere: false,
            heartbeat_ms: default_heartbeat(),
            uncertain_after_ms: default_uncertain(),
            unavailable_after_ms: default_unavailable(),
            soak_ms: default_soak(),
            switch_deadline_ms: default_switch_deadline(),
            prefetch_deadline_ms: default_prefetch_deadline(),
            barrier_deadline_ms: default_barrier_deadline(),
            max_unavailable: None,
            optimize_when_idle: default_optimize(),
            asset_port: PortSettings::default(),
            optional_asset_hosts: BTreeSet::new(),
            retention: Retention::default(),
            content: Content::default(),
            gates: GateSettings::default(),
            push: Vec::new(),
            bundle_limit: None,
            mirror: Vec::new(),
            notify: Vec::new(),
        }
    }

    /// The asset port's certificate and key; paths in the file begin at the store's `folder`.
    pub fn asset_tls(&self, folder: &Path) -> Option<TlsFiles> {
        let files = self.asset_port.tls.as_ref()?;
        Some(TlsFiles {
            cert: folder.join(&files.cert),
            key: folder.join(&files.key),
        })
    }

    pub fn read(folder: &Path) -> Result<Self, SettingsError> {
        let path = folder.join("store.toml");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Err(SettingsError::NoStore {
                    folder: folder.to_owned(),
                });
            }
            Err(source) => return Err(SettingsError::Read { path, source }),
        };
        let read: Result<Self, _> = toml::from_str(&text);
        let settings = read.map_err(|source| SettingsError::Parse {
            path: path.clone(),
            source,
        })?;
        settings.check(&path)?;
        Ok(settings)
    }

    /// Replaces `store.toml`, durably.
    pub fn write(&self, folder: &Path) -> Result<(), SettingsError> {
        let path = folder.join("store.toml");
        let text = self.render(&path)?;
        Ok(write_file(&path, text.as_bytes())?)
    }

    /// Writes the `store.toml` of a new store, with a word on every key, durably.
    pub fn write_explained(&self, folder: &Path) -> Result<(), SettingsError> {
        let path = folder.join("store.toml");
        let text = self.render(&path)?;
        let parsed = text.parse();
        let mut document: DocumentMut = parsed.map_err(|source| SettingsError::Edit {
            path: path.clone(),
            source,
        })?;
        document["optimize_when_idle"] = toml_edit::value(self.optimize_when_idle);
        explain(&mut document);
        let mut text = document.to_string();
        if self.retention.is_default() {
            text.push_str(retention::TEMPLATE);
        }
        if self.content.is_default() {
            text.push_str(content::TEMPLATE);
        }
        text.push_str(ASSET_PORT);
        if self.push.is_empty() {
            text.push_str(push::TEMPLATE);
        }
        text.push_str(mirror::TEMPLATE);
        text.push_str(gates::TEMPLATE);
        if self.notify.is_empty() {
            text.push_str(notify::TEMPLATE);
        }
        Ok(write_file(&path, text.as_bytes())?)
    }

    fn render(&self, path: &Path) -> Result<String, SettingsError> {
        self.check(path)?;
        toml::to_string(self).map_err(|source| SettingsError::Render {
            path: path.to_owned(),
            source,
        })
    }

    /// Writes the addresses into `store.toml`, durably. Everything else in it, comments too, stays as somebody wrote it.
    pub fn remember_addresses(&self, folder: &Path) -> Result<(), SettingsError> {
        let path = folder.join("store.toml");
        let text = fs::read_to_string(&path).map_err(|source| SettingsError::Read {
            path: path.clone(),
            source,
        })?;
        let mut document: DocumentMut = text.parse().map_err(|source| SettingsError::Edit {
            path: path.clone(),
            source,
        })?;
        for (key, address) in [("listen", self.listen), ("assets_listen", self.assets_listen)] {
            put_address(&mut document, key, address);
        }
        let changed = document.to_string();
        if changed == text {
            return Ok(());
        }
        Ok(write_file(&path, changed.as_bytes())?)
    }

    pub const fn thresholds(&self) -> Thresholds {
        Thresholds {
            uncertain_ms: self.uncertain_after_ms,
            unavailable_ms: self.unavailable_after_ms,
        }
    }

    /// Checks the addresses again, after the command line changed them.
    pub fn check_listen(&self, folder: &Path) -> Result<(), SettingsError> {
        self.check(&folder.join("store.toml"))
    }

    fn check(&self, path: &Path) -> Result<(), SettingsError> {
        let wrong = |key, problem: &str| SettingsError::Value {
            path: path.to_owned(),
            key,
            problem: problem.to_owned(),
        };
        if self.version != VERSION {
            return Err(SettingsError::Version {
                path: path.to_owned(),
                found: self.version,
            });
        }
        push::check(&self.push).map_err(|source| SettingsError::Push {
            path: path.to_owned(),
            source,
        })?;
        notify::check(&self.notify).map_err(|source| SettingsError::Notify {
            path: path.to_owned(),
            source,
        })?;
        if let Some((key, problem)) = self.content.problem() {
            return Err(wrong(key, problem));
        }
        if let Some(problem) = self.gates.defect() {
            return Err(wrong("gates", &problem));
        }
        if self.bundle_limit == Some(0) {
            return Err(wrong(
                "bundle_limit",
                "must be from 1 byte a second up; leave it out for no limit",
            ));
        }
        if !(50..=600_000).contains(&self.heartbeat_ms) {
            return Err(wrong("heartbeat_ms", "must be from 50 to 600000"));
        }
        if self.uncertain_after_ms < self.heartbeat_ms.saturating_mul(2) {
            return Err(wrong(
                "uncertain_after_ms",
                "must be at least twice heartbeat_ms, or every host is uncertain now and then",
            ));
        }
        if self.unavailable_after_ms <= self.uncertain_after_ms {
            return Err(wrong(
                "unavailable_after_ms",
                "must be more than uncertain_after_ms",
            ));
        }
        let is_plain = self.asset_port.tls.is_none();
        if is_plain && !self.assets_listen.ip().is_loopback() && !self.plain_http_anywhere {
            return Err(wrong(
                "assets_listen",
                "is not a loopback address, and assets are plain HTTP: give [asset_port] a certificate (tls), or set plain_http_anywhere = true to allow it",
            ));
        }
        Ok(())
    }
}

/// For whoever opens the file.
const EXPLAINED: [(&str, &str); 14] = [
    (
        "version",
        "What this store is told; read when it starts. Times are in milliseconds.",
    ),
    (
        "fleet",
        "The trust domain of every certificate; it cannot be changed.",
    ),
    (
        "listen",
        "gRPC and bundles, with TLS. `shipstore serve --listen` changes it. bundle_limit = N bounds bundles: bytes a second.",
    ),
    (
        "assets_listen",
        "Assets and /metrics; plain HTTP unless [asset_port] has a certificate.",
    ),
    ("assets_url", "Where pages find assets from outside."),
    (
        "plain_http_anywhere",
        "Whether assets_listen may be another address than loopback without a certificate.",
    ),
    ("heartbeat_ms", "How often agents report at least."),
    (
        "uncertain_after_ms",
        "Silence after which a host is uncertain: neither healthy nor dead.",
    ),
    (
        "unavailable_after_ms",
        "Silence after which a host counts as lost.",
    ),
    ("soak_ms", "How long a wave must stay healthy before the next."),
    (
        "switch_deadline_ms",
        "For one host, from being asked to switch to being healthy.",
    ),
    ("prefetch_deadline_ms", "For hosts to fetch and unpack a release."),
    (
        "barrier_deadline_ms",
        "For asset hosts to serve a release's assets.",
    ),
    (
        "optimize_when_idle",
        "Whether older releases are kept as what changed after them, when nothing else is to be done. By hand: `shipstore optimize`.",
    ),
];

/// What is usually left as it is.
const ASSET_PORT: &str = r#"# [asset_port]                                # how assets are handed out; what stands here is usual
# access_control_allow_origin = "*"           # or origins: ["https://app.example.com"]; [] for none
# cross_origin_resource_policy = "same-site"  # not sent unless set; or "same-origin", "cross-origin"
# nosniff = true                              # X-Content-Type-Options
# mutable_max_age_seconds = 5                 # for names without a fingerprint
# encode = ["br", "zstd", "gzip"]             # made on first use and kept; [] for none
# tls = { cert = "assets.pem", key = "assets.key" }   # PEM files, read again when they change
"#;

fn explain(document: &mut DocumentMut) {
    for (key, words) in EXPLAINED {
        if let Some(mut key) = document.key_mut(key) {
            key.leaf_decor_mut().set_prefix(format!("# {words}\n"));
        }
    }
}

/// In the place and with the comment that the key has.
fn put_address(document: &mut DocumentMut, key: &str, address: SocketAddr) {
    let mut value = toml_edit::Value::from(address.to_string());
    if let Some(old) = document.get(key).and_then(Item::as_value) {
        if old.as_str().is_some_and(|old| old.parse() == Ok(address)) {
            return;
        }
        *value.decor_mut() = old.decor().clone();
    }
    document[key] = Item::Value(value);
}

#[cfg(test)]
mod tests;
