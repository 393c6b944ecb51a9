//! Each file of `stories/` is a story: lines that begin with `> ` are what happens, the lines below are
//! what the machine does about it. Run with `SHIP_BLESS=1` to write the present answers into the files.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ship_model::digest::ReleaseId;
use ship_model::release::ReleaseNumber;
use ship_model::report::LocalHold;
use ship_model::rollout::{
    Answer, AnswerWord, Ask, Effect, Event, Gate, GoingBack, Happening, Outcome, Pace, Verdict, WayStep,
    Wish, forecast, preview, view,
};

use crate::fleet::{Fleet, SimHost, host, release};

struct Story {
    fleet: Fleet,
    out: String,
}

impl Story {
    fn say(&mut self, text: impl AsRef<str>) {
        writeln!(self.out, "{}", text.as_ref()).unwrap();
    }

    fn run(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["hosts", ref names @ ..] => self.add_hosts(names, false),
            ["asset-host", name] => self.add_hosts(&[name], true),
            ["publish", ref numbers @ ..] => {
                numbers
                    .iter()
                    .for_each(|number| self.fleet.publish(number.parse().unwrap()));
            }
            ["allow", count, "away"] => self.fleet.policy.max_unavailable = Some(count.parse().unwrap()),
            ["keep", count, "healthy"] => self.fleet.policy.min_healthy = Some(count.parse().unwrap()),
            ["waves", "of", count] => self.fleet.policy.wave = Some(count.parse().unwrap()),
            ["no", "auto-revert"] => self.fleet.policy.auto_revert = false,
            ["step", name, "until", until, ref rest @ ..] => self.add_step(name, until, rest),
            ["step", step, "ends", "with", name, ref ask @ ..] => self.add_gate(step, name, ask),
            ["approve", "by", who] => self.answer(who, AnswerWord::Approve),
            ["reject", "by", who] => self.answer(who, AnswerWord::Reject),
            ["ack", gate, "by", who] => self.answer(who, AnswerWord::Acknowledge(gate.to_owned())),
            ["check", gate, verdict] => self.check(gate, verdict),
            ["forecast", number] => self.forecast(ReleaseNumber(number.parse().unwrap())),
            ["optional", name] => {
                self.fleet.policy.optional_asset_hosts.insert(host(name));
            }
            ["promote", number, ref rest @ ..] => {
                let release = Some(ReleaseNumber(number.parse().unwrap()));
                self.start(Wish::Promote { release }, rest);
            }
            ["revert", ref rest @ ..] => {
                let to = rest.first().and_then(|word| word.parse().ok()).map(ReleaseNumber);
                self.start(Wish::Revert { to }, rest);
            }
            ["plan", number] => self.preview(ReleaseNumber(number.parse().unwrap())),
            ["everyone", "obeys"] => {
                let effects = self.fleet.obey();
                self.tell(effects);
            }
            ["wait", seconds] => {
                self.fleet.now += seconds.trim_end_matches('s').parse::<u64>().unwrap() * 1000;
                let effects = self.fleet.step(Event::Tick);
                self.tell(effects);
            }
            ["the", "clock", "jumps", "back", seconds] => {
                self.fleet.now -= seconds.trim_end_matches('s').parse::<u64>().unwrap() * 1000;
                let effects = self.fleet.step(Event::Tick);
                self.tell(effects);
            }
            ["abort"] => self.event(Event::Abort { who: "bob".into() }),
            ["pause"] => self.event(Event::Pause { who: "bob".into() }),
            ["resume"] => self.event(Event::Resume { who: "bob".into() }),
            ["show"] => self.show(),
            ["who", "runs", "what"] => self.who_runs(),
            [name, ref what @ ..] => self.host_does(name, what),
            [] => {}
        }
    }

    /// `soak 30s`, `named h1 h2`.
    fn add_step(&mut self, name: &str, until: &str, rest: &[&str]) {
        let (soak, rest) = match rest {
            ["soak", soak, rest @ ..] => (Some(*soak), rest),
            rest => (None, rest),
        };
        let names = rest.iter().filter(|word| **word != "named");
        self.fleet.policy.steps.push(WayStep {
            name: name.to_owned(),
            until: until.parse().unwrap(),
            class: None,
            names: names.map(|name| (*name).to_owned()).collect(),
            soak_ms: soak.map(|soak| soak.trim_end_matches('s').parse::<u64>().unwrap() * 1000),
            gates: Vec::new(),
        });
    }

    /// `an approval`, `a check for 20s`, `a manual one`.
    fn add_gate(&mut self, step: &str, name: &str, ask: &[&str]) {
        let ask = match ask {
            ["an", "approval"] => Ask::Approval {
                count: 1,
                others: true,
                by: BTreeSet::new(),
            },
            ["a", "manual", "one"] => Ask::Manual {
                text: "move the weight".to_owned(),
            },
            ["a", "check", "for", span] => Ask::Command {
                argv: vec![name.to_owned()],
                pace: Pace {
                    for_ms: span.trim_end_matches('s').parse::<u64>().unwrap() * 1000,
                    ..Pace::default()
                },
            },
            other => panic!("no gate: {other:?}"),
        };
        let mut steps = self.fleet.policy.steps.iter_mut();
        let found = steps.find(|known| known.name == step).unwrap();
        let name = name.to_owned();
        found.gates.push(Gate { name, ask });
    }

    fn answer(&mut self, who: &str, word: AnswerWord) {
        let answer = Answer {
            word,
            deploy: None,
            step: None,
            note: None,
        };
        let who = who.to_owned();
        self.event(Event::Answer { answer, who });
    }

    fn check(&mut self, gate: &str, verdict: &str) {
        let rollout = self.fleet.state.running().unwrap();
        let (deploy, step) = (rollout.deploy, rollout.reached);
        let (verdict, said) = match verdict {
            "passes" => (Verdict::Pass, "fine"),
            "fails" => (Verdict::Fail, "7 errors"),
            _ => (Verdict::Unknown, "no answer"),
        };
        self.event(Event::GateSaid {
            deploy,
            step,
            gate: gate.to_owned(),
            verdict,
            said: said.to_owned(),
        });
    }

    fn forecast(&mut self, release: ReleaseNumber) {
        let wish = Wish::Promote {
            release: Some(release),
        };
        let plan = self.fleet.plan(wish, false).unwrap();
        let expected = forecast(
            &plan,
            &self.fleet.state,
            &self.fleet.views(),
            &self.fleet.releases,
        );
        for (step, expected) in preview(&plan).steps.iter().zip(&expected.steps) {
            let takes = time(expected.takes_ms);
            let back = back(expected.back.as_ref().unwrap());
            self.say(format!("{:<12} takes {takes}; back: {back}", step.name));
            if let Some(why) = &expected.no_return {
                self.say(format!("  no return: {why}"));
            }
        }
        match expected.then {
            Some(then) => self.say(format!("then a revert goes to {}", then.number)),
            None => self.say("then a revert has nothing to go to"),
        }
    }

    fn add_hosts(&mut self, names: &[&str], asset_only: bool) {
        for name in names {
            let sim = SimHost {
                asset_only,
                ..SimHost::default()
            };
            self.fleet.hosts.insert(host(name), sim);
            self.event(Event::HostJoined {
                host: host(name),
                runs_app: !asset_only,
            });
        }
    }

    fn host_does(&mut self, name: &str, what: &[&str]) {
        let name = host(name);
        let sim = self.fleet.hosts.get_mut(&name).expect("a host of this story");
        match what {
            ["breaks", number, "at", step] => {
                sim.breaks.insert(number.parse().unwrap(), (*step).to_owned());
            }
            ["is", "mended"] => sim.breaks.clear(),
            ["cannot", "serve", count, "assets", "of", number] => {
                let count: u64 = count.parse().unwrap();
                *sim.unserved.entry(number.parse().unwrap()).or_default() += count;
                let effects = self.fleet.report(&name);
                self.tell(effects);
            }
            ["keeps", "assets", "back"] => sim.keeps_assets_back = true,
            ["takes", "assets"] => sim.keeps_assets_back = false,
            ["hangs"] => sim.hangs = true,
            ["goes", "on"] => sim.hangs = false,
            ["crashes", "once"] => sim.crash(true),
            ["keeps", "crashing", "and", "is", "back", "on", number] => {
                sim.crash(false);
                sim.running = Some(release(number.parse().unwrap()));
                let effects = self.fleet.report(&name);
                self.tell(effects);
            }
            ["is", "unwell"] => sim.unhealthy = true,
            ["is", "well"] => sim.unhealthy = false,
            ["falls", "silent"] => {
                sim.silent = true;
                self.event(Event::HostSilent { host: name });
            }
            ["returns"] => {
                sim.silent = false;
                let effects = self.fleet.report(&name);
                self.tell(effects);
            }
            ["reverts", "itself", rest @ .., "to", number] => {
                let unheard = *rest == ["unheard"];
                let to = release(number.parse().unwrap());
                sim.held = Some(LocalHold {
                    epoch: sim.epoch,
                    from: sim.running,
                    to,
                    reason: "checkout is broken".to_owned(),
                    at_ms: self.fleet.now,
                });
                sim.running = Some(to);
                sim.unheard = unheard;
                if !unheard {
                    let effects = self.fleet.report(&name);
                    self.tell(effects);
                }
            }
            ["is", "drained"] => {
                sim.drained = true;
                self.event(Event::HostDrained {
                    host: name,
                    drained: true,
                });
            }
            ["is", "back", "in", "service"] => {
                sim.drained = false;
                self.event(Event::HostDrained {
                    host: name,
                    drained: false,
                });
            }
            ["is", "retired"] => {
                sim.retiring = true;
                self.event(Event::HostRetiring { host: name });
            }
            ["joins"] => unreachable!("use `hosts NAME`"),
            ["leaves"] => {
                self.fleet.hosts.remove(&name);
                self.event(Event::HostLeft { host: name });
            }
            _ => panic!("no such thing happens: {name} {what:?}"),
        }
    }

    fn start(&mut self, wish: Wish, rest: &[&str]) {
        let force = rest.contains(&"--force");
        match self.fleet.plan(wish, force) {
            Ok(plan) => self.event(Event::Start {
                plan: Box::new(plan),
                who: "ann".to_owned(),
            }),
            Err(refused) => self.say(format!("refused: {refused}")),
        }
    }

    fn preview(&mut self, release: ReleaseNumber) {
        let plan = self.fleet.plan(
            Wish::Promote {
                release: Some(release),
            },
            false,
        );
        match plan {
            Ok(plan) => {
                assert_ne!(plan.id.as_bytes(), ReleaseId::from_bytes([0; 32]).as_bytes());
                self.say_steps(&preview(&plan));
            }
            Err(refused) => self.say(format!("refused: {refused}")),
        }
    }

    fn show(&mut self) {
        let shown = view(self.fleet.state.rollout.as_ref().unwrap());
        self.say_steps(&shown);
    }

    fn say_steps(&mut self, shown: &ship_model::rollout::RolloutView) {
        for step in &shown.steps {
            self.say(format!("{:<12} {}", step.name, step.state.as_str()));
            for line in &step.hosts {
                let note = line.note.as_deref().unwrap_or_default();
                self.say(format!("  {:<10} {:<8} {note}", line.host, line.state.as_str()).trim_end());
            }
            for gate in &step.gates {
                let (state, by) = (gate.state.as_str(), gate.by.join(", "));
                self.say(format!("  {:<10} {state:<8} {} {by}", gate.gate, gate.detail).trim_end());
            }
        }
    }

    fn who_runs(&mut self) {
        let number = |target: Option<ship_model::release::Target>| {
            target.map_or("nothing".to_owned(), |target| target.number.to_string())
        };
        let state = &self.fleet.state;
        let mut lines = vec![format!("current {}", number(state.current))];
        for (name, sim) in self.fleet.hosts.iter().filter(|(_, sim)| !sim.asset_only) {
            let told = state.hosts.get(name).and_then(|target| target.run);
            lines.push(format!(
                "{name} runs {}, told {}",
                number(sim.running),
                number(told)
            ));
        }
        lines.iter().for_each(|line| self.say(line));
    }

    fn event(&mut self, event: Event) {
        let effects = self.fleet.step(event);
        self.tell(effects);
    }

    fn tell(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::SetDesired(_) => {}
                Effect::Audit { who, what, .. } => self.say(format!("audit: {who}: {what}")),
                Effect::Refused(why) => self.say(format!("refused: {why}")),
                Effect::Announce(event) => {
                    let told = tell(event.what);
                    self.say(told);
                }
            }
        }
    }
}

