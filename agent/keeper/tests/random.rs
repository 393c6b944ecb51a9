//! Keepers die at random instants of switches and reverts under load: nobody is refused, and the next one goes on.
//!
//! `SHIP_TESTS_LONG=1` kills a hundred; `SHIP_TEST_SEED` repeats a run.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests stop at the first surprise"
)]

mod stage;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ship_keeper::protocol::*;
use stage::{Load, Stage, get, until};

const ANY: &str = "tcp:127.0.0.1:0";
/// A switch of the fixture takes about as long.
const WITHIN_MS: u64 = 250;

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

#[test]
fn keepers_killed_at_random_instants_cost_no_connection() {
    let long = std::env::var("SHIP_TESTS_LONG").is_ok_and(|long| long == "1");
    let kills = if long { 100 } else { 10 };
    let seed = std::env::var("SHIP_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = seed.unwrap_or(time);
    eprintln!("SHIP_TEST_SEED={seed}");
    let mut dice = Dice(seed);
    let mut stage = Stage::new();
    stage.start();
    stage.switch(stage.intent(1, "", ANY));
    let addr = stage.bound();
    let load = Load::on(addr);
    let mut adopted = Vec::new();
    for kill in 0..kills {
        let number = 2 + kill;
        let back = dice.roll(3) == 0 && stage.client().revert(None, "back", None).is_ok();
        if !back {
            let soak_ms = [0, 30, 60_000][dice.roll(3) as usize];
            let intent = Intent {
                soak_ms,
                ..stage.intent(number, "", ANY)
            };
            stage.client().switch(intent).unwrap();
        }
        std::thread::sleep(Duration::from_millis(dice.roll(WITHIN_MS)));
        stage.kill_keeper();
        let died = Instant::now();
        stage.start();
        adopted.push(died.elapsed());
        let status = stage.until("it comes to rest", at_rest);
        let running = status.running.unwrap().release;
        let current = stage.link("current").unwrap();
        assert_eq!(current, format!("releases/{running}-{running:08x}"));
        assert_eq!(get(addr, "/").unwrap(), format!("release {running}"));
    }
    let account = load.end();
    adopted.sort();
    eprintln!(
        "{kills} keepers killed under {} requests: {} failed; adopted in {:?} (median), {:?} (worst)",
        account.good,
        account.failed.len(),
        adopted[adopted.len() / 2],
        adopted[adopted.len() - 1],
    );
    assert_eq!(account.failed, Vec::<String>::new());
    stage.stop();
    until("nothing is left", || stage.processes().is_empty());
}

fn at_rest(status: &Status) -> bool {
    let quiet = matches!(status.phase, Phase::Idle | Phase::Soak) && status.queued.is_none();
    let up = |generation: &GenerationStatus| {
        let mut processes = generation.processes.iter();
        processes.all(|process| process.state == ProcessState::Up)
    };
    quiet && status.running.is_some() && status.generations.iter().all(up)
}
