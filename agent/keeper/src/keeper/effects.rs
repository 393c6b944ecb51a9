//! What the machine says, done to the world.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal};
use ship_durable::fault;

use super::{Keeper, Running, chain};
use crate::clock::now_ms;
use crate::listen;
use crate::log::Stream;
use crate::machine::{Effect, Event, Generation, Process};
use crate::probe::Probe;
use crate::processes::{self, Launch};
use crate::protocol::ProcessSpec;

impl Keeper {
    pub(super) fn carry_out(&mut self, effect: &Effect) {
        let name = name_of(effect);
        let _ = fault::point(&format!("keeper.{name}.begin"));
        match effect {
            Effect::Bind { generation } => self.bind(*generation),
            Effect::Fork { generation, slot } => self.fork(*generation, *slot),
            Effect::Go { generation, slot } => self.go(*generation, *slot),
            Effect::Probe { generation, slot } => self.begin_probe(*generation, *slot),
            Effect::EndProbes { generation } => {
                self.probes.retain(|probe| probe.generation != *generation);
            }
            Effect::Link {
                generation,
                current,
                previous,
            } => {
                let result = self.link(current.as_deref(), previous.as_deref());
                if let Err(reason) = &result {
                    self.note(reason.clone());
                }
                self.events.push_back(Event::Linked {
                    generation: *generation,
                    result,
                });
            }
            Effect::Steer { generation } => {
                let result = self.steer(*generation);
                self.events.push_back(Event::Steered {
                    generation: *generation,
                    result,
                });
            }
            Effect::Hold { generation } => self.hold(*generation),
            Effect::Drain { generation } => self.drain(*generation),
            Effect::Stop { generation } => self.stop(*generation),
            Effect::Kill { generation } => self.kill(*generation),
            Effect::Sweep {
                generation,
                slot,
                process,
            } => self.sweep(*generation, *slot, *process),
            Effect::Forget { generation } => self.forget(*generation),
            Effect::Exit => self.exit(),
        }
        let _ = fault::point(&format!("keeper.{name}.end"));
    }

    fn bind(&mut self, generation: u64) {
        let sockets = self.take_sockets(generation).map_err(|error| chain(&error));
        self.events.push_back(Event::Bound { generation, sockets });
    }

    /// Sockets for every listener of the generation, as inodes per slot.
    fn take_sockets(&mut self, generation: u64) -> Result<Vec<Vec<u64>>, listen::ListenError> {
        let Some(intent) = self
            .state
            .generation(generation)
            .map(|found| found.intent.clone())
        else {
            return Ok(Vec::new());
        };
        self.listeners
            .prepare(&intent, &self.state.bound, self.config.steering)?;
        let mut sockets = Vec::new();
        for process in &intent.processes {
            let mut inodes = Vec::new();
            for listener in &process.listen {
                let key = listen::key(process, listener);
                let Some(group) = self.listeners.get_mut(&key) else {
                    continue;
                };
                inodes.push(group.take(generation)?);
                self.state.bound.insert(key, group.bound());
            }
            sockets.push(inodes);
        }
        self.remember_layout();
        Ok(sockets)
    }

    /// The kernel's order of sockets goes to the journal with the next state.
    pub(super) fn remember_layout(&mut self) {
        self.state.layout = self
            .listeners
            .iter()
            .map(|(key, group)| (key.clone(), group.layout()))
            .collect();
    }

