//! Out of rotation and back in. Each half blocks, may be called off, and may be done again after a crash.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ship_keeper::Client;
use ship_model::name::{AppName, HostName};
use thiserror::Error;

use super::ask::{self, Answer, Question};
use super::command::{self, CommandError};
use super::haproxy::{Haproxy, HaproxyError, State};
use super::nginx::{self, NginxError};
use super::{Board, Direct, Front, Kind, Settings};

/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(50);
/// So long no connection must be there where a balancer does not tell what it has under way: nginx's old workers
/// still take some requests after a reload.
const QUIET: Duration = Duration::from_secs(1);
/// For what should be so already.
const SOON: Duration = Duration::from_secs(5);
/// For an agent that was stopped meanwhile to be started again.
const SLACK: Duration = Duration::from_secs(30);

/// Why a host did not leave rotation, or did not come back.
#[derive(Debug, Error)]
pub enum PassageError {
    #[error(transparent)]
    Haproxy(#[from] HaproxyError),
    #[error(transparent)]
    Nginx(#[from] NginxError),
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(
        "no balancer asked for {what} within {seconds} s; check its configuration, or take the [[balancer]] away"
    )]
    NobodyAsks { what: String, seconds: u64 },
    #[error("{what} does not send users here again after {seconds} s: it says {status}")]
    NotUp {
        what: String,
        status: String,
        seconds: u64,
    },
    #[error("the host itself answers {answer} to {path}")]
    Unwell { path: String, answer: Answer },
    /// The host does as it should; what stands before it does not.
    #[error("proxy fault: {path} is answered {direct} by the host itself, but {through} through {what}")]
    ProxyFault {
        what: String,
        path: String,
        direct: Answer,
        through: Answer,
        /// Whether the host is in rotation all the same.
        ready: bool,
    },
    #[error("called off")]
    CalledOff,
}

/// Balancers of one app on this host.
#[derive(Debug, Clone)]
pub struct Passage {
    pub app: AppName,
    pub host: HostName,
    pub settings: Vec<Settings>,
    pub keeper: Client,
    pub board: Arc<Board>,
    /// Set by whoever wants it no more.
    pub called_off: Arc<AtomicBool>,
}

/// The longest that [`Passage::look`] and [`Passage::leave`] take together, on a machine that is very busy: whoever waits for
/// them that long may take this agent for dead.
pub fn longest(settings: &[Settings]) -> Duration {
    // Of each: asked for the first time; told; waited for to be asked; waited for to be empty.
    let waits = settings.iter().map(|one| one.wait * 4 + SOON);
    waits.sum::<Duration>() + SLACK
}

impl Passage {
    /// Whether each can be told, and leads to what the host itself answers now; changes nothing. Gives those in which
    /// somebody else has set this host aside: they stay as they are.
    ///
    /// # Errors
    /// [`PassageError`] of the first that cannot be told.
    pub fn look(&self, direct: Option<&Direct>) -> Result<Vec<String>, PassageError> {
        let mut aside = Vec::new();
        for one in &self.settings {
            let set_aside = match &one.kind {
                Kind::Haproxy { .. } => match haproxy(&one.kind) {
                    Some(haproxy) => haproxy.stat()?.is_set_aside(),
                    None => false,
                },
                Kind::Nginx { file, server, .. } => nginx::is_down(file, server)?,
                Kind::AgentCheck { listen, .. } | Kind::Readiness { listen, .. } => {
                    let before = self.board.asked(&self.app, *listen);
                    self.asked(one, *listen, before + 1)?;
                    false
                }
                Kind::Hook { .. } => false,
            };
            if set_aside {
                aside.push(one.to_string());
            } else if let (Some(front), Some(direct)) = (&one.front, direct) {
                // A fault that is there already must not be taken for the new release's.
                let soon = Instant::now() + one.wait.min(SOON);
                self.through(one, front, direct, (soon, true))?;
            }
        }
        Ok(aside)
    }

    /// Sends new users elsewhere and waits for those that are here. Gives how many connections were still open at the
    /// end of a balancer's `wait`.
    ///
    /// # Errors
    /// [`PassageError`]; what was told stays told until [`Passage::come_back`].
    pub fn leave(&self, aside: &[String]) -> Result<u64, PassageError> {
        let begun = Instant::now();
        let mine = self
            .settings
            .iter()
            .filter(|one| !aside.contains(&one.to_string()));
        for one in mine.clone() {
            self.tell(one, State::Drain)?;
        }
        let mut left = 0;
        for one in mine {
            left += self.emptied(one, begun + one.wait)?;
        }
        Ok(left)
    }

