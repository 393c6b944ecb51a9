//! A plan, and the same list again while it is carried out: steps tick off in place on a terminal, and
//! line by line on a pipe.

use std::collections::HashMap;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use ship_proto::v1::{HostLine, OutcomeKind, RolloutView, StepView, Target};

use super::{BAD, BOLD, DIM, DOUBT, GOOD, Ui, paint};
use crate::words::{bytes, clean, millis};

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
    for step in &view.steps {
        lines.push(format!("  {}", step_line(step)));
        lines.extend(cost_lines(step));
    }
    lines.extend(
        view.excused
            .iter()
            .map(|who| format!("  {} {}", paint(DOUBT, "without"), clean(who))),
    );
    lines
}

/// What each host fetches in a step and what it has already; hosts for which that is the same share a line.
fn cost_lines(step: &StepView) -> Vec<String> {
    let mut costs: Vec<((u64, u64), Vec<String>)> = Vec::new();
    for host in &step.hosts {
        let (Some(new), Some(shared)) = (host.new_bytes, host.shared_bytes) else {
            continue;
        };
        let name = clean(&host.host);
        match costs.iter_mut().find(|(cost, _)| *cost == (new, shared)) {
            Some((_, hosts)) => hosts.push(name),
            None => costs.push(((new, shared), vec![name])),
        }
    }
    let line = |((new, shared), hosts): ((u64, u64), Vec<String>)| {
        let each = if hosts.len() > 1 { " each" } else { "" };
        let text = format!(
            "{}: {} new, {} shared{each}",
            named(&hosts),
            bytes(new),
            bytes(shared)
        );
        format!("       {:<10}  {}", "", paint(DIM, text))
    };
    // What goes back from a host's own disk costs nothing: the step says so itself.
    let costly = costs.into_iter().filter(|_| step.name == "prefetch");
    costly.map(line).collect()
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
    let worded = |host: &HostLine| {
        let name = clean(&host.host);
        // What goes for the step goes for the host: only what differs is said.
        if running && host.state != step.state && !host.state.is_empty() {
            format!("{name} {}", clean(&host.state))
        } else {
            name
        }
    };
    named(&step.hosts.iter().map(worded).collect::<Vec<_>>())
}

fn named(hosts: &[String]) -> String {
    let mut text = hosts[..hosts.len().min(NAMED)].join(", ");
    if hosts.len() > NAMED {
        text.push_str(&format!(" and {} more", hosts.len() - NAMED));
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
    /// The step that the last line on a pipe was about.
    last: u32,
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
            last: 0,
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

    /// A line when a step begins and one when it ends; between them a line for a host only where it says more than
    /// that it goes on.
    fn tell(&mut self, view: &RolloutView) {
        for step in &view.steps {
            let key = (step.number, String::new());
            let news = self.told.get(&key) != Some(&step.state) && step.state != "waiting";
            let begins = step.state == "running";
            if news && begins {
                self.tell_step(step);
            }
            for host in &step.hosts {
                self.tell_host(step, host);
            }
            if news && !begins {
                self.tell_step(step);
            }
            self.told.insert(key, step.state.clone());
        }
    }

    fn tell_step(&mut self, step: &StepView) {
        self.ui.say(format!("  {}", step_line(step)));
        self.last = step.number;
    }

    fn tell_host(&mut self, step: &StepView, host: &HostLine) {
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
            let line = format!("       {name:<10}  {} {}", clean(&host.host), now.trim_end());
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
        OutcomeKind::Stopped => "failed, and every host runs what it ran before",
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
                ..HostLine::default()
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
    fn a_plan_says_what_each_host_fetches() {
        let host = |name: &str, new| HostLine {
            host: name.into(),
            state: "waiting".into(),
            new_bytes: Some(new),
            shared_bytes: Some(40_000_000),
            ..HostLine::default()
        };
        let mut prefetch = step("waiting");
        prefetch.name = "prefetch".into();
        prefetch.hosts = vec![host("h1", 1_200_000), host("h2", 1_200_000), host("h3", 0)];
        let lines: Vec<_> = cost_lines(&prefetch).iter().map(|line| plain(line)).collect();
        assert_eq!(
            lines,
            [
                "                   h1, h2: 1.2 MB new, 40 MB shared each",
                "                   h3: 0 B new, 40 MB shared"
            ]
        );
        prefetch.name = "all hosts".into();
        assert!(cost_lines(&prefetch).is_empty());
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
