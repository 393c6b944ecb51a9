//! Killing the processes of a fleet: by number, or at a named fault point of a process's next life.
//!
//! A fleet started with [`Fleet::armable`](crate::Fleet::armable) runs its programs through small scripts. They
//! look for an order of [`Fleet::arm`](crate::Fleet::arm), take it away and set it: one life of one process on one
//! host is armed, and the life after it is not.
//!
//! ```text
//! <beside>/bin/{shipctl,shipstore,ship-agent,ship-keeper}   the scripts; shipctl itself
//! <beside>/real/ship-agent                                  alone, so that it finds the keeper's script
//! <beside>/arm/<program>.<host>                             an order; `.taken` is added when it is taken
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::{Fleet, bin, wait};

/// A process of a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    Store,
    /// The agent of a host.
    Agent(&'static str),
    /// The keeper of an app on a host.
    Keeper(&'static str, &'static str),
}

impl Victim {
    const fn program(self) -> &'static str {
        match self {
            Self::Store => "shipstore",
            Self::Agent(_) => "ship-agent",
            Self::Keeper(..) => "ship-keeper",
        }
    }

    const fn host(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Agent(host) | Self::Keeper(host, _) => host,
        }
    }
}

/// Makes the folder of scripts and gives it.
pub(crate) fn make_scripts(beside: &Path) -> std::io::Result<PathBuf> {
    let (scripts, real, orders) = (beside.join("bin"), beside.join("real"), beside.join("arm"));
    for folder in [&scripts, &real, &orders] {
        fs::create_dir_all(folder)?;
    }
    link(&bin("shipctl"), &scripts.join("shipctl"))?;
    link(&bin("ship-agent"), &real.join("ship-agent"))?;
    for (name, program) in [
        ("shipstore", bin("shipstore")),
        ("ship-agent", real.join("ship-agent")),
        ("ship-keeper", bin("ship-keeper")),
    ] {
        write_script(&scripts.join(name), &script(name, &orders, &program))?;
    }
    Ok(scripts)
}

/// Puts a program where it can be run: by a link, or where that is another file system's, by a copy that a child makes, for the
/// same reason as [`write_script`].
pub(crate) fn link(from: &Path, to: &Path) -> std::io::Result<()> {
    if fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    let done = Command::new("cp").args([from, to]).status()?;
    if done.success() {
        Ok(())
    } else {
        Err(std::io::Error::other(format!("cp ended with {done}")))
    }
}

/// Written by a child: a script that this process held open for writing could not be run while another thread
/// forks.
fn write_script(path: &Path, text: &str) -> std::io::Result<()> {
    let draft = path.with_extension("draft");
    fs::write(&draft, text)?;
    let done = Command::new("install")
        .args(["-m", "755"])
        .args([&draft, path])
        .status()?;
    fs::remove_file(&draft)?;
    if done.success() {
        Ok(())
    } else {
        Err(std::io::Error::other(format!("install ended with {done}")))
    }
}

