//! Servers that are replaced in place, each by its own best known way: they bind by themselves.

use ship_model::spec::{Reexec, Reload, Restart, Strategy};

use super::Subject;
use super::subject::{program, words};

fn reexec(pause: Option<&str>, pidfile: &str) -> Option<Restart> {
    Some(Restart::Reexec(Reexec {
        upgrade: "USR2".to_owned(),
        pause: pause.map(str::to_owned),
        resume: pause.map(|_| "HUP".to_owned()),
        pidfile: Some(pidfile.to_owned()),
    }))
}

fn reload(signal: &str) -> Option<Restart> {
    let signal = signal.to_owned();
    Some(Restart::Reload(Reload { signal }))
}

const RACK: [(&str, &str); 2] = [
    ("agent/drain/rack.rb", "drain.rb"),
    ("tests/servers/rack/config.ru", "config.ru"),
];

impl Subject {
    #[must_use]
    pub fn unicorn_reexec() -> Option<Self> {
        let unicorn = program("unicorn")?.to_string_lossy().into_owned();
        let command = words(&[&unicorn, "-c", "unicorn.rb", "-E", "production"]);
        let files = [
            RACK[0],
            RACK[1],
            ("tests/servers/in-place/unicorn.rb", "unicorn.rb"),
        ];
        Some(Self {
            stop_signal: "QUIT",
            strategy: Strategy::SignalReexec,
            restart: reexec(Some("WINCH"), "unicorn.pid"),
            ..Self::new("unicorn-reexec", command, &files)
        })
    }

    #[must_use]
    pub fn gunicorn_reexec() -> Option<Self> {
        let files = [
            ("agent/drain/wsgi.py", "drain.py"),
            ("tests/servers/wsgi/app.py", "app.py"),
            ("tests/servers/in-place/gunicorn.conf.py", "gunicorn.conf.py"),
        ];
        Some(Self {
            strategy: Strategy::SignalReexec,
            restart: reexec(Some("WINCH"), "gunicorn.pid"),
            ..Self::new(
                "gunicorn-reexec",
                Self::python(&["-m", "gunicorn", "app:app"])?,
                &files,
            )
        })
    }

    #[must_use]
    pub fn puma_phased() -> Option<Self> {
        let puma = program("puma")?.to_string_lossy().into_owned();
        let files = [RACK[0], RACK[1], ("tests/servers/in-place/puma.rb", "puma.rb")];
        Some(Self {
            strategy: Strategy::SignalReload,
            restart: reload("USR1"),
            ..Self::new("puma-phased", words(&[&puma, "-C", "puma.rb", "--quiet"]), &files)
        })
    }

    /// Like Puma, but for one thing: it never hears a signal for a phased restart while one runs.
    #[must_use]
    pub fn deaf_while_it_restarts() -> Option<Self> {
        let python = program("python3")?.to_string_lossy().into_owned();
        Some(Self {
            strategy: Strategy::SignalReload,
            restart: reload("USR1"),
            ..Self::new(
                "deaf while it restarts",
                words(&[&python, "phased.py"]),
                &[("tests/servers/in-place/phased.py", "phased.py")],
            )
        })
    }

    /// nginx upgrades itself only as a daemon.
    fn nginx(name: &'static str, daemon: &str) -> Option<Self> {
        // The configuration is read through the link at each reload.
        let nginx = program("nginx")?.to_string_lossy().into_owned();
        let command = words(&[&nginx, "-c", "@CURRENT@/nginx.conf", "-g", daemon]);
        Some(Self {
            stop_signal: "QUIT",
            ..Self::new(
                name,
                command,
                &[("tests/servers/in-place/nginx.conf", "nginx.conf")],
            )
        })
    }

    #[must_use]
    pub fn nginx_reload() -> Option<Self> {
        Some(Self {
            strategy: Strategy::SignalReload,
            restart: reload("HUP"),
            ..Self::nginx("nginx-reload", "daemon off;")?
        })
    }

    #[must_use]
    pub fn nginx_reexec() -> Option<Self> {
        Some(Self {
            strategy: Strategy::SignalReexec,
            restart: reexec(Some("WINCH"), "nginx.pid"),
            ..Self::nginx("nginx-reexec", "daemon on;")?
        })
    }

    #[must_use]
    pub fn haproxy_reload() -> Option<Self> {
        let haproxy = program("haproxy")?.to_string_lossy().into_owned();
        Some(Self {
            stop_signal: "USR1",
            strategy: Strategy::SignalReload,
            restart: reload("USR2"),
            streams: false,
            ..Self::new(
                "haproxy-reload",
                words(&[&haproxy, "-W", "-f", "@CURRENT@/haproxy.cfg"]),
                &[("tests/servers/in-place/haproxy.cfg", "haproxy.cfg")],
            )
        })
    }
}
