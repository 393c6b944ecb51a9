//! What is expected of a plan, in words below its steps.

use ship_proto::v1::{GoingBack, PlanReply, StepView};

use super::{DIM, DOUBT, paint};
use crate::words::{clean, millis};

/// What it takes, what a revert goes to afterwards, and what could not be taken back. Nothing from an old store.
pub fn expected_lines(plan: &PlanReply) -> Vec<String> {
    if plan.plan.is_empty() {
        return Vec::new();
    }
    let view = plan.view.clone().unwrap_or_default();
    let app = clean(&view.app);
    let line = |name: &str, text: String| format!("  {} {text}", paint(DIM, name));
    let mut lines = vec![line("takes", in_all(&view.steps))];
    lines.push(line(
        "then",
        match &plan.then {
            Some(target) => format!("a revert goes to {app}@{}", target.number),
            None => "a revert has nothing to go to".to_owned(),
        },
    ));
    for point in &plan.no_return {
        let text = format!("from step {} on: {}", point.step, clean(&point.why));
        lines.push(line("no return", paint(DOUBT, text)));
    }
    if plan.no_return.is_empty() {
        lines.push(line("no return", "none: every step can be taken back".to_owned()));
    }
    lines
}

fn in_all(steps: &[StepView]) -> String {
    let unknown = steps.iter().filter(|step| step.takes_ms.is_none());
    let people = |step: &StepView| {
        step.gates
            .iter()
            .any(|gate| matches!(gate.kind.as_str(), "approval" | "manual"))
    };
    if unknown.clone().next().is_some() && unknown.clone().all(people) {
        return "as long as people take, who are waited for".to_owned();
    }
    let unknown: Vec<String> = unknown.map(|step| step.number.to_string()).collect();
    if unknown.is_empty() {
        let sum = steps.iter().filter_map(|step| step.takes_ms).sum();
        return format!("about {}, by the last time", millis(sum));
    }
    let word = if unknown.len() == 1 { "step" } else { "steps" };
    format!(
        "unknown: a host in {word} {} was never timed there",
        unknown.join(", ")
    )
}

/// What going back costs once a step is done.
pub fn back(cost: &GoingBack) -> String {
    if cost.hosts.is_empty() {
        return "back from here: nothing was switched".to_owned();
    }
    let hosts = match cost.hosts.len() {
        1 => clean(&cost.hosts[0]),
        count => format!("{count} hosts"),
    };
    let Some(to) = &cost.to else {
        return format!("back from here: {hosts} stop it");
    };
    let time = match cost.takes_ms {
        Some(ms) => format!("in about {}", millis(ms)),
        None => "in a time that is unknown".to_owned(),
    };
    let fetch: Vec<String> = cost.fetch.iter().map(|host| clean(host)).collect();
    let fetched = match fetch.len() {
        0 => "nothing is fetched".to_owned(),
        1..=8 => format!("{} must fetch it again", fetch.join(", ")),
        many => format!("{many} of them must fetch it again"),
    };
    format!("back from here: {hosts} to {} {time}, {fetched}", to.number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ship_proto::v1::{NoReturn, RolloutView, Target};

    fn step(number: u32, takes_ms: Option<u64>) -> StepView {
        StepView {
            number,
            takes_ms,
            ..StepView::default()
        }
    }

    fn target(number: u64) -> Option<Target> {
        Some(Target { number, id: vec![] })
    }

    fn plain(plan: &PlanReply) -> Vec<String> {
        let lines = expected_lines(plan).into_iter();
        lines
            .map(|line| anstream::adapter::strip_str(&line).to_string())
            .collect()
    }

    #[test]
    fn time_the_way_back_and_points_of_no_return_are_told() {
        let mut plan = PlanReply {
            view: Some(RolloutView {
                app: "web".into(),
                steps: vec![step(1, Some(0)), step(2, Some(1_500)), step(3, Some(6_000))],
                ..RolloutView::default()
            }),
            plan: vec![1],
            then: target(4),
            ..PlanReply::default()
        };
        assert_eq!(
            plain(&plan),
            [
                "  takes about 7.5 s, by the last time",
                "  then a revert goes to web@4",
                "  no return none: every step can be taken back",
            ]
        );
        plan.view.as_mut().map(|view| view.steps[2].takes_ms.take());
        plan.then = None;
        plan.no_return = vec![NoReturn {
            step: 3,
            why: "gone\x1b".into(),
        }];
        assert_eq!(
            plain(&plan),
            [
                "  takes unknown: a host in step 3 was never timed there",
                "  then a revert has nothing to go to",
                "  no return from step 3 on: gone\\u{1b}",
            ]
        );
        plan.plan.clear();
        assert!(plain(&plan).is_empty(), "an old store knows nothing of it");
    }

    #[test]
    fn going_back_has_its_price() {
        let mut cost = GoingBack::default();
        assert_eq!(back(&cost), "back from here: nothing was switched");
        cost.hosts = vec!["h1".into()];
        assert_eq!(back(&cost), "back from here: h1 stop it");
        cost.to = target(4);
        assert_eq!(
            back(&cost),
            "back from here: h1 to 4 in a time that is unknown, nothing is fetched"
        );
        cost.hosts.push("h2".into());
        cost.takes_ms = Some(1_200);
        cost.fetch = vec!["h2".into()];
        assert_eq!(
            back(&cost),
            "back from here: 2 hosts to 4 in about 1.2 s, h2 must fetch it again"
        );
    }
}
