//! `shipctl host drain`, `undrain`, `retire` and `archive`.

use std::time::Duration;

use clap::{Args, Subcommand};
use ship_model::name::HostName;
use ship_proto::v1::host_request::Verb;
use ship_proto::v1::{HostReply, HostRequest};

use super::{Fleet, Outcome, hosts};
use crate::args::Global;
use crate::error::{CommandError, Exit};
use crate::patience::Patience;
use crate::ui::Ui;
use crate::words::{clean, rfc3339};

/// How long a store that is away is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Take a host out of rotation, back in, or out of the fleet
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  shipctl host drain h2 -m \"new memory\"
  shipctl host undrain h2
  shipctl host retire h2 -m \"old machine\"
  shipctl host retire h2 --gone -m \"it burnt\"
What operators said of a host stands in `shipctl hosts`, why and by whom in `shipctl why h2`
and `shipctl events`. Only an operator may. A host that serves where too few others would is
refused by name: exit 4.")]
pub struct Host {
    #[command(subcommand)]
    verb: HostVerb,
}

#[derive(Debug, Subcommand)]
enum HostVerb {
    Drain(Drain),
    Undrain(Undrain),
    Retire(Retire),
    Archive(Archive),
}

/// Send its users elsewhere; it is kept up to date, after all others
///
/// Its agent tells every balancer that it knows, and stays out whatever happens: a promote does not wait for it and does not
/// begin with it, and it does not count among those that serve. An older agent, which does not know this, stays in.
#[derive(Debug, Args)]
struct Drain {
    #[command(flatten)]
    what: What,
    /// Also when fewer would serve than policy asks for; needs -m
    #[arg(long, requires = "message")]
    force: bool,
}

/// Put it back into rotation, when it is healthy; also takes back a retired host
#[derive(Debug, Args)]
struct Undrain {
    #[command(flatten)]
    what: What,
}

/// Take it out of the fleet: its users leave, its apps stop, its certificate is no longer accepted
///
/// It is retired when it says that nothing runs there any more, and listed until it is archived. A host that does not report
/// stays retiring, since nobody knows what it does.
#[derive(Debug, Args)]
struct Retire {
    #[command(flatten)]
    what: What,
    /// Also when fewer would serve than policy asks for; needs -m
    #[arg(long, requires = "message", conflicts_with = "gone")]
    force: bool,
    /// Its machine is gone: nothing is asked of it, and nothing is waited for
    #[arg(long)]
    gone: bool,
}

/// List a retired host no longer, unless `hosts --all` is asked for
#[derive(Debug, Args)]
struct Archive {
    #[command(flatten)]
    what: What,
}

#[derive(Debug, Args)]
struct What {
    /// Host, as `shipctl hosts` lists it
    #[arg(value_name = "HOST")]
    host: HostName,
    /// Why, for everybody who asks later
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
}

pub async fn run(verb: Host, global: &Global, ui: &Ui) -> Outcome {
    let (what, verb, force) = match verb.verb {
        HostVerb::Drain(drain) => (drain.what, Verb::Drain, drain.force),
        HostVerb::Undrain(undrain) => (undrain.what, Verb::Undrain, false),
        HostVerb::Retire(Retire { what, gone: true, .. }) => (what, Verb::Gone, false),
        HostVerb::Retire(retire) => (retire.what, Verb::Retire, retire.force),
        HostVerb::Archive(archive) => (archive.what, Verb::Archive, false),
    };
    let fleet = Fleet::reach(global).await?;
    let request = HostRequest {
        env: fleet.context.env.to_string(),
        host: what.host.to_string(),
        verb: verb.into(),
        message: what.message.unwrap_or_default(),
        force,
    };
    let reply = ask(&fleet, request, ui).await?;
    Ok(told(&reply, ui))
}

/// A store that is being restarted is waited for. What is asked is a state, not a step: asked twice it is the same.
async fn ask(fleet: &Fleet, request: HostRequest, ui: &Ui) -> Result<HostReply, CommandError> {
    let mut patience = Patience::new(PATIENCE);
    loop {
        match fleet.client.fleet().host(request.clone()).await {
            Ok(reply) => {
                patience.answered(|text| ui.say(text));
                return Ok(reply.into_inner());
            }
            Err(status) => patience.after(status, |text| ui.say(text)).await?,
        }
    }
}

fn told(reply: &HostReply, ui: &Ui) -> Exit {
    let host = reply.host.clone().unwrap_or_default();
    let notes: Vec<String> = reply.notes.iter().map(|note| clean(note)).collect();
    if ui.is_json() {
        let mut shown = hosts::json(&host);
        shown["notes"] = notes.into();
        ui.json(&shown);
        return Exit::Done;
    }
    let name = clean(&host.host);
    let duty = host
        .standing
        .as_ref()
        .map_or("", |standing| standing.duty.as_str());
    let line = match duty {
        "" => format!("{name} is in service; it is back in rotation when it is healthy"),
        "retiring" => format!("{name} is retiring: its users leave, then its apps stop"),
        duty => format!("{name} is {}", clean(duty)),
    };
    ui.line(line);
    notes.into_iter().for_each(|note| ui.say(note));
    Exit::Done
}

/// What operators said of a host, for programs; null: it simply serves.
pub(super) fn standing(host: &ship_proto::v1::HostStatus) -> serde_json::Value {
    let Some(standing) = &host.standing else {
        return serde_json::Value::Null;
    };
    serde_json::json!({
        "duty": standing.duty, "who": clean(&standing.who), "reason": clean(&standing.reason),
        "since": rfc3339(standing.at_ms),
    })
}
