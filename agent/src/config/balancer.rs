//! `[[balancer]]` in an `agent.toml`.

use std::net::SocketAddr;
use std::time::Duration;

use toml::de::DeTable;

use super::Reader;
use crate::balancer::{Front, Kind, Settings, Socket};

const COMMON: [&str; 7] = [
    "app",
    "kind",
    "wait_seconds",
    "front",
    "pin",
    "check",
    "websocket",
];
const KINDS: &str = "haproxy, agent-check, readiness, nginx or hook";
const DEFAULT_WAIT: Duration = Duration::from_secs(30);
/// As many as HAProxy's default `fall`.
const DEFAULT_POLLS: u64 = 3;

impl<'a> Reader<'a> {
    pub(super) fn balancers(&mut self, root: &DeTable<'a>) -> Vec<Settings> {
        let Some(found) = root.get("balancer") else {
            return Vec::new();
        };
        let line = self.line(found.span().start);
        let Some(list) = found.get_ref().as_array() else {
            self.say(line, "balancer must be a list of tables: [[balancer]]".to_owned());
            return Vec::new();
        };
        let mut all: Vec<Settings> = Vec::new();
        for item in list.iter() {
            let line = self.line(item.span().start);
            let Some(table) = item.get_ref().as_table() else {
                self.say(line, "balancer must be a table: [[balancer]]".to_owned());
                continue;
            };
            let Some(settings) = self.balancer(table, line) else {
                continue;
            };
            if let Some(clash) = all.iter().find(|other| clash(other, &settings)) {
                let text = format!("{settings} is there already, for app {}", clash.app);
                self.say(line, text);
            }
            all.push(settings);
        }
        all
    }

    fn balancer(&mut self, table: &DeTable<'a>, line: usize) -> Option<Settings> {
        let before = self.mistakes.len();
        let app = self.value(table, "app", "an app's name", str::parse);
        let kind = self.kind(table, line);
        let wait = self.positive(table, "wait_seconds").map(Duration::from_secs);
        let front = self.front(table, line);
        let check = self.optional(table, "check", path);
        let websocket = self.optional(table, "websocket", path);
        // What was missing is told without a line of its own.
        for mistake in &mut self.mistakes[before..] {
            if mistake.line == 0 {
                mistake.line = line;
            }
        }
        Some(Settings {
            app: app?,
            kind: kind?,
            wait: wait.unwrap_or(DEFAULT_WAIT),
            front,
            check,
            websocket,
        })
    }

    fn kind(&mut self, table: &DeTable<'a>, line: usize) -> Option<Kind> {
        let (kind, at) = match self.text(table, "kind") {
            Some(found) => found,
            None if table.get("kind").is_some() => return None,
            None => {
                self.say(line, format!("kind is missing: it needs one of {KINDS}"));
                return None;
            }
        };
        let own: &[&str] = match kind.as_str() {
            "haproxy" => &["socket", "backend", "server"],
            "agent-check" => &["listen", "percent", "polls"],
            "readiness" => &["listen", "drained_status", "polls"],
            "nginx" => &["file", "server", "reload"],
            "hook" => &["drain", "ready"],
            other => {
                self.say(
                    at,
                    format!("{other:?} is no kind of balancer; it needs one of {KINDS}"),
                );
                return None;
            }
        };
        let known: Vec<&str> = COMMON.iter().chain(own).copied().collect();
        self.refuse_unknown(table, "balancer.", &known);
        match kind.as_str() {
            "haproxy" => self.haproxy(table),
            "agent-check" => self.agent_check(table),
            "readiness" => self.readiness(table),
            "nginx" => self.nginx(table),
            _ => self.hook(table),
        }
    }

    fn haproxy(&mut self, table: &DeTable<'a>) -> Option<Kind> {
        let base = self.base.to_owned();
        let socket = self.value(
            table,
            "socket",
            "the path of HAProxy's socket, or IP:PORT",
            |text| match text.parse() {
                Ok(address) => Ok(Socket::Tcp(address)),
                Err(_) if text.is_empty() => Err("it is empty"),
                Err(_) => Ok(Socket::Unix(base.join(text))),
            },
        );
        let backend = self.value(table, "backend", "the backend's name", proxy_name);
        let server = self.value(table, "server", "this host's name in the backend", proxy_name);
        Some(Kind::Haproxy {
            socket: socket?,
            backend: backend?,
            server: server?,
        })
    }

