//! `asset gc`: what no reason keeps is removed.

use std::time::Duration;

use ship_model::name::AppName;
use ship_model::release::ReleaseRef;
use ship_proto::v1::sweep_progress::Progress;
use ship_proto::v1::{SweepAssetsRequest, Swept};

use super::super::{Fleet, Outcome, subject};
use crate::error::{CommandError, Exit};
use crate::ui::Ui;
use crate::words::{bytes, count};

/// Has the store look twice and remove what nothing kept at either look. Until the second look Ctrl-C leaves all as it is.
pub async fn sweep(app: Option<AppName>, fleet: &Fleet, ui: &Ui) -> Outcome {
    let typed = app.map(|app| ReleaseRef {
        app: Some(app),
        number: None,
    });
    let app = subject::subject(typed.as_ref(), &fleet.context)?.app;
    let request = SweepAssetsRequest { app: app.to_string() };
    let mut progress = fleet.client.assets().sweep(request).await?.into_inner();
    while let Some(message) = progress.message().await? {
        match message.progress {
            Some(Progress::Marked(marked)) => ui.say(format!(
                "no reason keeps {}, {}; looking again in {} s",
                count(marked.assets, "asset"),
                bytes(marked.bytes),
                Duration::from_millis(marked.wait_ms).as_secs()
            )),
            Some(Progress::Swept(swept)) => {
                tell(&app, &swept, ui);
                return Ok(Exit::Done);
            }
            None => {}
        }
    }
    Err(CommandError::new(Exit::Error, "the store ended before it had removed all of it").hint("try again"))
}

fn tell(app: &AppName, swept: &Swept, ui: &Ui) {
    if ui.is_json() {
        ui.json(&serde_json::json!({
            "app": app, "removed": swept.assets, "removed_bytes": swept.bytes, "spared": swept.spared,
            "files": swept.files,
        }));
        return;
    }
    let spared = match swept.spared {
        0 => String::new(),
        spared => format!("; {} kept after all", count(spared, "asset")),
    };
    ui.say(format!(
        "{} of {app}, {}, removed{spared}. Hosts keep what they have; a release that names one brings it back.",
        count(swept.assets, "asset"),
        bytes(swept.bytes)
    ));
}
