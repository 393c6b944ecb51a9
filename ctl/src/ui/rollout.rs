//! A plan, and the same list again while it is carried out, in words.

use ship_proto::v1::{HostLine, OutcomeKind, RolloutView, StepView, Target};

use super::expected::back;
use super::gates::{gate_lines, skipped_line, waits_for};
use super::{BAD, BOLD, DIM, DOUBT, GOOD, paint};
use crate::words::{bytes, clean, millis};

/// A step that is under way for less, in milliseconds, shows no time.
const SHOWN: u64 = 1_000;
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
    if view.paused {
        line.push_str("   paused");
    }
    line
}

/// The steps as lines, before anything was done and while it is.
pub fn plan_lines(view: &RolloutView) -> Vec<String> {
    let mut lines = vec![paint(BOLD, title(view))];
    let width = name_width(&view.steps);
    for step in &view.steps {
        lines.extend(step_lines(step, width, None));
    }
    lines.extend(excused_lines(view));
    lines.extend(skipped_line(view));
    lines.extend(waits_for(view).map(|waits| format!("  {}", paint(DOUBT, waits))));
    lines
}

/// One step, and while it is not done what it costs. `running` is how long it has been under way, where that is shown.
pub fn step_lines(step: &StepView, width: usize, running: Option<u64>) -> Vec<String> {
    let mut lines = vec![format!("  {}", step_line(step, width, running))];
    lines.extend(gate_lines(step).iter().map(|line| indented(width, line)));
    if step.state != "done" {
        lines.extend(cost_lines(step, width));
        let cost = step.back.as_ref().filter(|_| !step.hosts.is_empty());
        lines.extend(cost.map(|cost| below(width, &back(cost))));
    }
    lines
}

pub fn excused_lines(view: &RolloutView) -> impl Iterator<Item = String> {
    view.excused
        .iter()
        .map(|who| format!("  {} {}", paint(DOUBT, "without"), clean(who)))
}

/// Columns that the longest step's name takes.
pub fn name_width(steps: &[StepView]) -> usize {
    steps
        .iter()
        .map(|step| step.name.chars().count())
        .max()
        .unwrap_or(0)
}

/// What each host fetches in a step and what it has already; hosts for which that is the same share a line.
fn cost_lines(step: &StepView, width: usize) -> Vec<String> {
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
        below(width, &text)
    };
    // What goes back from a host's own disk costs nothing: the step says so itself.
    let costly = costs.into_iter().filter(|_| step.name == "prefetch");
    costly.map(line).collect()
}

/// A line under a step's name.
fn below(width: usize, text: &str) -> String {
    indented(width, &paint(DIM, text))
}

fn indented(width: usize, text: &str) -> String {
    format!("       {:<width$}  {text}", "")
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

/// A step in one line, its name in `width` columns.
pub fn step_line(step: &StepView, width: usize, running: Option<u64>) -> String {
    let mut line = format!(
        "{} {:>2} {:<width$}",
        mark(&step.state),
        step.number,
        clean(&step.name)
    );
    let time = match running {
        Some(ms) if step.state == "running" && ms >= SHOWN => paint(DIM, of_expected(ms, step.takes_ms)),
        _ if step.state == "waiting" => expected(step.takes_ms),
        _ => took(step),
    };
    for part in [hosts_of(step), clean(&step.detail), time] {
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

fn of_expected(ms: u64, takes_ms: Option<u64>) -> String {
    match takes_ms {
        Some(takes) => format!("{} of about {}", millis(ms), millis(takes)),
        None => millis(ms),
    }
}

/// By the last time; what takes none is not worth a figure.
fn expected(takes_ms: Option<u64>) -> String {
    match takes_ms {
        None | Some(0) => String::new(),
        Some(ms) => paint(DIM, format!("about {}", millis(ms))),
    }
}

fn took(step: &StepView) -> String {
    // What took no time is not worth a figure.
    if step.started_at_ms == 0 || step.ended_at_ms <= step.started_at_ms {
        return String::new();
    }
    paint(DIM, millis(step.ended_at_ms - step.started_at_ms))
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
            takes_ms: Some(6_000),
            ..StepView::default()
        }
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn a_step_says_what_it_did_and_how_long_it_took() {
        assert_eq!(
            plain(&step_line(&step("waiting"), 10, None)),
            "·  3 one         h1  soak 1 s  about 6.0 s"
        );
        assert_eq!(
            plain(&step_line(&step("running"), 10, None)),
            "▸  3 one         h1 switching  soak 1 s"
        );
        assert_eq!(
            plain(&step_line(&step("done"), 10, Some(9_000))),
            "✓  3 one         h1  soak 1 s  420 ms"
        );
        assert_eq!(
            plain(&step_line(&step("running"), 10, Some(2_100))),
            "▸  3 one         h1 switching  soak 1 s  2.1 s of about 6.0 s"
        );
    }

    #[test]
    fn many_hosts_are_counted() {
        let mut many = step("waiting");
        many.detail.clear();
        many.takes_ms = None;
        many.hosts = (1..=10)
            .map(|n| HostLine {
                host: format!("h{n}"),
                ..HostLine::default()
            })
            .collect();
        let line = plain(&step_line(&many, 10, None));
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
        let lines: Vec<_> = cost_lines(&prefetch, 10).iter().map(|line| plain(line)).collect();
        assert_eq!(
            lines,
            [
                "                   h1, h2: 1.2 MB new, 40 MB shared each",
                "                   h3: 0 B new, 40 MB shared"
            ]
        );
        prefetch.name = "all hosts".into();
        assert!(cost_lines(&prefetch, 10).is_empty());
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
