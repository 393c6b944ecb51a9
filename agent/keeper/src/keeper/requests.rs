//! What clients ask, judged against the machine and this host.

use std::path::{Component, Path};

use super::{Keeper, chain};
use crate::control::Asked;
use crate::listen::{self, Address, ListenError};
use crate::machine::{Event, Verdict, judge_revert, judge_switch};
use crate::processes;
use crate::protocol::{Intent, ListenSpec, ProcessSpec, Refusal, Reply, Request};

impl Keeper {
    pub(super) fn answer(&mut self, asked: Asked) {
        let client = asked.client;
        let reply = match asked.request {
            Ok(Request::Status) => Reply::Status {
                status: Box::new(self.status()),
            },
            Ok(Request::Watch) => {
                self.control.watch(client);
                return;
            }
            Ok(Request::Switch { intent, notice_ms }) => self.answer_switch(intent, notice_ms),
            Ok(Request::Revert {
                to,
                reason,
                epoch,
                notice_ms,
            }) => self.answer_revert(to, reason, epoch, notice_ms),
            Ok(Request::MayClear { release }) => self.answer_may_clear(release),
            Ok(Request::Adopt { pid, process }) => self.answer_adopt(pid, *process),
            Ok(Request::Upgrade { program }) => self.answer_upgrade(program),
            Ok(Request::Stop) => {
                self.apply(&Event::Stop);
                self.control.reply(client, Reply::Accepted);
                self.work_off();
                return;
            }
            Err(message) => refused(Refusal::BadRequest, message),
        };
        self.control.reply(client, reply);
        self.work_off();
    }

    fn answer_switch(&mut self, intent: Box<Intent>, notice_ms: Option<u64>) -> Reply {
        match judge_switch(&self.state, &intent) {
            Verdict::Refuse(refusal, message) => return refused(refusal, message),
            Verdict::Already => return Reply::Already,
            Verdict::Renew => {
                self.apply(&Event::Renew(intent));
                return Reply::Already;
            }
            Verdict::Accept => {}
        }
        if let Err(message) = self.check(&intent) {
            return refused(Refusal::BadIntent, message);
        }
        if let Err(reply) = self.check_addresses(&intent) {
            return reply;
        }
        // There may be room again since the last try.
        if self.unsaved && self.memory.has_reserve() {
            self.save(Ok(()));
        }
        if self.unsaved || !self.memory.has_reserve() {
            let folder = self.config.state.display();
            return refused(
                Refusal::Journal,
                format!("{folder} cannot be written; free some space and try again"),
            );
        }
        self.apply(&Event::Switch { intent, notice_ms });
        Reply::Accepted
    }

    /// Binds what is new at once: an address that somebody else has is refused before anything begins.
    fn check_addresses(&mut self, intent: &Intent) -> Result<(), Reply> {
        match self
            .listeners
            .prepare(intent, &self.state.bound, self.config.steering)
        {
            Ok(_) => Ok(()),
            Err(error @ ListenError::Taken { .. }) => {
                let address = if let ListenError::Taken { addr } = &error {
                    addr.clone()
                } else {
                    String::new()
                };
                Err(refused(Refusal::AddressTaken { address }, error.to_string()))
            }
            Err(error) => Err(refused(Refusal::BadIntent, chain(&error))),
        }
    }

    fn answer_revert(
        &mut self,
        to: Option<u64>,
        reason: String,
        epoch: Option<u64>,
        notice_ms: Option<u64>,
    ) -> Reply {
        let missing = self.state.good.iter().filter(|intent| !intent.dir.is_dir());
        let missing: Vec<_> = missing.map(|intent| intent.release).collect();
        for release in missing {
            self.apply(&Event::Missing(release));
        }
        match judge_revert(&self.state, to, epoch) {
            Verdict::Refuse(refusal, message) => refused(refusal, message),
            Verdict::Already | Verdict::Renew => Reply::Already,
            Verdict::Accept => {
                self.tell(None, &format!("revert asked for: {reason}"));
                self.apply(&Event::Revert {
                    to,
                    reason,
                    epoch,
                    notice_ms,
                });
                Reply::Accepted
            }
        }
    }