    fn listen(&mut self, table: &DeTable<'a>) -> Option<SocketAddr> {
        self.value(table, "listen", "IP:PORT", |text| {
            match text.parse::<SocketAddr>() {
                Ok(address) if address.port() != 0 => Ok(address),
                _ => Err(format!(
                    "{text:?} is not IP:PORT; the balancer must know the port"
                )),
            }
        })
    }

    fn agent_check(&mut self, table: &DeTable<'a>) -> Option<Kind> {
        let percent = self.bounded(table, "percent", 1, 100, 100);
        let polls = self.positive(table, "polls").unwrap_or(1);
        Some(Kind::AgentCheck {
            listen: self.listen(table)?,
            percent: u8::try_from(percent).unwrap_or(100),
            polls,
        })
    }

    fn readiness(&mut self, table: &DeTable<'a>) -> Option<Kind> {
        let status = self.bounded(table, "drained_status", 400, 599, 503);
        let polls = self.positive(table, "polls").unwrap_or(DEFAULT_POLLS);
        Some(Kind::Readiness {
            listen: self.listen(table)?,
            drained_status: u16::try_from(status).unwrap_or(503),
            polls,
        })
    }

    fn nginx(&mut self, table: &DeTable<'a>) -> Option<Kind> {
        let base = self.base.to_owned();
        let file = self.value(
            table,
            "file",
            "the file with nginx's upstream",
            |text| match text {
                "" => Err("it is empty"),
                text => Ok(base.join(text)),
            },
        );
        let server = self.value(
            table,
            "server",
            "this host in the upstream, like 10.0.0.1:8080",
            proxy_name,
        );
        let reload = self.words(table, "reload");
        Some(Kind::Nginx {
            file: file?,
            server: server?,
            reload: reload?,
        })
    }

    fn hook(&mut self, table: &DeTable<'a>) -> Option<Kind> {
        let (drain, ready) = (self.words(table, "drain"), self.words(table, "ready"));
        Some(Kind::Hook {
            drain: drain?,
            ready: ready?,
        })
    }

    fn front(&mut self, table: &DeTable<'a>, line: usize) -> Option<Front> {
        let pin = self.optional(table, "pin", header);
        let front = self.optional(table, "front", front_address);
        if pin.is_some() && table.get("front").is_none() {
            self.say(line, "pin has no meaning without front".to_owned());
        }
        let (address, host) = front?;
        Some(Front { address, host, pin })
    }

    fn bounded(&mut self, table: &DeTable<'a>, key: &str, least: u64, most: u64, otherwise: u64) -> u64 {
        let line = table.get(key).map_or(0, |found| self.line(found.span().start));
        match self.positive(table, key) {
            Some(number) if (least..=most).contains(&number) => number,
            Some(_) => {
                self.say(line, format!("{key} must be from {least} to {most}"));
                otherwise
            }
            None => otherwise,
        }
    }

    fn words(&mut self, table: &DeTable<'a>, key: &str) -> Option<Vec<String>> {
        let example = format!("{key} needs a command like [\"nginx\", \"-s\", \"reload\"]");
        let Some(found) = table.get(key) else {
            self.say(0, format!("{key} is missing: {example}"));
            return None;
        };
        let line = self.line(found.span().start);
        let words = found.get_ref().as_array().map(|list| {
            let words = list.iter().map(|word| word.get_ref().as_str().map(str::to_owned));
            words.collect::<Option<Vec<_>>>()
        });
        match words.flatten() {
            Some(words) if words.first().is_some_and(|program| !program.is_empty()) => Some(words),
            _ => {
                self.say(line, example);
                None
            }
        }
    }
}

/// One port answers one agent-check; a readiness port tells apps apart by their path.
fn clash(one: &Settings, other: &Settings) -> bool {
    match (&one.kind, &other.kind) {
        (
            Kind::AgentCheck { listen: a, .. } | Kind::Readiness { listen: a, .. },
            Kind::AgentCheck { listen: b, .. },
        )
        | (Kind::AgentCheck { listen: a, .. }, Kind::Readiness { listen: b, .. }) => a == b,
        (a, b) => one.app == other.app && a == b,
    }
}

/// A name that can stand in a line of HAProxy's runtime API, or of nginx's configuration, and mean only itself.
fn proxy_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:[]".contains(c);
    if text.is_empty() || !text.chars().all(plain) {
        return Err(format!(
            "{text:?} has other signs than letters, digits and -_.:[]"
        ));
    }
    Ok(text.to_owned())
}

