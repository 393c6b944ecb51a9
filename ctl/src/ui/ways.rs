//! How processes take over, in words below a plan.

use ship_proto::v1::HostWay;

use super::{DIM, DOUBT, paint};
use crate::words::{clean, millis};

/// Most hosts that are named in one line.
const NAMED: usize = 8;

/// A line for each process and way, with the hosts it is so on.
pub fn way_lines(ways: &[HostWay]) -> Vec<String> {
    let mut lines: Vec<(HostWay, Vec<String>)> = Vec::new();
    for way in ways {
        let same = HostWay {
            host: String::new(),
            ..way.clone()
        };
        match lines.iter_mut().find(|(known, _)| *known == same) {
            Some((_, hosts)) => hosts.push(clean(&way.host)),
            None => lines.push((same, vec![clean(&way.host)])),
        }
    }
    let width = lines.iter().map(|(way, _)| way.process.chars().count()).max();
    let line = |(way, hosts): &(HostWay, Vec<String>)| {
        let name = format!("{:<width$}", clean(&way.process), width = width.unwrap_or(0));
        let mut line = format!("  {} {name}  {}", paint(DIM, "how"), clean(&way.strategy));
        if !way.gap.is_empty() {
            line.push_str(&format!("  {}", paint(DOUBT, gap(way))));
        }
        if !way.tight.is_empty() {
            line.push_str(&format!(
                "  {}",
                paint(DOUBT, format!("memory: {}", clean(&way.tight)))
            ));
        }
        if way.standby {
            line.push_str(&format!("  {}", standby(way.hold_ms)));
        }
        let more = hosts.len().saturating_sub(NAMED);
        let mut named = hosts[..hosts.len() - more].join(", ");
        if more > 0 {
            named.push_str(&format!(" and {more} more"));
        }
        line.push_str(&format!("  {}", paint(DIM, named)));
        line
    };
    lines.iter().map(line).collect()
}

fn gap(way: &HostWay) -> String {
    let long = match way.gap_ms {
        Some(ms) => format!("about {} as the last time", millis(ms)),
        None => "unknown, the first time".to_owned(),
    };
    let covered = match way.covered_by.as_str() {
        "" => String::new(),
        "queue" => "; connections wait in the queue".to_owned(),
        "nobody" => "; nobody covers it".to_owned(),
        by => format!("; covered by {}", clean(by)),
    };
    format!("a gap ({}): {long}{covered}", clean(&way.gap))
}

fn standby(hold_ms: Option<u64>) -> String {
    match hold_ms {
        None => "the old one stands by until the next switch".to_owned(),
        Some(ms) if ms % 60_000 == 0 => format!("standby kept {} min", ms / 60_000),
        Some(ms) => format!("standby kept {}", millis(ms)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(ways: &[HostWay]) -> Vec<String> {
        let lines = way_lines(ways).into_iter();
        lines
            .map(|line| anstream::adapter::strip_str(&line).to_string())
            .collect()
    }

    #[test]
    fn what_is_the_same_shares_a_line_and_a_gap_is_told() {
        let way = |host: &str, gap: &str, by: &str| HostWay {
            host: host.to_owned(),
            process: "web".to_owned(),
            strategy: "stop-start".to_owned(),
            gap: gap.to_owned(),
            covered_by: by.to_owned(),
            ..HostWay::default()
        };
        let cause = "strategy = \"stop-start\"";
        let known = HostWay {
            gap_ms: Some(1_400),
            ..way("h3", cause, "balancer haproxy")
        };
        let lines = plain(&[way("h1", cause, "nobody"), way("h2", cause, "nobody"), known]);
        assert_eq!(
            lines,
            [
                "  how web  stop-start  a gap (strategy = \"stop-start\"): unknown, the first time; nobody covers it  h1, h2",
                "  how web  stop-start  a gap (strategy = \"stop-start\"): about 1.4 s as the last time; covered by balancer haproxy  h3",
            ]
        );
        let short = HostWay {
            strategy: "listen-fds".to_owned(),
            tight: "9 MiB available on the host, 12 MiB wanted".to_owned(),
            ..way("h4", "no memory for two generations", "queue")
        };
        assert_eq!(
            plain(&[short]),
            [
                "  how web  listen-fds  a gap (no memory for two generations): unknown, the first time; connections wait in the queue  memory: 9 MiB available on the host, 12 MiB wanted  h4"
            ]
        );
        let kept = HostWay {
            standby: true,
            hold_ms: Some(600_000),
            strategy: "cut-over".to_owned(),
            ..way("h1", "", "")
        };
        assert_eq!(plain(&[kept]), ["  how web  cut-over  standby kept 10 min  h1"]);
    }
}
