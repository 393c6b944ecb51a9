//! `shipctl events`.

use clap::Args;
use ship_proto::v1::{Event, EventsRequest};

use super::{Fleet, Outcome};
use crate::args::Global;
use crate::error::Exit;
use crate::ui::{DIM, Ui, paint};
use crate::words::{clean, full_id, rfc3339};

/// Show who did what, and why: the store's chained record
#[derive(Debug, Args)]
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
    let request = EventsRequest {
        limit: verb.number,
        follow: verb.follow,
    };
    let mut events = fleet.client.fleet().events(request).await?.into_inner();
    loop {
        let next = tokio::select! {
            next = events.message() => next?,
            _ = tokio::signal::ctrl_c() => None,
        };
        let Some(event) = next.filter(|_| !ui.is_deaf()) else {
            return Ok(Exit::Done);
        };
        show(&event, ui);
    }
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
