//! A rollout as it goes on.

use std::collections::HashMap;

use console::{Term, truncate_str};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ship_proto::v1::{HostLine, RolloutView, StepView};

use super::echo::NoEcho;
use super::gates::{gate_line, skipped_line, waits_for};
use super::rollout::{excused_lines, name_width, step_line, step_lines, title};
use super::{BOLD, DIM, DOUBT, Ui, paint};
use crate::clock;
use crate::words::{clean, count};

/// One rollout as it goes on: steps tick off in place on a terminal, and line by line on a pipe.
#[derive(Debug)]
pub struct Progress<'a> {
    ui: &'a Ui,
    live: Option<Live>,
    /// Whether it was said what this is about.
    titled: bool,
    /// What a pipe was told of each step, and of each host in it.
    told: HashMap<(u32, String), String>,
    /// The step that the last line on a pipe was about.
    last: u32,
    paused: bool,
    /// What a pipe was told that people are waited for.
    waits: Option<String>,
}

impl<'a> Progress<'a> {
    /// `titled`: the plan was shown already, as far as a pipe is concerned.
    pub fn new(ui: &'a Ui, titled: bool) -> Self {
        let live = (ui.is_lively() && !ui.is_json()).then(Live::new);
        Self {
            ui,
            live,
            titled,
            told: HashMap::new(),
            last: 0,
            paused: false,
            waits: None,
        }
    }

    /// Shows what has changed since the last view.
    pub fn update(&mut self, view: &RolloutView) {
        if let Some(live) = &mut self.live {
            live.update(view);
            return;
        }
        if !self.titled {
            self.titled = true;
            self.ui.say(title(view));
        }
        self.tell(view);
        if view.paused != self.paused {
            self.paused = view.paused;
            self.ui.say(if view.paused {
                paused(view)
            } else {
                "resumed".to_owned()
            });
        }
    }

    /// Lets the clock of a step under way go on.
    pub fn tick(&mut self) {
        if let Some(live) = &mut self.live {
            live.draw();
        }
    }

    /// A line above the steps.
    pub fn say(&self, text: &str) {
        match &self.live {
            Some(live) => {
                live.bar.suspend(|| self.ui.say(text));
            }
            None => self.ui.say(text),
        }
    }

    /// Leaves the steps as they stand.
    pub fn finish(self) {
        if let Some(mut live) = self.live {
            live.draw();
            live.bar.abandon();
        }
    }

    /// A line when a step begins and one when it ends; between them a line for a host only where it says more than
    /// that it goes on.
    fn tell(&mut self, view: &RolloutView) {
        let width = name_width(&view.steps);
        for step in &view.steps {
            let key = (step.number, String::new());
            let news = self.told.get(&key) != Some(&step.state) && step.state != "waiting";
            let begins = step.state == "running";
            if news && begins {
                self.tell_step(step, width);
            }
            for host in &step.hosts {
                self.tell_host(step, host, width);
            }
            if news && !begins {
                self.tell_step(step, width);
            }
            self.told.insert(key, step.state.clone());
            if step.state == "running" {
                self.tell_gates(step, width);
            }
        }
        let waits = waits_for(view);
        if let Some(waits) = waits.as_ref().filter(|_| waits != self.waits) {
            self.ui.say(format!("  {waits}"));
        }
        self.waits = waits;
    }

    /// A line for each gate that stands otherwise than it was told.
    fn tell_gates(&mut self, step: &StepView, width: usize) {
        for gate in &step.gates {
            let key = (step.number, format!("gate {}", gate.gate));
            let now = format!("{} {}", gate.state, gate.by.len());
            if self.told.get(&key) != Some(&now) {
                self.ui.say(format!("       {:<width$}  {}", "", gate_line(gate)));
                self.told.insert(key, now);
            }
        }
    }

    fn tell_step(&mut self, step: &StepView, width: usize) {
        self.ui.say(format!("  {}", step_line(step, width, None)));
        self.last = step.number;
    }

