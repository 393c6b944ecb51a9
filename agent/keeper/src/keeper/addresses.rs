//! Where a process listens, in variables: for one that binds by itself, so that its command need not repeat `listen`.
//!
//! For a listener `http`: `SHIP_LISTEN_HTTP=tcp:127.0.0.1:8080`, and its parts as `SHIP_IP_HTTP=127.0.0.1` and
//! `SHIP_PORT_HTTP=8080`; for a Unix socket `SHIP_LISTEN_HTTP=unix:/run/web.sock` and `SHIP_PATH_HTTP=/run/web.sock`.

use super::Keeper;
use crate::listen::{self, Address, Group};
use crate::processes::Environment;
use crate::protocol::ProcessSpec;

impl Keeper {
    /// The variables of all its listeners; port 0 is told as the port that was taken for it.
    pub(super) fn addresses(&self, spec: &ProcessSpec) -> Environment {
        let mut told = Environment::new();
        for listener in &spec.listen {
            let bound = self.listeners.get(&listen::key(spec, listener)).map(Group::bound);
            told.extend(variables(
                &listener.name,
                &bound.unwrap_or_else(|| listener.addr.clone()),
            ));
        }
        told
    }
}

fn variables(listener: &str, bound: &str) -> Vec<(String, String)> {
    let letter = |c: char| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_uppercase()
        } else {
            '_'
        }
    };
    let name: String = listener.chars().map(letter).collect();
    let mut told = vec![(format!("SHIP_LISTEN_{name}"), bound.to_owned())];
    match Address::parse(bound) {
        Ok(Address::Tcp(addr) | Address::Udp(addr)) => {
            told.push((format!("SHIP_IP_{name}"), addr.ip().to_string()));
            told.push((format!("SHIP_PORT_{name}"), addr.port().to_string()));
        }
        Ok(Address::Unix(path)) => told.push((format!("SHIP_PATH_{name}"), path.display().to_string())),
        Err(_) => {}
    }
    told
}

#[cfg(test)]
mod tests {
    use super::variables;

    #[test]
    fn an_address_is_told_whole_and_in_parts() {
        let told = |listener, bound| {
            let pairs = variables(listener, bound).into_iter();
            let lines: Vec<_> = pairs.map(|(name, value)| format!("{name}={value}")).collect();
            lines.join(" ")
        };
        assert_eq!(
            told("http", "tcp:[::1]:80"),
            "SHIP_LISTEN_HTTP=tcp:[::1]:80 SHIP_IP_HTTP=::1 SHIP_PORT_HTTP=80"
        );
        assert_eq!(
            told("my-web.2", "unix:/run/a"),
            "SHIP_LISTEN_MY_WEB_2=unix:/run/a SHIP_PATH_MY_WEB_2=/run/a"
        );
    }
}
