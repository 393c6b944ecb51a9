//! `agent.toml`: who this host is, where its store is, where its folders are.
//!
//! Every mistake is told at once, with its line; a key that is not known is a mistake, since a misspelt one would
//! otherwise be a setting that silently does not hold.

mod balancer;
mod sources;

pub use sources::{PeerSettings, SourceSettings};

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use ship_assets::serve::PortSettings;
use ship_keeper::processes::GroupsAt;
use ship_model::name::{ClassName, EnvName, HostName};
use thiserror::Error;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::balancer::Settings;

/// The checked content of an `agent.toml`. Paths are absolute, or relative to where the agent was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub env: EnvName,
    pub host: HostName,
    pub classes: Vec<ClassName>,
    pub store: StoreAddress,
    /// The host's own address: a listener that names no IP is bound there.
    pub address: IpAddr,
    /// Where assets are served; none: they are not. Port 0 takes a free one and keeps it.
    pub asset_listen: Option<SocketAddr>,
    /// Where figures for graphs are told; none: nowhere. Port 0 takes a free one and keeps it.
    pub metrics_listen: Option<SocketAddr>,
    /// How assets are handed out.
    pub asset_port: PortSettings,
    pub apps_dir: PathBuf,
    pub state_dir: PathBuf,
    pub run_dir: PathBuf,
    pub tls: TlsFiles,
    pub scrub: Scrub,
    /// Where keepers make control groups: `"auto"`, `"off"`, or below a group as `/proc/self/cgroup` names it.
    pub cgroups: GroupsAt,
    /// Where this host is taken out of rotation while an app restarts with a gap.
    pub balancers: Vec<Settings>,
    /// Where releases come from besides the store.
    pub sources: SourceSettings,
}

/// How often and how fast what lies here is read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scrub {
    /// From one reading of a release to the next; less than a day, so that it ends within one.
    pub every: Duration,
    /// None: as fast as it must be, and no faster than that needs.
    pub bytes_per_second: Option<u64>,
}

impl Default for Scrub {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(20 * 3600),
            bytes_per_second: None,
        }
    }
}

/// `https://HOST[:PORT]`, without a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreAddress {
    pub host: String,
    pub port: u16,
}

impl fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "https://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "https://{}:{}", self.host, self.port)
        }
    }
}

/// PEM files of the fleet: its CA, this host's certificate and key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Why an `agent.toml` cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    #[error("cannot read the configuration {}; name another with --config", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{} is not usable:\n{}", path.display(), Lines(mistakes))]
    Mistakes { path: PathBuf, mistakes: Vec<Mistake> },
}

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Counted from 1; 0 when it is about the file as a whole.
    pub line: usize,
    pub text: String,
}

struct Lines<'a>(&'a [Mistake]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, Mistake { line, text }) in self.0.iter().enumerate() {
            let end = if nth + 1 < self.0.len() { "\n" } else { "" };
            match line {
                0 => write!(f, "  {text}{end}")?,
                line => write!(f, "  line {line}: {text}{end}")?,
            }
        }
        Ok(())
    }
}

const KEYS: [&str; 21] = [
    "version",
    "env",
    "host",
    "classes",
    "store",
    "address",
    "asset_listen",
    "metrics_listen",
    "asset_port",
    "apps_dir",
    "state_dir",
    "run_dir",
    "tls",
    "scrub",
    "cgroups",
    "balancer",
    "mirrors",
    "fetch_limit",
    "peer_listen",
    "peer_cache",
    "peer_limit",
];
const SCRUB_KEYS: [&str; 2] = ["every_seconds", "bytes_per_second"];
const TLS_KEYS: [&str; 3] = ["ca", "cert", "key"];

impl Config {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// [`ConfigError::Mistakes`] with all of them.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let base = path.parent().unwrap_or(Path::new("."));
        Self::parse(&text, base).map_err(|mistakes| ConfigError::Mistakes {
            path: path.to_owned(),
            mistakes,
        })
    }

    /// Checks `text`; relative paths in it start at `base`.
    ///
    /// # Errors
    /// Every mistake, in the order of their lines.
    pub fn parse(text: &str, base: &Path) -> Result<Self, Vec<Mistake>> {
        let (root, broken) = DeTable::parse_recoverable(text);
        let mut reader = Reader::new(text, base, root.into_inner());
        if !broken.is_empty() {
            for error in broken {
                let at = error.span().map_or(0, |span| reader.line(span.start));
                reader.say(at, error.message().to_owned());
            }
            return Err(reader.mistakes);
        }
        let config = reader.config();
        let mut mistakes = reader.mistakes;
        mistakes.sort_by_key(|mistake| mistake.line);
        match config {
            Some(config) if mistakes.is_empty() => Ok(config),
            _ => Err(mistakes),
        }
    }
}

