//! `ship-keeper`: see [`HELP`].

use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use ship_keeper::daemon::{Side, leave};
use ship_keeper::processes::GroupsAt;
use ship_keeper::{Client, Config, Keeper, TAKE_OVER, can_adopt};

const HELP: &str = "\
ship-keeper owns the sockets and processes of one app on one host and switches between its releases.

  ship-keeper run --app NAME --host NAME --home DIR --state DIR --run DIR [--foreground] [--no-steering]
                  [--cgroups auto|off|GROUP] [--machine DIR]
      Start a keeper, or take the app over from one that died. Returns when it listens on RUN/keeper.sock.
      SIGTERM makes it leave; the app runs on and the next keeper takes it over.
  ship-keeper status --run DIR            Print its state as one JSON object.
  ship-keeper revert --run DIR [--to N]   Go back to the last good release before the running one, or to N.
  ship-keeper stop --run DIR              Drain and stop the app; the keeper exits.

  ship-keeper upgrade --run DIR --program PATH
      Have the keeper become another program in place: process, children, sockets and those who wait there stay.
      A program that cannot take the state over is not run; one that fails at it leaves the old one at work.
  ship-keeper --can-adopt VERSION         Whether this program can take over a state of that version (0 or 1);
                                          a state on standard input is read as a trial.

  --home         the app's folder: current, previous, releases, shared, assets
  --state        journal and logs; must survive a reboot
  --run          sockets, pipes, drain files
  --no-steering  one socket for all generations, as on kernels that refuse steering programs
  --cgroups      where control groups are made, one for each process of a generation: below GROUP (as /proc/self/cgroup
                 names one), nowhere, or (auto) in the root of a hierarchy or in what was delegated
  --machine      where the kernel tells of memory and control groups; default /proc

Exit: 0 done, 1 failed, 2 wrong usage, 4 nothing to revert to.
";

/// A wait for a keeper's answer.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let verb = words.next();
    let rest: Vec<_> = words.collect();
    match (verb.as_deref(), Options::parse(&rest)) {
        (Some("--help" | "-h" | "help"), _) => print(HELP),
        (Some("--can-adopt"), _) => adopts(&rest),
        (Some(TAKE_OVER), _) => take_over(&rest),
        (Some("--version" | "-V"), _) => print(concat!("ship-keeper ", env!("CARGO_PKG_VERSION"), "\n")),
        (_, Err(message)) => wrong(&message),
        (Some("run"), Ok(options)) => run(&options),
        (Some("status"), Ok(options)) => ask(&options, status),
        (Some("revert"), Ok(options)) => ask(&options, revert),
        (Some("stop"), Ok(options)) => ask(&options, stop),
        (Some("upgrade"), Ok(options)) => ask(&options, upgrade),
        _ => wrong("the first word must be run, status, revert, upgrade or stop"),
    }
}

#[derive(Debug, Default)]
struct Options {
    app: Option<String>,
    host: Option<String>,
    home: Option<PathBuf>,
    state: Option<PathBuf>,
    run: Option<PathBuf>,
    to: Option<u64>,
    program: Option<PathBuf>,
    foreground: bool,
    no_steering: bool,
    cgroups: GroupsAt,
    machine: Option<PathBuf>,
}

impl Options {
    fn parse(words: &[String]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let (name, inline) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (word.as_str(), None),
            };
            let mut value = || {
                inline
                    .clone()
                    .or_else(|| words.next().cloned())
                    .ok_or_else(|| format!("{name} needs a value"))
            };
            match name {
                "--app" => options.app = Some(value()?),
                "--host" => options.host = Some(value()?),
                "--home" => options.home = Some(value()?.into()),
                "--state" => options.state = Some(value()?.into()),
                "--run" => options.run = Some(value()?.into()),
                "--to" => options.to = Some(value()?.parse().map_err(|_| "--to needs a release number")?),
                "--program" => options.program = Some(value()?.into()),
                "--foreground" => options.foreground = true,
                "--no-steering" => options.no_steering = true,
                "--cgroups" => options.cgroups = GroupsAt::parse(&value()?)?,
                "--machine" => options.machine = Some(value()?.into()),
                _ => return Err(format!("{word} is not known")),
            }
        }
        Ok(options)
    }

    fn config(&self) -> Result<Config, String> {
        let missing = |name: &str| format!("--{name} is missing");
        let folder = |path: &Option<PathBuf>, name: &str| {
            let path = path.as_deref().ok_or_else(|| missing(name))?;
            std::fs::create_dir_all(path)
                .map_err(|error| format!("cannot make {}: {error}", path.display()))?;
            std::fs::canonicalize(path).map_err(|error| format!("cannot enter {}: {error}", path.display()))
        };
        Ok(Config {
            app: self.app.clone().ok_or_else(|| missing("app"))?,
            host: self.host.clone().ok_or_else(|| missing("host"))?,
            home: folder(&self.home, "home")?,
            state: folder(&self.state, "state")?,
            run: folder(&self.run, "run")?,
            steering: !self.no_steering,
            groups: self.cgroups.clone(),
            machine: self.machine.clone().unwrap_or_else(|| "/proc".into()),
        })
    }
}

