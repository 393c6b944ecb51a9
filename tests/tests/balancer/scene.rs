//! A fleet whose hosts know their balancers, and the balancers before it.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use ship_tests::{Fleet, Haproxy, Nginx, Victim};

pub const APP: &str = "plain";
/// The manner of a release that is to be upgraded from inside, which never works: the keeper finds out on the way.
pub const UPGRADES: &str = "upgrades";
const PORT: u16 = 8090;
/// Where agents answer balancers that ask: by agent-check, and by HTTP.
const CHECKED: u16 = 8091;
const ASKED: u16 = 8092;
/// How a HAProxy looks at servers by itself.
const CHECK: &str = "check inter 100ms fall 3 rise 1";

pub struct Scene {
    pub fleet: Fleet,
    pub hosts: Vec<Host>,
}

/// A host as its `[[balancer]]` needs it.
pub struct Host {
    pub name: &'static str,
    pub address: IpAddr,
}

impl Host {
    fn of(fleet: &Fleet, name: &'static str) -> Self {
        let text = fs::read_to_string(config(fleet, name)).unwrap();
        let table: toml::Table = text.parse().unwrap();
        Self {
            name,
            address: table["address"].as_str().unwrap().parse().unwrap(),
        }
    }
}

/// Whether the balancers are there; says so where they are not.
pub fn installed() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing = ["haproxy", "nginx"]
        .into_iter()
        .find(|name| !std::env::split_paths(&path).any(|folder| folder.join(name).is_file()));
    if let Some(name) = missing {
        ship_tests::skipped("balancer", &format!("{name} is not installed: run tests/setup"));
    }
    missing.is_none()
}

/// A command that fails, and says why.
pub fn refused(ran: &ship_tests::Ran, words: &[&str]) {
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert_ne!(ran.code, 0, "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in:\n{said}");
    }
}

pub fn runtime_api(host: &Host, haproxy: &Haproxy) -> String {
    table(&format!(
        "kind = \"haproxy\"\nsocket = \"{}\"\nbackend = \"web\"\nserver = \"{}\"\nfront = \"http://{}\"\npin = \"x-ship-host\"\n",
        haproxy.socket().display(),
        host.name,
        haproxy.front()
    ))
}

pub fn agent_check(host: &Host, haproxy: &Haproxy) -> String {
    table(&format!(
        "kind = \"agent-check\"\nlisten = \"{}:{CHECKED}\"\nfront = \"http://{}\"\n",
        host.address,
        haproxy.front()
    ))
}

pub fn readiness(host: &Host, haproxy: &Haproxy) -> String {
    table(&format!(
        "kind = \"readiness\"\nlisten = \"{}:{ASKED}\"\nfront = \"http://{}\"\n",
        host.address,
        haproxy.front()
    ))
}

pub fn upstream(host: &Host, nginx: &Nginx) -> String {
    table(&format!(
        "kind = \"nginx\"\nfile = \"{}\"\nserver = \"{}:{PORT}\"\nreload = {:?}\nfront = \"http://{}\"\n",
        nginx.upstream().display(),
        host.address,
        nginx.reload(),
        nginx.front()
    ))
}

pub fn hook(haproxy: &Haproxy) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("servers/hook/balancer.py");
    let words = |word: &str| {
        let words = [python(), script.clone(), word.into(), haproxy.socket()];
        format!("{:?}", words.map(|word| word.display().to_string()))
    };
    table(&format!(
        "kind = \"hook\"\ndrain = {}\nready = {}\nfront = \"http://{}\"\n",
        words("drain"),
        words("ready"),
        haproxy.front()
    ))
}

fn table(text: &str) -> String {
    format!("\n[[balancer]]\napp = \"{APP}\"\n{text}")
}

impl Scene {
    pub fn new(fleet: Fleet, count: usize) -> Self {
        let names = ["h1", "h2", "h3"].into_iter().take(count);
        let hosts = names.map(|name| Host::of(&fleet, name)).collect();
        Self { fleet, hosts }
    }

    pub fn servers(&self) -> Vec<(String, SocketAddr)> {
        let servers = self.hosts.iter();
        servers
            .map(|host| (host.name.to_owned(), SocketAddr::new(host.address, PORT)))
            .collect()
    }

    /// One that checks servers itself, and is told by its runtime API.
    pub fn haproxy(&self) -> Haproxy {
        Haproxy::start(&self.servers(), "/healthz", "", &[]).unwrap()
    }

    /// The same beside one of which the agent cannot know what it has under way.
    pub fn haproxy_beside(&self) -> Haproxy {
        self.haproxy_with("/healthz", |_| CHECK.to_owned())
    }

