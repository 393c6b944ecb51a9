//! The keeper is killed at every point it passes; the next one goes on or back, and never between.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests stop at the first surprise"
)]

mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use ship_durable::fault::{FAULT_VARIABLE, TRACE_VARIABLE};
use ship_keeper::protocol::*;
use ship_model::spec::Canary;
use stage::{Load, Stage, exited, get, until};

/// Something a keeper is asked to do, and where it may be when it was killed in it.
struct Journey {
    /// With a keeper that will not be killed.
    prepare: fn(&Stage),
    /// Asks and follows; tells how many of its requests were taken.
    walk: fn(&Stage) -> usize,
    /// Releases that may run afterwards, by how many requests were taken; 0 is none.
    allowed: fn(usize) -> &'static [u64],
    /// Whether users are served all the time.
    seamless: bool,
    /// Fewer points than this would mean that nothing was looked at.
    points: usize,
    death: Death,
}

/// What dies.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Death {
    Keeper,
    Host,
}

#[test]
fn in_a_switch_and_a_warm_revert() {
    to_and_back().go();
}

fn to_and_back() -> Journey {
    Journey {
        death: Death::Keeper,
        prepare: |stage| drop(stage.switch(stage.intent(1, "", &stage.own))),
        walk: |stage| {
            let intent = Intent {
                soak_ms: 600_000,
                ..stage.intent(2, "", &stage.own)
            };
            if stage.client().switch(intent).is_err() {
                return 0;
            }
            if !follow(stage, |status| status.phase == Phase::Soak)
                || stage.client().revert(None, "back", None).is_err()
            {
                return 1;
            }
            follow(stage, |status| status.phase == Phase::Idle);
            2
        },
        allowed: |taken| if taken == 2 { &[1] } else { &[1, 2] },
        seamless: true,
        points: 20,
    }
}

#[test]
fn in_a_cut_over_and_a_revert_to_its_standby() {
    fn kept(intent: Intent) -> Intent {
        Intent {
            soak_ms: 0,
            standby: Some(ship_model::spec::Standby { hold_ms: None }),
            ..intent
        }
    }
    Journey {
        death: Death::Keeper,
        prepare: |stage| {
            stage.switch(kept(stage.intent(1, "", &stage.own)));
            stage.switch(kept(stage.intent(2, "", &stage.own)));
            stage.until("1 stands by", |status| status.revert.standby.is_some());
        },
        walk: |stage| {
            // The standby makes room, and what runs stands by in its place.
            if stage
                .client()
                .switch(kept(stage.intent(4, "", &stage.own)))
                .is_err()
            {
                return 0;
            }
            let stands = |status: &Status| {
                let standby = status.revert.standby.as_ref();
                standby.is_some_and(|standby| standby.release == 2) && status.phase == Phase::Idle
            };
            if !follow(stage, stands) || stage.client().revert(None, "back", None).is_err() {
                return 1;
            }
            follow(stage, |status| {
                status.phase == Phase::Idle && status.generations.len() == 1
            });
            2
        },
        allowed: |taken| if taken == 2 { &[2] } else { &[2, 4] },
        seamless: true,
        points: 30,
    }
    .go();
}

#[test]
fn in_a_cold_revert() {
    Journey {
        death: Death::Keeper,
        prepare: |stage| {
            stage.switch(stage.intent(1, "", &stage.own));
            let cold = Intent {
                soak_ms: 0,
                ..stage.intent(2, "", &stage.own)
            };
            stage.switch(cold);
            stage.until("1 is gone", |status| status.phase == Phase::Idle);
        },
        walk: |stage| {
            if stage.client().revert(None, "back", None).is_err() {
                return 0;
            }
            follow(stage, |status| {
                let back = status
                    .running
                    .as_ref()
                    .is_some_and(|running| running.release == 1);
                back && status.queued.is_none() && status.switching_to.is_none()
            });
            1
        },
        allowed: |taken| if taken == 1 { &[1] } else { &[1, 2] },
        seamless: true,
        points: 20,
    }
    .go();
}