struct Reader<'a> {
    text: &'a str,
    base: &'a Path,
    root: DeTable<'a>,
    mistakes: Vec<Mistake>,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str, base: &'a Path, root: DeTable<'a>) -> Self {
        Self {
            text,
            base,
            root,
            mistakes: Vec::new(),
        }
    }

    fn line(&self, at: usize) -> usize {
        self.text.bytes().take(at).filter(|b| *b == b'\n').count() + 1
    }

    fn say(&mut self, line: usize, text: String) {
        self.mistakes.push(Mistake { line, text });
    }

    fn config(&mut self) -> Option<Config> {
        let root = std::mem::take(&mut self.root);
        self.refuse_unknown(&root, "", &KEYS);
        self.version(&root);
        let env = self.value(&root, "env", "a name", str::parse);
        let host = self.value(&root, "host", "a name", str::parse);
        let classes = self.classes(&root);
        let store = self.value(&root, "store", "\"https://HOST:PORT\"", store_address);
        let address = self.value(&root, "address", "an IP address", |text| {
            text.parse().map_err(|_| format!("{text:?} is not an IP address"))
        });
        let socket = |text: &str| text.parse().map_err(|_| format!("{text:?} is not IP:PORT"));
        let asset_listen = self.optional(&root, "asset_listen", socket);
        let metrics_listen = self.optional(&root, "metrics_listen", socket);
        let asset_port = self.asset_port();
        let apps_dir = self.folder(&root, "apps_dir", "/srv/ship");
        let state_dir = self.folder(&root, "state_dir", "/var/lib/ship");
        let run_dir = self.folder(&root, "run_dir", "/run/ship");
        let tls = self.tls(&root);
        let scrub = self.scrub(&root);
        let cgroups = self
            .optional(&root, "cgroups", GroupsAt::parse)
            .unwrap_or_default();
        let balancers = self.balancers(&root);
        let sources = self.sources(&root);
        Some(Config {
            env: env?,
            host: host?,
            classes: classes?,
            store: store?,
            address: address?,
            asset_listen,
            metrics_listen,
            asset_port,
            apps_dir,
            state_dir,
            run_dir,
            tls: tls?,
            scrub,
            cgroups,
            balancers,
            sources,
        })
    }

    /// `[asset_port]`, which reads itself: a store has the same. It tells its first mistake only.
    fn asset_port(&mut self) -> PortSettings {
        #[derive(Deserialize)]
        struct Section {
            #[serde(default)]
            asset_port: PortSettings,
        }
        let mut port = match toml::from_str::<Section>(self.text) {
            Ok(section) => section.asset_port,
            Err(error) => {
                let line = error.span().map_or(0, |span| self.line(span.start));
                self.say(line, format!("asset_port: {}", error.message()));
                return PortSettings::default();
            }
        };
        if let Some(files) = &mut port.tls {
            files.cert = self.base.join(&files.cert);
            files.key = self.base.join(&files.key);
        }
        port
    }

    fn scrub(&mut self, root: &DeTable<'a>) -> Scrub {
        let mut scrub = Scrub::default();
        let Some(found) = root.get("scrub") else {
            return scrub;
        };
        let line = self.line(found.span().start);
        let Some(table) = found.get_ref().as_table() else {
            self.say(line, "scrub must be a table: [scrub]".to_owned());
            return scrub;
        };
        self.refuse_unknown(table, "scrub.", &SCRUB_KEYS);
        if let Some(seconds) = self.positive(table, "every_seconds") {
            scrub.every = Duration::from_secs(seconds);
        }
        scrub.bytes_per_second = self.positive(table, "bytes_per_second");
        scrub
    }

    /// A whole number from 1 up, if there is one.
    fn positive(&mut self, table: &DeTable<'a>, key: &str) -> Option<u64> {
        let found: &Spanned<DeValue<'a>> = table.get(key)?;
        let line = self.line(found.span().start);
        let number = found
            .get_ref()
            .as_integer()
            .and_then(|number| number.as_str().parse().ok());
        if number.is_none_or(|number: u64| number == 0) {
            self.say(line, format!("{key} must be a whole number from 1 up"));
            return None;
        }
        number
    }

    fn refuse_unknown(&mut self, table: &DeTable<'a>, within: &str, known: &[&str]) {
        for key in table.keys() {
            if !known.contains(&key.get_ref().as_ref()) {
                let line = self.line(key.span().start);
                let known = known.join(", ");
                self.say(
                    line,
                    format!("{within}{} is not a key here; known are {known}", key.get_ref()),
                );
            }
        }
    }

    fn version(&mut self, root: &DeTable<'a>) {
        let Some(found) = root.get("version") else {
            return self.say(0, "version is missing; write version = 1".to_owned());
        };
        if found.get_ref().as_integer().map(|version| version.as_str()) != Some("1") {
            let line = self.line(found.span().start);
            self.say(line, "version must be 1: this program knows no other".to_owned());
        }
    }

    /// The text at `key` and its line, if it is there and is one.
    fn text(&mut self, table: &DeTable<'a>, key: &str) -> Option<(String, usize)> {
        let found: &Spanned<DeValue<'a>> = table.get(key)?;
        let line = self.line(found.span().start);
        match found.get_ref().as_str() {
            Some(text) => Some((text.to_owned(), line)),
            None => {
                self.say(
                    line,
                    format!(
                        "{key} must be a text in quotes, not {}",
                        found.get_ref().type_str()
                    ),
                );
                None
            }
        }
    }

    fn optional<T, E: fmt::Display>(
        &mut self,
        table: &DeTable<'a>,
        key: &str,
        read: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        let (text, line) = self.text(table, key)?;
        match read(&text) {
            Ok(value) => Some(value),
            Err(error) => {
                self.say(line, format!("{key}: {error}"));
                None
            }
        }
    }

    fn value<T, E: fmt::Display>(
        &mut self,
        table: &DeTable<'a>,
        key: &str,
        what: &str,
        read: impl Fn(&str) -> Result<T, E>,
    ) -> Option<T> {
        if table.get(key).is_none() {
            self.say(0, format!("{key} is missing: it needs {what}"));
        }
        self.optional(table, key, read)
    }

    fn classes(&mut self, root: &DeTable<'a>) -> Option<Vec<ClassName>> {
        let Some(found) = root.get("classes") else {
            self.say(0, "classes is missing: it needs a list like [\"web\"]".to_owned());
            return None;
        };
        let line = self.line(found.span().start);
        let Some(list) = found.get_ref().as_array() else {
            self.say(line, "classes must be a list like [\"web\"]".to_owned());
            return None;
        };
        let mut classes = Vec::new();
        for item in list.iter() {
            let line = self.line(item.span().start);
            match item.get_ref().as_str().map(str::parse::<ClassName>) {
                Some(Ok(class)) if !classes.contains(&class) => classes.push(class),
                Some(Ok(class)) => self.say(line, format!("class {class} is named twice")),
                Some(Err(error)) => self.say(line, format!("classes: {error}")),
                None => self.say(line, "classes: a class is a text in quotes".to_owned()),
            }
        }
        if classes.is_empty() {
            self.say(
                line,
                "classes is empty: a host without a class has nothing to do".to_owned(),
            );
        }
        Some(classes)
    }

    fn folder(&mut self, root: &DeTable<'a>, key: &str, otherwise: &str) -> PathBuf {
        match self.text(root, key) {
            Some((text, _)) if !text.is_empty() => self.base.join(text),
            Some((_, line)) => {
                self.say(line, format!("{key} is empty"));
                PathBuf::new()
            }
            None => PathBuf::from(otherwise),
        }
    }

    fn tls(&mut self, root: &DeTable<'a>) -> Option<TlsFiles> {
        let Some(found) = root.get("tls") else {
            self.say(0, "[tls] is missing: it needs ca, cert and key".to_owned());
            return None;
        };
        let line = self.line(found.span().start);
        let Some(table) = found.get_ref().as_table() else {
            self.say(line, "tls must be a table: [tls]".to_owned());
            return None;
        };
        self.refuse_unknown(table, "tls.", &TLS_KEYS);
        let base = self.base.to_owned();
        let [ca, cert, key] = TLS_KEYS.map(|key| {
            self.value(table, key, "the path of a PEM file", |text| match text {
                "" => Err("it is empty"),
                text => Ok(base.join(text)),
            })
        });
        Some(TlsFiles {
            ca: ca?,
            cert: cert?,
            key: key?,
        })
    }
}

fn store_address(text: &str) -> Result<StoreAddress, String> {
    let refused = || format!("{text:?} is not a store's address: write https://HOST:PORT");
    let rest = text.strip_prefix("https://").ok_or_else(refused)?;
    let authority: http::uri::Authority = rest.trim_end_matches('/').parse().map_err(|_| refused())?;
    let port = match authority.as_str().strip_prefix(authority.host()) {
        Some("") => 7400,
        Some(port) => port
            .strip_prefix(':')
            .and_then(|port| port.parse().ok())
            .ok_or_else(refused)?,
        None => return Err(refused()),
    };
    let host = authority.host().trim_matches(['[', ']']);
    if host.is_empty() || authority.as_str().contains('@') {
        return Err(refused());
    }
    Ok(StoreAddress {
        host: host.to_owned(),
        port,
    })
}

#[cfg(test)]
mod tests;