    fn fork(&mut self, generation: u64, slot: usize) {
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
        let launch = self.launch(&found, slot).map_err(|error| error.to_string())?;
        let child = processes::fork(&launch).map_err(|error| chain(&error))?;
        let pid = child.pid;
        let pidfd = Pid::from_raw(pid.cast_signed())
            .ok_or(io::ErrorKind::NotFound.into())
            .and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(io::Error::from))
            .map_err(|error| error.to_string())?;
        let start = processes::start_ticks(pid).ok_or("it ended at once")?;
        let process = Process { pid, start };
        self.mains.entry(generation).or_default().push(process);
        self.running.insert(
            (generation, slot),
            Running {
                process,
                pidfd,
                go: Some(child.go),
                failure: Some(child.failure),
                own_child: true,
                said: String::new(),
            },
        );
        self.remember_sockets(generation, slot, inodes);
        Ok(process)
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
        let account = match spec.user.as_deref() {
            Some(user) => processes::account(user).map_err(|error| io::Error::other(chain(&error)))?,
            None => None,
        };
        let environment = self.environment(generation, spec, account.as_ref())?;
        let path = environment.get("PATH").cloned().unwrap_or_default();
        let program = find_program(&generation.intent.dir, &spec.command, &path)?;
        let owner = account.as_ref().map(|account| (account.uid, account.gid));
        let descriptors = self.descriptors(generation.number, slot, spec, owner)?;
        let nul = |_| io::Error::other("a NUL byte in its command or environment");
        Ok(Launch {
            program: CString::new(program.as_os_str().as_bytes()).map_err(nul)?,
            arguments: spec
                .command
                .iter()
                .map(|word| CString::new(word.as_str()).map_err(nul))
                .collect::<Result<_, _>>()?,
            environment: environment
                .iter()
                .map(|(name, value)| CString::new(format!("{name}={value}")).map_err(nul))
                .collect::<Result<_, _>>()?,
            listen_pid: !spec.listen.is_empty(),
            folder: CString::new(generation.intent.dir.as_os_str().as_bytes()).map_err(nul)?,
            descriptors,
            nofile: spec.limits.nofile.map(|files| libc::rlimit {
                rlim_cur: files,
                rlim_max: files,
            }),
            memory: spec.limits.memory,
            account,
        })
    }

    fn environment(
        &self,
        generation: &Generation,
        spec: &ProcessSpec,
        account: Option<&processes::Account>,
    ) -> io::Result<processes::Environment> {
        let intent = &generation.intent;
        let mut all = processes::environment(spec.env_file.as_deref(), &spec.env)
            .map_err(|error| io::Error::other(chain(&error)))?;
        let home = &self.config.home;
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let ours = [
            ("PWD", path(&intent.dir)),
            ("SHIP_APP", self.config.app.clone()),
            ("SHIP_HOST", self.config.host.clone()),
            ("SHIP_RELEASE", intent.release.to_string()),
            ("SHIP_RELEASE_ID", intent.id.clone()),
            ("SHIP_DEPLOY", intent.deploy.to_string()),
            ("SHIP_ENV", intent.environment.clone()),
            ("SHIP_GENERATION", generation.number.to_string()),
            ("SHIP_PROCESS", spec.name.clone()),
            ("SHIP_ASSETS_DIR", path(&home.join("assets"))),
            ("SHIP_SHARED_DIR", path(&home.join("shared"))),
            ("SHIP_DRAIN_FILE", path(&self.drain_file(generation.number))),
            ("NOTIFY_SOCKET", path(self.notify.path())),
        ];
        all.extend(ours.map(|(name, value)| (name.to_owned(), value)));
        if let Some(account) = account {
            let own = [
                ("HOME", &account.home),
                ("USER", &account.name),
                ("LOGNAME", &account.name),
            ];
            all.extend(own.map(|(name, value)| (name.to_owned(), value.clone())));
        }
        for name in ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"] {
            all.remove(name);
        }
        if !spec.listen.is_empty() {
            let names: Vec<_> = spec
                .listen
                .iter()
                .map(|listener| listener.name.as_str())
                .collect();
            all.insert("LISTEN_FDS".to_owned(), spec.listen.len().to_string());
            all.insert("LISTEN_FDNAMES".to_owned(), names.join(":"));
        }
        Ok(all)
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
        for listener in &spec.listen {
            let group = self
                .listeners
                .get(&listen::key(spec, listener))
                .ok_or(io::ErrorKind::NotFound)?;
            let socket = group.socket(generation).ok_or(io::ErrorKind::NotFound)?;
            descriptors.push(socket.as_raw_fd());
        }
        Ok(descriptors)
    }

    pub(super) fn open_stream(&mut self, generation: u64, slot: usize, name: &'static str) -> io::Result<()> {
        if !self
            .streams
            .iter()
            .any(|stream| is_stream(stream, generation, slot, name))
        {
            let folder = self.log_folder();
            self.streams.push(Stream::open(&folder, generation, slot, name)?);
        }
        Ok(())
    }

    fn go(&mut self, generation: u64, slot: usize) {
        self.writers.clear();
        let Some(running) = self.running.get_mut(&(generation, slot)) else {
            return;
        };
        if let Some(go) = running.go.take() {
            let _ = rustix::io::write(&go, b"g");
        }
    }

    fn begin_probe(&mut self, generation: u64, slot: usize) {
        let Some(found) = self.state.generation(generation) else {
            return;
        };
        let Some(process) = found.intent.processes.get(slot) else {
            return;
        };
        let Some(spec) = &process.probe else { return };
        let Some(listener) = process
            .listen
            .iter()
            .find(|listener| listener.name == spec.listener)
        else {
            return;
        };
        let key = listen::key(process, listener);
        self.probes.push(Probe::new(
            generation,
            slot,
            key,
            spec.clone(),
            process.notify,
            now_ms(),
        ));
    }

    /// `previous` first: a crash between the two leaves a way back that is too early, never a wrong `current`.
    fn link(&self, current: Option<&Path>, previous: Option<&Path>) -> Result<(), String> {
        let home = &self.config.home;
        let relative = |dir: &Path| dir.strip_prefix(home).unwrap_or(dir).to_owned();
        let point = |name: &str, dir: &Path| {
            ship_durable::replace_symlink(&home.join(name), &relative(dir)).map_err(|error| chain(&error))
        };
        match previous {
            Some(previous) => point("previous", previous)?,
            None => self.remove_previous()?,
        }
        current.map_or(Ok(()), |current| point("current", current))
    }

    fn remove_previous(&self) -> Result<(), String> {
        let link = self.config.home.join("previous");
        let is_link = std::fs::symlink_metadata(&link).is_ok_and(|found| found.file_type().is_symlink());
        if !is_link {
            return Ok(());
        }
        std::fs::remove_file(&link)
            .map_err(|error| format!("cannot remove link {}: {error}", link.display()))?;
        ship_durable::sync_dir(&self.config.home).map_err(|error| chain(&error))
    }

    fn steer(&mut self, generation: u64) -> Result<(), String> {
        let Some(intent) = self
            .state
            .generation(generation)
            .map(|found| found.intent.clone())
        else {
            return Err(format!("generation {generation} is gone"));
        };
        for (process, listener) in listen::listeners_of(&intent) {
            let Some(group) = self.listeners.get_mut(&listen::key(process, listener)) else {
                continue;
            };
            group.steer(generation).map_err(|error| chain(&error))?;
            let _ = fault::point("keeper.steer.one");
        }
        Ok(())
    }

    fn hold(&mut self, generation: u64) {
        for (_, group) in self.listeners.iter_mut() {
            if let Err(error) = group.hold(generation) {
                self.notes.push_back(chain(&error));
            }
        }
    }

    fn drain(&mut self, generation: u64) {
        let path = self.drain_file(generation);
        if let Err(error) = std::fs::File::create(&path) {
            self.note(format!("cannot write the drain file {}: {error}", path.display()));
        }
        self.tell(Some(generation), &format!("generation {generation} drains"));
    }

    fn stop(&mut self, generation: u64) {
        let open = self.count_connections(generation);
        self.cut.entry(generation).or_insert(open);
        let Some(found) = self.state.generation(generation).cloned() else {
            return;
        };
        self.tell(
            Some(generation),
            &format!("generation {generation} is asked to stop, {open} connections open"),
        );
        for (process, slot) in found.intent.processes.iter().zip(0..) {
            let signal = processes::signal(&process.stop_signal).unwrap_or(Signal::TERM);
            match self
                .running
                .get(&(generation, slot))
                .map(|running| running.process)
            {
                Some(main) => processes::send(main.pid, main.start, signal),
                None => self.send_to_members(generation, Some(&process.name), signal),
            }
        }
    }

    fn kill(&mut self, generation: u64) {
        let open = self.count_connections(generation);
        self.cut.entry(generation).or_insert(open);
        self.send_to_members(generation, None, Signal::KILL);
        // One that waits to be let go ends when the pipe is closed, even if the signal could not reach it.
        for ((number, _), running) in &mut self.running {
            if *number == generation {
                running.go = None;
            }
        }
    }

    fn send_to_members(&self, generation: u64, process: Option<&str>, signal: Signal) {
        let mains = self.mains.get(&generation).cloned().unwrap_or_default();
        for member in processes::members(&mains, &self.marks(generation, process)) {
            processes::send(member.pid, member.start, signal);
        }
    }

    fn sweep(&mut self, generation: u64, slot: usize, process: Process) {
        let name = self
            .state
            .generation(generation)
            .and_then(|found| found.intent.processes.get(slot))
            .map(|spec| spec.name.clone());
        for member in processes::members(&[process], &self.marks(generation, name.as_deref())) {
            processes::send(member.pid, member.start, Signal::KILL);
        }
    }

    fn forget(&mut self, generation: u64) {
        self.tell(Some(generation), &format!("generation {generation} is gone"));
        for (_, group) in self.listeners.iter_mut() {
            group.release(generation);
        }
        self.listeners.close_unused();
        self.remember_layout();
        self.close_streams(generation);
        self.running.retain(|(number, _), _| *number != generation);
        self.mains.remove(&generation);
        self.tails.remove(&generation);
        self.cut.remove(&generation);
        self.counted.retain(|(number, _), _| *number != generation);
        let _ = std::fs::remove_file(self.drain_file(generation));
    }

    fn exit(&mut self) {
        self.tell(None, "the app is stopped; the keeper exits");
        self.control.unbind();
        let _ = std::fs::remove_file(self.notify.path());
        self.exiting = true;
    }
}