fn run(options: &Options) -> ExitCode {
    let config = match options.config() {
        Ok(config) => config,
        Err(message) => return wrong(&message),
    };
    if options.foreground {
        return match Keeper::start(config) {
            Ok(keeper) => serve(keeper),
            Err(error) => failed(&chain(&error)),
        };
    }
    match leave() {
        Err(error) => failed(&chain(&error)),
        Ok(Side::Starter(Ok(()))) => ExitCode::SUCCESS,
        Ok(Side::Starter(Err(reason))) => failed(&reason),
        Ok(Side::Keeper(starter)) => match Keeper::start(config) {
            Ok(keeper) => {
                starter.all_well();
                serve(keeper)
            }
            Err(error) => {
                starter.failed(&chain(&error));
                ExitCode::FAILURE
            }
        },
    }
}

fn serve(mut keeper: Keeper) -> ExitCode {
    match keeper.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&format!("the keeper cannot wait for events: {error}")),
    }
}

fn ask(
    options: &Options,
    question: fn(&Client, &Options) -> Result<String, ship_keeper::AskError>,
) -> ExitCode {
    let Some(run) = options.run.as_deref().map(Path::to_owned) else {
        return wrong("--run is missing");
    };
    match question(&Client::new(&run, PATIENCE), options) {
        Ok(answer) => print(&answer),
        Err(error) => {
            let nothing = matches!(
                &error,
                ship_keeper::AskError::Refused {
                    refusal: ship_keeper::protocol::Refusal::NothingToRevertTo,
                    ..
                }
            );
            let code = failed(&chain(&error));
            if nothing { ExitCode::from(4) } else { code }
        }
    }
}

fn status(client: &Client, _: &Options) -> Result<String, ship_keeper::AskError> {
    let status = client.status()?;
    Ok(serde_json::to_string(&status).unwrap_or_default() + "\n")
}

fn revert(client: &Client, options: &Options) -> Result<String, ship_keeper::AskError> {
    client.revert(options.to, "asked for on the host", None)?;
    Ok(String::new())
}

fn stop(client: &Client, _: &Options) -> Result<String, ship_keeper::AskError> {
    client.stop()?;
    Ok(String::new())
}

fn upgrade(client: &Client, options: &Options) -> Result<String, ship_keeper::AskError> {
    let program = options.program.clone().unwrap_or_default();
    client.upgrade(&program)?;
    Ok(String::new())
}

/// Asked by the keeper of the program that may become this one.
fn adopts(words: &[String]) -> ExitCode {
    let Some(version) = words.first().and_then(|word| word.parse().ok()) else {
        return wrong("--can-adopt needs the number of a version");
    };
    let state = match std::io::stdin().as_fd().try_clone_to_owned() {
        Ok(state) => state.into(),
        Err(error) => return failed(&format!("cannot read standard input: {error}")),
    };
    match can_adopt(version, state) {
        Ok(()) => print(concat!("ship-keeper ", env!("CARGO_PKG_VERSION"), "\n")),
        Err(reason) => failed(&reason),
    }
}

/// Run by the keeper that becomes this program.
fn take_over(words: &[String]) -> ExitCode {
    let Some(number) = words.first().and_then(|word| word.parse().ok()) else {
        return wrong("take-over is for keepers only");
    };
    match Keeper::take_over(number) {
        Ok(keeper) => serve(keeper),
        Err(error) => failed(&chain(&error)),
    }
}

fn print(words: &str) -> ExitCode {
    match std::io::stdout().write_all(words.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn failed(reason: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "ship-keeper: {reason}");
    ExitCode::FAILURE
}

fn wrong(reason: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "ship-keeper: {reason}\n\n{HELP}");
    ExitCode::from(2)
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        words.push_str(": ");
        words.push_str(&error.to_string());
        source = error.source();
    }
    words
}
