//! While a list moves on a terminal, Ctrl-C is not echoed as `^C`: it would push the list by a row.

use std::io::{self, IsTerminal as _, Stdin};

use rustix::process::getpgrp;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};

/// The terminal as it was; it is again when this is dropped. Killed before, a program leaves a terminal that shows Ctrl-C
/// as nothing, which harms nobody.
#[derive(Debug)]
pub struct NoEcho(Option<(Stdin, Termios)>);

impl NoEcho {
    pub fn begin() -> Self {
        Self(quiet())
    }
}

/// None where there is no terminal, or where it is another program's now: changing it would stop this one.
fn quiet() -> Option<(Stdin, Termios)> {
    let stdin = io::stdin();
    if !stdin.is_terminal() || tcgetpgrp(&stdin).ok()? != getpgrp() {
        return None;
    }
    let before = tcgetattr(&stdin).ok()?;
    let mut quiet = before.clone();
    quiet.local_modes.remove(LocalModes::ECHOCTL);
    tcsetattr(&stdin, OptionalActions::Now, &quiet).ok()?;
    Some((stdin, before))
}

impl Drop for NoEcho {
    fn drop(&mut self) {
        if let Some((stdin, before)) = self.0.take() {
            // A terminal that is gone needs nothing.
            let _ = tcsetattr(&stdin, OptionalActions::Now, &before);
        }
    }
}
