//! Which fleet is meant, and with which certificate: `context.toml`.

use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use ship_model::name::{AppName, EnvName};

use crate::args::Global;
use crate::error::{CommandError, Exit};

/// Largest `context.toml` that is read.
const MAX_BYTES: u64 = 64 << 10;

/// The file as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    version: u32,
    store: String,
    env: EnvName,
    app: Option<AppName>,
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
    assets: Option<String>,
}

/// A context, checked; paths are resolved against the folder of the file.
#[derive(Debug, Clone)]
pub struct Context {
    pub path: PathBuf,
    /// `host:port` of the store's TLS port.
    pub store: String,
    pub env: EnvName,
    pub app: Option<AppName>,
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Where the store serves assets, `http://…`.
    pub assets: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ReadContextError {
    #[error("no fleet is named: there is no {path}")]
    Absent { path: String },
    #[error("no fleet is named: neither -c, SHIP_CONTEXT nor a home folder says which")]
    Homeless,
    #[error("read the context {path}")]
    Read { path: String, source: io::Error },
    #[error("{path} is larger than a context can be")]
    TooLarge { path: String },
    #[error("{path} is not a context")]
    Parse {
        path: String,
        source: Box<toml::de::Error>,
    },
    #[error("{path} has version {version}; this shipctl reads version 1")]
    Version { path: String, version: u32 },
    #[error("{path} names the store {store:?}: write https://HOST:PORT")]
    Store { path: String, store: String },
}

impl Context {
    /// Reads the context that `-c` or `SHIP_CONTEXT` names, else the one in the home folder.
    pub fn read(global: &Global) -> Result<Self, CommandError> {
        let found = match &global.context {
            Some(path) => read_file(path),
            None => match default_path() {
                Some(path) => read_file(&path),
                None => Err(ReadContextError::Homeless),
            },
        };
        let mut context = found.map_err(|error| explain(&error, global))?;
        if let Some(env) = &global.env {
            context.env = env.clone();
        }
        if let Some(app) = &global.app {
            context.app = Some(app.clone());
        }
        Ok(context)
    }
}

/// `$XDG_CONFIG_HOME/ship/context.toml`, or below `~/.config`.
fn default_path() -> Option<PathBuf> {
    let folder = |name: &str| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let config = folder("XDG_CONFIG_HOME").or_else(|| Some(folder("HOME")?.join(".config")))?;
    Some(config.join("ship/context.toml"))
}

fn read_file(path: &Path) -> Result<Context, ReadContextError> {
    let shown = path.display().to_string();
    let text = read_text(path, &shown)?;
    let written: Written = toml::from_str(&text).map_err(|source| ReadContextError::Parse {
        path: shown.clone(),
        source: Box::new(source),
    })?;
    if written.version != 1 {
        return Err(ReadContextError::Version {
            path: shown,
            version: written.version,
        });
    }
    let Some(store) = store_address(&written.store) else {
        return Err(ReadContextError::Store {
            path: shown,
            store: written.store,
        });
    };
    let folder = path.parent().unwrap_or(Path::new("."));
    Ok(Context {
        path: path.to_owned(),
        store,
        env: written.env,
        app: written.app,
        ca: folder.join(written.ca),
        cert: folder.join(written.cert),
        key: folder.join(written.key),
        assets: written.assets,
    })
}

fn read_text(path: &Path, shown: &str) -> Result<String, ReadContextError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => ReadContextError::Absent {
            path: shown.to_owned(),
        },
        _ => ReadContextError::Read {
            path: shown.to_owned(),
            source,
        },
    };
    if std::fs::metadata(path).map_err(failed)?.len() > MAX_BYTES {
        return Err(ReadContextError::TooLarge {
            path: shown.to_owned(),
        });
    }
    std::fs::read_to_string(path).map_err(failed)
}

/// `https://host:port` → `host:port`; port 7400 where none is given.
fn store_address(url: &str) -> Option<String> {
    let uri: http::Uri = url.parse().ok()?;
    let authority = uri.authority()?;
    let plain = matches!(uri.path(), "" | "/") && uri.query().is_none() && !url.contains('@');
    let host = authority.host();
    let port = match authority.as_str().strip_prefix(host) {
        Some("") => 7400,
        _ => authority.port_u16()?,
    };
    (uri.scheme_str() == Some("https") && plain && !host.is_empty()).then(|| format!("{host}:{port}"))
}

fn explain(error: &ReadContextError, global: &Global) -> CommandError {
    let fault = CommandError::of(Exit::Error, error);
    if !matches!(
        error,
        ReadContextError::Absent { .. } | ReadContextError::Homeless
    ) {
        return fault;
    }
    let near = ["context.toml", ".ship-up/context.toml"];
    let near = near.iter().find(|path| Path::new(path).is_file());
    match (near, &global.context) {
        (Some(path), _) => fault.hint(format!("there is one here: shipctl -c {path} …")),
        (None, Some(_)) => fault.hint("`shipctl up` writes one when its fleet is up"),
        (None, None) => {
            fault.hint("name one with -c FILE or SHIP_CONTEXT, or start a fleet on this machine: shipctl up")
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::*;

    fn read(text: &str) -> Result<Context, String> {
        use std::io::Write as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("context.toml");
        std::fs::File::create(&path)
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        read_file(&path).map_err(|error| {
            let place = folder.path().display().to_string();
            CommandError::of(Exit::Error, &error)
                .message()
                .replace(&place, "$D")
        })
    }

    const GOOD: &str = "version = 1\nstore = \"https://127.0.0.1:7400\"\nenv = \"dev\"\n\
                        ca = \"tls/ca.pem\"\ncert = \"/c.pem\"\nkey = \"k.pem\"\n";

    #[test]
    fn paths_are_relative_to_the_file() {
        let context = read(GOOD).unwrap();
        assert_eq!(context.store, "127.0.0.1:7400");
        assert!(context.ca.ends_with("tls/ca.pem") && context.ca.is_absolute());
        assert_eq!(context.cert, Path::new("/c.pem"));
    }

    /// What people wrote for an older shipctl still holds; see tests/frozen/README.md.
    #[test]
    fn the_frozen_file_is_read() {
        let context = read(include_str!("../../tests/frozen/context-1.toml")).unwrap();
        assert_eq!(
            (context.store.as_str(), context.env.as_str()),
            ("127.0.0.1:7400", "dev")
        );
        assert_eq!(context.app.map(|app| app.to_string()).as_deref(), Some("web"));
        assert!(context.ca.ends_with("tls/ca.pem") && context.cert.ends_with("tls/cert.pem"));
        assert_eq!(context.key, Path::new("/keys/key.pem"));
        assert_eq!(context.assets.as_deref(), Some("http://127.0.0.1:7480"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |from: &str, to: &str| read(&GOOD.replace(from, to)).unwrap_err();
        assert_eq!(wrong("env", "envv"), "$D/context.toml is not a context");
        assert_eq!(
            wrong("version = 1", "version = 2"),
            "$D/context.toml has version 2; this shipctl reads version 1"
        );
        assert_eq!(
            wrong("https:", "http:"),
            "$D/context.toml names the store \"http://127.0.0.1:7400\": write https://HOST:PORT"
        );
    }

    #[test]
    fn store_addresses() {
        for (url, address) in [
            ("https://a:1", Some("a:1")),
            ("https://a", Some("a:7400")),
            ("https://[::1]:7400/", Some("[::1]:7400")),
            ("https://a:1/x", None),
            ("a:1", None),
            ("https://", None),
            ("https://a:99999", None),
        ] {
            assert_eq!(store_address(url).as_deref(), address, "{url}");
        }
    }
}
