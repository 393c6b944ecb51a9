//! The sample web app: what a small, well-behaved application looks like to Ship.
//!
//! `ship-sample make` writes a release tree, `ship-sample serve` runs inside one. The server takes its listener from
//! whoever started it, says when it is ready and follows the drain contract, so a switch loses none of its requests.

mod assets;
mod clock;
mod conn;
mod drain;
mod http;
mod listen;
mod make;
mod notify;
mod pages;
mod serve;
mod socket;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    name = "ship-sample",
    version,
    about = "A small web app that shows how an application fits into Ship"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the release in the current folder over the listener in LISTEN_FDS.
    Serve(ServeArguments),
    /// Write a release tree that `shipctl publish` takes as it is.
    Make(MakeArguments),
}

#[derive(Debug, clap::Args)]
struct ServeArguments {
    /// Bind this address by itself when nobody handed a listener over.
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// The release's folder.
    #[arg(long, default_value = ".", value_name = "DIR")]
    root: PathBuf,
    /// How long an idle connection may still bring a request once draining began.
    #[arg(long, default_value_t = 2500, value_name = "MS")]
    grace_ms: u64,
    /// How long a client may take to send a request, or to take its answer.
    #[arg(long, default_value_t = 10_000, value_name = "MS")]
    patience_ms: u64,
}

#[derive(Debug, clap::Args)]
struct MakeArguments {
    /// Folder to create; it must be absent or empty.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Version of the app. The same number always gives the same tree.
    #[arg(long = "version", value_name = "N")]
    number: u32,
    /// A release that starts and says it is ready, but whose health check answers 500.
    #[arg(long)]
    broken: bool,
    /// What `ship.toml` says under `listen = { http = … }`.
    #[arg(long, default_value = "tcp:8080", value_name = "SPEC")]
    listen: String,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Serve(arguments) => serve(arguments),
        Command::Make(arguments) => make(arguments),
    }
}

fn serve(arguments: ServeArguments) -> anyhow::Result<()> {
    let app = pages::App::open(&arguments.root)?;
    let listener = listen::take(arguments.listen)?;
    let limits = serve::Limits {
        patience: Duration::from_millis(arguments.patience_ms),
        ..serve::Limits::default()
    };
    let drain = drain::Drain::from_environment(Duration::from_millis(arguments.grace_ms));
    let server = serve::Server::new(listener, app, drain, limits)?;
    notify::ready().context("tell the starter that the app is ready")?;
    server.run()?;
    Ok(())
}

fn make(arguments: MakeArguments) -> anyhow::Result<()> {
    let server = std::env::current_exe().context("find the running executable")?;
    let plan = make::Plan {
        number: arguments.number,
        broken: arguments.broken,
        listen: arguments.listen,
        server,
    };
    make::write(&plan, &arguments.out)?;
    Ok(())
}
