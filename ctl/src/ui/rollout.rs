//! A plan, and the same list again while it is carried out: steps tick off in place on a terminal, and
//! line by line on a pipe.

use std::collections::HashMap;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use ship_proto::v1::{HostLine, OutcomeKind, RolloutView, StepView, Target};

use super::{BAD, BOLD, DIM, DOUBT, GOOD, Ui, paint};
use crate::words::{clean, millis};

/// Most hosts that are named in one line.
const NAMED: usize = 8;

fn number(target: Option<&Target>) -> String {
    target.map_or_else(|| "nothing".to_owned(), |target| target.number.to_string())
}

/// `web  4 → 5   dev   promote`.
pub fn title(view: &RolloutView) -> String {
    let (from, to) = (number(view.from.as_ref()), number(view.to.as_ref()));
    let mut line = format!(
        "{}  {from} → {to}   {}   {}",
        clean(&view.app),
        clean(&view.env),
        clean(&view.kind)
    );
    if view.deploy > 0 {
        line.push_str(&format!("   deploy {}", view.deploy));
    }
    if !view.who.is_empty() {
        line.push_str(&format!("   by {}", clean(&view.who)));
    }
    if !view.message.is_empty() {
        line.push_str(&format!("   \"{}\"", clean(&view.message)));
    }
    line
}

/// The plan as lines, before anything was done.
pub fn plan_lines(view: &RolloutView) -> Vec<String> {
    let mut lines = vec![paint(BOLD, title(view))];
    lines.extend(view.steps.iter().map(|step| format!("  {}", step_line(step))));
    lines.extend(
        view.excused
            .iter()
            .map(|who| format!("  {} {}", paint(DOUBT, "without"), clean(who))),
    );
    lines
}

fn mark(state: &str) -> String {
    match state {
        "done" => paint(GOOD, "✓"),
        "failed" => paint(BAD, "✗"),
        "running" => paint(DOUBT, "▸"),
        "skipped" => paint(DIM, "-"),
        _ => paint(DIM, "·"),
    }
}

fn step_line(step: &StepView) -> String {
    let mut line = format!(
        "{} {:>2} {:<10}",
        mark(&step.state),
        step.number,
        clean(&step.name)
    );
    for part in [hosts_of(step), clean(&step.detail), took(step)] {
        if !part.is_empty() {
            line.push_str("  ");
            line.push_str(&part);
        }
    }
    line.trim_end().to_owned()
}

/// `h1, h2 and 7 more`; while the step runs, with what each is doing.
fn hosts_of(step: &StepView) -> String {
    let running = matches!(step.state.as_str(), "running" | "failed");
    let named = step.hosts.iter().take(NAMED).map(|host| {
        let name = clean(&host.host);
        if running {
            format!("{name} {}", clean(&host.state))
        } else {
            name
        }
    });
    let mut text = named.collect::<Vec<_>>().join(", ");
    if step.hosts.len() > NAMED {
        text.push_str(&format!(" and {} more", step.hosts.len() - NAMED));
    }
    text
}

fn took(step: &StepView) -> String {
    if step.started_at_ms == 0 || step.ended_at_ms < step.started_at_ms {
        return String::new();
    }
    paint(DIM, millis(step.ended_at_ms - step.started_at_ms))
}

/// One rollout as it goes on.
#[derive(Debug)]
pub struct Progress<'a> {
    ui: &'a Ui,
    live: Option<Live>,
    /// What a pipe was told of each step, and of each host in it.
    told: HashMap<(u32, String), String>,
    paused: bool,
}

#[derive(Debug)]
struct Live {
    all: MultiProgress,
    lines: Vec<ProgressBar>,
}

impl<'a> Progress<'a> {
    pub fn new(ui: &'a Ui) -> Self {
        let live = (ui.is_lively() && !ui.is_json()).then(|| Live {
            all: MultiProgress::with_draw_target(ProgressDrawTarget::stderr()),
            lines: Vec::new(),
        });
        Self {
            ui,
            live,
            told: HashMap::new(),
            paused: false,
        }
    }

    /// Shows what has changed since the last view.
    pub fn update(&mut self, view: &RolloutView) {
        match &mut self.live {
            Some(live) => live.update(view),
            None => self.tell(view),
        }
        if view.paused != self.paused {
            self.paused = view.paused;
            let app = clean(&view.app);
            self.say(&if view.paused {
                format!("paused; go on with: shipctl resume {app}")
            } else {
                "resumed".to_owned()
            });
        }
    }

