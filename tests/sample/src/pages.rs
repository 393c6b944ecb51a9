//! The app proper: from a request to what is answered.

use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::assets::{self, Assets};
use crate::http::{self, Head};
use crate::socket;

/// Longest wait that `/slow` grants, in milliseconds.
const SLOWEST: u64 = 60_000;
/// Longest stream that `/stream` grants, in seconds.
const LONGEST: u64 = 600;
/// Pieces of a stream per second.
const PIECES: u64 = 10;
const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

#[derive(Debug, thiserror::Error)]
pub enum OpenAppError {
    #[error("read {path}; run inside a tree made by `ship-sample make`, or name one with --root")]
    Read { path: PathBuf, source: io::Error },
    #[error("understand {path}")]
    Settings {
        path: PathBuf,
        source: serde_json::Error,
    },
}

/// `config/app.json` of a release.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    version: u32,
    healthy: bool,
}

/// One release of the app, loaded.
#[derive(Debug)]
pub struct App {
    settings: Settings,
    index: String,
    about: String,
    assets: Assets,
    release: String,
    generation: String,
}

#[derive(Debug)]
pub enum Body {
    Bytes(Vec<u8>),
    /// So many pieces of a stream, one after the other.
    Stream {
        pieces: u64,
    },
    /// A WebSocket, with the answer to its key.
    Socket {
        accept: String,
    },
    /// The file's first `length` bytes.
    File {
        file: File,
        length: u64,
    },
}

/// What is answered, before it becomes bytes.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub content_type: &'static str,
    pub cache: &'static str,
    pub allow: Option<&'static str>,
    pub body: Body,
    /// Time to let pass before the answer is sent.
    pub delay: Duration,
}

impl Answer {
    fn new(status: u16, content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            content_type,
            cache: "no-cache",
            allow: None,
            body: Body::Bytes(body.into()),
            delay: Duration::ZERO,
        }
    }

    pub fn plain(status: u16, text: &str) -> Self {
        Self::new(status, TEXT, format!("{text}\n"))
    }
}

impl App {
    /// Loads the release in `root`; the environment says which release and generation it is.
    ///
    /// # Errors
    /// When the release's settings or templates are missing or malformed.
    pub fn open(root: &Path) -> Result<Self, OpenAppError> {
        let settings = settings(&root.join("config/app.json"))?;
        let release = variable("SHIP_RELEASE").unwrap_or_else(|| format!("v{}", settings.version));
        let generation = variable("SHIP_GENERATION").unwrap_or_else(|| format!("pid-{}", std::process::id()));
        let union = env::var_os("SHIP_ASSETS_DIR")
            .filter(|path| !path.is_empty())
            .map(PathBuf::from);
        Ok(Self {
            index: page(&root.join("templates/index.html"), &release)?,
            about: page(&root.join("templates/about.html"), &release)?,
            assets: Assets::new(union, root.join("public")),
            settings,
            release,
            generation,
        })
    }

    /// Which release answers; safe to stand in a header.
    pub fn release(&self) -> &str {
        &self.release
    }

    /// Which incarnation of the process answers; safe to stand in a header.
    pub fn generation(&self) -> &str {
        &self.generation
    }

    pub fn answer(&self, head: &Head, body: &[u8]) -> Answer {
        match (head.method.as_str(), head.path.as_str()) {
            ("POST", "/echo") => Answer::new(200, "application/octet-stream", body),
            (_, "/echo") => not_allowed("POST"),
            ("GET", "/ws") => socket(head),
            ("GET" | "HEAD", path) => self.get(path, &head.query),
            _ => not_allowed("GET, HEAD"),
        }
    }

    fn get(&self, path: &str, query: &str) -> Answer {
        match path {
            "/" => Answer::new(200, HTML, self.index.as_str()),
            "/about" => Answer::new(200, HTML, self.about.as_str()),
            "/healthz" => self.health(),
            "/slow" => slow(query),
            "/stream" => stream(query),
            _ if path.starts_with(assets::PREFIX) => self.asset(path),
            _ => Answer::plain(404, "no such page"),
        }
    }

    fn health(&self) -> Answer {
        if self.settings.healthy {
            Answer::plain(200, "ok")
        } else {
            Answer::plain(
                500,
                &format!("version {} cannot reach its database", self.settings.version),
            )
        }
    }

    fn asset(&self, path: &str) -> Answer {
        let Some(asset) = self.assets.find(path) else {
            return Answer::plain(404, "no such asset");
        };
        Answer {
            cache: "public, max-age=31536000, immutable",
            body: Body::File {
                file: asset.file,
                length: asset.length,
            },
            ..Answer::new(200, asset.content_type, "")
        }
    }
}

fn slow(query: &str) -> Answer {
    match http::query_value(query, "ms").unwrap_or("0").parse::<u64>() {
        Ok(delay @ ..=SLOWEST) => {
            let answer = Answer::plain(200, &format!("waited {delay} ms"));
            Answer {
                delay: Duration::from_millis(delay),
                ..answer
            }
        }
        _ => Answer::plain(400, "ms must be a number up to 60000"),
    }
}

fn stream(query: &str) -> Answer {
    match http::query_value(query, "seconds").unwrap_or("1").parse::<u64>() {
        Ok(seconds @ ..=LONGEST) => Answer {
            body: Body::Stream {
                pieces: seconds * PIECES,
            },
            ..Answer::new(200, TEXT, "")
        },
        _ => Answer::plain(400, "seconds must be a number up to 600"),
    }
}

fn socket(head: &Head) -> Answer {
    match &head.socket_key {
        Some(key) => Answer {
            body: Body::Socket {
                accept: socket::accept(key),
            },
            ..Answer::new(101, TEXT, "")
        },
        None => Answer::plain(426, "ask for a WebSocket of version 13"),
    }
}

fn not_allowed(allow: &'static str) -> Answer {
    Answer {
        allow: Some(allow),
        ..Answer::plain(405, "method not allowed")
    }
}

fn settings(path: &Path) -> Result<Settings, OpenAppError> {
    serde_json::from_str(&text(path)?).map_err(|source| OpenAppError::Settings {
        path: path.to_owned(),
        source,
    })
}

fn page(path: &Path, release: &str) -> Result<String, OpenAppError> {
    Ok(text(path)?.replace("{{release}}", release))
}

fn text(path: &Path) -> Result<String, OpenAppError> {
    fs::read_to_string(path).map_err(|source| OpenAppError::Read {
        path: path.to_owned(),
        source,
    })
}

/// An environment variable with nothing in it that would break a header or a page.
fn variable(name: &str) -> Option<String> {
    let value = env::var(name).ok()?;
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "@-_.:+/ ".contains(letter);
    let clean: String = value.chars().filter(|letter| allowed(*letter)).collect();
    (!clean.is_empty()).then_some(clean)
}
