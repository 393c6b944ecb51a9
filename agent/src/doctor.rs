//! What this host lets agent and keepers do, and what falls back where it does not.

use std::path::Path;

use ship_keeper::listen::{Address, Group};
use ship_keeper::processes::{Groups, GroupsAt};
use ship_model::report::{MissingPrivilege, Privileges};

/// One thing that is needed for a promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// `CAP_SETUID, CAP_SETGID`, `control groups`, …
    pub what: &'static str,
    pub have: bool,
    /// What it is for; where it is missing, what happens instead and what is then not promised.
    pub text: String,
    /// Without it a promise is not kept, or only in another way that costs something.
    pub needed: bool,
}

/// Begins the name of a group that only a look makes.
const GROUP: &str = "doctor-";
const MIGRATES: &str = "tcp_migrate_req";

/// Bits of capabilities, as capability.h has them.
const KILL: u32 = 5;
const SETGID: u32 = 6;
const SETUID: u32 = 7;
const NET_BIND_SERVICE: u32 = 10;
const SYS_PTRACE: u32 = 19;
const SYS_RESOURCE: u32 = 24;

/// What the kernel tells in `proc` (`/proc`) of what this process may do.
#[derive(Debug)]
struct Facts {
    capabilities: u64,
    /// The lowest port that everybody may bind.
    free_port: u64,
    /// Yama's rule; 0 where there is none.
    ptrace_scope: u64,
    user_notif: bool,
    migrates: bool,
}

impl Facts {
    fn look(proc: &Path) -> Self {
        let read = |path: &str| std::fs::read_to_string(proc.join(path)).unwrap_or_default();
        let number = |path: &str| read(path).trim().parse().ok();
        let status = read("self/status");
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
        let actions = read("sys/kernel/seccomp/actions_avail");
        Self {
            capabilities: effective.unwrap_or(0),
            free_port: number("sys/net/ipv4/ip_unprivileged_port_start").unwrap_or(1024),
            ptrace_scope: number("sys/kernel/yama/ptrace_scope").unwrap_or(0),
            user_notif: actions.split_whitespace().any(|action| action == "user_notif"),
            migrates: number("sys/net/ipv4/tcp_migrate_req") == Some(1),
        }
    }

    const fn has(&self, capability: u32) -> bool {
        self.capabilities & (1 << capability) != 0
    }
}

/// Looks at the machine that `proc` (`/proc`) tells of, as the user that asks; control groups are looked for at `at`.
#[must_use]
pub fn look(proc: &Path, at: &GroupsAt) -> Vec<Finding> {
    let mut findings = privileges(&Facts::look(proc));
    findings.push(steering(refused()));
    findings.extend(groups(proc, at));
    findings
}

/// What of `findings` a promise needs and this host has not.
#[must_use]
pub fn missing(findings: Vec<Finding>) -> Privileges {
    let missing = findings
        .into_iter()
        .filter(|finding| finding.needed && !finding.have);
    Privileges {
        missing: missing
            .map(|finding| MissingPrivilege {
                what: finding.what.to_owned(),
                instead: finding.text,
            })
            .collect(),
    }
}

/// Why no listener of this host can be steered; none where one can.
fn refused() -> Option<String> {
    let bound = Address::parse("tcp:127.0.0.1:0")
        .map_err(|error| error.to_string())
        .and_then(|address| Group::bind(&address, None, true).map_err(|error| error.to_string()));
    bound.map_or_else(Some, |group| group.remark())
}

fn steering(refused: Option<String>) -> Finding {
    Finding {
        what: "SO_REUSEPORT steering",
        have: refused.is_none(),
        text: match refused {
            None => "each generation has a socket of its own, and one alone gets new connections".to_owned(),
            Some(reason) => format!(
                "generations share each listener: a probe cannot choose whom it reaches, and there is no canary by share: {reason}"
            ),
        },
        needed: true,
    }
}

fn groups(proc: &Path, at: &GroupsAt) -> Vec<Finding> {
    let groups = Groups::find(proc, at, &format!("{GROUP}{}", std::process::id()));
    groups.tidy(GROUP);
    let falls_back = groups.falls_back();
    groups.leave();
    let limits = falls_back
        .into_iter()
        .filter(|words| words.starts_with("limits."));
    let limits = limits.map(|text| Finding {
        what: "limits",
        have: false,
        text,
        needed: true,
    });
    let whole = Finding {
        what: "control groups",
        have: groups.main().is_ok(),
        text: match groups.main() {
            Ok(_) => "nothing that a process starts outlives its generation".to_owned(),
            Err(reason) => format!(
                "what a process starts is found by its parents and its environment; one that hides both is not promised to end: {reason}"
            ),
        },
        needed: true,
    };
    std::iter::once(whole).chain(limits).collect()
}