    /// A line above the steps.
    pub fn say(&self, text: &str) {
        match &self.live {
            Some(live) => {
                if live.all.println(text).is_err() {
                    self.ui.say(text);
                }
            }
            None => self.ui.say(text),
        }
    }

    /// Leaves the steps as they stand.
    pub fn finish(self) {
        if let Some(live) = self.live {
            live.lines.iter().for_each(ProgressBar::abandon);
        }
    }

    fn tell(&mut self, view: &RolloutView) {
        for step in &view.steps {
            for host in &step.hosts {
                self.tell_host(step, host);
            }
            let key = (step.number, String::new());
            let news = self.told.get(&key) != Some(&step.state);
            if news && step.state != "waiting" {
                self.ui.say(format!("  {}", step_line(step)));
            }
            self.told.insert(key, step.state.clone());
        }
    }

    fn tell_host(&mut self, step: &StepView, host: &HostLine) {
        let key = (step.number, host.host.clone());
        let now = format!("{} {}", clean(&host.state), clean(&host.detail));
        if self.told.get(&key) == Some(&now) {
            return;
        }
        if !matches!(host.state.as_str(), "" | "waiting") {
            let line = format!(
                "       {:<10}  {} {}",
                clean(&step.name),
                clean(&host.host),
                now.trim_end()
            );
            self.ui.say(line);
        }
        self.told.insert(key, now);
    }
}

impl Live {
    fn update(&mut self, view: &RolloutView) {
        while self.lines.len() < view.steps.len() {
            let line = self.all.add(ProgressBar::new(0));
            if let Ok(style) = ProgressStyle::with_template("  {wide_msg}") {
                line.set_style(style);
            }
            self.lines.push(line);
        }
        for (line, step) in self.lines.iter().zip(&view.steps) {
            line.set_message(step_line(step));
            line.tick();
        }
    }
}

/// How it ended, in a few words.
pub fn outcome_words(outcome: OutcomeKind) -> &'static str {
    match outcome {
        OutcomeKind::Unspecified => "in a state that this shipctl does not know",
        OutcomeKind::Planned => "planned",
        OutcomeKind::Running => "under way",
        OutcomeKind::Done => "done",
        OutcomeKind::Reverted => "failed and taken back",
        OutcomeKind::Stopped => "failed before anything was switched",
        OutcomeKind::Partial => "failed, and some hosts are not back",
        OutcomeKind::Aborted => "aborted",
    }
}

/// The word for programs.
pub fn outcome_name(outcome: OutcomeKind) -> &'static str {
    match outcome {
        OutcomeKind::Unspecified => "unknown",
        OutcomeKind::Planned => "planned",
        OutcomeKind::Running => "running",
        OutcomeKind::Done => "done",
        OutcomeKind::Reverted => "reverted",
        OutcomeKind::Stopped => "stopped",
        OutcomeKind::Partial => "partial",
        OutcomeKind::Aborted => "aborted",
    }
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
                detail: String::new(),
            }],
            detail: "soak 1 s".into(),
            started_at_ms: 1_000,
            ended_at_ms: if state == "done" { 1_420 } else { 0 },
        }
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn a_step_says_what_it_did_and_how_long_it_took() {
        assert_eq!(
            plain(&step_line(&step("waiting"))),
            "·  3 one         h1  soak 1 s"
        );
        assert_eq!(
            plain(&step_line(&step("running"))),
            "▸  3 one         h1 switching  soak 1 s"
        );
        assert_eq!(
            plain(&step_line(&step("done"))),
            "✓  3 one         h1  soak 1 s  420 ms"
        );
    }

    #[test]
    fn many_hosts_are_counted() {
        let mut many = step("waiting");
        many.detail.clear();
        many.hosts = (1..=10)
            .map(|n| HostLine {
                host: format!("h{n}"),
                ..HostLine::default()
            })
            .collect();
        let line = plain(&step_line(&many));
        assert!(line.ends_with("h7, h8 and 2 more"), "{line}");
    }

    #[test]
    fn titles_are_escaped() {
        let view = RolloutView {
            app: "web".into(),
            env: "dev".into(),
            kind: "promote".into(),
            to: Some(Target {
                number: 2,
                id: vec![],
            }),
            deploy: 7,
            message: "a\x1bb".into(),
            ..RolloutView::default()
        };
        assert_eq!(
            title(&view),
            "web  nothing → 2   dev   promote   deploy 7   \"a\\u{1b}b\""
        );
    }
}
