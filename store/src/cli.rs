//! What can be typed: the help texts are the manual.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ship_model::name::{EnvName, HostName};
use ship_store::admin::Copies;
use ship_store::ca::LEAF_DAYS;
use ship_store::log::LogFormat;

/// The shared store of a fleet: immutable releases, who runs what, and the controller that changes it.
///
/// A store is one folder. `init` makes it, with the fleet's own certificate authority; `issue` gives certificates to
/// people, programs and hosts; `serve` runs it. Everything it acknowledges survives a power cut.
#[derive(Debug, Parser)]
#[command(name = "shipstore", version, after_help = EXAMPLES, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  shipstore init --dir /var/lib/shipstore --fleet acme
  shipstore issue --dir /var/lib/shipstore --role operator --name alice --out ./alice
  shipstore issue --dir /var/lib/shipstore --role agent --env production --name web-1 --out ./web-1
  shipstore serve --dir /var/lib/shipstore --listen 0.0.0.0:7400

After the loss of a store:
  shipstore backup --dir /var/lib/shipstore --out /backup/monday        now and then, while it serves
  shipstore restore --dir /var/lib/shipstore --from /backup/monday      on the new machine
  shipstore accept-restore --dir /var/lib/shipstore --because 'disk died'   when the old one is lost for good

Exit codes: 0 done, 1 error (verify: something is damaged), 2 usage.
";

const INIT: &str = "\
Next: issue certificates, then serve. Example:
  shipstore init --dir /var/lib/shipstore --fleet acme --san store.acme.example";

const ISSUE: &str = "\
Examples:
  shipstore issue --dir D --role operator --name alice --out ./alice
  shipstore issue --dir D --role publisher --name ci --out ./ci --days 30
  shipstore issue --dir D --role agent --env production --name web-1 --out ./web-1
  shipstore issue --dir D --role operator --name alice --out ./alice --renew";

const SERVE: &str = "\
Examples:
  shipstore serve --dir D
  shipstore serve --dir D --listen 0.0.0.0:7400 --log-format json
What runs needs no store: while it is away, apps serve, hosts revert by themselves (ship-agent revert),
and only publish, promote and status wait.

Exit codes: 0 ended as asked, 1 error (a port that is taken, a folder that another store holds), 2 usage.";

const VERIFY: &str = "\
Needs the folder for itself: stop the store first. A serving store does the same slowly by itself, as `scrub` in store.toml
says, and heals from mirrors and hosts. Example:
  shipstore verify --dir D && echo good
A damaged object heals from another copy (--repair-from: a backup, another store's folder, a mirror's folder or address; every
byte is checked), or when its release is published again; a damaged index by `rebuild`. Examples:
  shipstore verify --dir D --repair-from /backup/monday
  shipstore verify --dir D --repair-from http://10.0.0.9/mirror

Exit codes: 0 everything is whole, 1 damaged or not readable, 2 usage.";

const REBUILD: &str = "\
Needs the folder for itself: stop the store first. Example:
  shipstore rebuild --dir D";

const OPTIMIZE: &str = "\
Needs the folder for itself: stop the store first. A serving store does the same by itself, in idle time, unless
store.toml says optimize_when_idle = false. It can be stopped at any moment and run again: nothing is lost.
Examples:
  shipstore optimize --dir D --dry-run
  shipstore optimize --dir D

Exit codes: 0 everything is done, 1 something could not be done, 2 usage.";

const MIRROR: &str = "\
Nothing is removed, files never change, and what was broken off goes on: run it again after publishing, from a
timer for example, and let any web server hand the folder out. Hosts check every byte. On the same disk files are
hard links and cost nothing; another machine's folder is filled by `rsync -a --ignore-existing MIRROR/ HOST:…`.
Example:
  shipstore mirror --dir D --out /srv/mirror
