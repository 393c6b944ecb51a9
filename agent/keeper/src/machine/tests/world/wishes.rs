//! What is asked of the machine: releases of all kinds, reverts, and processes to adopt.

use std::collections::BTreeMap;

use ship_model::spec::{Canary, Hook, HookPoint, Reexec, Reload, Restart, Standby, Strategy, Upgrade};

use super::super::*;
use super::World;
use crate::protocol::{Limits, ListenSpec, ProbeKind, ProbeSpec, ProcessSpec};

pub(in super::super) fn process(name: &str, probed: bool) -> ProcessSpec {
    ProcessSpec {
        name: name.to_owned(),
        command: vec!["x".to_owned()],
        strategy: Strategy::ListenFds,
        restart: None,
        overlap: true,
        asked_for: None,
        canary: None,
        env: BTreeMap::new(),
        env_file: None,
        listen: Vec::new(),
        probe: probed.then(|| ProbeSpec {
            kind: ProbeKind::Tcp,
            listener: "http".to_owned(),
            times: 1,
            interval_ms: 1,
            timeout_ms: 1,
        }),
        notify: probed,
        watchdog_ms: None,
        lock_wait_ms: None,
        lock_overrule: false,
        no_new_privs: false,
        ready_timeout_ms: 5_000,
        drain_ms: 1_000,
        stop_signal: "TERM".to_owned(),
        stop_timeout_ms: 1_000,
        user: None,
        limits: Limits::default(),
    }
}

pub(in super::super) fn http() -> Vec<ListenSpec> {
    vec![ListenSpec {
        name: "http".to_owned(),
        addr: "tcp:127.0.0.1:0".to_owned(),
    }]
}

pub(in super::super) fn intent(release: u64, epoch: u64, coexist: bool) -> Intent {
    Intent {
        release,
        id: format!("{release:x}"),
        dir: format!("/srv/web/releases/{release}").into(),
        deploy: release,
        epoch,
        environment: String::new(),
        processes: vec![process("web", true), process("worker", false)],
        coexist,
        must_coexist: false,
        soak_ms: 2_000,
        standby: None,
        hooks: std::collections::BTreeMap::new(),
    }
}

/// Every way a process can be replaced, as the machine tells them apart.
pub(in super::super) fn all_ways() -> Vec<(Strategy, Option<Restart>)> {
    let reexec = |pause: Option<&str>| {
        Some(Restart::Reexec(Reexec {
            upgrade: "USR2".to_owned(),
            pause: pause.map(str::to_owned),
            resume: pause.map(|_| "HUP".to_owned()),
            pidfile: Some("pid".to_owned()),
        }))
    };
    let reload = Restart::Reload(Reload {
        signal: "HUP".to_owned(),
    });
    let upgrade = Restart::Command(Upgrade {
        install: vec!["x".to_owned()],
        permanent: Vec::new(),
        back: Vec::new(),
        timeout_ms: 1,
    });
    vec![
        (Strategy::ListenFds, None),
        (Strategy::StopStart, None),
        (Strategy::CutOver, None),
        (Strategy::BindJoin, None),
        (Strategy::SignalReexec, reexec(Some("WINCH"))),
        (Strategy::SignalReexec, reexec(None)),
        (Strategy::SignalReload, Some(reload)),
        (Strategy::Command, Some(upgrade)),
    ]
}

impl World {
    /// Takes in a process that no keeper has started, where that is possible.
    pub(in super::super) fn adopt(&mut self) {
        self.next_pid += 1;
        if judge_adopt(&self.state, self.next_pid) != Verdict::Accept {
            return;
        }
        let process_ = Process {
            pid: self.next_pid,
            start: 1,
        };
        let generation = self.state.upcoming();
        self.alive.insert((generation, 0), process_);
        // Users had it before.
        self.proven.insert(generation);
        let intent = Intent::adopted("/opt/web".into(), self.state.epoch, process("web", true));
        self.take(&Event::Adopted {
            intent: Box::new(intent),
            process: process_,
            sockets: vec![1],
        });
    }

    pub(in super::super) fn request(&mut self) {
        if self.dice.roll(4) == 0 {
            self.adopt();
        }
        self.epoch += 1;
        let release = 1 + self.dice.roll(6) as u64;
        let coexist = self.dice.roll(4) > 0;
        let notice_ms = (self.dice.roll(2) == 0).then(|| 1 + self.dice.roll(4_000) as u64);
        if self.dice.roll(3) > 0 {
            let mut wanted = intent(release, self.epoch, coexist);
            wanted.processes[1].overlap = self.dice.roll(3) > 0;
            wanted.must_coexist = coexist && self.dice.roll(4) == 0;
            if self.dice.roll(3) == 0 {
                let locked = &mut wanted.processes[self.dice.roll(2)];
                locked.lock_wait_ms = Some(1 + self.dice.roll(4_000) as u64);
                locked.lock_overrule = self.dice.roll(2) == 0;
            }
            if self.dice.roll(2) == 0 {
                wanted.hooks = self.some_hooks();
            }
            let canary = coexist && self.dice.roll(4) > 0;
            let web = &mut wanted.processes[0];
            if canary {
                web.canary = Some(Canary {
                    percent: 20,
                    hold_ms: 500,
                });
                web.listen = http();
            }
            if notice_ms.is_some() {
                web.listen = http();
            }
            (web.strategy, web.restart) = self.ways[self.dice.roll(self.ways.len())].clone();
            if web.strategy == Strategy::CutOver {
                let hold_ms = [None, Some(1_000), Some(4_000), Some(600_000)][self.dice.roll(4)];
                wanted.standby = Some(Standby { hold_ms });
            }
            match judge_switch(&self.state, &wanted) {
                Verdict::Accept => self.take(&Event::Switch {
                    intent: Box::new(wanted),
                    notice_ms,
                }),
                Verdict::Renew => self.take(&Event::Renew(Box::new(wanted))),
                Verdict::Already | Verdict::Refuse(..) => {}
            }
        } else {
            let to = (self.dice.roll(2) == 0).then_some(release);
            if judge_revert(&self.state, to, None) == Verdict::Accept {
                self.take(&Event::Revert {
                    to,
                    reason: "test".to_owned(),
                    epoch: None,
                    notice_ms,
                });
            }
        }
    }

    pub(super) fn some_hooks(&mut self) -> BTreeMap<HookPoint, Vec<Hook>> {
        let hook = || Hook {
            command: vec!["x".to_owned()],
            timeout_ms: 100,
        };
        let mut all = HookPoint::ALL.map(|(_, point)| (point, vec![hook()])).to_vec();
        all.retain(|_| self.dice.roll(2) == 0);
        all.into_iter().collect()
    }
}
