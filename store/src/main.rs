//! `shipstore`: the shared store of a fleet.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use ship_model::name::{EnvName, HostName};
use ship_store::ca::{Authority, Holder, LEAF_DAYS};
use ship_store::clock::Clock;
use ship_store::folder::StoreFolder;
use ship_store::identity::Role;
use ship_store::log::{self, LogFormat};
use ship_store::serve::{Options, serve};
use ship_store::settings::Settings;
use ship_store::{admin, publish};

/// The shared store of a fleet: immutable releases, who runs what, and the controller that changes it.
///
/// A store is one folder. `init` makes it, with the fleet's own certificate authority; `issue` gives certificates to
/// people, programs and hosts; `serve` runs it. Everything it acknowledges survives a power cut.
#[derive(Debug, Parser)]
#[command(name = "shipstore", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  shipstore init --dir /var/lib/shipstore --fleet acme
  shipstore issue --dir /var/lib/shipstore --role operator --name alice --out ./alice
  shipstore issue --dir /var/lib/shipstore --role agent --env production --name web-1 --out ./web-1
  shipstore serve --dir /var/lib/shipstore --listen 0.0.0.0:7400

Exit codes: 0 done, 1 error, 2 usage.";

#[derive(Debug, Subcommand)]
enum Command {
    Init(Init),
    Issue(Issue),
    Serve(Serve),
    /// Reads every object and record again and checks them; says what is damaged.
    Verify(Folder),
    /// Makes the catalog's index anew from its journal. The store does so by itself when the index is damaged.
    Rebuild(Folder),
    Backup(Backup),
    Restore(Restore),
    AcceptRestore(AcceptRestore),
}

