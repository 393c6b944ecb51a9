//! Starting a generation's processes: what they are given, and how they are let go.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

use rustix::process::{Pid, PidfdFlags};
use ship_model::spec::Strategy;

use super::joins::Join;
use super::output::is_stream;
use super::{Keeper, Running, chain};
use crate::listen::{self, Group};
use crate::machine::{Event, Generation, Process};
use crate::processes::{self, Account, Launch, Place, assemble, surroundings};
use crate::protocol::{ListenSpec, ProcessSpec};

/// The descriptor of a process's first listener.
const FIRST_LISTENER: usize = 3;

impl Keeper {
    pub(super) fn fork(&mut self, generation: u64, slot: usize) {
        match self.try_fork(generation, slot) {
            Ok(process) => self.events.push_back(Event::Forked {
                generation,
                slot,
                process,
            }),
            Err(reason) => {
                let how = format!("could not be started: {reason}");
                self.events.push_back(Event::Ended {
                    generation,
                    slot,
                    how,
                });
            }
        }
    }

    fn try_fork(&mut self, generation: u64, slot: usize) -> Result<Process, String> {
        self.give_up_addresses(generation, slot);
        let sockets = self.take_sockets(generation).map_err(|error| chain(&error))?;
        let active = self
            .state
            .active
            .as_ref()
            .is_some_and(|active| active.number == generation);
        if active {
            // A listener that its last process gave up was replaced.
            self.steer(generation)?;
        }
        let inodes = sockets.get(slot).cloned().unwrap_or_default();
        let found = self
            .state
            .generation(generation)
            .ok_or("its generation is gone")?
            .clone();
        let _ = std::fs::remove_file(self.drain_file(generation));
        let watchdog_ms = found.intent.processes.get(slot).and_then(|spec| spec.watchdog_ms);
        let mut launch = self.launch(&found, slot).map_err(|error| error.to_string())?;
        if self.prepare_groups(&found, slot) {
            launch.memory = None;
        }
        launch.group = self.group_to_be_born_in(&found, slot);
        let child = processes::fork(&launch).map_err(|error| chain(&error))?;
        let pid = child.pid;
        self.enter_groups(&found, slot, &child);
        let pidfd = Pid::from_raw(pid.cast_signed())
            .ok_or(io::ErrorKind::NotFound.into())
            .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from))
            .map_err(|error| error.to_string())?;
        let start = processes::start_ticks(pid).ok_or("it ended at once")?;
        let process = Process { pid, start };
        self.mains.entry(generation).or_default().push(process);
        self.joins
            .extend(child.binds.map(|news| Join::born(generation, slot, news)));
        self.running.insert(
            (generation, slot),
            Running {
                go: Some(child.go),
                failure: Some(child.failure),
                own_child: true,
                memory_kills: self.memory_kills(generation, slot),
                ..Running::found(process, pidfd, watchdog_ms)
            },
        );
        self.remember_sockets(generation, slot, inodes);
        Ok(process)
    }

    /// A process that binds by itself cannot while the keeper holds its address for an earlier release.
    fn give_up_addresses(&mut self, generation: u64, slot: usize) {
        let alone = self.running.keys().all(|(number, _)| *number == generation);
        let spec = self
            .state
            .generation(generation)
            .and_then(|found| found.intent.processes.get(slot));
        if let Some(spec) = spec.filter(|_| alone) {
            self.listeners.give_up(spec);
        }
    }

    fn remember_sockets(&mut self, generation: u64, slot: usize, inodes: Vec<u64>) {
        if let Some(slot) = self.state.slot_mut(generation, slot) {
            slot.sockets = inodes;
        }
    }

    /// Everything the process is given. The descriptors stay the keeper's; the numbers are good until its next change.
    fn launch(&mut self, generation: &Generation, slot: usize) -> io::Result<Launch> {
        let spec = generation
            .intent
            .processes
            .get(slot)
            .ok_or(io::ErrorKind::NotFound)?;
        let account = account(spec)?;
        let mut environment = self.environment(generation, spec, account.as_ref())?;
        let owner = account.as_ref().map(|account| (account.uid, account.gid));
        self.make_lock_file(generation.home(slot).0, spec, owner);
        let mut descriptors = self.descriptors(generation.number, slot, spec, owner)?;
        let stored = self.store.of(&spec.name);
        name_descriptors(
            &mut environment,
            spec,
            stored.iter().map(|(name, _)| name.as_str()),
        );
        descriptors.extend(stored.into_iter().map(|(_, number)| number));
        // A process that lives on through releases finds each of them by the link.
        let dir = if spec.strategy.is_in_place() {
            self.config.home.join("current")
        } else {
            generation.intent.dir.clone()
        };
        assemble(spec, &dir, &spec.command, environment, account, descriptors)
    }

    /// As [`Keeper::launch`], for a command that runs once in the slot's surroundings: it gets no sockets.
    pub(super) fn launch_command(
        &mut self,
        generation: &Generation,
        slot: usize,
        dir: &Path,
        words: &[String],
        extra: &[(&str, String)],
    ) -> io::Result<Launch> {
        let spec = generation
            .intent
            .processes
            .get(slot)
            .ok_or(io::ErrorKind::NotFound)?;
        let account = account(spec)?;
        let mut environment = self.environment(generation, spec, account.as_ref())?;
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC"] {
            environment.remove(name);
        }
        environment.insert("PWD".to_owned(), dir.to_string_lossy().into_owned());
        environment.extend(
            extra
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone())),
        );
        let owner = account.as_ref().map(|account| (account.uid, account.gid));
        let bare = ProcessSpec {
            listen: Vec::new(),
            ..spec.clone()
        };
        let descriptors = self.descriptors(generation.number, slot, &bare, owner)?;
        assemble(&bare, dir, words, environment, account, descriptors)
    }

    /// For a probe of the slot: a command of the release runs as its process does, a program of our `own` as the keeper.
    pub(super) fn launch_probe(
        &mut self,
        generation: &Generation,
        slot: usize,
        words: &[String],
        extra: &[(&str, String)],
        own: bool,
        descriptors: Vec<RawFd>,
    ) -> io::Result<Launch> {
        let spec = generation
            .intent
            .processes
            .get(slot)
            .ok_or(io::ErrorKind::NotFound)?;
        let dir = &generation.intent.dir;
        let mut launch = self.launch_command(generation, slot, dir, words, extra)?;
        self.writers.clear();
        launch.descriptors = descriptors;
        if own {
            launch.account = None;
            launch.memory = None;
            launch.nofile = None;
        } else {
            launch.account = account(spec)?;
        }
        Ok(launch)
    }

    fn environment(
        &self,
        generation: &Generation,
        spec: &ProcessSpec,
        account: Option<&processes::Account>,
    ) -> io::Result<processes::Environment> {
        let intent = &generation.intent;
        let folder = if spec.strategy.is_in_place() {
            self.config.home.join("current")
        } else {
            intent.dir.clone()
        };
        let place = Place {
            app: &self.config.app,
            host: &self.config.host,
            home: &self.config.home,
            run: &self.config.run,
        };
        let mut all = surroundings(place, intent, spec, &folder, account)
            .map_err(|error| io::Error::other(chain(&error)))?;
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let ours = [
            ("SHIP_GENERATION", generation.number.to_string()),
            ("SHIP_DRAIN_FILE", path(&self.drain_file(generation.number))),
            ("NOTIFY_SOCKET", path(self.notify.path())),
        ];
        all.extend(ours.map(|(name, value)| (name.to_owned(), value)));
        all.extend(self.addresses(spec));
        if spec.strategy == Strategy::Starter {
            all.extend(self.starter(generation.number, spec));
        }
        if spec.lock_wait_ms.is_some() {
            let file = path(&self.lock_file(generation.number, &spec.name));
            all.insert("SHIP_LOCK_FILE".to_owned(), file);
        }
        if let Some(period) = spec.watchdog_ms {
            all.insert("WATCHDOG_USEC".to_owned(), (period * 1000).to_string());
        }
        Ok(all)
    }

    /// What servers written for Server::Starter and Einhorn look for.
    fn starter(&self, generation: u64, spec: &ProcessSpec) -> processes::Environment {
        let descriptors = FIRST_LISTENER..FIRST_LISTENER + spec.listen.len();
        let place = |(listener, descriptor): (&ListenSpec, usize)| {
            let bound = self.listeners.get(&listen::key(spec, listener)).map(Group::bound);
            let bound = bound.unwrap_or_else(|| listener.addr.clone());
            let place = bound.split_once(':').map_or(bound.as_str(), |(_, place)| place);
            format!("{place}={descriptor}")
        };
        let places: Vec<_> = spec.listen.iter().zip(descriptors.clone()).map(place).collect();
        let told = [
            ("SERVER_STARTER_PORT", places.join(";")),
            ("SERVER_STARTER_GENERATION", generation.to_string()),
            ("EINHORN_FD_COUNT", spec.listen.len().to_string()),
        ];
        let told = told.map(|(name, value)| (name.to_owned(), value)).into_iter();
        let einhorn = descriptors.enumerate();
        told.chain(einhorn.map(|(index, descriptor)| (format!("EINHORN_FD_{index}"), descriptor.to_string())))
            .collect()
    }

    /// Standard input, output and error, then the listeners in their order.
    fn descriptors(
        &mut self,
        generation: u64,
        slot: usize,
        spec: &ProcessSpec,
        owner: Option<(u32, u32)>,
    ) -> io::Result<Vec<RawFd>> {
        let mut descriptors = vec![self.null.as_raw_fd()];
        self.writers.clear();
        for name in ["stdout", "stderr"] {
            self.open_stream(generation, slot, name)?;
            let stream = self
                .streams
                .iter()
                .find(|stream| is_stream(stream, generation, slot, name));
            let writer = stream.ok_or(io::ErrorKind::NotFound)?.for_process(owner)?;
            descriptors.push(writer.as_raw_fd());
            self.writers.push(writer);
        }
        let handed_over = if hands_over(spec) { &spec.listen[..] } else { &[] };
        for listener in handed_over {
            let group = self
                .listeners
                .get(&listen::key(spec, listener))
                .ok_or(io::ErrorKind::NotFound)?;
            let socket = group.socket(generation).ok_or(io::ErrorKind::NotFound)?;
            descriptors.push(socket.as_raw_fd());
        }
        Ok(descriptors)
    }

    pub(super) fn go(&mut self, generation: u64, slot: usize) {
        self.writers.clear();
        let Some(running) = self.running.get_mut(&(generation, slot)) else {
            return;
        };
        if let Some(go) = running.go.take() {
            let _ = rustix::io::write(&go, b"g");
        }
    }
}

/// Whether a process is given its sockets.
fn hands_over(spec: &ProcessSpec) -> bool {
    !spec.listen.is_empty() && !spec.strategy.binds_itself()
}

/// Tells a process what it is handed from descriptor 3 on: its listeners, then what was stored for it.
fn name_descriptors<'a>(
    environment: &mut processes::Environment,
    spec: &'a ProcessSpec,
    stored: impl Iterator<Item = &'a str>,
) {
    let handed_over = if hands_over(spec) { &spec.listen[..] } else { &[] };
    let listeners = handed_over.iter().map(|listener| listener.name.as_str());
    let names: Vec<&str> = listeners.chain(stored).collect();
    if !names.is_empty() {
        environment.insert("LISTEN_FDS".to_owned(), names.len().to_string());
        environment.insert("LISTEN_FDNAMES".to_owned(), names.join(":"));
    }
}

fn account(spec: &ProcessSpec) -> io::Result<Option<Account>> {
    match spec.user.as_deref() {
        Some(user) => processes::account(user).map_err(|error| io::Error::other(chain(&error))),
        None => Ok(None),
    }
}