and in store.toml (or `mirrors` in a host's agent.toml):
  [[mirror]]
  url = \"http://10.0.0.9/mirror\"

Exit codes: 0 everything is there, 1 something is not, 2 usage.";

const GC: &str = "\
Needs the folder for itself: stop the store first; while it serves, `shipctl gc` does the same, and the store by itself
once a day. What is found to be needed by nothing is written down, and goes at a later run when that was so for as long
as `grace` in store.toml says. Releases stay in the list for ever, marked as collected; assets outlive them as long as
they are promised. Examples:
  shipstore gc --dir D --dry-run       every release and object, and what keeps it
  shipstore gc --dir D                 mark, and remove what was marked long enough ago
  shipstore gc --dir D --wait 0s       mark and remove at once: nobody else uses the folder

Exit codes: 0 done, 1 error, 2 usage.";

const NOTIFY: &str = "\
store.toml says who is told of what `shipctl events` shows. The first sink that can be reached is told, the next one when
it cannot; while none can, events wait in the store. An event may be told twice, with the same `seq`. Example:
  [[notify]]
  name = \"pager\"
  what = [\"revert\", \"deploy *\"]      as the third column of `shipctl events` spells it; * at the end: whatever follows
  subject = [\"production/*\"]         as the fourth column spells it
  sinks = [
    { webhook = \"https://hooks.example.com/ship\", token = \"pager.token\" },
    { command = [\"/usr/local/bin/page\"], seconds = 20 },
  ]
then
  shipstore notify --dir D pager

Exit codes: 0 every sink took it, 1 one did not, 2 usage.";

const BACKUP: &str = "\
It holds the fleet's keys: keep it as safe as the store. On the same disk objects are hard links and cost
nothing; a backup that shall survive the disk goes to another one.
Example:
  shipstore backup --dir D --out /backup/2026-11-22";

const RESTORE: &str = "\
What was published or promoted after the backup is not in it, and the hosts may have seen it. So the store
can be served and looked at (status, releases, logs), but publishes and moves nothing before accept-restore,
and no number is used twice. Example:
  shipstore restore --dir D --from /backup/2026-11-22
  shipstore accept-restore --dir D --because 'disk of store-1 died'
  shipstore serve --dir D";

const ACCEPT: &str = "\
Example:
  shipstore accept-restore --dir D --because 'disk of store-1 died'";

#[derive(Debug, Subcommand)]
pub enum Command {
    Init(Init),
    Issue(Issue),
    Serve(Serve),
    /// Reads every object and record again and checks them; says what is damaged.
    #[command(after_help = VERIFY)]
    Verify(Verify),
    /// Makes the catalog's index anew from its journal. The store does so by itself when the index is damaged.
    #[command(after_help = REBUILD)]
    Rebuild(Folder),
    Gc(Gc),
    Optimize(Optimize),
    Backup(Backup),
    Mirror(Mirror),
    #[command(name = "notify")]
    Notify(Notify),
    Restore(Restore),
    AcceptRestore(AcceptRestore),
}

#[derive(Debug, Args)]
pub struct Verify {
    #[command(flatten)]
    pub folder: Folder,
    /// Where copies of what is damaged are looked for, in this order; may be given again.
    #[arg(long, value_name = "DIR|URL")]
    pub repair_from: Vec<Copies>,
}

/// Removes what no release, host or publish needs any more, of what was marked so long enough ago.
#[derive(Debug, Args)]
#[command(after_help = GC)]
pub struct Gc {
    #[command(flatten)]
    pub folder: Folder,
    /// Only tell what keeps each release and object, and what would go.
    #[arg(long)]
    pub dry_run: bool,
    /// How long something must have been marked, 30m or 0s; without it as store.toml says. Leases of publishes stand whatever
    /// it is.
    #[arg(long, value_name = "TIME", value_parser = wait)]
    pub wait: Option<u64>,
}

fn wait(text: &str) -> Result<u64, String> {
    if text == "0s" {
        return Ok(0);
    }
    let read = ship_store::settings::span_ms(text);
    read.ok_or_else(|| "write a time like \"30m\", \"12h\" or \"0s\"".to_owned())
}

#[derive(Debug, Args)]
pub struct Folder {
    /// The store's folder.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
}

/// Keeps older releases as what changed after them, and removes the bundles that nothing needs then.
///
/// The newest release of each app gets one bundle that carries all of it; each older one is kept as a delta against the
/// release after it. Every release can be given as before: what an old one needs is put together again when it is asked for.
#[derive(Debug, Args)]
#[command(after_help = OPTIMIZE)]
pub struct Optimize {
    #[command(flatten)]
    pub folder: Folder,
    /// Only say what the releases take, and what would be done.
    #[arg(long)]
    pub dry_run: bool,
}

/// Makes a new store: its folder, the fleet's certificate authority, its own certificate and store.toml.
#[derive(Debug, Args)]
#[command(after_help = INIT)]
pub struct Init {
    #[command(flatten)]
    pub folder: Folder,
    /// The fleet's name, which every certificate of it carries.
    #[arg(long, value_name = "NAME", default_value = "fleet")]
    pub fleet: String,
    /// A further name or address that the store's certificate is for; can be given again.
    #[arg(long, value_name = "NAME|IP")]
    pub san: Vec<String>,
}

/// Issues a certificate: ca.pem, cert.pem and key.pem in a folder of its own.
///
/// The role says what its holder may do. viewer: look. publisher: look and publish. operator: everything a terminal
/// can. agent: speak for the one host it names. store: be the store (for a new certificate of the store itself).
#[derive(Debug, Args)]
#[command(after_help = ISSUE)]
pub struct Issue {
    #[command(flatten)]
    pub folder: Folder,
    #[arg(long, value_enum)]
    pub role: RoleName,
    /// The person's, program's or host's name.
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// The host's environment; for agents only.
    #[arg(long, value_name = "ENV", required_if_eq("role", "agent"))]
    pub env: Option<EnvName>,
    /// Where the certificate goes.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// How long it is valid.
    #[arg(long, value_name = "DAYS", default_value_t = LEAF_DAYS, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub days: u32,
    /// Replace a certificate that is there already.
    #[arg(long)]
    pub renew: bool,
    /// A further name or address that a store's certificate is for; can be given again.
    #[arg(long, value_name = "NAME|IP")]
    pub san: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RoleName {
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
#[command(after_help = SERVE)]
pub struct Serve {
    #[command(flatten)]
    pub folder: Folder,
    /// Where gRPC and bundles are served, with TLS. Remembered in store.toml; port 0 takes a free one and keeps it.
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<SocketAddr>,
    /// Where assets and /metrics are served, as plain HTTP. Remembered in store.toml.
    #[arg(long, value_name = "IP:PORT")]
    pub assets_listen: Option<SocketAddr>,
    /// What log lines look like; RUST_LOG chooses which are written.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// Copies a store, which may go on serving, so that `restore` can put it back.
#[derive(Debug, Args)]
#[command(after_help = BACKUP)]
pub struct Backup {
    #[command(flatten)]
    pub folder: Folder,
    /// A new folder for the copy.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// Adds what is missing to a folder from which a web server gives hosts their bundles.
///
/// The store may go on serving. Hosts still ask it what they should run and where content lies; the bytes come from
/// the mirrors that store.toml and agent.toml name.
#[derive(Debug, Args)]
#[command(after_help = MIRROR)]
pub struct Mirror {
    #[command(flatten)]
    pub folder: Folder,
    /// The mirror's folder; made when it is not there.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// Sends a test message to every sink of a `[[notify]]`, and says which of them took it.
///
/// The store may go on serving. Nothing is remembered.
#[derive(Debug, Args)]
#[command(after_help = NOTIFY)]
pub struct Notify {
    #[command(flatten)]
    pub folder: Folder,
    /// Its name in store.toml.
    #[arg(value_name = "NAME")]
    pub route: HostName,
}

/// Puts a backup back into an empty folder.
#[derive(Debug, Args)]
#[command(after_help = RESTORE)]
pub struct Restore {
    #[command(flatten)]
    pub folder: Folder,
    /// The folder that `backup` made.
    #[arg(long, value_name = "DIR")]
    pub from: PathBuf,
}

/// Lets a store that was put back lead hosts again that have seen newer epochs than its backup knows.
///
/// Until then hosts keep what they run, and publish, promote and revert are refused. First make sure that the newer store
/// is lost for good: two stores that lead one fleet contradict each other. Then, with this store stopped, this command
/// steps over a million epochs and deploys of every environment and a thousand release numbers of every app, so that
/// nothing is given twice, and pauses a rollout that the backup was made in. What hosts run changes only with the next
/// promote or revert; `shipctl promote APP@N --force` brings every host to a release that the store believes it runs.
/// Releases published after the backup must be published again.
#[derive(Debug, Args)]
#[command(name = "accept-restore", after_help = ACCEPT)]
pub struct AcceptRestore {
    #[command(flatten)]
    pub folder: Folder,
    /// Why, for the audit chain.
    #[arg(long, value_name = "TEXT")]
    pub because: String,
}