fn time(ms: Option<u64>) -> String {
    ms.map_or("unknown".to_owned(), |ms| format!("{} s", ms as f64 / 1000.0))
}

fn back(cost: &GoingBack) -> String {
    let names: Vec<_> = cost.hosts.iter().map(|host| host.as_str()).collect();
    if names.is_empty() {
        return "nothing".to_owned();
    }
    let to = cost.to.map_or("nothing".to_owned(), |to| to.number.to_string());
    let mut text = format!("{} to {to} in {}", names.join(" "), time(cost.takes_ms));
    if !cost.fetch.is_empty() {
        write!(text, ", {:?} must fetch it", cost.fetch).unwrap();
    }
    text
}

fn tell(what: Happening) -> String {
    match what {
        Happening::Started { kind } => format!("started {kind:?}").to_lowercase(),
        Happening::StepStarted { step } => format!("step {step} ..."),
        Happening::StepDone { step } => format!("step {step} done"),
        Happening::HostOk { host } => format!("{host} ok"),
        Happening::HostFailed {
            host,
            step,
            reason,
            last_lines,
        } => format!("{host} FAILED at {step}: {reason} {last_lines:?}"),
        Happening::HostExcused { host, reason } => format!("{host} excused: {reason}"),
        Happening::HostReturned { host } => format!("{host} returned"),
        Happening::TurnedBack { reason } => format!("turned back: {reason}"),
        Happening::HostBack { host } => format!("{host} is back"),
        Happening::Paused { who } => format!("paused by {who}"),
        Happening::Resumed { who } => format!("resumed by {who}"),
        Happening::GateSaid {
            step, gate, verdict, ..
        } => format!("gate {gate} of step {step}: {verdict:?}"),
        Happening::GateAnswered { step, gate, who } => format!("gate {gate} of step {step}: yes by {who}"),
        Happening::Ended { outcome } => ended(&outcome),
    }
}