    /// One that asks agents, by agent-check.
    pub fn checking(&self) -> Haproxy {
        self.haproxy_with("/", |host| {
            let address = host.address;
            format!("agent-check agent-inter 100ms agent-addr {address} agent-port {CHECKED}")
        })
    }

    /// One that asks agents, by HTTP.
    pub fn asking(&self) -> Haproxy {
        self.haproxy_with("/plain", |host| {
            format!("{CHECK} addr {} port {ASKED}", host.address)
        })
    }

    fn haproxy_with(&self, check: &str, words: impl Fn(&Host) -> String) -> Haproxy {
        let words: Vec<String> = self.hosts.iter().map(words).collect();
        // Connections that lie idle at a server would count as users until the deadline.
        let extra = "    option http-server-close\n";
        Haproxy::start(&self.servers(), check, extra, &words).unwrap()
    }

    /// Tells the agents of their balancers, and serves release 1.
    pub fn begin(&self, tables: impl Fn(&Host) -> String) {
        self.begin_as("", tables);
    }

    /// As [`Scene::begin`], with a first release of this manner.
    pub fn begin_as(&self, manner: &str, tables: impl Fn(&Host) -> String) {
        for host in &self.hosts {
            let path = config(&self.fleet, host.name);
            let text = fs::read_to_string(&path).unwrap() + &tables(host);
            fs::write(&path, text).unwrap();
        }
        let old: Vec<_> = self
            .hosts
            .iter()
            .map(|host| {
                let agent = Victim::Agent(host.name);
                (agent, self.fleet.signal(agent, Signal::TERM))
            })
            .collect();
        for (agent, old) in old {
            self.fleet.reborn(agent, old);
        }
        self.fleet.whole();
        self.publish(1, manner);
        self.promote(1);
    }

    pub fn promote(&self, number: u64) {
        let release = format!("{APP}@{number}");
        self.fleet.shipctl(&["promote", &release]).expect(0);
        self.all_run(number);
    }

    pub fn all_run(&self, number: u64) {
        assert_eq!(self.fleet.running(APP), vec![Some(number); self.hosts.len()]);
    }

    /// Publishes a release of the plain server; `manner` is a file in it, for what it should do wrong.
    pub fn publish(&self, number: u64, manner: &str) {
        let tree = self.fleet.beside(&format!("plain-{number}"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("servers/plain/server.py");
        fs::copy(source, tree.join("server.py")).unwrap();
        let addresses: serde_json::Map<_, _> = self
            .hosts
            .iter()
            .map(|host| (host.name.to_owned(), host.address.to_string().into()))
            .collect();
        let addresses = serde_json::to_vec(&addresses).unwrap();
        fs::write(tree.join("addresses.json"), addresses).unwrap();
        if !manner.is_empty() {
            fs::write(tree.join(manner), self.gate().display().to_string()).unwrap();
        }
        fs::write(tree.join("release"), number.to_string()).unwrap();
        let strategy = match manner {
            UPGRADES => "\"command\"\nupgrade = { install = [\"false\"] }",
            _ => "\"stop-start\"",
        };
        fs::write(tree.join("ship.toml"), ship_toml(strategy)).unwrap();
        assert_eq!(self.fleet.publish_tree(&tree), number);
    }

    /// A release of the manner `waits` listens once this is there.
    pub fn gate(&self) -> PathBuf {
        self.fleet.dir().with_file_name("gate")
    }
}

fn ship_toml(strategy: &str) -> String {
    format!(
        "app = \"{APP}\"\n\
         [process.web]\n\
         command = [\"{}\", \"server.py\", \"{PORT}\"]\n\
         class = \"web\"\n\
         listen = {{ http = \"tcp:{PORT}\" }}\n\
         strategy = {strategy}\n\
         probe = {{ http = \"/healthz\", timeout = \"5s\" }}\n\
         soak = \"50ms\"\n\
         drain = \"100ms\"\n\
         stop_timeout = \"5s\"\n\
         ready_timeout = \"20s\"\n",
        python().display()
    )
}

/// The interpreter itself: what PATH names may be a script that takes its time.
fn python() -> PathBuf {
    let said = std::process::Command::new("python3")
        .args(["-c", "import sys; print(sys.executable)"])
        .output()
        .unwrap();
    PathBuf::from(String::from_utf8(said.stdout).unwrap().trim())
}

fn config(fleet: &Fleet, host: &str) -> PathBuf {
    fleet.dir().join("hosts").join(host).join("agent.toml")
}