#[test]
fn in_a_switch_between_two_that_may_not_run_at_once() {
    one_after_the_other().go();
}

fn one_after_the_other() -> Journey {
    fn alone(intent: Intent) -> Intent {
        Intent {
            coexist: false,
            soak_ms: 0,
            ..intent
        }
    }
    Journey {
        death: Death::Keeper,
        prepare: |stage| drop(stage.switch(alone(stage.intent(1, "", &stage.own)))),
        walk: |stage| {
            if stage
                .client()
                .switch(alone(stage.intent(2, "", &stage.own)))
                .is_err()
            {
                return 0;
            }
            follow(stage, |status| {
                let there = status
                    .running
                    .as_ref()
                    .is_some_and(|running| running.release == 2);
                there && status.phase == Phase::Idle
            });
            1
        },
        allowed: |_| &[1, 2],
        // Who waits outlives the keeper with its holder; whom the keeper itself was leading on does not.
        seamless: false,
        points: 20,
    }
}

#[test]
fn in_a_canary() {
    Journey {
        death: Death::Keeper,
        prepare: |stage| drop(stage.switch(stage.intent(1, "", &stage.own))),
        walk: |stage| {
            let mut intent = stage.intent(2, "", &stage.own);
            intent.processes[0].canary = Some(Canary {
                percent: 25,
                hold_ms: 150,
            });
            intent.processes[0].probe.as_mut().unwrap().timeout_ms = 20_000;
            if stage.client().switch(intent).is_err() {
                return 0;
            }
            follow(stage, |status| status.phase == Phase::Soak);
            1
        },
        allowed: |taken| if taken == 1 { &[2] } else { &[1, 2] },
        seamless: true,
        points: 25,
    }
    .go();
}

#[test]
fn in_a_stop() {
    Journey {
        death: Death::Keeper,
        prepare: |stage| drop(stage.switch(stage.intent(1, "", &stage.own))),
        walk: |stage| {
            if stage.client().stop().is_err() {
                return 0;
            }
            until("it is stopped or dead", || exited(stage));
            1
        },
        allowed: |taken| if taken == 1 { &[0] } else { &[0, 1] },
        seamless: false,
        points: 8,
    }
    .go();
}

/// Keeper, app and everything else die, and sockets and pipes are gone: what a boot starts is a keeper, and nobody else is
/// there to help it.
#[test]
fn with_the_whole_host_in_a_switch_and_a_warm_revert() {
    Journey {
        death: Death::Host,
        ..to_and_back()
    }
    .go();
}

#[test]
fn with_the_whole_host_between_two_that_may_not_run_at_once() {
    Journey {
        death: Death::Host,
        ..one_after_the_other()
    }
    .go();
}

/// Waits for a status; false when the keeper dies first.
fn follow(stage: &Stage, good: impl Fn(&Status) -> bool) -> bool {
    loop {
        match stage.client().status() {
            Ok(status) if good(&status) => return true,
            Ok(_) => std::thread::sleep(std::time::Duration::from_millis(2)),
            Err(_) => return false,
        }
    }
}

