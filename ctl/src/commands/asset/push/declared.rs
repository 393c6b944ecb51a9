//! Places that the store has in its settings: it brings what lacks there itself, and tells how far it is.

use ship_model::name::HostName;
use ship_model::release::ReleaseRef;
use ship_proto::v1::{PushAssetsRequest, PushProgress};

use super::super::super::{Fleet, Outcome, subject};
use super::{AGAIN, Pushed, report};
use crate::error::{CommandError, Exit};
use crate::ui::{Bar, Ui};
use crate::words::{bytes, clean};

impl Pushed {
    fn add(&mut self, ended: &PushProgress) {
        self.releases += u64::from(ended.done);
        self.sent += ended.sent;
        self.sent_bytes += ended.sent_bytes;
        self.there += ended.there;
        self.error = Some(ended.error.clone()).filter(|error| !error.is_empty());
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
    let mut places: Vec<Pushed> = Vec::new();
    let progress = Bar::spinner(ui, "pushing");
    while let Some(said) = words.message().await? {
        if places.last().is_none_or(|place| place.push != said.push) {
            places.push(Pushed::new(&said.push));
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
    report(&subject.app, fleet, &places, ui);
    match places
        .iter()
        .find_map(|place| place.error.as_ref().map(|error| (place, error)))
    {
        None => Ok(Exit::Done),
        Some((place, error)) => {
            let message = format!("not all is pushed to {}: {}", clean(&place.push), clean(error));
            Err(CommandError::new(Exit::Error, message).hint(AGAIN))
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
