//! `shipstore`: the shared store of a fleet.

mod cli;

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Parser as _;
use ship_model::name::HostName;
use ship_store::ca::{Authority, Holder, LEAF_DAYS};
use ship_store::clock::Clock;
use ship_store::deltas::Deltas;
use ship_store::folder::StoreFolder;
use ship_store::garbage::{Collector, Fate, Sweep};
use ship_store::identity::Role;
use ship_store::keeping::{self, AppSurvey, Turn};
use ship_store::log;
use ship_store::notify::{Message, Sink};
use ship_store::serve::{Options, serve};
use ship_store::settings::Settings;
use ship_store::{admin, publish};

use crate::cli::{AcceptRestore, Cli, Command, Init, Issue, RoleName, Serve};

/// What a release with many names needed goes back to the system when it is done: glibc's allocator keeps it.
#[global_allocator]
static MEMORY: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
        Command::Verify(command) => verify(&command),
        Command::Rebuild(folder) => {
            Settings::read(&folder.dir)?;
            admin::rebuild(&folder.dir).context("cannot rebuild the index")?;
            say("the index was made anew from the journal")
        }
        Command::Gc(command) => gc(&command, clock),
        Command::Optimize(command) => optimize(&command, clock),
        Command::Backup(command) => {
            Settings::read(&command.folder.dir)?;
            let report = admin::backup(&command.folder.dir, &command.out, clock.now_ms());
            report.context("cannot back the store up")?;
            say(&format!("backed up to {}", command.out.display()))
        }
        Command::Mirror(command) => mirror(&command),
        Command::Notify(command) => try_route(&command, clock),
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
    Settings::new(&init.fleet).write_explained(dir)?;
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

/// Whoever sits at the store's machine.
fn local() -> String {
    format!("local/uid-{}", rustix::process::getuid().as_raw())
}

fn accept_restore(command: &AcceptRestore, clock: &Clock) -> anyhow::Result<()> {
    let dir = &command.folder.dir;
    Settings::read(dir)?;
    let who = local();
    let accepted = admin::accept_restore(dir, &who, &command.because, clock.now_ms());
    let accepted = accepted.context("cannot accept what was put back")?;
    say(&format!(
        "accepted: {} environments are led again, {} apps leave out their next {} numbers",
        accepted.environments,
        accepted.apps,
        admin::NUMBERS_SKIPPED
    ))
}

fn verify(command: &cli::Verify) -> anyhow::Result<()> {
    let dir = &command.folder.dir;
    Settings::read(dir)?;
    let (store, _) = StoreFolder::open(dir, publish::Limits::default()).context("cannot open the store")?;
    let mut report = admin::verify(&store).context("cannot verify the store")?;
    if !report.is_good() && !command.repair_from.is_empty() {
        say(report.to_string().trim_end())?;
        let repaired = admin::repair(&store, &report, &command.repair_from);
        say(&repaired.context("cannot repair the store")?.to_string())?;
        report = admin::verify(&store).context("cannot verify the store again")?;
    }
    say(report.to_string().trim_end())?;
    if !report.is_good() {
        bail!("the store is damaged, see above");
    }
    Ok(())
}

fn gc(command: &cli::Gc, clock: &Clock) -> anyhow::Result<()> {
    let dir = &command.folder.dir;
    let settings = Settings::read(dir)?;
    let (store, _) = StoreFolder::open(dir, publish::Limits::default()).context("cannot open the store")?;
    let deltas = Deltas::load(&*store.blobs).context("cannot list the store's deltas")?;
    let collector = Collector::of(&store, &deltas, &settings.content);
    let now_ms = clock.now_ms();
    if command.dry_run {
        for line in collector.look(now_ms)? {
            say(&line.to_string())?;
        }
        return Ok(());
    }
    let marked = collector.mark(now_ms)?;
    let who = local();
    let sweep = Sweep {
        now_ms,
        wait_ms: command.wait.unwrap_or(settings.content.grace_ms),
        who: &who,
        pause: Duration::ZERO,
    };
    let swept = collector.sweep(&sweep, &|| false)?;
    for line in &swept.lines {
        say(&line.to_string())?;
    }
    let marked = marked.iter().filter(|line| line.fate != Fate::Kept);
    let waits = marked.count().saturating_sub(swept.lines.len());
    say(&format!(
        "{} releases collected, {} objects removed ({} bytes); {waits} more are marked and wait",
        swept.releases, swept.objects, swept.bytes
    ))
}

fn optimize(command: &cli::Optimize, clock: &Clock) -> anyhow::Result<()> {
    let dir = &command.folder.dir;
    Settings::read(dir)?;
    let (store, _) = StoreFolder::open(dir, publish::Limits::default()).context("cannot open the store")?;
    if command.dry_run {
        let apps = keeping::survey(&*store.blobs, &store.places, &store.ledger);
        return said(&apps.context("cannot look through the store")?);
    }
    let report = admin::optimize(&store, clock, |turn| {
        let line = match turn {
            Turn::Key { app, release, bytes } => format!("{app}@{release} in one bundle, {bytes} bytes"),
            Turn::Kept { app, release, bytes } => format!("{app}@{release} kept as a delta, {bytes} bytes"),
            Turn::Failed { app, release, error } => {
                let subject = release.map_or(app.to_string(), |release| format!("{app}@{release}"));
                format!("{subject} left as it is: {}", log::whole(error))
            }
            Turn::Left { .. } | Turn::Idle => return,
        };
        // Whoever closed our standard output does not want to know.
        let _ = say(&line);
    });
    let report = report.context("the store is not as small as it can be")?;
    say("before")?;
    said(&report.before)?;
    say("after")?;
    said(&report.after)?;
    say(&format!(
        "{} bundles removed, {} bytes",
        report.removed, report.removed_bytes
    ))?;
    if report.failed > 0 {
        bail!("{} releases are left as they are, see above", report.failed);
    }
    Ok(())
}

fn said(apps: &[AppSurvey]) -> anyhow::Result<()> {
    apps.iter().try_for_each(|app| say(&format!("  {app}")))
}

fn mirror(command: &cli::Mirror) -> anyhow::Result<()> {
    Settings::read(&command.folder.dir)?;
    let report = admin::mirror(&command.folder.dir, &command.out).context("the mirror is not complete")?;
    say(&report.to_string())?;
    if !report.damaged.is_empty() {
        bail!("the store is damaged, see above");
    }
    Ok(())
}

fn try_route(command: &cli::Notify, clock: &Clock) -> anyhow::Result<()> {
    let dir = &command.folder.dir;
    let settings = Settings::read(dir)?;
    let found = settings.notify.iter().find(|route| route.name == command.route);
    let Some(route) = found else {
        let names: Vec<_> = settings.notify.iter().map(|route| route.name.as_str()).collect();
        bail!(
            "store.toml has no [[notify]] called {:?}; it has: {}",
            command.route.as_str(),
            if names.is_empty() {
                "none".to_owned()
            } else {
                names.join(", ")
            }
        );
    };
    let message = Message::test(route, &local(), clock.now_ms()).to_json();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let mut refused = 0;
    for sink in &route.sinks {
        let sink = Sink::new(sink.clone(), dir);
        match runtime.block_on(sink.tell(&message)) {
            Ok(()) => say(&format!("{} took it", sink.name()))?,
            Err(error) => {
                refused += 1;
                say(&format!("{} did not: {}", sink.name(), log::whole(&error)))?;
            }
        }
    }
    if refused > 0 {
        bail!(
            "{refused} of {} sinks did not take the message",
            route.sinks.len()
        );
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