pub(super) fn is_stream(stream: &Stream, generation: u64, slot: usize, name: &str) -> bool {
    stream.generation == generation && stream.slot == slot && stream.name == name
}

/// A program with a slash is the release's own, another one is looked up in its PATH.
fn find_program(dir: &Path, command: &[String], path: &str) -> io::Result<std::path::PathBuf> {
    let name = command
        .first()
        .filter(|name| !name.is_empty())
        .ok_or_else(|| io::Error::other("its command is empty"))?;
    if name.contains('/') {
        return Ok(dir.join(name));
    }
    let found = path
        .split(':')
        .filter(|folder| !folder.is_empty())
        .map(|folder| dir.join(folder).join(name));
    let executable = |path: &std::path::PathBuf| {
        path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
    };
    found
        .into_iter()
        .find(executable)
        .ok_or_else(|| io::Error::other(format!("{name} is not in its PATH ({path})")))
}

fn name_of(effect: &Effect) -> &'static str {
    match effect {
        Effect::Bind { .. } => "bind",
        Effect::Fork { .. } => "fork",
        Effect::Go { .. } => "go",
        Effect::Probe { .. } => "probe",
        Effect::EndProbes { .. } => "endprobes",
        Effect::Link { .. } => "link",
        Effect::Steer { .. } => "steer",
        Effect::Hold { .. } => "hold",
        Effect::Drain { .. } => "drain",
        Effect::Stop { .. } => "stop",
        Effect::Kill { .. } => "kill",
        Effect::Sweep { .. } => "sweep",
        Effect::Forget { .. } => "forget",
        Effect::Exit => "exit",
    }
}
