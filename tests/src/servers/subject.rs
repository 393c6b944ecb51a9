//! The servers that are tested, each with the drain recipe that a user would copy.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ship_model::spec::{Restart, Standby, Strategy};

use super::Manners;

/// A server and its application.
#[derive(Debug, Clone)]
pub struct Subject {
    pub name: &'static str,
    /// Program and arguments; the working directory is the release.
    pub command: Vec<String>,
    /// Files of a release: where they come from, and their path in it.
    pub files: Vec<(PathBuf, &'static str)>,
    pub env: Vec<(&'static str, String)>,
    pub stop_signal: &'static str,
    /// From the drain file to the stop signal, at most.
    pub drain: Duration,
    /// Whether its application has `/ws`.
    pub websockets: bool,
    /// Whether its releases are made by `ship-sample make`.
    pub made: bool,
    /// What builds a release of it in a folder.
    pub build: Option<fn(&Path, u64, Manners)>,
    /// Whether nothing in it is ours, so that a bad release of it is made by other words of its command.
    pub plain: bool,
    /// How it is replaced.
    pub strategy: Strategy,
    pub restart: Option<Restart>,
    /// What stays of the release before.
    pub standby: Option<Standby>,
    /// Whether it has `/stream`.
    pub streams: bool,
}

pub(super) fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).to_owned()
}

/// Where `tests/setup` keeps what it fetched.
pub(super) fn cache() -> PathBuf {
    std::env::var_os("SHIP_TESTS_CACHE").map_or_else(|| root().join(".cache"), PathBuf::from)
}

pub(super) fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

pub(super) fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// So that it can be run at once, should it be a program.
pub(super) fn place(from: &Path, to: &Path) -> std::io::Result<()> {
    crate::victim::link(from, to)
}