    /// Asks the host itself, then through each balancer, and has users sent here again.
    ///
    /// # Errors
    /// [`PassageError`].
    pub fn come_back(&self, aside: &[String], direct: Option<&Direct>) -> Result<(), PassageError> {
        let mine = self
            .settings
            .iter()
            .filter(|one| !aside.contains(&one.to_string()));
        if let Some(direct) = direct {
            for one in mine.clone() {
                self.well(one, direct)?;
            }
        }
        for one in mine.clone() {
            let front = one.front.as_ref().filter(|front| front.pin.is_some());
            // Of the others none leads to a host that is taken out.
            let pinned = front.filter(|_| matches!(one.kind, Kind::Haproxy { .. }));
            if let (Some(front), Some(direct)) = (pinned, direct) {
                self.tell(one, State::Drain)?;
                self.proven(one, front, direct)?;
            }
        }
        for one in mine.clone() {
            self.tell(one, State::Ready)?;
        }
        for one in mine.clone() {
            self.seen_up(one)?;
        }
        for one in mine {
            if let (Some(front), Some(direct)) = (&one.front, direct) {
                self.through(one, front, direct, (Instant::now() + one.wait, true))?;
            }
        }
        Ok(())
    }

    /// Asks through a balancer that leads here alone, before it leads anybody else here. Nobody is helped by a host that stays
    /// out for the balancer's fault when there is no other.
    fn proven(&self, one: &Settings, front: &Front, direct: &Direct) -> Result<(), PassageError> {
        let mut found = self.through(one, front, direct, (Instant::now() + one.wait, false));
        if let Err(PassageError::ProxyFault { ready, .. }) = &mut found
            && haproxy(&one.kind).is_some_and(|haproxy| matches!(haproxy.others_up(), Ok(false)))
        {
            self.tell(one, State::Ready)?;
            *ready = true;
        }
        found
    }

    fn tell(&self, one: &Settings, state: State) -> Result<(), PassageError> {
        let env = [("SHIP_APP", self.app.as_str()), ("SHIP_HOST", self.host.as_str())];
        match &one.kind {
            Kind::Haproxy { .. } => {
                if let Some(haproxy) = haproxy(&one.kind) {
                    haproxy.set(state)?;
                }
            }
            Kind::AgentCheck { .. } | Kind::Readiness { .. } => {
                self.board.drain(&self.app, state != State::Ready);
            }
            Kind::Nginx { file, server, reload } => {
                nginx::mark(file, server, state != State::Ready)?;
                command::run(reload, &env, one.wait)?;
            }
            Kind::Hook { drain, ready } => {
                let words = if state == State::Ready { ready } else { drain };
                command::run(words, &env, one.wait)?;
            }
        }
        Ok(())
    }

    /// Waits until nothing is under way; gives what is at the deadline.
    fn emptied(&self, one: &Settings, deadline: Instant) -> Result<u64, PassageError> {
        match &one.kind {
            Kind::Haproxy { .. } => {
                let Some(haproxy) = haproxy(&one.kind) else {
                    return Ok(0);
                };
                self.no_requests(&haproxy, deadline)?;
                // From here on not even those who stick to it come.
                haproxy.set(State::Maint)?;
                self.no_requests(&haproxy, deadline)
            }
            Kind::AgentCheck { listen, polls, .. } | Kind::Readiness { listen, polls, .. } => {
                self.asked(one, *listen, *polls)?;
                self.no_connections(deadline)
            }
            Kind::Nginx { .. } | Kind::Hook { .. } => self.no_connections(deadline),
        }
    }

    fn no_requests(&self, haproxy: &Haproxy<'_>, deadline: Instant) -> Result<u64, PassageError> {
        loop {
            let current = haproxy.stat()?.current;
            if current == 0 || Instant::now() >= deadline {
                return Ok(current);
            }
            self.pause()?;
        }
    }

    /// By the keeper's count.
    fn no_connections(&self, deadline: Instant) -> Result<u64, PassageError> {
        let mut quiet = Instant::now();
        loop {
            // A keeper that does not answer counts nothing; until it does, none can be known to have ended.
            let count = self
                .keeper
                .status()
                .map(|status| crate::keeper::connections(&status));
            let now = Instant::now();
            match count {
                Ok(0) if now.duration_since(quiet) >= QUIET => return Ok(0),
                Ok(0) => {}
                Ok(count) if now >= deadline => return Ok(count),
                _ if now >= deadline => return Ok(0),
                _ => quiet = now,
            }
            self.pause()?;
        }
    }