    fn tell_host(&mut self, step: &StepView, host: &HostLine, width: usize) {
        let key = (step.number, host.host.clone());
        let now = format!("{} {}", clean(&host.state), clean(&host.detail));
        if self.told.get(&key) == Some(&now) {
            return;
        }
        if is_worth_telling(step, host) {
            // The step is named where the line before is about another one.
            let name = match self.last == step.number {
                true => String::new(),
                false => clean(&step.name),
            };
            let line = format!("       {name:<width$}  {} {}", clean(&host.host), now.trim_end());
            self.ui.say(line);
            self.last = step.number;
        }
        self.told.insert(key, now);
    }
}

/// Failures and what comes with a reason always; that a host is done only while others of its step are not.
fn is_worth_telling(step: &StepView, host: &HostLine) -> bool {
    match host.state.as_str() {
        "failed" => true,
        "done" => step.state == "running" && step.hosts.len() > 1,
        "skipped" => !host.detail.is_empty(),
        "" | "waiting" | "running" => false,
        _ => step.state == "running",
    }
}

fn paused(view: &RolloutView) -> String {
    let app = clean(&view.app);
    match view.reason.as_str() {
        "" => format!("paused; go on with: shipctl resume {app}"),
        reason => format!(
            "paused: {}; try again with: shipctl resume {app}, or take it back: shipctl abort {app}",
            clean(reason)
        ),
    }
}

/// The list in place, at the end of a terminal.
#[derive(Debug)]
struct Live {
    bar: ProgressBar,
    _echo: NoEcho,
    view: Option<RolloutView>,
}

impl Live {
    fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{msg}") {
            bar.set_style(style);
        }
        Self {
            bar,
            _echo: NoEcho::begin(),
            view: None,
        }
    }

    fn update(&mut self, view: &RolloutView) {
        self.view = Some(view.clone());
        self.draw();
    }

    fn draw(&mut self) {
        let Some(view) = &self.view else { return };
        let (height, width) = Term::stderr().size();
        let lines = screen(view, clock::now_ms(), height.into(), width.into());
        self.bar.set_message(lines.join("\n"));
        self.bar.tick();
    }
}

/// What a terminal of this size shows: every line in one row, and no more rows than there are.
fn screen(view: &RolloutView, now_ms: u64, height: usize, width: usize) -> Vec<String> {
    let (room, names) = (height.saturating_sub(4).max(3), name_width(&view.steps));
    let running = |step: &StepView| {
        now_ms
            .checked_sub(step.started_at_ms)
            .filter(|_| step.started_at_ms > 0)
    };
    let mut lines = vec![paint(BOLD, title(view))];
    let (before, shown, after) = window(&view.steps, room);
    if before > 0 {
        lines.push(format!(
            "  {}",
            paint(DIM, format!("… {}", count(before as u64, "step")))
        ));
    }
    for step in shown {
        let mut of_step = step_lines(step, names, running(step));
        // Where there is little room, what a step costs is said by `plan`.
        of_step.truncate(if before + after > 0 { 1 } else { usize::MAX });
        lines.extend(of_step);
    }
    if after > 0 {
        lines.push(format!(
            "  {}",
            paint(DIM, format!("… {} more", count(after as u64, "step")))
        ));
    }
    lines.extend(excused_lines(view));
    lines.extend(skipped_line(view));
    lines.extend(waits_for(view).map(|waits| format!("  {}", paint(DOUBT, waits))));
    if view.paused {
        lines.push(format!("  {}", paint(DOUBT, paused(view))));
    }
    // A row that is full to its end would begin another one.
    let most = width.saturating_sub(3).max(20);
    let cut = lines
        .iter()
        .map(|line| truncate_str(line, most, "…").into_owned());
    cut.take(height.saturating_sub(1).max(4)).collect()
}

