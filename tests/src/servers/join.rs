//! Servers that bind by themselves and know nothing of handed-over sockets; none of them drains.

use std::time::Duration;

use ship_model::spec::Strategy;

use super::Subject;
use super::subject::{cache, program, words};

impl Subject {
    fn binds(name: &'static str, command: Vec<String>, files: &[(&str, &'static str)]) -> Self {
        Self {
            strategy: Strategy::BindJoin,
            // They keep what idle users keep, so there is no use in a longer one than an answer takes on a busy machine.
            drain: Duration::from_secs(4),
            ..Self::new(name, command, files)
        }
    }

    /// `python -m http.server` as it comes.
    #[must_use]
    pub fn python_http() -> Option<Self> {
        let python = program("python3")?.to_string_lossy().into_owned();
        let folder = "--directory=./@BASE@";
        let command = [&python, "-m", "http.server", "@PORT@", "--bind", "@IP@", folder];
        Some(Self {
            plain: true,
            streams: false,
            ..Self::binds(
                "python -m http.server",
                words(&command),
                &[("tests/servers/join/page.py", "healthz")],
            )
        })
    }

    /// uvicorn as it is started by hand, without the recipe.
    #[must_use]
    pub fn uvicorn_binds() -> Option<Self> {
        let command = [
            "-m",
            "uvicorn",
            "--host",
            "@IP@",
            "--port",
            "@PORT@",
            "--log-level",
            "warning",
            "app:app",
        ];
        let files = [
            ("agent/drain/asgi.py", "drain.py"),
            ("tests/servers/asgi/app.py", "app.py"),
        ];
        Some(Self {
            env: vec![("PLAIN", "1".to_owned())],
            ..Self::binds("uvicorn, by hand", Self::python(&command)?, &files)
        })
    }

    /// Streamlit's own server, of tornado.
    #[must_use]
    pub fn streamlit() -> Option<Self> {
        let python = cache().join("streamlit/bin/python");
        let installed = cache().join("streamlit/bin/streamlit").exists();
        let python = python.to_string_lossy().into_owned();
        let command = words(&[
            &python,
            "-m",
            "streamlit",
            "run",
            "page.py",
            "--server.address=@IP@",
            "--server.port=@PORT@",
            "--server.baseUrlPath=@BASE@",
            "--server.headless=true",
            "--server.fileWatcherType=none",
            "--server.enableStaticServing=true",
            "--browser.gatherUsageStats=false",
        ]);
        let files = [
            ("tests/servers/join/page.py", "page.py"),
            ("tests/servers/join/release", "static/release.txt"),
        ];
        installed.then(|| Self {
            plain: true,
            streams: false,
            ..Self::binds("streamlit", command, &files)
        })
    }

    /// node's own server, without a cluster and without a descriptor.
    #[must_use]
    pub fn node_http() -> Option<Self> {
        let node = program("node")?.to_string_lossy().into_owned();
        let files = [("tests/servers/join/app.js", "app.js")];
        Some(Self::binds("node http", words(&[&node, "app.js"]), &files))
    }

    /// The JDK's own server.
    #[must_use]
    pub fn java() -> Option<Self> {
        // The launcher compiles the one file itself, which needs the whole kit.
        let java = program("javac")
            .and(program("java"))?
            .to_string_lossy()
            .into_owned();
        let files = [("tests/servers/join/App.java", "App.java")];
        let command = words(&[&java, "-Xmx64m", "-XX:+UseSerialGC", "App.java"]);
        Some(Self::binds("java", command, &files))
    }
}