    /// Waits until `listen` was asked so often since the light changed.
    fn asked(&self, one: &Settings, listen: SocketAddr, times: u64) -> Result<(), PassageError> {
        let deadline = Instant::now() + one.wait;
        while self.board.asked(&self.app, listen) < times {
            if Instant::now() >= deadline {
                return Err(PassageError::NobodyAsks {
                    what: one.to_string(),
                    seconds: one.wait.as_secs(),
                });
            }
            self.pause()?;
        }
        Ok(())
    }

    fn seen_up(&self, one: &Settings) -> Result<(), PassageError> {
        match &one.kind {
            Kind::AgentCheck { listen, polls, .. } | Kind::Readiness { listen, polls, .. } => {
                self.asked(one, *listen, *polls)
            }
            Kind::Haproxy { .. } => {
                let Some(haproxy) = haproxy(&one.kind) else {
                    return Ok(());
                };
                let deadline = Instant::now() + one.wait;
                loop {
                    let stat = haproxy.stat()?;
                    if stat.is_up() {
                        return Ok(());
                    }
                    if Instant::now() >= deadline {
                        return Err(PassageError::NotUp {
                            what: one.to_string(),
                            status: stat.status,
                            seconds: one.wait.as_secs(),
                        });
                    }
                    self.pause()?;
                }
            }
            Kind::Nginx { .. } | Kind::Hook { .. } => Ok(()),
        }
    }

    /// Waits until the host itself answers as it should.
    fn well(&self, one: &Settings, direct: &Direct) -> Result<(), PassageError> {
        let deadline = Instant::now() + one.wait;
        for (path, upgrade) in questions(one, direct) {
            loop {
                let answer = self.ask_direct(direct, path, upgrade);
                if answer.is_good(upgrade) {
                    break;
                }
                if Instant::now() >= deadline {
                    return Err(PassageError::Unwell {
                        path: path.unwrap_or("a connection").to_owned(),
                        answer,
                    });
                }
                self.pause()?;
            }
        }
        Ok(())
    }

    fn ask_direct(&self, direct: &Direct, path: Option<&str>, upgrade: bool) -> Answer {
        let host = direct.address.to_string();
        let Some(path) = path else {
            return ask::accepts(direct.address);
        };
        let question = Question {
            path,
            host: &host,
            pin: None,
            upgrade,
        };
        ask::ask(direct.address, &question)
    }

    /// Waits until what comes through the balancer is what the host itself answers.
    fn through(
        &self,
        one: &Settings,
        front: &Front,
        direct: &Direct,
        (deadline, ready): (Instant, bool),
    ) -> Result<(), PassageError> {
        for (path, upgrade) in questions(one, direct) {
            let Some(path) = path else { continue };
            let question = Question {
                path,
                host: &front.host,
                pin: front.pin.as_deref().map(|name| (name, self.host.as_str())),
                upgrade,
            };
            loop {
                let through = ask::ask(front.address, &question);
                let own = self.ask_direct(direct, Some(path), upgrade);
                if through == own {
                    break;
                }
                if Instant::now() >= deadline {
                    return Err(PassageError::ProxyFault {
                        what: one.to_string(),
                        path: path.to_owned(),
                        direct: own,
                        through,
                        ready,
                    });
                }
                self.pause()?;
            }
        }
        Ok(())
    }

    fn pause(&self) -> Result<(), PassageError> {
        if self.called_off.load(Ordering::Relaxed) {
            return Err(PassageError::CalledOff);
        }
        std::thread::sleep(LOOK);
        Ok(())
    }
}

fn haproxy(kind: &Kind) -> Option<Haproxy<'_>> {
    match kind {
        Kind::Haproxy {
            socket,
            backend,
            server,
        } => Some(Haproxy {
            socket,
            backend,
            server,
        }),
        _ => None,
    }
}

/// Paths that are asked, and whether each upgrades.
fn questions<'a>(one: &'a Settings, direct: &'a Direct) -> Vec<(Option<&'a str>, bool)> {
    let check = one.check.as_deref().or(direct.path.as_deref());
    let socket = one.websocket.as_deref().map(|path| (Some(path), true));
    std::iter::once((check, false)).chain(socket).collect()
}
