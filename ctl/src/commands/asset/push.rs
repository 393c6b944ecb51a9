//! `asset push`: what a place lacks that assets are pushed to is brought there now.

use serde::Serialize;
use ship_model::name::HostName;
use ship_model::release::ReleaseRef;
use ship_proto::v1::{PushAssetsRequest, PushProgress};

use super::super::{Fleet, Outcome, subject};
use crate::error::{CommandError, Exit};
use crate::ui::{Bar, Ui};
use crate::words::{bytes, clean, count};

/// What came of one place.
#[derive(Debug, Serialize)]
struct Place {
    push: String,
    /// All of which is there.
    releases: u64,
    sent: u64,
    sent_bytes: u64,
    there: u64,
    error: Option<String>,
}

impl Place {
    fn new(push: &str) -> Self {
        Self {
            push: push.to_owned(),
            releases: 0,
            sent: 0,
            sent_bytes: 0,
            there: 0,
            error: None,
        }
    }

    fn add(&mut self, ended: &PushProgress) {
        self.releases += u64::from(ended.done);
        self.sent += ended.sent;
        self.sent_bytes += ended.sent_bytes;
        self.there += ended.there;
        self.error = Some(ended.error.clone()).filter(|error| !error.is_empty());
    }

    fn words(&self) -> String {
        format!(
            "{}: {} sent, {}; {} there already",
            clean(&self.push),
            count(self.sent, "asset"),
            bytes(self.sent_bytes),
            self.there
        )
    }
}

/// Follows it to its end. Ctrl-C ends it after the release that is on its way; what is there stays.
pub async fn push(typed: Option<&ReleaseRef>, to: Option<HostName>, fleet: &Fleet, ui: &Ui) -> Outcome {
    let subject = subject::subject(typed, &fleet.context)?;
    let request = PushAssetsRequest {
        app: subject.app.to_string(),
        env: fleet.context.env.to_string(),
        push: to.map(|to| to.to_string()).unwrap_or_default(),
        number: subject.number.map_or(0, |number| number.0),
    };
    let mut words = fleet.client.assets().push(request).await?.into_inner();
    let mut places: Vec<Place> = Vec::new();
    let progress = Bar::spinner(ui, "pushing");
    while let Some(said) = words.message().await? {
        if places.last().is_none_or(|place| place.push != said.push) {
            places.push(Place::new(&said.push));
        }
        let Some(place) = places.last_mut() else { continue };
        if said.done || !said.error.is_empty() {
            place.add(&said);
            progress.say(ui, &one_release(&said, &subject.app.to_string()));
        } else {
            progress.set_message(one_release(&said, &subject.app.to_string()));
        }
    }
    progress.clear();
    if ui.is_json() {
        ui.json(&serde_json::json!({ "app": subject.app, "env": fleet.context.env, "pushes": places }));
    } else {
        places
            .iter()
            .filter(|place| place.error.is_none())
            .for_each(|place| ui.say(place.words()));
    }
    match places
        .iter()
        .find_map(|place| place.error.as_ref().map(|error| (place, error)))
    {
        None => Ok(Exit::Done),
        Some((place, error)) => {
            let message = format!("not all is pushed to {}: {}", clean(&place.push), clean(error));
            Err(CommandError::new(Exit::Error, message)
                .hint("when that is mended, push again: what is there is not sent again"))
        }
    }
}

fn one_release(said: &PushProgress, app: &str) -> String {
    format!(
        "{}  {}@{}  {} sent, {}, {} there already",
        clean(&said.push),
        clean(app),
        said.release,
        said.sent,
        bytes(said.sent_bytes),
        said.there
    )
}
