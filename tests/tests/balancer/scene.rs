//! A fleet whose hosts know their balancer, and the balancer before it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ship_tests::{Fleet, Haproxy};

pub const APP: &str = "plain";
const PORT: u16 = 8090;
/// Of what the agent answers balancers at.
const ASKED: u16 = 8091;

pub struct Scene {
    pub fleet: Fleet,
    pub haproxy: Haproxy,
}

/// A command that fails, and says why.
pub fn refused(ran: &ship_tests::Ran, words: &[&str]) {
    let said = format!("{}{}", ran.stdout, ran.stderr);
    assert_ne!(ran.code, 0, "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in:\n{said}");
    }
}

/// A host as its `[[balancer]]` needs it.
pub struct Host {
    pub name: String,
    pub address: std::net::IpAddr,
}

pub type Table = fn(&Host, &Haproxy) -> String;

pub fn runtime_api(host: &Host, haproxy: &Haproxy) -> String {
    format!(
        "kind = \"haproxy\"\nsocket = \"{}\"\nbackend = \"web\"\nserver = \"{}\"\nfront = \"http://{}\"\npin = \"x-ship-host\"\n",
        haproxy.socket().display(),
        host.name,
        haproxy.front()
    )
}

pub fn with_websocket(host: &Host, haproxy: &Haproxy) -> String {
    runtime_api(host, haproxy) + "websocket = \"/ws\"\n"
}

pub fn agent_check(host: &Host, haproxy: &Haproxy) -> String {
    format!(
        "kind = \"agent-check\"\nlisten = \"{}:{ASKED}\"\nfront = \"http://{}\"\n",
        host.address,
        haproxy.front()
    )
}

pub fn readiness(host: &Host, haproxy: &Haproxy) -> String {
    format!(
        "kind = \"readiness\"\nlisten = \"{}:{ASKED}\"\nfront = \"http://{}\"\n",
        host.address,
        haproxy.front()
    )
}

impl Scene {
    /// A fleet whose hosts serve release 1 through HAProxy. None: it is not installed.
    pub fn start(mut fleet: Fleet, count: usize, extra: &str, asked: &[&str], table: Table) -> Option<Self> {
        let hosts: Vec<Host> = (1..=count).map(|number| host(&fleet, number)).collect();
        let servers: Vec<_> = hosts
            .iter()
            .map(|host| (host.name.clone(), SocketAddr::new(host.address, PORT)))
            .collect();
        let words: Vec<String> = hosts.iter().filter_map(|host| words(host, asked)).collect();
        let check = if asked == ["readiness"] {
            "/plain"
        } else {
            "/healthz"
        };
        let Some(haproxy) = Haproxy::start(&servers, check, extra, &words) else {
            ship_tests::skipped("balancer", "haproxy is not installed: run tests/setup");
            return None;
        };
        fleet.stop();
        for host in &hosts {
            let path = config(&fleet, &host.name);
            let mut text = fs::read_to_string(&path).unwrap();
            text.push_str(&format!(
                "\n[[balancer]]\napp = \"{APP}\"\n{}",
                table(host, &haproxy)
            ));
            fs::write(&path, text).unwrap();
        }
        fleet.up(count, &[]);
        let scene = Self { fleet, haproxy };
        scene.publish(1, false);
        scene.fleet.shipctl(&["promote", APP]).expect(0);
        scene.haproxy.all_up();
        Some(scene)
    }

    /// Publishes a release of the plain server.
    pub fn publish(&self, number: u64, sick: bool) {
        let tree = self.fleet.beside(&format!("plain-{number}"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("servers/plain/server.py");
        fs::copy(source, tree.join("server.py")).unwrap();
        let hosts = fs::read_dir(self.fleet.dir().join("hosts")).unwrap();
        let addresses: serde_json::Map<_, _> = hosts
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .map(|name| {
                let address = address(&self.fleet, &name).to_string();
                (name, address.into())
            })
            .collect();
        fs::write(
            tree.join("addresses.json"),
            serde_json::to_vec(&addresses).unwrap(),
        )
        .unwrap();
        if sick {
            fs::write(tree.join("sick"), "").unwrap();
        }
        fs::write(tree.join("release"), number.to_string()).unwrap();
        fs::write(tree.join("ship.toml"), ship_toml()).unwrap();
        assert_eq!(self.fleet.publish_tree(&tree), number);
    }
}

fn words(host: &Host, asked: &[&str]) -> Option<String> {
    let address = host.address;
    match asked {
        ["agent-check"] => Some(format!(
            "check inter 100ms fall 3 rise 1 agent-check agent-inter 100ms agent-addr {address} agent-port {ASKED}"
        )),
        ["readiness"] => Some(format!(
            "check inter 100ms fall 2 rise 1 addr {address} port {ASKED}"
        )),
        _ => None,
    }
}

fn ship_toml() -> String {
    format!(
        "app = \"{APP}\"\n\
         [process.web]\n\
         command = [\"{}\", \"server.py\", \"{PORT}\"]\n\
         class = \"web\"\n\
         listen = {{ http = \"tcp:{PORT}\" }}\n\
         strategy = \"stop-start\"\n\
         probe = {{ http = \"/healthz\", times = 2 }}\n\
         soak = \"100ms\"\n\
         drain = \"1s\"\n\
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

fn address(fleet: &Fleet, host: &str) -> std::net::IpAddr {
    let text = fs::read_to_string(config(fleet, host)).unwrap();
    let table: toml::Table = text.parse().unwrap();
    table["address"].as_str().unwrap().parse().unwrap()
}

fn host(fleet: &Fleet, number: usize) -> Host {
    let name = format!("h{number}");
    Host {
        address: address(fleet, &name),
        name,
    }
}
