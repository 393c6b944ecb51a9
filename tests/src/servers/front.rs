//! nginx and HAProxy as releases like any other: a generation of their own on sockets that were handed over.

use std::time::Duration;

use super::Subject;
use super::subject::{program, words};

impl Subject {
    /// Leaves by its configuration.
    #[must_use]
    pub fn nginx_beside() -> Option<Self> {
        program("nginx")?;
        let files = [
            ("agent/drain/nginx.sh", "nginx.sh"),
            ("tests/servers/front/nginx.conf.in", "nginx.conf.in"),
            ("tests/servers/front/site.conf", "site.conf"),
        ];
        Some(Self {
            stop_signal: "QUIT",
            ..Self::new("nginx", words(&["sh", "nginx.sh"]), &files)
        })
    }

    /// Leaves by its own soft stop, so it is stopped as soon as nobody new comes.
    #[must_use]
    pub fn haproxy_beside() -> Option<Self> {
        let haproxy = program("haproxy")?.to_string_lossy().into_owned();
        Some(Self {
            stop_signal: "USR1",
            drain: Duration::from_millis(1),
            streams: false,
            ..Self::new(
                "haproxy",
                words(&[&haproxy, "-db", "-f", "haproxy.cfg"]),
                &[("tests/servers/front/haproxy.cfg", "haproxy.cfg")],
            )
        })
    }
}
