//! `shipctl up`.

use std::path::PathBuf;

use clap::Args;

use super::Outcome;
use crate::args::Global;
use crate::error::{CommandError, Exit};
use crate::fleet::{Binaries, FLEET, FleetPlan, MAX_HOSTS, OwnFleet};
use crate::signals::Stop;
use crate::ui::{Bar, Ui};
use crate::words::{clean, duration};

/// Start a real fleet on this machine: a store and some hosts on loopback, until Ctrl-C
#[derive(Debug, Args)]
#[command(after_help = "\
Everything is as in production: TLS in both directions, one agent per host, keepers,
rollouts. Each host has its own loopback address; environment `dev`; every host has the
classes web, worker and assets. DIR/context.toml is written when everything is up, and
stays when it is stopped; DIR/logs has what the programs said. Ctrl-C stops all of it;
the same DIR later finds everything as it was, and apps run again.

  shipctl up &
  shipctl -c .ship-up/context.toml status")]
pub struct Up {
    /// Folder of the fleet
    #[arg(long, value_name = "DIR", default_value = ".ship-up")]
    dir: PathBuf,
    /// Hosts [default: as many as it had; 3 at first]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_HOSTS)))]
    hosts: Option<u8>,
}

pub async fn run(verb: Up, _global: &Global, ui: &Ui) -> Outcome {
    let dir = std::path::absolute(&verb.dir)
        .map_err(|source| CommandError::internal("find the fleet's folder", source))?;
    // From here on a signal waits until it can be obeyed in order.
    let mut stop = Stop::new()?;
    let binaries = Binaries::find(&FLEET, ui)?;
    let plan = FleetPlan {
        dir,
        hosts: verb.hosts,
        heartbeat_ms: 1_000,
        soak_ms: 1_000,
    };
    let bar = Bar::spinner(ui, "bringing the fleet up");
    let fleet = Box::pin(OwnFleet::bring_up(&plan, &binaries, &mut stop, ui)).await;
    bar.clear();
    let mut fleet = fleet?;
    tell(&fleet, ui);
    loop {
        tokio::select! {
            () = stop.asked() => break,
            ended = fleet.next_ended() => if let Some(ended) = ended {
                ui.warn(format!(
                    "{} {}; it is started again in {}",
                    clean(&ended.name), clean(&ended.how), duration(ended.pause)
                ));
                ended.last_lines.iter().for_each(|line| ui.say(format!("  | {}", clean(line))));
            },
        }
    }
    ui.say("stopping agents, apps and the store …");
    fleet.take_down().await;
    ui.say(format!("stopped; everything stays in {}", verb.dir.display()));
    Ok(Exit::Done)
}

fn tell(fleet: &OwnFleet, ui: &Ui) {
    let context = fleet.place.context();
    if ui.is_json() {
        ui.json_line(&serde_json::json!({
            "context": context, "dir": fleet.place.root(), "hosts": fleet.hosts, "env": "dev",
        }));
        return;
    }
    ui.line(format!(
        "a store and {} hosts are up: environment dev, h1 … h{}",
        fleet.hosts, fleet.hosts
    ));
    ui.say(format!(
        "\nIn another terminal:\n  export SHIP_CONTEXT={}\n  shipctl status\n  shipctl init DIR && shipctl publish DIR && shipctl promote APP\n\nCtrl-C stops it; the same folder finds everything as it was.",
        context.display()
    ));
}