fn privileges(facts: &Facts) -> Vec<Finding> {
    let finding = |what, have: bool, good: &str, bad: &str| Finding {
        what,
        have,
        text: if have { good } else { bad }.to_owned(),
        // Keepers steer so that nothing is lost without it.
        needed: what != MIGRATES,
    };
    let takes_sockets = facts.has(SYS_PTRACE) || facts.ptrace_scope == 0;
    vec![
        finding(
            "CAP_SETUID, CAP_SETGID",
            facts.has(SETUID) && facts.has(SETGID),
            "processes run as the user that their release names",
            "all processes run as this user; a release that names another is refused, and apps are not kept from each other",
        ),
        finding(
            "CAP_KILL",
            facts.has(KILL),
            "processes of any user are asked and forced to end",
            "processes that become another user cannot be ended; a generation with such a one is not promised to go",
        ),
        finding(
            "CAP_NET_BIND_SERVICE",
            facts.has(NET_BIND_SERVICE) || facts.free_port <= 80,
            "listeners below port 1024 can be bound",
            "a listener below port 1024 is refused; lower net.ipv4.ip_unprivileged_port_start, or listen above",
        ),
        finding(
            "CAP_SYS_PTRACE (pidfd_getfd)",
            takes_sockets,
            "a keeper takes the sockets of running processes over from one that died",
            "the keeper after one that died cannot take sockets over and starts the app anew: requests are lost then, and bind-join falls back to listen-fds",
        ),
        finding(
            "CAP_SYS_RESOURCE",
            facts.has(SYS_RESOURCE),
            "limits can be set above those of this process",
            "limits.nofile above this process's own is refused; raise LimitNOFILE in the unit",
        ),
        finding(
            "seccomp user notification",
            facts.user_notif,
            "servers that bind by themselves share their port (bind-join)",
            "this kernel does not tell binds: bind-join falls back to listen-fds, and who knows neither stops and starts, with a gap",
        ),
        finding(
            MIGRATES,
            facts.migrates,
            "the kernel itself saves connections that a closing listener holds",
            "connections that a dying listener holds are led on by the keeper; where steering falls back to a shared socket nothing is lost either",
        ),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::disallowed_methods,
        reason = "a test may fail loudly, and makes files by hand"
    )]

    use super::{Facts, Finding, GroupsAt, groups, missing, privileges, steering};

    fn look(proc: &std::path::Path, refused: Option<&str>) -> Vec<Finding> {
        let mut found = privileges(&Facts::look(proc));
        found.push(steering(refused.map(str::to_owned)));
        found.extend(groups(proc, &GroupsAt::Auto));
        found
    }

    #[test]
    fn tells_what_falls_back_on_a_host_without_privileges() {
        let proc = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = proc.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("self/status", "Name:\tx\nCapEff:\t0000000000000000\n");
        write("self/mountinfo", "");
        write("self/cgroup", "0::/\n");
        write("sys/kernel/yama/ptrace_scope", "1\n");
        let found = look(proc.path(), Some("no such option"));
        assert!(found.iter().all(|finding| !finding.have), "{found:#?}");
        let text = |what: &str| {
            let found = found.iter().find(|finding| finding.what.contains(what));
            found.unwrap().text.clone()
        };
        assert!(text("SETUID").contains("apps are not kept from each other"));
        assert!(text("pidfd_getfd").contains("requests are lost then"));
        assert!(text("control groups").contains("is not promised to end"));
        assert!(text("steering").ends_with("no canary by share: no such option"));
        let told = missing(found).missing;
        assert!(
            told.iter()
                .any(|missing| missing.what == "CAP_KILL" && missing.instead.contains("cannot be ended"))
        );
        assert!(told.iter().all(|missing| missing.what != "tcp_migrate_req"));
        write("self/status", "CapEff:\t000001ffffffffff\n");
        write(
            "sys/kernel/seccomp/actions_avail",
            "kill_process user_notif errno\n",
        );
        let found = look(proc.path(), None);
        let left = found.iter().filter(|finding| !finding.have);
        let left: Vec<_> = left.map(|finding| finding.what).collect();
        assert_eq!(
            left,
            ["tcp_migrate_req", "control groups", "limits", "limits", "limits"]
        );
        assert_eq!(missing(found).missing.len(), 4);
    }
}