#[derive(Debug, Args)]
struct Folder {
    /// The store's folder.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

/// Makes a new store: its folder, the fleet's certificate authority, its own certificate and store.toml.
#[derive(Debug, Args)]
struct Init {
    #[command(flatten)]
    folder: Folder,
    /// The fleet's name, which every certificate of it carries.
    #[arg(long, value_name = "NAME", default_value = "fleet")]
    fleet: String,
    /// A further name or address that the store's certificate is for; can be given again.
    #[arg(long, value_name = "NAME|IP")]
    san: Vec<String>,
}

/// Issues a certificate: ca.pem, cert.pem and key.pem in a folder of its own.
///
/// The role says what its holder may do. viewer: look. publisher: look and publish. operator: everything a terminal
/// can. agent: speak for the one host it names. store: be the store (for a new certificate of the store itself).
#[derive(Debug, Args)]
struct Issue {
    #[command(flatten)]
    folder: Folder,
    #[arg(long, value_enum)]
    role: RoleName,
    /// The person's, program's or host's name.
    #[arg(long, value_name = "NAME")]
    name: String,
    /// The host's environment; for agents only.
    #[arg(long, value_name = "ENV", required_if_eq("role", "agent"))]
    env: Option<EnvName>,
    /// Where the certificate goes.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How long it is valid.
    #[arg(long, value_name = "DAYS", default_value_t = LEAF_DAYS, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// Replace a certificate that is there already.
    #[arg(long)]
    renew: bool,
    /// A further name or address that a store's certificate is for; can be given again.
    #[arg(long, value_name = "NAME|IP")]
    san: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RoleName {
    Viewer,
    Publisher,
    Operator,
    Agent,
    Store,
}

/// Runs the store until SIGTERM or Ctrl-C.
///
/// SIGHUP, or new files in DIR/tls, reload the certificates. The addresses in use stand in DIR/run/addresses.json.
#[derive(Debug, Args)]
struct Serve {
    #[command(flatten)]
    folder: Folder,
    /// Where gRPC and bundles are served, with TLS. Remembered in store.toml; port 0 takes a free one and keeps it.
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// Where assets and /metrics are served, as plain HTTP. Remembered in store.toml.
    #[arg(long, value_name = "IP:PORT")]
    assets_listen: Option<SocketAddr>,
    /// What log lines look like; RUST_LOG chooses which are written.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

/// Copies a store, which may go on serving, so that `restore` can put it back.
#[derive(Debug, Args)]
struct Backup {
    #[command(flatten)]
    folder: Folder,
    /// A new folder for the copy.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Puts a backup back into an empty folder.
#[derive(Debug, Args)]
struct Restore {
    #[command(flatten)]
    folder: Folder,
    /// The folder that `backup` made.
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
}

/// Lets a store that was put back lead hosts again that have seen newer epochs than its backup knows.
///
/// Until then such hosts keep what they run, and promote and revert are refused. First make sure that the newer store
/// is lost for good: two stores that lead one fleet contradict each other. Then, with this store stopped, this command
/// steps over a million epochs and deploys of every environment and a thousand release numbers of every app, so that
/// nothing is given twice, and pauses a rollout that the backup was made in. What hosts run changes only with the next
/// promote or revert; `shipctl promote APP@N --force` brings every host to a release that the store believes it runs.
/// Releases published after the backup must be published again.
#[derive(Debug, Args)]
#[command(name = "accept-restore")]
struct AcceptRestore {
    #[command(flatten)]
    folder: Folder,
    /// Why, for the audit chain.
    #[arg(long, value_name = "TEXT")]
    because: String,
}

fn main() -> ExitCode {
    match run(Cli::parse().command, &Clock::system()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Whoever closed our standard error does not want to know.
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command, clock: &Clock) -> anyhow::Result<()> {
    match command {
        Command::Init(init) => make(&init, clock),
        Command::Issue(issue) => give(&issue, clock),
        Command::Serve(command) => work(command, clock),
        Command::Verify(folder) => verify(&folder.dir),
        Command::Rebuild(folder) => {
            Settings::read(&folder.dir)?;
            admin::rebuild(&folder.dir).context("cannot rebuild the index")?;
            say("the index was made anew from the journal")
        }
        Command::Backup(command) => {
            Settings::read(&command.folder.dir)?;
            let report = admin::backup(&command.folder.dir, &command.out, clock.now_ms());
            report.context("cannot back the store up")?;
            say(&format!("backed up to {}", command.out.display()))
        }
        Command::Restore(command) => {
            let report = admin::restore(&command.from, &command.folder.dir, clock.now_ms());
            report.context("cannot put the backup back")?;
            let dir = command.folder.dir.display();
            say(&format!(
                "put back into {dir}\nit can be served and looked at, but publishes and moves nothing before: shipstore accept-restore --dir {dir} --because TEXT"
            ))
        }
        Command::AcceptRestore(command) => accept_restore(&command, clock),
    }
}

fn say(line: &str) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{line}").context("cannot write to standard output")
}

fn make(init: &Init, clock: &Clock) -> anyhow::Result<()> {
    let dir = &init.folder.dir;
    if dir.join("store.toml").exists() {
        bail!("{} is a store already: give another folder", dir.display());
    }
    let tls = dir.join("tls");
    if tls.join("ca.pem").exists() {
        bail!(
            "{} holds a certificate authority already, but no store.toml: remove it to begin anew",
            tls.display()
        );
    }
    let now = clock.now_ms();
    let authority = Authority::init(&tls, &init.fleet, now)?;
    let holder = Holder::Store {
        name: "main".to_owned(),
        sans: init.san.clone(),
    };
    authority.leave(&authority.issue(&holder, LEAF_DAYS, now)?, &tls, true)?;
    // Last: a folder with a store.toml is complete.
    Settings::new(&init.fleet).write(dir)?;
    say(&format!(
        "made a store for fleet {:?} in {}",
        init.fleet,
        dir.display()
    ))
}

fn give(issue: &Issue, clock: &Clock) -> anyhow::Result<()> {
    let dir = &issue.folder.dir;
    let settings = Settings::read(dir)?;
    let holder = holder_of(issue)?;
    let authority = Authority::open(&dir.join("tls"), &settings.fleet)?;
    let issued = authority.issue(&holder, issue.days, clock.now_ms())?;
    authority.leave(&issued, &issue.out, issue.renew)?;
    say(&format!(
        "issued a certificate for {} into {}",
        issue.name,
        issue.out.display()
    ))
}

fn holder_of(issue: &Issue) -> anyhow::Result<Holder> {
    if issue.env.is_some() && issue.role != RoleName::Agent {
        bail!("--env goes with --role agent only");
    }
    let person = |role| Holder::Person {
        role,
        name: issue.name.clone(),
    };
    Ok(match (issue.role, &issue.env) {
        (RoleName::Viewer, _) => person(Role::Viewer),
        (RoleName::Publisher, _) => person(Role::Publisher),
        (RoleName::Operator, _) => person(Role::Operator),
        (RoleName::Agent, Some(env)) => Holder::Agent {
            env: env.clone(),
            host: issue.name.parse::<HostName>()?,
        },
        (RoleName::Agent, None) => bail!("--role agent needs --env"),
        (RoleName::Store, _) => Holder::Store {
            name: issue.name.clone(),
            sans: issue.san.clone(),
        },
    })
}

fn accept_restore(command: &AcceptRestore, clock: &Clock) -> anyhow::Result<()> {
    let dir = &command.folder.dir;
    Settings::read(dir)?;
    let who = format!("local/uid-{}", rustix::process::getuid().as_raw());
    let accepted = admin::accept_restore(dir, &who, &command.because, clock.now_ms());
    let accepted = accepted.context("cannot accept what was put back")?;
    say(&format!(
        "accepted: {} environments are led again, {} apps leave out their next {} numbers",
        accepted.environments,
        accepted.apps,
        admin::NUMBERS_SKIPPED
    ))
}

fn verify(dir: &Path) -> anyhow::Result<()> {
    Settings::read(dir)?;
    let (store, _) = StoreFolder::open(dir, publish::Limits::default()).context("cannot open the store")?;
    let report = admin::verify(&store).context("cannot verify the store")?;
    say(report.to_string().trim_end())?;
    if !report.is_good() {
        bail!("the store is damaged, see above");
    }
    Ok(())
}

fn work(command: Serve, clock: &Clock) -> anyhow::Result<()> {
    log::begin(command.log_format, io::stderr);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(64)
        .build()
        .context("cannot start the runtime")?;
    let options = Options {
        dir: command.folder.dir,
        listen: command.listen,
        assets_listen: command.assets_listen,
    };
    Ok(runtime.block_on(serve(options, clock.clone()))?)
}
