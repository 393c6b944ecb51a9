//! The taking side: the new program finds everything where the one before has left it.

use std::fs::File;
use std::os::fd::{OwnedFd, RawFd};
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags, Timespec};
use ship_durable::LockFile;
use thiserror::Error;

use super::state::{self, Estate, RunningRecord, StreamRecord};
use crate::control::Control;
use crate::handed::{ClaimError, Claims};
use crate::keeper::joins::Join;
use crate::keeper::lock::Locks;
use crate::keeper::store::Stores;
use crate::keeper::{Keeper, Parts, Running, Signals, SignalsError, chain};
use crate::listen::Listeners;
use crate::log::{Stream, Tail};
use crate::memory::{Memory, MemoryError};
use crate::notify::NotifySocket;
use crate::relay::Relay;

/// For the program before to be gone.
const SHADOW_S: i64 = 2;

/// Why a program could not take over.
#[derive(Debug, Error)]
pub enum TakeOverError {
    /// A descriptor is not there.
    #[error("cannot take over what was open")]
    Claim(#[from] ClaimError),
    /// The state is of another version, or damaged.
    #[error("cannot take over the state: {reason}")]
    State {
        /// Why.
        reason: String,
    },
    /// The journal cannot be opened.
    #[error("cannot take over the journal")]
    Memory(#[source] MemoryError),
    /// Signals cannot be received.
    #[error("cannot receive signals")]
    Signals(#[source] SignalsError),
    /// Something of the system's own is missing.
    #[error("cannot open {}", path.display())]
    Open {
        /// What.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Keeper {
    /// Goes on from the state in descriptor `number`, in the place of the program that has left it there. The app's users,
    /// its processes and the clients of the control socket notice nothing.
    ///
    /// # Errors
    /// [`TakeOverError`]; the program before hears of it, and goes on by itself.
    pub fn take_over(number: RawFd) -> Result<Self, TakeOverError> {
        let mut claims = Claims::default();
        let estate = state::read(File::from(claims.take(number)?));
        let mut estate = estate.map_err(|reason| TakeOverError::State { reason })?;
        let ready = estate.ready.take().map(|ready| claims.take(ready)).transpose()?;
        match Self::take(estate, claims) {
            Ok(keeper) => {
                say(ready.as_ref(), "+");
                ready.iter().for_each(wait_for_shadow);
                Ok(keeper)
            }
            Err(error) => {
                say(ready.as_ref(), &format!("-{}", chain(&error)));
                Err(error)
            }
        }
    }

    fn take(estate: Estate, mut claims: Claims) -> Result<Self, TakeOverError> {
        let lock = LockFile::resume(claims.take(estate.lock)?);
        let (memory, _, _) = Memory::open_with(&estate.config.state, lock).map_err(TakeOverError::Memory)?;
        let null = PathBuf::from("/dev/null");
        let log_folder = estate.config.run.join("log");
        let mut keeper = Self::assemble(Parts {
            memory,
            state: estate.state,
            notify: NotifySocket::resume(claims.take(estate.notify)?, estate.notify_path),
            control: Control::take_over(estate.control, &mut claims)?,
            signals: Signals::catch().map_err(TakeOverError::Signals)?,
            null: File::open(&null).map_err(|source| TakeOverError::Open { path: null, source })?,
            config: estate.config,
        });
        keeper.unsaved = estate.unsaved;
        keeper.revision = estate.revision + 1;
        keeper.notes = estate.notes.into();
        keeper.listeners = Listeners::take_over(estate.groups, &mut claims)?;
        for running in estate.running {
            keeper.running.insert(running.place, running.take(&mut claims)?);
        }
        keeper.mains = estate.mains;
        for stream in estate.streams {
            keeper.streams.extend(stream.take(&log_folder, &mut claims)?);
        }
        for (generation, lines) in estate.tails {
            let mut tail = Tail::default();
            lines.iter().for_each(|line| tail.push(line));
            keeper.tails.insert(generation, tail);
        }
        keeper.store = Stores::take_over(estate.stored, &mut claims)?;
        for join in estate.joins {
            let (generation, slot) = join.place;
            let notify = claims.take(join.notify)?;
            keeper.joins.push(Join::resume(generation, slot, notify));
        }
        for relay in estate.relays {
            let [client, server] = relay.ends;
            let ends = [claims.take(client)?, claims.take(server)?];
            keeper.relays.push(Relay::resume(ends, relay.finished));
        }
        keeper.asked = estate.asked.into_iter().collect();
        keeper.cut = estate.cut;
        keeper.locks = Locks::take_over(estate.locks, &mut claims)?;
        keeper.begin_upgraded(&estate.from);
        Ok(keeper)
    }

    fn begin_upgraded(&mut self, from: &str) {
        self.remember_labels();
        self.state.counters.upgrades += 1;
        self.save(Ok(()));
        let version = env!("CARGO_PKG_VERSION");
        self.tell(
            None,
            &format!("keeper {version} goes on in the place of keeper {from}"),
        );
    }
}

impl RunningRecord {
    fn take(self, claims: &mut Claims) -> Result<Running, ClaimError> {
        Ok(Running {
            own_child: self.own_child,
            said: self.said,
            stopping: self.stopping,
            reloading: self.reloading,
            errno: self.errno,
            watchdog: self.watchdog,
            missed: self.missed,
            memory_kills: self.memory_kills,
            reload_asked_us: self.reload_asked_us,
            ..Running::found(self.process, claims.take(self.pidfd)?, None)
        })
    }
}

impl StreamRecord {
    /// None where a later program reads a stream that this one does not know.
    fn take(self, folder: &std::path::Path, claims: &mut Claims) -> Result<Option<Stream>, ClaimError> {
        let pipe = claims.take(self.pipe)?;
        let name = ["stdout", "stderr"].into_iter().find(|name| *name == self.name);
        let (generation, slot) = self.place;
        Ok(name.map(|name| Stream::resume(folder, (generation, slot, name), pipe, self.partial)))
    }
}

/// The program before closes what it had, and this last.
fn wait_for_shadow(ready: &OwnedFd) {
    let patience = Timespec {
        tv_sec: SHADOW_S,
        tv_nsec: 0,
    };
    let mut polled = [PollFd::new(ready, PollFlags::empty())];
    let _ = rustix::event::poll(&mut polled, Some(&patience));
}

fn say(ready: Option<&OwnedFd>, words: &str) {
    if let Some(ready) = ready {
        let _ = rustix::io::write(ready, words.as_bytes());
    }
}
