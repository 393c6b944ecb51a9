//! Binds of processes that join: each is answered at once, with the app's own socket or by letting it go on.

use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

use ship_model::spec::Strategy;

use super::Keeper;
use crate::join::{self, Bind, Given, Notices};
use crate::listen::{self, Address};
use crate::machine::{Event, Generation, Process, Way};
use crate::processes::{self, News};
use crate::protocol::ProcessSpec;

/// Where a process's binds are told.
#[derive(Debug)]
pub(super) struct Join {
    pub generation: u64,
    slot: usize,
    told: Told,
}

#[derive(Debug)]
enum Told {
    /// Its child will say where.
    Later(OwnedFd),
    Here(Notices),
}

impl Join {
    pub(super) fn born(generation: u64, slot: usize, news: OwnedFd) -> Self {
        Self {
            generation,
            slot,
            told: Told::Later(news),
        }
    }

    /// Where its binds are told, once that is known.
    pub(super) fn told(&self) -> Option<(usize, BorrowedFd<'_>)> {
        match &self.told {
            Told::Later(_) => None,
            Told::Here(notices) => Some((self.slot, notices.fd())),
        }
    }

    pub(super) fn resume(generation: u64, slot: usize, notify: OwnedFd) -> Self {
        Self {
            generation,
            slot,
            told: Told::Here(Notices::new(notify)),
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        use std::os::fd::AsFd;
        match &self.told {
            Told::Later(news) => news.as_fd(),
            Told::Here(notices) => notices.fd(),
        }
    }
}

/// What stands in the way of joining a process whatever it does.
pub(super) fn check(process: &ProcessSpec) -> Result<(), String> {
    let listeners = process.listen.iter();
    for listener in listeners.filter(|_| process.strategy == Strategy::BindJoin) {
        let why = match Address::parse(&listener.addr) {
            Ok(Address::Unix(_)) => "is a Unix socket; only TCP addresses are joined",
            Ok(Address::Udp(_)) => "is a UDP address; only TCP addresses are joined",
            Ok(Address::Tcp(addr)) if addr.port() == 0 => {
                "has port 0; a process that binds by itself must know its port"
            }
            _ => continue,
        };
        return Err(format!(
            "listener {} {why}; give it another address, or take strategy \"listen-fds\" or \"stop-start\"",
            listener.name
        ));
    }
    Ok(())
}

/// Why a bind was not joined, in words that go on from "it".
type Remark = String;

impl Keeper {
    /// Takes back where a living process's binds are told.
    pub(super) fn adopt_binds(&mut self, generation: &Generation, slot: usize, process: Process) {
        let spec = generation.intent.processes.get(slot);
        let Some(spec) = spec.filter(|spec| spec.strategy.joins() && !spec.listen.is_empty()) else {
            return;
        };
        let untold = generation.slots.get(slot).is_some_and(|found| {
            let way = found.way.as_ref();
            way.is_some_and(|way| way.strategy == Some(Strategy::ListenFds)) && spec.strategy.takes_either()
        });
        let marks = self.marks(generation.home(slot).0, Some(&spec.name));
        let members = processes::members(&[process], &[], &marks);
        let notify = members
            .iter()
            .find_map(|member| processes::told_binds(member.pid).ok());
        match notify {
            Some(notify) => {
                let notices = Notices::new(notify);
                notices.wake(|| processes::nudge(members.iter().map(|member| (member.pid, member.start))));
                self.joins.push(Join {
                    generation: generation.number,
                    slot,
                    told: Told::Here(notices),
                });
            }
            None if untold => {}
            None => self.note(format!(
                "process {} has closed what tells its binds: what it binds from now on fails with ENOSYS",
                process.pid
            )),
        }
    }

    pub(super) fn answer_binds(&mut self) {
        for mut join in std::mem::take(&mut self.joins) {
            if let Told::Later(news) = &join.told {
                match processes::receive(news) {
                    None => self.joins.push(join),
                    Some(News::Told(notify)) => {
                        join.told = Told::Here(Notices::new(notify));
                        self.joins.push(join);
                    }
                    Some(News::Refused(error)) => self.untold(&join, &error),
                    Some(News::Nothing) => {}
                }
                continue;
            }
            let (generation, slot) = (join.generation, join.slot);
            if let Told::Here(notices) = &join.told {
                while let Some(bind) = notices.next() {
                    if let Some(way) = self.answer_bind(generation, slot, notices, &bind) {
                        self.events.push_back(Event::Way {
                            generation,
                            slot,
                            way,
                        });
                    }
                }
                if !notices.is_over() {
                    self.joins.push(join);
                }
            }
        }
    }