/// At most `room` steps around the one under way: how many are left out before, the steps, how many after.
fn window(steps: &[StepView], room: usize) -> (usize, &[StepView], usize) {
    if steps.len() <= room {
        return (0, steps, 0);
    }
    let under_way = steps.iter().position(|step| step.state == "running");
    let at = under_way.unwrap_or_else(|| match steps.iter().all(|step| step.state == "waiting") {
        true => 0,
        false => steps.len() - 1,
    });
    let from = at.saturating_sub(room / 2).min(steps.len() - room);
    (from, &steps[from..from + room], steps.len() - from - room)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(state: &str) -> StepView {
        StepView {
            number: 3,
            name: "one".into(),
            state: state.into(),
            hosts: vec![HostLine {
                host: "h1".into(),
                state: "switching".into(),
                ..HostLine::default()
            }],
            ..StepView::default()
        }
    }

    fn view(states: &[&str]) -> RolloutView {
        let steps = (1..).zip(states).map(|(number, state)| StepView {
            number,
            name: format!("wave {number}"),
            hosts: Vec::new(),
            started_at_ms: if *state == "waiting" { 0 } else { 1_000 },
            ended_at_ms: if *state == "done" { 1_500 } else { 0 },
            ..step(state)
        });
        RolloutView {
            app: "web".into(),
            env: "dev".into(),
            kind: "promote".into(),
            steps: steps.collect(),
            ..RolloutView::default()
        }
    }

    fn plain(view: &RolloutView, height: usize, width: usize) -> Vec<String> {
        let lines = screen(view, 4_200, height, width).into_iter();
        lines
            .map(|line| anstream::adapter::strip_str(&line).to_string())
            .collect()
    }

    #[test]
    fn a_terminal_shows_the_list_with_the_clock_of_what_runs() {
        let mut view = view(&["done", "running", "waiting"]);
        assert_eq!(
            plain(&view, 24, 80),
            [
                "web  nothing → nothing   dev   promote",
                "  ✓  1 wave 1  500 ms",
                "  ▸  2 wave 2  3.2 s",
                "  ·  3 wave 3",
            ]
        );
        view.paused = true;
        assert_eq!(
            plain(&view, 24, 80).last().map(String::as_str),
            Some("  paused; go on with: shipctl resume web")
        );
        view.reason = "h2: probe: 500".into();
        assert_eq!(
            plain(&view, 24, 120).last().map(String::as_str),
            Some(
                "  paused: h2: probe: 500; try again with: shipctl resume web, or take it back: shipctl abort web"
            )
        );
    }

    #[test]
    fn a_small_terminal_shows_what_is_under_way() {
        let states: Vec<&str> = (0..30).map(|n| if n < 20 { "done" } else { "waiting" }).collect();
        let mut view = view(&states);
        view.steps[20].state = "running".into();
        view.steps[20].detail = "x".repeat(200);
        let shown = plain(&view, 10, 40);
        assert!(shown.len() < 10, "{shown:?}");
        assert!(shown.iter().all(|line| line.chars().count() <= 37), "{shown:?}");
        assert!(shown.iter().any(|line| line.contains("21 wave 21")), "{shown:?}");
        assert!(shown[1].contains("… 17 steps"), "{shown:?}");
        assert!(
            shown.last().is_some_and(|line| line.contains("more")),
            "{shown:?}"
        );
        for (height, width) in [(0, 0), (1, 1), (3, 500)] {
            assert!(!plain(&view, height, width).is_empty());
        }
    }

    #[test]
    fn a_pipe_hears_what_matters() {
        let host = |state: &str, detail: &str| HostLine {
            host: "h1".into(),
            state: state.into(),
            detail: detail.into(),
            ..HostLine::default()
        };
        let with = |state: &str, hosts: usize| StepView {
            hosts: vec![HostLine::default(); hosts],
            ..step(state)
        };
        for (step, host, told) in [
            (with("running", 3), host("running", "switching"), false),
            (with("running", 3), host("waiting", ""), false),
            (with("running", 3), host("done", ""), true),
            (with("running", 1), host("done", ""), false),
            (with("done", 3), host("done", ""), false),
            (with("failed", 1), host("failed", "is back; probe: 500"), true),
            (with("done", 3), host("skipped", ""), false),
            (with("done", 3), host("skipped", "catches up"), true),
        ] {
            assert_eq!(is_worth_telling(&step, &host), told, "{step:?} {host:?}");
        }
    }
}
