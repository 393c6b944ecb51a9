//! What `[[balancer]]` in an `agent.toml` says: where this host is taken out of rotation, and how it is seen from there.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ship_model::name::AppName;

/// One place that sends users to an app of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub app: AppName,
    pub kind: Kind,
    /// For what is under way to end when the host is taken out, and for the balancer to see it when it is back.
    pub wait: Duration,
    /// Where users reach the app through the balancer; none: only the host itself is asked.
    pub front: Option<Front>,
    /// Asked of the host, and through the balancer; none: what the release's own probe asks.
    pub check: Option<String>,
    /// A path at which the app upgrades to a WebSocket.
    pub websocket: Option<String>,
}

/// How a balancer is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// HAProxy's runtime API.
    Haproxy {
        socket: Socket,
        backend: String,
        server: String,
    },
    /// HAProxy's `agent-check` asks the agent.
    AgentCheck {
        listen: SocketAddr,
        /// Of the server's own weight, 1 to 100.
        percent: u8,
        polls: u64,
    },
    /// Any balancer whose health check is an HTTP request: `GET /<app>` of the agent.
    Readiness {
        listen: SocketAddr,
        /// The status while the host is taken out: 503, or 404 for HAProxy's `http-check disable-on-404`.
        drained_status: u16,
        polls: u64,
    },
    /// A file of nginx's with this host's `server` line in it, and the command that has it read.
    Nginx {
        file: PathBuf,
        server: String,
        reload: Vec<String>,
    },
    /// Whatever else: two commands. `drain` ends when no new user comes.
    Hook { drain: Vec<String>, ready: Vec<String> },
}

impl Kind {
    /// As `agent.toml` has it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Haproxy { .. } => "haproxy",
            Self::AgentCheck { .. } => "agent-check",
            Self::Readiness { .. } => "readiness",
            Self::Nginx { .. } => "nginx",
            Self::Hook { .. } => "hook",
        }
    }
}

/// Where HAProxy's runtime API listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Socket {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// The way of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Front {
    pub address: SocketAddr,
    /// The `Host` of the request.
    pub host: String,
    /// A header with this host's name as its value, by which the balancer picks this host, also while it is taken out
    /// (HAProxy: `use-server h1 if { req.hdr(x-ship-host) h1 }`). Without it, whoever is in rotation answers.
    pub pin: Option<String>,
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}

/// Names it in a message, and in the record of what was taken out.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Haproxy {
                socket,
                backend,
                server,
            } => write!(f, "HAProxy {backend}/{server} at {socket}"),
            Kind::AgentCheck { listen, .. } => write!(f, "agent-check at {listen}"),
            Kind::Readiness { listen, .. } => write!(f, "readiness at {listen}"),
            Kind::Nginx { file, server, .. } => write!(f, "nginx {server} in {}", file.display()),
            Kind::Hook { drain, .. } => write!(f, "hook {}", drain.first().map_or("", String::as_str)),
        }
    }
}