fn ended(outcome: &Outcome) -> String {
    let mut text = format!("END {:?}", outcome.end).to_uppercase();
    if let Some(stop) = &outcome.stop {
        let host = stop
            .host
            .as_ref()
            .map_or(String::new(), |host| format!("{host} "));
        write!(text, ": {host}{}: {}", stop.step, stop.reason).unwrap();
    }
    if !outcome.unconfirmed.is_empty() {
        write!(text, "; unconfirmed: {:?}", outcome.unconfirmed).unwrap();
    }
    text
}

/// The story with the machine's answers in place of whatever stood there.
fn retell(text: &str) -> String {
    let mut story = Story {
        fleet: Fleet::new(),
        out: String::new(),
    };
    for line in text.lines() {
        if line.starts_with('#') || line.is_empty() {
            story.say(line);
        } else if let Some(command) = line.strip_prefix("> ") {
            story.say(line);
            story.run(command);
        }
    }
    story.out
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rollout/stories");
    let mut files: Vec<_> = folder
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

#[test]
fn stories_end_as_told() {
    let bless = std::env::var_os("SHIP_BLESS").is_some();
    let files = files();
    assert!(files.len() >= 10, "the stories are gone");
    let mut wrong = String::new();
    for file in files {
        let told = std::fs::read_to_string(&file).unwrap();
        let retold = retell(&told);
        if bless {
            std::fs::write(&file, retold).unwrap();
        } else if told != retold {
            let differs = told.lines().zip(retold.lines()).find(|(a, b)| a != b);
            writeln!(wrong, "{}: {differs:?}\n{retold}", file.display()).unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
