//! What a keeper is asked to run: the processes of a release that belong on this host, with the host's addresses.

use std::net::IpAddr;
use std::path::Path;

use ship_keeper::protocol::{self, Intent, ListenSpec, ProbeSpec};
use ship_model::desired::{DeployNumber, Epoch};
use ship_model::name::ProcessName;
use ship_model::release::Target;
use ship_model::spec::{ListenAddr, Probe, ProbeKind, ProcessSpec, ReleaseSpec, Standby};
use thiserror::Error;

use crate::config::Config;
use crate::layout::AppLayout;

/// Why a release cannot be run on this host.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum IntentError {
    #[error("no process of the release has a class of this host; it has {has}, the release wants {wants}")]
    NoProcess { has: String, wants: String },
    #[error("the release is for {wants}; this host is {is}")]
    Platform { wants: String, is: String },
}

/// Who wants it.
#[derive(Debug, Clone, Copy)]
pub struct Order {
    pub target: Target,
    pub epoch: Epoch,
    pub deploy: DeployNumber,
}

/// The intent for a release that lies staged in `layout`.
///
/// # Errors
/// [`IntentError`] when nothing of it may run here.
pub fn intent(
    spec: &ReleaseSpec,
    order: Order,
    config: &Config,
    layout: &AppLayout,
) -> Result<Intent, IntentError> {
    fits(spec)?;
    let here: Vec<_> = spec
        .processes
        .iter()
        .filter(|(_, process)| config.classes.contains(&process.class))
        .collect();
    if here.is_empty() {
        return Err(IntentError::NoProcess {
            has: joined(config.classes.iter()),
            wants: joined(spec.processes.values().map(|process| &process.class)),
        });
    }
    Ok(Intent {
        release: order.target.number.0,
        id: order.target.id.to_string(),
        dir: layout.release(&order.target),
        deploy: order.deploy.0,
        epoch: order.epoch.0,
        environment: config.env.to_string(),
        coexist: here.iter().all(|(_, process)| process.coexist),
        must_coexist: here.iter().any(|(_, process)| process.must_coexist),
        hooks: spec.hooks.clone(),
        soak_ms: here
            .iter()
            .map(|(_, process)| process.soak_ms)
            .max()
            .unwrap_or_default(),
        standby: here
            .iter()
            .filter_map(|(_, process)| process.standby())
            .reduce(Standby::or_longer),
        processes: here
            .into_iter()
            .map(|(name, spec)| process(name, spec, config.address, layout))
            .collect(),
    })
}

/// What this machine is, as `platform` in a ship.toml names it: `linux/amd64`.
pub fn platform() -> String {
    let machine = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("linux/{machine}")
}

/// Whether this machine is one the release is made for.
///
/// # Errors
/// [`IntentError::Platform`].
pub fn fits(spec: &ReleaseSpec) -> Result<(), IntentError> {
    let is = platform();
    if spec.platform.is_empty() || spec.platform.contains(&is) {
        return Ok(());
    }
    Err(IntentError::Platform {
        wants: spec.platform.join(", "),
        is,
    })
}

fn joined<T: ToString>(items: impl Iterator<Item = T>) -> String {
    let mut items: Vec<_> = items.map(|item| item.to_string()).collect();
    items.sort();
    items.dedup();
    items.join(", ")
}

