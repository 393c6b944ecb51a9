//! `asset gc`: what no reason keeps is removed.

use std::time::Duration;

use ship_model::name::AppName;
use ship_model::release::ReleaseRef;
use ship_proto::v1::sweep_progress::Progress;
use ship_proto::v1::{SweepAssetsRequest, SweepFollowed, Swept};

use super::super::{Fleet, Outcome, subject};
use crate::error::{CommandError, Exit};
use crate::ui::Ui;
use crate::words::{bytes, clean, count};

/// Has the store look twice and remove what nothing kept at either look. Until the second look Ctrl-C leaves all as it is.
pub async fn sweep(app: Option<AppName>, fleet: &Fleet, ui: &Ui) -> Outcome {
    let typed = app.map(|app| ReleaseRef {
        app: Some(app),
        number: None,
    });
    let app = subject::subject(typed.as_ref(), &fleet.context)?.app;
    let request = SweepAssetsRequest { app: app.to_string() };
    let mut progress = fleet.client.assets().sweep(request).await?.into_inner();
    let (mut swept, mut followed) = (None, SweepFollowed::default());
    loop {
        let message = match progress.message().await {
            Ok(Some(message)) => message,
            Ok(None) => break,
            // What was decided stands, and hosts follow.
            Err(_) if swept.is_some() => break,
            Err(status) => return Err(status.into()),
        };
        match message.progress {
            Some(Progress::Marked(marked)) => ui.say(format!(
                "no reason keeps {}, {}; looking again in {} s",
                count(marked.assets, "asset"),
                bytes(marked.bytes),
                Duration::from_millis(marked.wait_ms).as_secs()
            )),
            Some(Progress::Swept(done)) => {
                tell(&app, &done, ui);
                swept = Some(done);
            }
            Some(Progress::Followed(so_far)) => followed = so_far,
            None => {}
        }
    }
    let Some(swept) = swept else {
        let message = "the store ended before it had removed all of it";
        return Err(CommandError::new(Exit::Error, message).hint("try again"));
    };
    tell_followed(&app, &swept, &followed, ui);
    Ok(Exit::Done)
}

fn tell(app: &AppName, swept: &Swept, ui: &Ui) {
    let spared = match swept.spared {
        0 => String::new(),
        spared => format!("; {} kept after all", count(spared, "asset")),
    };
    ui.say(format!(
        "{} of {app}, {}, removed from the store{spared}; a release that names one brings it back",
        count(swept.assets, "asset"),
        bytes(swept.bytes)
    ));
}

/// Hosts and pushes that are not there follow when they are.
fn tell_followed(app: &AppName, swept: &Swept, followed: &SweepFollowed, ui: &Ui) {
    let SweepFollowed { done, behind } = followed;
    if ui.is_json() {
        ui.json(&serde_json::json!({
            "app": app, "removed": swept.assets, "removed_bytes": swept.bytes, "spared": swept.spared,
            "files": swept.files, "hosts_done": done, "hosts_behind": behind,
        }));
        return;
    }
    let all = done.len() + behind.len();
    match behind.len() {
        _ if all == 0 => {}
        0 => ui.say(format!("{} have removed them as well", count(all as u64, "host"))),
        _ => ui.say(format!(
            "{} of {} have removed them as well; these follow by themselves: {}",
            done.len(),
            count(all as u64, "host"),
            clean(&behind.join(", "))
        )),
    }
}