impl Subject {
    /// `files` are pairs of a file and its name in the release: recipes below `agent/drain`, apps below `tests/servers`.
    pub(super) fn new(name: &'static str, command: Vec<String>, files: &[(&str, &'static str)]) -> Self {
        Self {
            name,
            command,
            files: files.iter().map(|(from, to)| (root().join(from), *to)).collect(),
            env: Vec::new(),
            stop_signal: "TERM",
            drain: Duration::from_secs(60),
            websockets: false,
            made: false,
            build: None,
            plain: false,
            strategy: Strategy::ListenFds,
            restart: None,
            standby: None,
            streams: true,
        }
    }

    /// Whether it must be told where to listen.
    pub(super) fn listens_at_own(&self) -> bool {
        self.strategy.binds_itself() || self.strategy.takes_either()
    }

    /// Makes the files of a release in a folder.
    ///
    /// # Panics
    /// When they cannot be written.
    pub fn copy_to(&self, folder: &Path) {
        for (from, to) in &self.files {
            let done = place(from, &folder.join(to));
            done.unwrap_or_else(|error| panic!("{} of {}: {error}", from.display(), self.name));
        }
    }

    pub(super) fn python(words_: &[&str]) -> Option<Vec<String>> {
        let python = cache().join("venv/bin/python");
        let there = cache().join("venv/bin").join(words_[1]).exists();
        let mut command = vec![python.to_string_lossy().into_owned()];
        command.extend(words(words_));
        there.then_some(command)
    }

    #[must_use]
    pub fn uvicorn() -> Option<Self> {
        let command = [
            "-m",
            "uvicorn",
            "--fd",
            "3",
            "--log-level",
            "warning",
            "--timeout-keep-alive",
            "75",
            "app:app",
        ];
        let files = [
            ("agent/drain/asgi.py", "drain.py"),
            ("tests/servers/asgi/app.py", "app.py"),
        ];
        Some(Self {
            websockets: true,
            ..Self::new("uvicorn", Self::python(&command)?, &files)
        })
    }

    /// Without the recipe: it has not heard of any drain, so there is no use in a longer one than an answer takes on a busy
    /// machine.
    #[must_use]
    pub fn plain_uvicorn() -> Option<Self> {
        Some(Self {
            name: "uvicorn, plain",
            env: vec![("PLAIN", "1".to_owned())],
            drain: Duration::from_secs(3),
            websockets: false,
            ..Self::uvicorn()?
        })
    }

    #[must_use]
    pub fn hypercorn() -> Option<Self> {
        let command = [
            "-m",
            "hypercorn",
            "--bind",
            "fd://3",
            "--keep-alive",
            "75",
            "app:app",
        ];
        let files = [
            ("agent/drain/asgi.py", "drain.py"),
            ("tests/servers/asgi/app.py", "app.py"),
        ];
        Some(Self {
            websockets: true,
            ..Self::new("hypercorn", Self::python(&command)?, &files)
        })
    }

    #[must_use]
    pub fn gunicorn() -> Option<Self> {
        let files = [
            ("agent/drain/wsgi.py", "drain.py"),
            ("tests/servers/wsgi/app.py", "app.py"),
            ("tests/servers/wsgi/gunicorn.conf.py", "gunicorn.conf.py"),
        ];
        Some(Self::new(
            "gunicorn",
            Self::python(&["-m", "gunicorn", "app:app"])?,
            &files,
        ))
    }

    /// Without the recipe.
    #[must_use]
    pub fn plain_gunicorn() -> Option<Self> {
        let words =
            "-m gunicorn -k gthread --workers 2 --threads 16 --keep-alive 75 --graceful-timeout 20 app:app";
        let words: Vec<&str> = words.split(' ').collect();
        Some(Self {
            drain: Duration::from_secs(1),
            ..Self::new(
                "gunicorn, plain",
                Self::python(&words)?,
                &[("tests/servers/wsgi/app.py", "app.py")],
            )
        })
    }

    #[must_use]
    pub fn puma() -> Option<Self> {
        let puma = program("puma")?.to_string_lossy().into_owned();
        let command = words(&[
            &puma,
            "--bind-to-activated-sockets",
            "only",
            "-t",
            "16:16",
            "-e",
            "production",
            "--quiet",
        ]);
        let files = [
            ("agent/drain/rack.rb", "drain.rb"),
            ("tests/servers/rack/config.ru", "config.ru"),
        ];
        Some(Self::new("puma", command, &files))
    }

    #[must_use]
    pub fn unicorn() -> Option<Self> {
        let unicorn = program("unicorn")?.to_string_lossy().into_owned();
        let command = words(&[&unicorn, "-c", "unicorn.rb", "-E", "production"]);
        let files = [
            ("agent/drain/rack.rb", "drain.rb"),
            ("tests/servers/rack/config.ru", "config.ru"),
            ("tests/servers/rack/unicorn.rb", "unicorn.rb"),
        ];
        Some(Self {
            stop_signal: "QUIT",
            ..Self::new("unicorn", command, &files)
        })
    }

    /// Takes its listener as from Server::Starter, which it is written for.
    #[must_use]
    pub fn starlet() -> Option<Self> {
        let plackup = program("plackup").filter(|_| program("start_server").is_some())?;
        let plackup = plackup.to_string_lossy().into_owned();
        let command = words(&[
            &plackup,
            "-E",
            "production",
            "-s",
            "Starlet",
            "--max-workers=6",
            "app.psgi",
        ]);
        Some(Self {
            strategy: Strategy::Starter,
            ..Self::new("starlet", command, &[("tests/servers/psgi/app.psgi", "app.psgi")])
        })
    }

    #[must_use]
    pub fn node() -> Option<Self> {
        let places = [
            cache().join("node/node_modules"),
            PathBuf::from("/usr/share/nodejs"),
        ];
        let modules = places.into_iter().find(|place| place.join("ws").exists())?;
        let node = program("node")?;
        let command = vec![node.to_string_lossy().into_owned(), "app.js".to_owned()];
        let files = [
            ("agent/drain/node.js", "drain.js"),
            ("tests/servers/node/app.js", "app.js"),
            ("tests/servers/node/http2.js", "http2.js"),
        ];
        Some(Self {
            env: vec![("NODE_PATH", modules.to_string_lossy().into_owned())],
            websockets: true,
            ..Self::new("node", command, &files)
        })
    }

    /// The program of this package of `tests/servers/go`, built in `folder`, which must live as long as the subject is used.
    ///
    /// # Panics
    /// When it cannot be built.
    #[must_use]
    pub fn go(folder: &Path, package: &str) -> Option<Self> {
        let go = program("go")?;
        let source = folder.join("src");
        let copied = std::fs::create_dir_all(source.join("drain"))
            .and_then(|()| std::fs::create_dir_all(source.join("http2")))
            .and_then(|()| {
                for (from, to) in [
                    ("tests/servers/go/go.mod", "go.mod"),
                    ("tests/servers/go/main.go", "main.go"),
                    ("tests/servers/go/http2/main.go", "http2/main.go"),
                    ("agent/drain/go/drain.go", "drain/drain.go"),
                ] {
                    std::fs::copy(root().join(from), source.join(to))?;
                }
                Ok(())
            });
        let server = folder.join("server");
        let mut build = std::process::Command::new(go);
        build
            .args(["build", "-o"])
            .arg(&server)
            .arg(package)
            .current_dir(&source);
        build.env("GOFLAGS", "-mod=mod").env("GOPROXY", "off");
        let built = copied.and_then(|()| build.output());
        let built = built.unwrap_or_else(|error| panic!("build the Go server: {error}"));
        let said = String::from_utf8_lossy(&built.stderr);
        assert!(built.status.success(), "build the Go server: {said}");
        Some(Self {
            websockets: true,
            files: vec![(server, "server")],
            ..Self::new("go", words(&["./server"]), &[])
        })
    }

    /// The recipe for Rust, an example of this workspace.
    #[must_use]
    pub fn hyper() -> Self {
        Self {
            websockets: true,
            files: vec![(crate::bin_dir().join("examples/drain"), "server")],
            ..Self::new("hyper", words(&["./server"]), &[])
        }
    }

    /// The sample app of this workspace.
    #[must_use]
    pub fn sample() -> Self {
        Self {
            websockets: true,
            made: true,
            ..Self::new("sample", words(&["bin/server", "serve"]), &[])
        }
    }
}