fn process(
    name: &ProcessName,
    spec: &ProcessSpec,
    address: IpAddr,
    layout: &AppLayout,
) -> protocol::ProcessSpec {
    let listen = spec.listen.iter().map(|(name, addr)| ListenSpec {
        name: name.clone(),
        addr: listener(addr, address, &layout.run),
    });
    protocol::ProcessSpec {
        name: name.to_string(),
        command: spec.command.clone(),
        strategy: spec.strategy,
        // What stands by is the generation, not the process.
        restart: spec.restart.clone().filter(|_| spec.standby().is_none()),
        asked_for: None,
        overlap: spec.overlap,
        canary: spec.canary,
        env: spec.env.clone(),
        env_file: Some(layout.env_file()),
        listen: listen.collect(),
        probe: match &spec.probe {
            Some(asked) => probe(asked, spec),
            None if spec.notify => None,
            None => probe(&SOMEBODY_ACCEPTS, spec),
        },
        notify: spec.notify,
        watchdog_ms: spec.watchdog_ms,
        ready_timeout_ms: spec.ready_timeout_ms,
        drain_ms: spec.drain_ms,
        stop_signal: spec.stop_signal.clone(),
        stop_timeout_ms: spec.stop_timeout_ms,
        lock_wait_ms: spec.lock_wait_ms,
        lock_overrule: spec.lock_overrule,
        no_new_privs: spec.no_new_privs,
        user: spec.user.clone(),
        limits: protocol::Limits {
            nofile: spec.limits.nofile,
            memory: spec.limits.memory,
            pids: spec.limits.pids,
            cpu: spec.limits.cpu,
        },
    }
}

fn listener(addr: &ListenAddr, own: IpAddr, run: &Path) -> String {
    match addr {
        ListenAddr::Tcp { ip, port } => {
            format!("tcp:{}", std::net::SocketAddr::new(ip.unwrap_or(own), *port))
        }
        ListenAddr::Udp { ip, port } => {
            format!("udp:{}", std::net::SocketAddr::new(ip.unwrap_or(own), *port))
        }
        ListenAddr::Unix { path } => format!("unix:{}", run.join(path).display()),
    }
}

/// What is asked of a process that listens and says nothing of itself. Its sockets are the keeper's, so clients can connect
/// though the app never looked at them: one that binds a socket of its own must not pass for one that serves.
const SOMEBODY_ACCEPTS: Probe = Probe {
    kind: ProbeKind::Tcp,
    listener: None,
    times: 1,
    interval_ms: 200,
    timeout_ms: 1000,
};

fn probe(asked: &Probe, spec: &ProcessSpec) -> Option<ProbeSpec> {
    let mut connected = spec.listen.iter().filter(|(_, addr)| addr.takes_connections());
    let first = connected.next().map(|(name, _)| name.clone());
    let any = || spec.listen.keys().next().cloned();
    Some(ProbeSpec {
        kind: match &asked.kind {
            ProbeKind::Http { path } => protocol::ProbeKind::Http { path: path.clone() },
            ProbeKind::Tcp => protocol::ProbeKind::Tcp,
            ProbeKind::Grpc { service } => protocol::ProbeKind::Grpc {
                service: service.clone(),
            },
            ProbeKind::Command { words } => protocol::ProbeKind::Command { words: words.clone() },
        },
        listener: match asked.kind {
            ProbeKind::Command { .. } => asked.listener.clone().or(first).or_else(any).unwrap_or_default(),
            _ => asked.listener.clone().or(first)?,
        },
        times: asked.times,
        interval_ms: asked.interval_ms,
        timeout_ms: asked.timeout_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_without_an_address_gets_the_hosts_own() {
        let own = IpAddr::from([127, 41, 7, 1]);
        let run = Path::new("/run/ship/web");
        let tcp = |ip| ListenAddr::Tcp { ip, port: 80 };
        let unix = |path: &str| ListenAddr::Unix {
            path: path.to_owned(),
        };
        let six = IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]);
        for (addr, text) in [
            (tcp(None), "tcp:127.41.7.1:80"),
            (tcp(Some(six)), "tcp:[::1]:80"),
            (ListenAddr::Udp { ip: None, port: 53 }, "udp:127.41.7.1:53"),
            (unix("web.sock"), "unix:/run/ship/web/web.sock"),
            (unix("/tmp/s"), "unix:/tmp/s"),
        ] {
            assert_eq!(listener(&addr, own, run), text);
        }
    }
}
