//! What a host lets its agent and keepers do, as its agent found it when it started.

use ship_proto::v1::Privileges;

use super::{Finding, Grade};

/// A line for each thing that `host` lacks, or one that says that it lacks nothing; an old agent says neither.
pub(super) fn of(host: &str, told: Option<&Privileges>) -> Vec<Finding> {
    let Some(told) = told else {
        return Vec::new();
    };
    if told.missing.is_empty() {
        let what = format!("{host} privileges");
        return vec![Finding::new(&what, Grade::Good, "all there", "").on(host)];
    }
    let advice = "give it to the agent (as root it has all that the machine allows) and start that anew; there: ship-agent doctor";
    let lines = told.missing.iter().map(|missing| {
        let found = format!("{}: {}", missing.what, missing.instead);
        let line = Finding::new(&format!("{host} lacks"), Grade::Doubt, found, advice).on(host);
        Finding {
            lacks: Some(missing.what.clone()),
            ..line
        }
    });
    lines.collect()
}
