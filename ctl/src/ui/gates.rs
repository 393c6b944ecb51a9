//! Gates in words: what is waited for, who said yes, and what to type.

use ship_proto::v1::{GateLine, RolloutView, StepView};

use super::{BAD, DIM, DOUBT, GOOD, paint};
use crate::words::clean;

/// A line for each gate of a step, to stand below it.
pub fn gate_lines(step: &StepView) -> Vec<String> {
    step.gates.iter().map(gate_line).collect()
}

/// `· go  approval by 2 operators (1 still waited for)  by operator/ann: fine`.
pub fn gate_line(gate: &GateLine) -> String {
    let mark = match gate.state.as_str() {
        "passes" => paint(GOOD, "✓"),
        "fails" => paint(BAD, "✗"),
        "unknown" => paint(DOUBT, "?"),
        _ => paint(DIM, "·"),
    };
    let mut line = format!("{mark} {}  {}", clean(&gate.gate), gate_words(gate));
    if !gate.by.is_empty() {
        let by: Vec<String> = gate.by.iter().map(|who| clean(who)).collect();
        line.push_str(&format!("  {}", paint(DIM, format!("by {}", by.join(", ")))));
    }
    line
}

fn gate_words(gate: &GateLine) -> String {
    // What a check printed may have more lines; the first says what it came to.
    let detail = clean(gate.detail.lines().next().unwrap_or_default());
    match gate.kind.as_str() {
        "command" | "http" => format!("{} {}: {detail}", clean(&gate.kind), clean(&gate.state)),
        "manual" if gate.wanted > 0 => format!("by hand: {detail}"),
        _ if gate.wanted > 0 && !gate.by.is_empty() => format!("{detail} ({} still waited for)", gate.wanted),
        _ => detail,
    }
}

/// What the rollout waits for people to say, and how to say it; none: nothing.
pub fn waits_for(view: &RolloutView) -> Option<String> {
    let step = view
        .steps
        .iter()
        .find(|step| step.state == "running" && !step.gates.is_empty())?;
    let app = clean(&view.app);
    let open = |kind: &'static str| {
        step.gates
            .iter()
            .filter(move |gate| gate.kind == kind && gate.wanted > 0)
    };
    let mut waits: Vec<String> = open("approval")
        .take(1)
        .map(|gate| format!("{}: shipctl approve {app}", clean(&gate.detail)))
        .collect();
    waits.extend(open("manual").map(|gate| {
        let name = clean(&gate.gate);
        format!("{}: shipctl ack {name} -a {app}", clean(&gate.detail))
    }));
    (!waits.is_empty()).then(|| format!("waits for {}", waits.join("; ")))
}

/// Gates that are skipped, in one line.
pub fn skipped_line(view: &RolloutView) -> Option<String> {
    let skipped: Vec<String> = view.skipped_gates.iter().map(|gate| clean(gate)).collect();
    (!skipped.is_empty()).then(|| format!("  {} {}", paint(DOUBT, "without gates"), skipped.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(name: &str, kind: &str, state: &str, wanted: u32) -> GateLine {
        GateLine {
            gate: name.into(),
            kind: kind.into(),
            state: state.into(),
            detail: match kind {
                "approval" => "approval by 2 operators".into(),
                "manual" => "Move the weight\x1b".into(),
                _ => "exit status: 3\nmore".into(),
            },
            by: Vec::new(),
            wanted,
        }
    }

    fn plain(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn each_gate_says_what_it_waits_for() {
        let mut go = gate("go", "approval", "waiting", 1);
        go.by = vec!["operator/ann: fine".into()];
        let lines = [
            (
                &go,
                "· go  approval by 2 operators (1 still waited for)  by operator/ann: fine",
            ),
            (
                &gate("dns", "manual", "waiting", 1),
                "· dns  by hand: Move the weight\\u{1b}",
            ),
            (
                &gate("smoke", "command", "unknown", 0),
                "? smoke  command unknown: exit status: 3",
            ),
            (
                &gate("errors", "http", "passes", 0),
                "✓ errors  http passes: exit status: 3",
            ),
        ];
        for (gate, line) in lines {
            assert_eq!(plain(&gate_line(gate)), line);
        }
    }

    #[test]
    fn what_to_type_is_said_while_people_are_waited_for() {
        let mut view = RolloutView {
            app: "web".into(),
            steps: vec![StepView {
                state: "running".into(),
                gates: vec![
                    gate("go", "approval", "waiting", 2),
                    gate("dns", "manual", "waiting", 1),
                ],
                ..StepView::default()
            }],
            ..RolloutView::default()
        };
        assert_eq!(
            waits_for(&view).as_deref(),
            Some(
                "waits for approval by 2 operators: shipctl approve web; Move the weight\\u{1b}: shipctl ack dns -a web"
            )
        );
        view.steps[0].gates = vec![gate("smoke", "command", "unknown", 0)];
        assert_eq!(waits_for(&view), None);
    }
}
