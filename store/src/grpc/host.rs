//! An operator's word about one host, and what to say of it.

use ship_model::host::HostState;
use ship_model::host::standing::{Duty, HostRefused, HostVerb};
use ship_model::name::HostName;
use ship_proto::refuse;
use ship_proto::v1::{self, FailureKind};
use tonic::Status;

use super::face::Face;
use super::fleet::host_status;
use super::rollouts::MESSAGE;
use super::status;
use crate::identity::Caller;
use crate::log::whole;
use crate::rollout::fleet::Presence;
use crate::rollout::{HostWish, StandError};

pub(super) async fn steer(
    face: &Face,
    caller: &Caller,
    request: v1::HostRequest,
) -> Result<v1::HostReply, Status> {
    let verb = verb(request.verb())?;
    if request.message.len() > MESSAGE {
        let long = format!("the message is longer than {MESSAGE} bytes");
        return Err(status::invalid(long, "message"));
    }
    if request.force && request.message.trim().is_empty() {
        let message = "by force needs a reason: it stands in the audit";
        return Err(refuse(FailureKind::Invalid, message, "message", "-m \"why\""));
    }
    let env = face.known_env(&request.env)?;
    let host = face.known_host(&env, &request.host)?;
    let wish = HostWish {
        verb,
        who: caller.to_string(),
        reason: request.message,
        force: request.force,
    };
    let stood = face.controller.stand(&env, &host, wish).await;
    let presence = stood.map_err(|error| refused(&error))?;
    Ok(v1::HostReply {
        notes: notes(&host, verb, &presence),
        host: Some(host_status(&env, &host, &presence)),
    })
}

fn verb(asked: v1::host_request::Verb) -> Result<HostVerb, Status> {
    use v1::host_request::Verb;
    Ok(match asked {
        Verb::Drain => HostVerb::Drain,
        Verb::Undrain => HostVerb::Undrain,
        Verb::Retire => HostVerb::Retire,
        Verb::Gone => HostVerb::Gone,
        Verb::Archive => HostVerb::Archive,
        Verb::Unspecified => {
            let message = "the verb is none of drain, undrain, retire, gone and archive";
            return Err(status::invalid(message, "verb"));
        }
    })
}

fn refused(error: &StandError) -> Status {
    match error {
        StandError::Unknown { host, .. } => refuse(
            FailureKind::NotFound,
            error.to_string(),
            host.as_str(),
            "shipctl hosts --all",
        ),
        StandError::Refused(refused @ HostRefused::TooFew { host, .. }) => refuse(
            FailureKind::Refused,
            refused.to_string(),
            host.as_str(),
            "bring others up first, or say --force -m \"why\"",
        ),
        StandError::Refused(
            refused @ (HostRefused::Standing { host, .. } | HostRefused::InService { host }),
        ) => refuse(
            FailureKind::Refused,
            refused.to_string(),
            host.as_str(),
            "shipctl hosts --all",
        ),
        StandError::Policy(error) => status::steer(error),
        StandError::Ledger(error) => status::ledger(error),
        StandError::BrokenOff(_) => status::unavailable(whole(error)),
    }
}

/// What is not as one may think.
fn notes(host: &HostName, verb: HostVerb, presence: &Presence) -> Vec<String> {
    let mut notes = Vec::new();
    let leaves = verb.takes_away() && matches!(presence.known.duty(), Some(Duty::Drained | Duty::Retiring));
    if leaves && (presence.state.is_away() || presence.report.is_none()) {
        notes.push(format!(
            "{host} does not report: it hears this when it does; if its machine is gone: shipctl host retire {host} --gone"
        ));
    }
    let apps = presence.report.iter().flat_map(|report| &report.apps);
    let alone = apps.filter(|app| app.running.is_some() && app.balancers.is_empty());
    notes.extend(alone.filter(|_| leaves).map(|app| {
        format!(
            "{host} knows of no balancer for {}: whatever sends users there must be told by you",
            app.app
        )
    }));
    if verb == HostVerb::Gone && presence.state == HostState::Terminated {
        notes.push(format!(
            "{host} was not asked: if its machine still runs, its apps serve until they are stopped there"
        ));
    }
    notes
}
