//! Speaking to a run from outside: ending it, by a handle, a signal or the end of standard input, and telling it which
//! window it is in.

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::FileType;

/// What a run watches. Dropping every handle does not stop it.
#[derive(Debug)]
pub struct Stop {
    pub(crate) reader: UnixStream,
    writer: Arc<UnixStream>,
    window: Arc<Mutex<Option<String>>>,
}

/// Stops a run; may be used from any thread, and more than once.
#[derive(Debug, Clone)]
pub struct StopHandle {
    writer: Arc<UnixStream>,
    window: Arc<Mutex<Option<String>>>,
}

/// Written to the pipe: signals write a byte of their own, which ends the run too.
const LOOK: u8 = 2;

impl StopHandle {
    pub fn stop(&self) {
        // A full pipe means that the run has been told often enough.
        let _ = (&*self.writer).write(&[1]);
    }

    /// From now on, requests count in this window.
    pub fn window(&self, name: &str) {
        *self.window.lock().unwrap_or_else(PoisonError::into_inner) = Some(name.to_owned());
        let _ = (&*self.writer).write(&[LOOK]);
    }
}

impl Stop {
    /// # Errors
    /// When no descriptors are left.
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        Ok(Self {
            reader,
            writer: Arc::new(writer),
            window: Arc::default(),
        })
    }

    pub fn handle(&self) -> StopHandle {
        StopHandle {
            writer: Arc::clone(&self.writer),
            window: Arc::clone(&self.window),
        }
    }

    /// What was said since the last call: whether to end, and the window to enter.
    pub(crate) fn heard(&mut self) -> (bool, Option<String>) {
        let mut bytes = [0; 64];
        let count = self.reader.read(&mut bytes).unwrap_or(0);
        let end = bytes[..count].iter().any(|byte| *byte != LOOK);
        (
            end,
            self.window.lock().unwrap_or_else(PoisonError::into_inner).take(),
        )
    }

    /// Also stops on SIGTERM and SIGINT.
    ///
    /// # Errors
    /// When the signals cannot be caught.
    pub fn on_signals(&self) -> io::Result<()> {
        for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
            signal_hook::low_level::pipe::register(signal, self.writer.try_clone()?)?;
        }
        Ok(())
    }

    /// Also stops when standard input ends, and enters the window that a line `window NAME` there names, so that a generator does not outlive the program that started it. An input
    /// that is `/dev/null` or the like says nothing and is not watched.
    pub fn on_end_of_input(&self) {
        let input = io::stdin();
        let watched = rustix::fs::fstat(input.as_fd()).is_ok_and(|status| {
            let kind = FileType::from_raw_mode(status.st_mode);
            matches!(kind, FileType::Fifo | FileType::Socket) || input.is_terminal()
        });
        if !watched {
            return;
        }
        let handle = self.handle();
        std::thread::spawn(move || {
            let lines = io::stdin().lock().lines().map_while(Result::ok);
            for line in lines {
                if let Some(name) = line.strip_prefix("window ") {
                    handle.window(name.trim());
                }
            }
            handle.stop();
        });
    }
}
