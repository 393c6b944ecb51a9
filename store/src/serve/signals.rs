//! What the store is told by signals, and what it tells whoever supervises it.

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use ship_assets::serve::PortTls;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use crate::tls::Tls;

/// How often the certificate files are looked at.
const LOOK_AT_FILES: Duration = Duration::from_secs(3);

/// The signals that a store heeds.
pub(super) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Reloads certificates when asked and when their files change, until the end is asked for.
    pub async fn until_end(mut self, tls: &Tls, assets: Option<&PortTls>) {
        let mut looks = interval(LOOK_AT_FILES);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let asked = tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => true,
                _ = looks.tick() => false,
            };
            if asked {
                tell(tls.reload().map(|()| true));
                tell(assets.map_or(Ok(false), |tls| tls.reload().map(|()| true)));
            } else {
                tell(tls.reload_if_changed());
                tell(assets.map_or(Ok(false), PortTls::reload_if_changed));
            }
        }
    }
}

fn tell<E: std::error::Error + 'static>(reloaded: Result<bool, E>) {
    match reloaded {
        Ok(true) => tracing::info!("certificates reloaded; new connections use them"),
        Ok(false) => {}
        Err(error) => tracing::error!(
            error = &error as &dyn std::error::Error,
            "certificates cannot be reloaded; the old ones stay"
        ),
    }
}

/// Tells systemd, or whoever set NOTIFY_SOCKET. Nobody listening is no error.
pub(super) fn tell_supervisor(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let address = match path.as_bytes() {
        [b'@', name @ ..] => std::os::unix::net::SocketAddr::from_abstract_name(name),
        _ => std::os::unix::net::SocketAddr::from_pathname(&path),
    };
    let told = address.and_then(|address| {
        let socket = std::os::unix::net::UnixDatagram::unbound()?;
        socket.send_to_addr(state.as_bytes(), &address)
    });
    if let Err(error) = told {
        tracing::warn!(%error, "cannot reach the supervisor's socket");
    }
}
