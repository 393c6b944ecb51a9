//! Ending a run from outside: by a handle, a signal, or the end of standard input.

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::fs::FileType;

/// What a run watches. Dropping every handle does not stop it.
#[derive(Debug)]
pub struct Stop {
    pub(crate) reader: UnixStream,
    writer: Arc<UnixStream>,
}

/// Stops a run; may be used from any thread, and more than once.
#[derive(Debug, Clone)]
pub struct StopHandle(Arc<UnixStream>);

impl StopHandle {
    pub fn stop(&self) {
        // A full pipe means that the run has been told often enough.
        let _ = (&*self.0).write(&[1]);
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
        })
    }

    pub fn handle(&self) -> StopHandle {
        StopHandle(Arc::clone(&self.writer))
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

    /// Also stops when standard input ends, so that a generator does not outlive the program that started it. An input
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
            let mut bytes = [0; 512];
            while matches!(io::stdin().lock().read(&mut bytes), Ok(1..)) {}
            handle.stop();
        });
    }
}