impl Journey {
    fn go(&self) {
        let points = self.points();
        assert!(points.len() >= self.points, "{points:?}");
        let cases: Vec<_> = points
            .iter()
            .flat_map(|(point, times)| {
                // Points passed by every write are killed at their first turn and one in the middle.
                let turns: BTreeSet<_> = [1, times / 2 + 1].into();
                turns.into_iter().map(move |turn| format!("{point}=kill@{turn}"))
            })
            .collect();
        // One case alone, when it is looked into.
        let only = std::env::var("SHIP_TEST_FAULT").ok();
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if only.as_ref().is_none_or(|only| only == case) {
                            self.kill_at(case);
                        }
                    }
                });
            }
        });
        eprintln!("killed at {} places", cases.len());
    }

    /// Points that the journey passes, with how often.
    fn points(&self) -> BTreeMap<String, usize> {
        let mut stage = self.begin();
        stage.kill_keeper();
        let trace = stage.dir.path().join("trace");
        stage.start_with(&[(TRACE_VARIABLE, trace.to_str().unwrap())]);
        stage.wait_for_keeper();
        let _ = std::fs::write(&trace, b"");
        (self.walk)(&stage);
        let mut points = BTreeMap::new();
        for line in std::fs::read_to_string(&trace).unwrap().lines() {
            *points.entry(line.to_owned()).or_insert(0) += 1;
        }
        points
    }

    fn begin(&self) -> Stage {
        let mut stage = Stage::new();
        stage.start();
        (self.prepare)(&stage);
        stage
    }

    fn kill_at(&self, fault: &str) {
        let mut stage = self.begin();
        let addr = stage.bound();
        stage.kill_keeper();
        let load = Load::gently(addr);
        stage.start_with(&[(FAULT_VARIABLE, fault)]);
        // The point may also be passed by the take-over itself.
        until("it answers or is dead", || {
            stage.client().status().is_ok() || exited(&stage)
        });
        let taken = if exited(&stage) { 0 } else { (self.walk)(&stage) };
        stage.kill_keeper();
        if self.death == Death::Host {
            host_dies(&stage);
        }
        stage.start_with(&[]);
        let mut running = None;
        until("the next keeper comes to rest", || {
            running = at_rest(&stage);
            running.is_some()
        });
        let running = running.unwrap();
        let allowed = (self.allowed)(taken);
        assert!(
            allowed.contains(&running),
            "{fault}: {running} runs after {taken} were taken"
        );
        let account = load.end();
        if self.seamless && self.death == Death::Keeper {
            assert_eq!(account.failed, Vec::<String>::new(), "{fault}");
        }
        if running == 0 {
            assert_eq!(stage.processes(), Vec::<u32>::new(), "{fault}: strays");
            assert!(get(addr, "/").is_err(), "{fault}");
            stage.kill_keeper();
            stage.start();
        } else {
            assert_eq!(get(addr, "/").unwrap(), format!("release {running}"), "{fault}");
            let current = stage.link("current").unwrap();
            assert_eq!(current, format!("releases/{running}-{running:08x}"), "{fault}");
            until(&format!("there are no strays, {fault}"), || {
                stage.processes().len() == stage.status().generations.len()
            });
        }
        // Whatever happened, the next switch works.
        let next = Intent {
            epoch: 50,
            ..stage.intent(3, "", &stage.own)
        };
        assert_eq!(stage.switch(next).result, SwitchResult::Switched, "{fault}");
        assert_eq!(get(addr, "/").unwrap(), "release 3", "{fault}");
    }
}

/// The app dies, what lay in the run folder is gone, and process numbers mean nothing any more.
fn host_dies(stage: &Stage) {
    until("the app is gone", || {
        for pid in stage.processes() {
            let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        stage.processes().is_empty()
    });
    std::fs::remove_dir_all(&stage.run).unwrap();
    let (mut memory, mut state, _) = ship_keeper::memory::Memory::open(&stage.state).unwrap();
    state.boot_id = "the boot before".to_owned();
    memory.save(&state).unwrap();
}

/// The release that runs when nothing is on its way any more; 0 when the app is stopped.
fn at_rest(stage: &Stage) -> Option<u64> {
    if exited(stage) {
        return Some(0);
    }
    let status = stage.client().status().ok()?;
    let quiet = matches!(status.phase, Phase::Idle | Phase::Soak | Phase::Empty) && status.queued.is_none();
    let up = |generation: &GenerationStatus| {
        let mut processes = generation.processes.iter();
        processes.all(|process| process.state == ProcessState::Up)
    };
    let whole = status.generations.iter().all(up);
    (quiet && whole).then(|| status.running.map_or(0, |running| running.release))
}
