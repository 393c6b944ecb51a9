//! `ship-agent` on the command line: the agent itself, and the words to it.

mod ask;
mod exec;
mod keepers;
mod probe;
mod show;
mod take_back;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ship_keeper::processes::GroupsAt;
use ship_model::name::AppName;
use ship_model::release::ReleaseRef;

use crate::config::Config;
use crate::telling::{self, LogFormat};

const DEFAULT_CONFIG: &str = "/etc/ship/agent.toml";

/// The agent of one host: fetches and verifies releases, switches them, reports.
///
/// Apps do not depend on it: it may be stopped, killed or replaced while they serve.
#[derive(Debug, Parser)]
#[command(
    name = "ship-agent",
    version,
    after_help = "\
Exit codes: 0 done, 1 error, 2 usage, 4 refused and nothing changed (nothing to revert to, a damaged release).

Examples:
  ship-agent run --config /etc/ship/agent.toml
  ship-agent status                     what runs here, with the store dead too
  ship-agent revert web                 back to the previous release, needs nobody: no store, no agent
  ship-agent revert web@454 -m \"500s\"   to a release that still lies here
  ship-agent verify --full              reads every byte of every release again
  ship-agent logs web -f                what the app says
  ship-agent adopt 4711 --app web       looks after a server that was started by hand, until the first promote replaces it
  ship-agent keeper upgrade web         runs the installed ship-keeper in the running one's place; nobody notices
  ship-agent doctor                     what this host lets us do, and what falls back
  ship-agent exec web -- bin/console    a command in the surroundings of the running release
  ship-agent probe --grpc 127.0.0.1:50051 --service shop.v1.Orders"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the agent in the foreground until SIGTERM.
    ///
    /// --help shows a whole configuration; `shipctl up` writes one for each of its hosts.
    #[command(after_long_help = concat!("The configuration:\n\n", include_str!("../../agent.toml")))]
    Run {
        /// The host's configuration.
        #[arg(short, long, default_value = DEFAULT_CONFIG)]
        config: PathBuf,
        /// How log lines are written to stderr; RUST_LOG chooses which.
        #[arg(long, value_enum, default_value_t)]
        log_format: LogFormat,
    },
    /// Tells what runs here, what a revert would go to, and whether the store is there.
    Status {
        #[command(flatten)]
        host: Host,
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Takes an app back on this host, to the previous release or to one that still lies here.
    ///
    /// Works with store and network dead, and with the agent dead; the host's balancers are told in any case. It holds until the environment is changed again; the
    /// store is told as soon as it is back.
    Revert {
        /// APP, or APP@NUMBER.
        release: ReleaseRef,
        /// Why, for those who read it later.
        #[arg(short, long, default_value = "reverted on the host")]
        message: String,
        /// Goes there though files of the release were found damaged.
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        host: Host,
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Compares the releases that lie here with what was published.
    Verify {
        /// One app; without it, every app.
        app: Option<AppName>,
        /// Reads every byte, not only files that look changed.
        #[arg(long)]
        full: bool,
        #[command(flatten)]
        host: Host,
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Asks a server whether it is healthy, as keepers do before users are sent to it.
    ///
    /// Ends with 0 when it says SERVING, 1 when it says something else, 3 when nobody answers.
    Probe {
        /// Where gRPC's health service is asked: IP:PORT, unix:PATH, or - for the connection on standard input.
        #[arg(long, value_name = "ADDR")]
        grpc: String,
        /// The service's full name; empty asks for the server as a whole.
        #[arg(long, default_value = "")]
        service: String,
        /// How long an answer may take.
        #[arg(long, default_value_t = 2000, value_name = "MS")]
        timeout_ms: u64,
    },
    /// Looks after a server that runs already and was started by hand; nobody notices.
    ///
    /// Its TCP listeners become ones that a release can share, so the first promote takes over without a gap; the old server
    /// then drains and gets its stop signal. It runs on as it is until then: Ship neither restarts it nor reads its output,
    /// and after a boot whoever started it before does so again. While it is warm after the promote, `ship-keeper revert`
    /// goes back to it; later there is nothing to revert to. Needs to run as the server's user, or as root.
    Adopt {
        /// Its main process.
        pid: u32,
        #[arg(long)]
        app: AppName,
        /// The release here whose ship.toml says how it listens, drains and stops; without it, the newest here, and where
        /// none is here, all its TCP listeners are taken.
        #[arg(long, value_name = "NUMBER")]
        release: Option<u64>,
        /// What it is told to stop with, if not as the release says: TERM, QUIT, INT, …
        #[arg(long, value_name = "SIGNAL")]
        stop_signal: Option<String>,
        /// How long its open connections may take, if not as the release says.
        #[arg(long, value_name = "SECONDS")]
        drain: Option<u64>,
        #[command(flatten)]
        host: Host,
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Words to an app's keeper itself.
    #[command(subcommand)]
    Keeper(KeeperCommand),
    /// Tells what this host lets agent and keepers do, and what falls back where it does not.
    ///
    /// Run it as the user that the agent runs as. Nothing is changed.
    Doctor {
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
    /// Runs a command in the surroundings of a release: its user, environment, folder and limits.
    Exec(exec::Exec),
    /// Prints what an app and its keeper wrote.
    Logs {
        app: AppName,
        /// How many lines.
        #[arg(short = 'n', long, default_value_t = 100)]
        lines: u32,
        /// Goes on with new lines until Ctrl-C.
        #[arg(short, long)]
        follow: bool,
        /// Only lines of this release.
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        release: u64,
        #[command(flatten)]
        host: Host,
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
}

#[derive(Debug, Subcommand)]
enum KeeperCommand {
    /// Runs the installed ship-keeper in the place of the running one: same process, same sockets, nobody notices.
    ///
    /// An agent that starts does so by itself where the keeper is of an older version. During a switch it waits for its end.
    /// A program that cannot take over is not run, and one that fails at it leaves the old one at work.
    Upgrade {
        app: AppName,
        /// The program; without it, the ship-keeper beside this program, in SHIP_BIN_DIR or in PATH.
        #[arg(long, value_name = "PATH")]
        program: Option<PathBuf>,
        #[command(flatten)]
        host: Host,
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
}

/// Which agent.
#[derive(Debug, Args)]
struct Host {
    /// The host's configuration; with it, the words work while the agent is dead.
    #[arg(short, long, default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// The agent's socket; the configuration is then not read.
    #[arg(long)]
    socket: Option<PathBuf>,
}

/// How answers are printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    #[default]
    Text,
    Json,
}

/// Reads the arguments and does as they say.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // Fails only when a provider is set already, which is then this one.
    rustls::crypto::ring::default_provider().install_default().ok();
    match cli.command {
        Command::Run { config, log_format } => run(&config, log_format),
        Command::Status { host, output } => ask::answer(&host, |who| ask::status(&host, who, output)),
        Command::Revert {
            release,
            message,
            force,
            host,
            output,
        } => {
            let wish = ask::Wish {
                release,
                message,
                force,
            };
            ask::answer(&host, |who| take_back::revert(&host, who, wish, output))
        }
        Command::Adopt {
            pid,
            app,
            release,
            stop_signal,
            drain,
            host,
            output,
        } => {
            let stranger = keepers::Stranger {
                pid,
                app,
                release: release.map(ship_model::release::ReleaseNumber),
                stop_signal,
                drain_s: drain,
            };
            ask::code(keepers::adopt(&host, &stranger, output))
        }
        Command::Keeper(KeeperCommand::Upgrade {
            app,
            program,
            host,
            output,
        }) => ask::code(keepers::upgrade(&host, &app, program, output)),
        Command::Verify {
            app,
            full,
            host,
            output,
        } => ask::answer(&host, |who| ask::verify(who, app, full, output)),
        Command::Probe {
            grpc,
            service,
            timeout_ms,
        } => probe::probe(&grpc, &service, std::time::Duration::from_millis(timeout_ms)),
        Command::Doctor { output } => show::findings(
            &crate::doctor::look(std::path::Path::new("/proc"), &GroupsAt::Auto),
            output,
        ),
        Command::Exec(verb) => exec::run(verb),
        Command::Logs {
            app,
            lines,
            follow,
            release,
            host,
            output,
        } => {
            let wanted = crate::logs::Wanted { lines, release };
            ask::answer(&host, |who| ask::logs(who, app, wanted, follow, output))
        }
    }
}

fn run(path: &std::path::Path, format: LogFormat) -> ExitCode {
    let config = match Config::read(path) {
        Ok(config) => config,
        Err(error) => return show::failed(&crate::session::chain(&error), ""),
    };
    telling::begin(format, config.host.as_str());
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return show::failed(&format!("no runtime: {error}"), ""),
    };
    let ended = runtime.block_on(crate::run::run(config));
    // A fetch that hangs in a blocking call must not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => show::failed(&format!("{error:#}"), ""),
    }
}