    /// The kernel does not tell its binds: it goes on with what it was handed, or not at all.
    fn untold(&mut self, join: &Join, error: &std::io::Error) {
        let spec = self
            .state
            .generation(join.generation)
            .and_then(|found| found.intent.processes.get(join.slot));
        if spec.is_some_and(|spec| spec.strategy == Strategy::BindJoin) {
            let reason = format!("this system does not tell its binds ({error}), so it cannot be joined");
            self.events.push_back(Event::Way {
                generation: join.generation,
                slot: join.slot,
                way: alone(reason),
            });
            return;
        }
        let words = format!(
            "this system does not tell its binds ({error}), and its addresses are the keeper's: if it binds by itself, it finds them taken and needs strategy = \"stop-start\""
        );
        self.events.push_back(Event::Way {
            generation: join.generation,
            slot: join.slot,
            way: Way {
                strategy: Some(Strategy::ListenFds),
                reason: words,
            },
        });
    }

    fn answer_bind(&self, generation: u64, slot: usize, notices: &Notices, bind: &Bind) -> Option<Way> {
        let found = self.state.generation(generation);
        let spec = found.and_then(|found| found.intent.processes.get(slot));
        let asked = match notices.address(bind) {
            Ok(bytes) => join::read(&bytes),
            // It has been interrupted, and asks again or is gone.
            Err(_) if notices.still_waits(bind).is_err() => return None,
            Err(error) => {
                notices.let_go_on(bind);
                let declared = spec.is_some_and(|spec| spec.strategy == Strategy::BindJoin);
                return Some(match declared {
                    true => alone(may_not(&error)),
                    false => undecided(may_not(&error)),
                });
            }
        };
        let (Some(asked), Some(spec)) = (asked, spec) else {
            notices.let_go_on(bind);
            return None;
        };
        match self.join(generation, spec, notices, bind, asked) {
            Ok(Some(bound)) => Some(Way {
                strategy: Some(Strategy::BindJoin),
                reason: format!("it binds {bound} by itself"),
            }),
            Ok(None) => {
                notices.let_go_on(bind);
                (asked.port() != 0)
                    .then(|| undecided(format!("it binds {asked}, which none of its listeners is")))
            }
            Err(remark) => {
                notices.let_go_on(bind);
                Some(alone(remark))
            }
        }
    }

    /// Gives the process the socket of the listener that it means; none where it means none.
    fn join(
        &self,
        generation: u64,
        spec: &ProcessSpec,
        notices: &Notices,
        bind: &Bind,
        asked: SocketAddr,
    ) -> Result<Option<SocketAddr>, Remark> {
        let sockets = spec.listen.iter().filter_map(|listener| {
            let group = self.listeners.get(&listen::key(spec, listener))?;
            Some((group.tcp()?, group.socket(generation)?))
        });
        let near: Vec<_> = sockets
            .filter(|(bound, _)| bound.port() == asked.port())
            .collect();
        if near.is_empty() {
            return Ok(None);
        }
        let given = Given::of(bind.thread, bind.descriptor).map_err(|error| may_not(&error))?;
        if notices.still_waits(bind).is_err() || !given.is_tcp() {
            return Ok(None);
        }
        let exact = near
            .iter()
            .find(|(bound, _)| bound.ip() == asked.ip().to_canonical());
        let dual = given.is_dual();
        let meant = exact.or_else(|| near.iter().find(|(bound, _)| join::names(*bound, asked, dual)));
        let Some((bound, socket)) = meant else {
            return Ok(None);
        };
        given
            .dress(*socket)
            .and_then(|()| notices.replace(bind, *socket, given.close_on_exec))
            .map_err(|error| format!("it binds {asked}, but cannot be given the app's socket: {error}"))?;
        Ok(Some(*bound))
    }
}

/// It binds its address by itself, and nobody can share that with it.
fn alone(reason: String) -> Way {
    Way {
        strategy: Some(Strategy::StopStart),
        reason,
    }
}

fn undecided(reason: String) -> Way {
    Way {
        strategy: None,
        reason,
    }
}

fn may_not(error: &std::io::Error) -> Remark {
    format!(
        "it may not be looked at while it binds ({error}); give the keeper CAP_SYS_PTRACE or its own user"
    )
}
