//! Plain HTTP/1.1 for what browsers and CDNs ask all day, at little more than the kernel's own cost.
//!
//! A connection without TLS begins here. A GET or HEAD of a file on the shelf, in a head with nothing odd about it, is answered
//! here. At the first request that is anything else (another method or version, a body, a path that is not on the shelf, a head that
//! is too long or does not parse) the connection goes to hyper for good, with every byte that was not answered yet: so
//! there is one judge of what is odd, and no request is seen differently by two.
//!
//! * `ask`: which requests are answered here, and what is kept of them.
//! * `head`: an answer's head as bytes.
//! * `send`: head and body into the socket; a sealed file without a copy.
//! * `wait`: deadlines.
//!
//! Between requests a connection holds its socket, a timer and no buffer: what it reads with belongs to the thread.

mod ask;
mod head;
mod send;
mod wait;

use std::cell::RefCell;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::Assets;
use super::answer::{self, Decided};
use super::body::FileBody;
use super::port::Limits;
use ask::{Ask, Heard};
use send::Sending;
use wait::{OnStop, Patience};

/// Bytes that are read at once.
const SCRATCH: usize = 16 << 10;

thread_local! {
    static READ: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into());
}

/// What is answered here.
#[derive(Debug)]
pub(super) struct Plain {
    pub assets: Assets,
    /// Paths that somebody else answers, whatever is on the shelf.
    pub besides: &'static [&'static str],
}

/// What a look at the socket led to.
enum Turn {
    /// A request was answered whole.
    Answered,
    /// The end of a head is missing.
    Part,
    /// The rest of an answer waits for the client, or for the disk.
    Sending(Box<Sending>),
    /// The answer waits for the disk, or for another host.
    Deciding(Box<(Decided, How)>),
    /// Not to be judged here.
    Odd,
    /// Nothing more comes, or nothing more goes.
    Ended,
}

/// What of a request concerns the bytes of its answer, whatever it is.
#[derive(Debug, Clone, Copy)]
struct How {
    /// Only the head is wanted.
    head: bool,
    /// It is the connection's last.
    close: bool,
}

impl Plain {
    /// Answers what it can; then the bytes that came and were not answered, for whoever can do more. None: the
    /// connection is over.
    pub async fn speak(
        &self,
        stream: &mut TcpStream,
        limits: &Limits,
        stop: &CancellationToken,
    ) -> Option<Bytes> {
        let alarm = pin!(sleep(limits.head));
        let stopped = pin!(stop.cancelled());
        let mut patience = Patience::new(alarm, stopped, limits.grace);
        let mut held = Held::default();
        let mut until = Instant::now() + limits.head;
        loop {
            let turn = patience
                .wait(until, OnStop::End, |cx| self.turn(stream, &mut held, limits, cx))
                .await?;
            match turn {
                Turn::Answered => {}
                Turn::Part => continue,
                Turn::Odd => return Some(held.into_bytes()),
                Turn::Ended => return None,
                Turn::Sending(sending) => Box::pin(sending.finish(stream, &mut patience, limits)).await?,
                Turn::Deciding(deciding) => {
                    let (decided, how) = *deciding;
                    Box::pin(self.decide(decided, how, stream, &mut patience, limits)).await?;
                }
            }
            // Requests that lie ready must not keep everybody else from this thread, nor the port from its end, which is seen
            // where this waits: the socket's readiness is under the same budget.
            tokio::task::coop::consume_budget().await;
            until = Instant::now() + limits.head;
        }
    }

    /// Reads, unless something lies ready, and answers as much as goes without waiting.
    fn turn(
        &self,
        stream: &mut TcpStream,
        held: &mut Held,
        limits: &Limits,
        cx: &mut Context<'_>,
    ) -> Poll<Turn> {
        let ask = if held.is_unheard() {
            held.again(self, limits)
        } else {
            let heard = READ.with_borrow_mut(|scratch| {
                let mut buffer = ReadBuf::new(scratch);
                let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer));
                let came = buffer.filled();
                Poll::Ready(if read.is_err() || came.is_empty() {
                    Err(Turn::Ended)
                } else {
                    held.hear(came, self, limits)
                })
            });
            ready!(heard)
        };
        Poll::Ready(match ask {
            Ok(ask) => self.answer(ask, stream, cx),
            Err(turn) => turn,
        })
    }

    fn answer(&self, ask: Ask, stream: &mut TcpStream, cx: &mut Context<'_>) -> Turn {
        self.assets.counters.requests.fetch_add(1, Ordering::Relaxed);
        let how = ask.how;
        match answer::found(&self.assets, &ask.headers, !how.head, ask.name, ask.served) {
            Decided::Now(response) => {
                let mut sending = self.sending(response, how);
                match sending.at_once(stream, cx) {
                    Ok(true) if how.close => Turn::Ended,
                    Ok(true) => Turn::Answered,
                    Ok(false) => Turn::Sending(Box::new(sending)),
                    Err(_) => Turn::Ended,
                }
            }
            decided => Turn::Deciding(Box::new((decided, how))),
        }
    }

    fn sending(&self, response: Response<FileBody>, how: How) -> Sending {
        if let Some(opened) = response.body().opened() {
            self.assets.room.files.warm(opened);
        }
        Sending::new(response, how)
    }

    async fn decide(
        &self,
        decided: Decided,
        how: How,
        stream: &mut TcpStream,
        patience: &mut Patience<'_, '_>,
        limits: &Limits,
    ) -> Option<()> {
        let mut response = pin!(answer::go_on(self.assets.clone(), decided));
        let until = Instant::now() + 2 * limits.idle;
        let response = patience
            .wait(until, OnStop::Finish, |cx| response.as_mut().poll(cx))
            .await?;
        let sending = self.sending(response, how);
        sending.finish(stream, patience, limits).await
    }
}

/// What came and was not answered yet.
#[derive(Default)]
struct Held {
    bytes: Vec<u8>,
    /// Its head has no end yet.
    part: bool,
}

impl Held {
    fn is_unheard(&self) -> bool {
        !self.bytes.is_empty() && !self.part
    }

    fn hear(&mut self, came: &[u8], plain: &Plain, limits: &Limits) -> Result<Ask, Turn> {
        // Most heads come whole and alone, and are never copied.
        if self.bytes.is_empty()
            && let Heard::Ask(ask) = ask::hear(plain, came)
        {
            self.bytes.extend_from_slice(&came[ask.len..]);
            return Ok(*ask);
        }
        self.bytes.extend_from_slice(came);
        self.again(plain, limits)
    }

    fn again(&mut self, plain: &Plain, limits: &Limits) -> Result<Ask, Turn> {
        let heard = ask::hear(plain, &self.bytes);
        self.part = matches!(heard, Heard::Part);
        match heard {
            Heard::Ask(ask) => {
                self.bytes.drain(..ask.len);
                if self.bytes.is_empty() {
                    self.bytes = Vec::new();
                }
                Ok(*ask)
            }
            Heard::Part if self.bytes.len() < limits.headers as usize => Err(Turn::Part),
            Heard::Part | Heard::Odd => Err(Turn::Odd),
        }
    }

    fn into_bytes(self) -> Bytes {
        self.bytes.into()
    }
}