fn header(text: &str) -> Result<String, String> {
    match http::HeaderName::try_from(text) {
        Ok(name) => Ok(name.as_str().to_owned()),
        Err(_) => Err(format!("{text:?} is not a header's name")),
    }
}

fn path(text: &str) -> Result<String, String> {
    match text.parse::<http::uri::PathAndQuery>() {
        Ok(path) if text.starts_with('/') => Ok(path.as_str().to_owned()),
        _ => Err(format!("{text:?} is not a path like /healthz")),
    }
}

/// `http://IP[:PORT]`: a name would have to be looked up, and what it leads to may change.
fn front_address(text: &str) -> Result<(SocketAddr, String), String> {
    let refused = || format!("{text:?} is not a balancer's address: write http://IP:PORT");
    let rest = text
        .strip_prefix("http://")
        .ok_or_else(refused)?
        .trim_end_matches('/');
    let address = rest.parse().or_else(|_| format!("{rest}:80").parse());
    Ok((address.map_err(|_| refused())?, rest.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use std::path::Path;

    use super::super::tests::GOOD;
    use super::super::{Config, Mistake};
    use super::*;

    fn read(text: &str) -> Result<Vec<Settings>, Vec<Mistake>> {
        Config::parse(&format!("{GOOD}{text}"), Path::new("/d")).map(|config| config.balancers)
    }

    #[test]
    fn every_kind_is_read() {
        let all = read(
            r#"
[[balancer]]
app = "web"
kind = "haproxy"
socket = "/run/haproxy/admin.sock"
backend = "web"
server = "h1"
wait_seconds = 5
front = "http://127.0.0.1:8080"
pin = "X-Ship-Host"
websocket = "/ws"
[[balancer]]
app = "web"
kind = "agent-check"
listen = "127.0.0.1:7490"
percent = 50
[[balancer]]
app = "web"
kind = "readiness"
listen = "127.0.0.1:7491"
drained_status = 404
[[balancer]]
app = "other"
kind = "readiness"
listen = "127.0.0.1:7491"
[[balancer]]
app = "web"
kind = "nginx"
file = "upstream.conf"
server = "127.0.0.1:8080"
reload = ["nginx", "-s", "reload"]
[[balancer]]
app = "web"
kind = "hook"
drain = ["out"]
ready = ["in", "again"]
"#,
        );
        let all = all.unwrap();
        assert_eq!(all.len(), 6);
        assert_eq!(all[0].to_string(), "HAProxy web/h1 at /run/haproxy/admin.sock");
        let front = all[0].front.as_ref().unwrap();
        assert_eq!(front.pin.as_deref(), Some("x-ship-host"));
        assert_eq!((all[0].wait, all[1].wait), (Duration::from_secs(5), DEFAULT_WAIT));
        assert!(matches!(&all[4].kind, Kind::Nginx { file, .. } if file == Path::new("/d/upstream.conf")));
    }

    #[test]
    fn every_mistake_is_told_with_its_line() {
        let first = GOOD.lines().count() + 1;
        for (text, line) in [
            ("[[balancer]]\nkind = \"hook\"\n", 0),
            ("[[balancer]]\napp = \"web\"\nkind = \"f5\"\n", 2),
            (
                "[[balancer]]\napp = \"web\"\nkind = \"hook\"\ndrain = []\nready = [\"x\"]\n",
                3,
            ),
            (
                "[[balancer]]\napp = \"web\"\nkind = \"haproxy\"\nsocket = \"s\"\nbackend = \"w; disable\"\nserver = \"h\"\n",
                4,
            ),
            (
                "[[balancer]]\napp = \"web\"\nkind = \"agent-check\"\nlisten = \"127.0.0.1:0\"\n",
                3,
            ),
            (
                "[[balancer]]\napp = \"web\"\nkind = \"agent-check\"\nlisten = \"127.0.0.1:1\"\nsocket = \"s\"\n",
                4,
            ),
            (
                "[[balancer]]\napp = \"web\"\nkind = \"readiness\"\nlisten = \"127.0.0.1:1\"\npin = \"x\"\n",
                0,
            ),
        ] {
            let mistakes = read(text).unwrap_err();
            let lines: Vec<_> = mistakes.iter().map(|mistake| mistake.line).collect();
            assert!(lines.contains(&(first + line)), "{text}: {first}: {mistakes:?}");
        }
    }
}
