//! What lasts longer than an answer: streams, and WebSockets that echo and leave when the server drains.

use std::time::{Duration, Instant};

use super::{Conn, Context, LINGER, Moved, Phase};
use crate::clock;
use crate::http::{self, Framing};
use crate::socket::{self, Said};

/// Between two pieces of a stream.
const PIECE: Duration = Duration::from_millis(100);
/// WebSockets leave a draining server within this time, each at a moment of its own, so that they do not all come back at once.
const SPREAD_MS: u64 = 1_000;

impl Conn {
    /// Whether time has made something to send.
    pub(super) fn due(&mut self, context: Context<'_>, now: Instant) -> bool {
        match &mut self.phase {
            Phase::Streaming { next, .. } => now >= *next,
            Phase::Talking { leave } if self.output.is_empty() => {
                if !context.draining {
                    *leave = None;
                    return false;
                }
                let over = now >= *leave.get_or_insert_with(|| now + jitter());
                if over {
                    self.leave();
                }
                over
            }
            _ => false,
        }
    }

    /// Writes the piece that is due, or the end.
    pub(super) fn stream(&mut self, context: Context<'_>) -> Moved {
        if !self.output.is_empty() {
            return self.flush(context.patience);
        }
        let Phase::Streaming { left, next, close } = &mut self.phase else {
            return Moved::Gone;
        };
        let now = clock::now();
        if *left == 0 {
            // A drain that began meanwhile was too late to be told; the next answer on this connection tells it.
            let close = *close;
            self.output.extend_from_slice(b"0\r\n\r\n");
            self.phase = Phase::Writing { rest: None, close };
            return Moved::Some;
        }
        if now < *next {
            self.deadline = *next + context.patience;
            return Moved::Blocked;
        }
        *left -= 1;
        *next = now + PIECE;
        self.output.extend_from_slice(b"8\r\na piece\n\r\n");
        Moved::Some
    }

    /// Becomes a WebSocket.
    pub(super) fn open(&mut self, accept: &str, context: Context<'_>) {
        let headers = [
            ("Sec-WebSocket-Accept", accept),
            ("X-Release", context.app.release()),
            ("X-Generation", context.app.generation()),
        ];
        self.output = http::response_head(101, &headers, Framing::Upgraded, false);
        self.written = 0;
        self.deadline = clock::now() + context.patience;
        self.phase = Phase::Talking { leave: None };
    }

    pub(super) fn talk(&mut self, context: Context<'_>) -> Moved {
        if !self.output.is_empty() {
            return self.flush(context.patience);
        }
        match socket::hear(&mut self.input) {
            Said::Answer(answer) => {
                self.output = answer;
                self.deadline = clock::now() + context.keep_alive;
                Moved::Some
            }
            Said::End(last) => {
                self.output = last;
                self.input = Vec::new();
                self.phase = Phase::Writing {
                    rest: None,
                    close: true,
                };
                Moved::Some
            }
            Said::Nothing => {
                let moved = self.fill(context);
                self.deadline = clock::now() + context.keep_alive;
                moved
            }
        }
    }

    /// Says that the server goes away. What the client has sent meanwhile has no answer: it asks again elsewhere.
    pub(super) fn leave(&mut self) {
        self.output = socket::close(socket::GOING_AWAY);
        self.written = 0;
        self.phase = Phase::Parting;
        self.deadline = clock::now() + LINGER;
    }

    /// Waits for the client's close frame and ends the connection after it, so that nothing is reset.
    pub(super) fn part(&mut self) -> Moved {
        if !self.output.is_empty() {
            return self.flush(LINGER);
        }
        self.discard()
    }
}

/// When to leave, from now.
fn jitter() -> Duration {
    use std::hash::{BuildHasher as _, Hasher as _};
    let dice = std::hash::RandomState::new().build_hasher().finish();
    Duration::from_millis(dice % SPREAD_MS)
}