    /// What a person would have to put right before this release can run here.
    fn check(&self, intent: &Intent) -> Result<(), String> {
        if intent.processes.is_empty() {
            return Err("it names no process".to_owned());
        }
        check_folder(&self.config.home, &intent.dir)?;
        for (index, process) in intent.processes.iter().enumerate() {
            check_process(process).map_err(|reason| format!("process {}: {reason}", process.name))?;
            if intent.processes[..index]
                .iter()
                .any(|other| other.name == process.name)
            {
                return Err(format!("two processes are named {}", process.name));
            }
        }
        let mut keys: Vec<_> = listen::listeners_of(intent)
            .map(|(process, listener)| listen::key(process, listener))
            .collect();
        keys.sort();
        match keys.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(format!("two listeners want {}", pair[0])),
            None => Ok(()),
        }
    }
}

pub(super) fn refused(refusal: Refusal, message: impl Into<String>) -> Reply {
    Reply::Refused {
        refusal,
        message: message.into(),
    }
}

fn check_folder(home: &Path, dir: &Path) -> Result<(), String> {
    let inside = dir.strip_prefix(home.join("releases")).ok();
    let plain = |rest: &Path| {
        rest.components().count() == 1 && rest.components().all(|part| matches!(part, Component::Normal(_)))
    };
    if !inside.is_some_and(plain) {
        return Err(format!(
            "{} is not a folder of {}",
            dir.display(),
            home.join("releases").display()
        ));
    }
    match std::fs::canonicalize(dir) {
        Ok(real) if real == dir && dir.is_dir() => Ok(()),
        Ok(real) => Err(format!(
            "{} is no real folder (it is {})",
            dir.display(),
            real.display()
        )),
        Err(error) => Err(format!(
            "{} cannot be entered: {error}; stage the release first",
            dir.display()
        )),
    }
}

pub(super) fn check_process(process: &ProcessSpec) -> Result<(), String> {
    super::joins::check(process)?;
    let plain = |name: &str| {
        !name.is_empty()
            && name.len() <= 64
            && !name.starts_with('.')
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    if !plain(&process.name) {
        return Err("its name must be letters, digits, '-', '_' or '.'".to_owned());
    }
    if process.command.first().is_none_or(String::is_empty) {
        return Err("its command is empty".to_owned());
    }
    if processes::signal(&process.stop_signal).is_none() {
        return Err(format!(
            "{} is no signal it can be stopped with",
            process.stop_signal
        ));
    }
    for listener in &process.listen {
        if !plain(&listener.name) {
            return Err(format!("listener {:?} needs a plain name", listener.name));
        }
        Address::parse(&listener.addr).map_err(|error| error.to_string())?;
    }
    if let Some(probe) = &process.probe {
        let needs_none = matches!(probe.kind, crate::protocol::ProbeKind::Command { .. });
        let asks_nowhere = needs_none && probe.listener.is_empty();
        let mut listeners = process.listen.iter();
        if !asks_nowhere && !listeners.any(|listener| listener.name == probe.listener) {
            return Err(format!(
                "its probe asks at listener {:?}, which it does not have",
                probe.listener
            ));
        }
        let udp = |listener: &ListenSpec| {
            listener.name == probe.listener && matches!(Address::parse(&listener.addr), Ok(Address::Udp(_)))
        };
        if !needs_none && process.listen.iter().any(udp) {
            return Err(format!(
                "its probe cannot ask at listener {:?}, which takes datagrams; ask at another one, or by a command",
                probe.listener
            ));
        }
        if let crate::protocol::ProbeKind::Http { path } = &probe.kind
            && (!path.starts_with('/') || path.chars().any(|c| c.is_control() || c == ' '))
        {
            return Err(format!("{path:?} is no path a probe can ask for"));
        }
    }
    processes::check_limits(&process.limits).map_err(|error| error.to_string())?;
    if let Some(user) = &process.user {
        processes::account(user).map_err(|error| chain(&error))?;
    }
    let text = process
        .command
        .iter()
        .chain(process.env.keys())
        .chain(process.env.values());
    if text.into_iter().any(|text| text.contains('\0')) || process.env.keys().any(|name| name.contains('=')) {
        return Err("its command or environment holds a byte it must not".to_owned());
    }
    Ok(())
}