fn script(name: &str, orders: &Path, program: &Path) -> String {
    format!(
        r#"#!/bin/sh
# Sets a fault for the next life of one process, once; each line of an order is for one life.
words="$*" host=store
case "$words" in */hosts/*) host=${{words#*/hosts/}} host=${{host%%/*}} ;; esac
order="{orders}/{name}.$host"
case "$1" in serve | run)
    if mv "$order" "$order.taken" 2>/dev/null; then
        SHIP_FAULT=$(sed 1q "$order.taken")
        export SHIP_FAULT
        sed 1d "$order.taken" >"$order.rest"
        if [ -s "$order.rest" ]; then mv "$order.rest" "$order"; fi
    fi ;;
esac
exec "{program}" "$@"
"#,
        orders = orders.display(),
        program = program.display()
    )
}

impl Fleet {
    /// Orders a fault, such as `agent.ask.before=kill@1`, for the next life of a process; further lines are for the lives after
    /// it.
    ///
    /// # Panics
    /// When the fleet was not started with [`Fleet::armable`].
    pub fn arm(&self, victim: Victim, fault: &str) {
        let order = self.order(victim);
        let draft = order.with_extension("draft");
        // Whole from its first moment: a process that is just starting takes what is there.
        fs::write(&draft, fault)
            .and_then(|()| fs::rename(&draft, &order))
            .unwrap_or_else(|error| panic!("{}: {error}", order.display()));
    }

    fn order(&self, victim: Victim) -> PathBuf {
        let name = format!("{}.{}", victim.program(), victim.host());
        self.dir().with_file_name("arm").join(name)
    }

    /// The process's number; none while it is away.
    pub fn pid(&self, victim: Victim) -> Option<Pid> {
        let number = match victim {
            Victim::Store => self.record()?["processes"]["store"]["pid"].as_i64(),
            Victim::Agent(host) => self.record()?["processes"][host]["pid"].as_i64(),
            Victim::Keeper(host, app) => self.keeper(host, app)?["pid"].as_i64(),
        };
        let pid = Pid::from_raw(i32::try_from(number?).ok()?)?;
        // `up` notes an end a little after it.
        rustix::process::test_kill_process(pid).is_ok().then_some(pid)
    }

    fn record(&self) -> Option<Value> {
        serde_json::from_slice(&fs::read(self.dir().join("up.json")).ok()?).ok()
    }

    /// What the keeper of an app says of itself; none while it is away.
    pub fn keeper(&self, host: &str, app: &str) -> Option<Value> {
        let said = Command::new(bin("ship-keeper"))
            .arg("status")
            .arg("--run")
            .arg(self.dir().join("hosts").join(host).join("run").join(app))
            .output()
            .ok()?;
        serde_json::from_slice(&said.stdout).ok()
    }

    /// Numbers of the app's processes on a host that take requests.
    pub fn app_pids(&self, host: &str, app: &str) -> Vec<i64> {
        let status = self.keeper(host, app).unwrap_or_default();
        let generations = status["generations"].as_array().into_iter().flatten();
        generations
            .filter(|generation| generation["role"] == "active")
            .flat_map(|generation| generation["processes"].as_array().into_iter().flatten())
            .filter_map(|process| process["pid"].as_i64())
            .collect()
    }

    /// Sends a signal and gives the process that got it.
    ///
    /// # Panics
    /// When the process does not come up, or cannot be signalled.
    pub fn signal(&self, victim: Victim, signal: Signal) -> Pid {
        let pid = wait::until(&format!("a living {victim:?}"), || self.pid(victim));
        rustix::process::kill_process(pid, signal)
            .unwrap_or_else(|error| panic!("cannot signal {victim:?}: {error}"));
        pid
    }

    /// Waits until another process has taken the place of `old`.
    ///
    /// # Panics
    /// When none does.
    pub fn reborn(&self, victim: Victim, old: Pid) -> Pid {
        wait::until(&format!("{victim:?} after its end"), || {
            self.pid(victim).filter(|pid| *pid != old)
        })
    }

    /// Kills a process and waits for the next one.
    ///
    /// # Panics
    /// When none comes.
    pub fn kill(&self, victim: Victim) -> Pid {
        let old = self.signal(victim, Signal::KILL);
        self.reborn(victim, old)
    }

    /// Kills a process; the next life of it has the fault. Gives that life once the fleet is whole again.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn rearm(&self, victim: Victim, fault: &str) -> Pid {
        self.arm(victim, fault);
        let old = self.signal(victim, Signal::KILL);
        let pid = self.reborn(victim, old);
        // What the one that died said last was heard by now.
        let heard = self.last_heard(victim);
        // `up` notes the process before its script has run.
        let order = self.order(victim);
        wait::until("the order to be taken", || (!order.exists()).then_some(()));
        // For a moment the store believes the one that died to be there.
        wait::until("a word of the next life", || {
            (heard.is_none() || self.last_heard(victim) != heard).then_some(())
        });
        self.whole();
        pid
    }

    /// When the store heard of an agent last.
    fn last_heard(&self, victim: Victim) -> Option<String> {
        let Victim::Agent(name) = victim else { return None };
        let ran = self.shipctl(&["hosts", "-o", "json"]);
        let said: Value = serde_json::from_str(&ran.stdout).ok()?;
        let mut hosts = said["hosts"].as_array()?.iter();
        let host = hosts.find(|host| host["host"] == name)?;
        host["last_seen"].as_str().map(str::to_owned)
    }

    /// Waits until the store answers and every host is there.
    ///
    /// # Panics
    /// When that does not come.
    pub fn whole(&self) {
        wait::until("a store that answers and hosts that are there", || {
            let ran = self.shipctl(&["hosts", "-o", "json"]);
            let said: Value = serde_json::from_str(&ran.stdout).ok()?;
            let hosts = said["hosts"].as_array()?;
            let all = !hosts.is_empty() && hosts.iter().all(|host| host["state"] == "available");
            all.then_some(())
        });
    }

    /// `ship-agent` with the configuration of a host.
    pub fn on_host(&self, host: &str, words: &[&str]) -> std::process::Output {
        Command::new(bin("ship-agent"))
            .args(words)
            .arg("--config")
            .arg(self.dir().join("hosts").join(host).join("agent.toml"))
            .output()
            .unwrap_or_else(|error| panic!("ship-agent: {error}"))
    }
}
