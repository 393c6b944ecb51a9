//! A revert that goes on when the agent dies under it: by the next agent, or by files and keeper.

use std::time::{Duration, Instant};

use ship_durable::LockError;
use ship_model::name::AppName;
use ship_model::release::ReleaseNumber;
use ship_model::report::LocalHold;
use ship_proto::v1;
use ship_proto::v1::local_client::LocalClient;
use tonic::transport::Channel;

use super::ask::{Asked, Failed, Wish, broke_off, find, said};
use super::{Host, Output, show};
use crate::config::Config;
use crate::layout::HostLayout;
use crate::offline;
use crate::revert::RevertError;
use crate::session::chain;

/// For a dying agent to let go of its lock, or for its successor to answer.
const LET_GO: Duration = Duration::from_secs(20);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(20);

/// What is to be taken back, and what is known of it so far.
struct Order {
    app: AppName,
    number: Option<ReleaseNumber>,
    message: String,
    force: bool,
    /// An agent noted it and died: where it goes is settled, and it may be there already.
    noted: bool,
}

/// How one try ended.
enum Tried {
    Done(Box<v1::AppReport>),
    /// The one who was asked is dying or dead.
    Gone(Failed),
}

pub async fn revert(host: &Host, who: Asked, wish: Wish, output: Output) -> Result<(), Failed> {
    let Some(app) = wish.release.app else {
        let text = "name the app: APP or APP@NUMBER".to_owned();
        return Err(Failed::Said(text, String::new(), 2));
    };
    let mut order = Order {
        app,
        number: wish.release.number,
        message: wish.message,
        force: wish.force,
        noted: false,
    };
    let layout = layout_of(host);
    let before = layout.as_ref().and_then(|layout| held(layout, &order.app));
    let deadline = Instant::now() + LET_GO;
    let mut who = who;
    loop {
        let failed = match attempt(who, &order, layout.as_ref()).await? {
            Tried::Done(report) => return Ok(show::reverted(&report, output)?),
            Tried::Gone(failed) => failed,
        };
        let Some(layout) = layout.as_ref().filter(|_| Instant::now() < deadline) else {
            return Err(failed);
        };
        // Asked once more without a number, it would go further back than was wanted.
        if let Some(held) = held(layout, &order.app).filter(|held| Some(held) != before.as_ref()) {
            order.number = Some(held.to.number);
            order.noted = true;
        }
        tokio::time::sleep(PAUSE).await;
        who = find(host).await?;
    }
}

/// None when only a socket is known.
fn layout_of(host: &Host) -> Option<HostLayout> {
    if host.socket.is_some() {
        return None;
    }
    HostLayout::of(&Config::read(&host.config).ok()?).ok()
}

fn held(layout: &HostLayout, app: &AppName) -> Option<LocalHold> {
    crate::journal::peek(&layout.app(app).record)?.held
}

async fn attempt(who: Asked, order: &Order, layout: Option<&HostLayout>) -> Result<Tried, Failed> {
    match who {
        Asked::Agent(agent) => by_agent(agent, order, layout).await,
        Asked::Files(config, layout) => by_files(&config, &layout, order),
    }
}

async fn by_agent(
    mut agent: LocalClient<Channel>,
    order: &Order,
    layout: Option<&HostLayout>,
) -> Result<Tried, Failed> {
    let request = v1::LocalRevertRequest {
        app: order.app.to_string(),
        number: order.number.map_or(0, |number| number.0),
        reason: order.message.clone(),
        force: order.force,
    };
    match agent.revert(request).await {
        Ok(report) => Ok(Tried::Done(Box::new(report.into_inner()))),
        Err(status) if broke_off(&status) => Ok(Tried::Gone(status.into())),
        Err(status) => match layout.and_then(|layout| there_already(layout, order)) {
            Some(report) => Ok(Tried::Done(report)),
            None => Err(status.into()),
        },
    }
}

fn by_files(config: &Config, layout: &HostLayout, order: &Order) -> Result<Tried, Failed> {
    let _lock = match offline::lock(layout) {
        Ok(lock) => lock,
        Err(error @ LockError::Held { .. }) => return Ok(Tried::Gone(said(chain(&error)))),
        Err(error) => return Err(said(chain(&error))),
    };
    let wish = offline::Wish {
        app: &order.app,
        to: order.number,
        reason: &order.message,
        force: order.force,
    };
    match offline::revert(config, layout, &wish, &show::note) {
        Ok(report) => Ok(Tried::Done(Box::new(report.into()))),
        Err(error @ RevertError::Runs { .. }) => match there_already(layout, order) {
            Some(report) => Ok(Tried::Done(report)),
            None => Err(error.into()),
        },
        Err(error) => Err(error.into()),
    }
}

/// The app as it is, when an agent has noted this revert and it is carried out.
fn there_already(layout: &HostLayout, order: &Order) -> Option<Box<v1::AppReport>> {
    let report = offline::report(layout, &order.app);
    let there = report.running.map(|running| running.number) == order.number;
    (order.noted && there).then(|| Box::new(report.into()))
}
