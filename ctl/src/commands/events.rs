//! `shipctl events`.

use clap::Args;
use ship_proto::v1::{Event, EventsRequest};

use super::follow::{Said, follow};
use super::{Fleet, Outcome};
use crate::args::Global;
use crate::ui::{DIM, Ui, paint};
use crate::words::{clean, full_id, rfc3339};

/// Events that are asked for again after the line broke; those that were shown are left out.
const CAUGHT_UP: u32 = 1_000;

/// Show who did what, and why: the store's chained record
#[derive(Debug, Args)]
#[command(after_help = "\
Each line: its number in the chain, when, who (role/name), what, and what it was done to.
No line can be changed or taken out unnoticed: `shipstore verify` checks the chain.
Examples:
  shipctl events -n 20
  shipctl events -f -o json | jq -r .what      goes on through restarts of the store")]
pub struct Events {
    /// How many of the last
    #[arg(short, long, value_name = "N", default_value_t = 50)]
    number: u32,
    /// Go on until Ctrl-C
    #[arg(short, long)]
    follow: bool,
}

pub async fn run(verb: Events, global: &Global, ui: &Ui) -> Outcome {
    let fleet = Fleet::reach(global).await?;
    let mut last = 0;
    follow(
        verb.follow,
        ui,
        |again| {
            let request = EventsRequest {
                limit: if again { CAUGHT_UP } else { verb.number },
                follow: verb.follow,
            };
            let mut fleet = fleet.client.fleet();
            async move { fleet.events(request).await }
        },
        |event: &Event| {
            if event.seq > last {
                last = event.seq;
                show(event, ui);
            }
            Said::Item
        },
    )
    .await
}

fn show(event: &Event, ui: &Ui) {
    if ui.is_json() {
        ui.json_line(&serde_json::json!({
            "seq": event.seq, "at": rfc3339(event.at_ms), "who": event.who, "what": event.what,
            "subject": event.subject, "detail": event.detail, "hash": full_id(&event.hash),
        }));
        return;
    }
    ui.line(format!(
        "{} {} {} {} {}",
        paint(DIM, format!("{:>5} {}", event.seq, ui.time(event.at_ms))),
        clean(&event.who),
        clean(&event.what),
        clean(&event.subject),
        clean(&event.detail)
    ));
}
