//! Head and body into a socket, as fast as it takes them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::Response;
use hyper::body::Body;
use rustix::net::SendFlags;
use tokio::io::{AsyncWrite, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::How;
use super::head::head;
use super::wait::{OnStop, Patience};
use crate::serve::body::FileBody;
use crate::serve::port::Limits;

/// Bytes of a sealed file that are handed to the kernel at once.
const PIECE: u64 = 1 << 20;

/// An answer on its way.
#[derive(Debug)]
pub(super) struct Sending {
    head: Bytes,
    /// Of the body, what was taken out of it and not sent.
    piece: Bytes,
    body: Option<FileBody>,
    close: bool,
}

impl Sending {
    pub fn new(response: Response<FileBody>, how: How) -> Self {
        let head = head(&response, how.close);
        Self {
            head: head.into(),
            piece: Bytes::new(),
            body: (!how.head).then(|| response.into_body()),
            close: how.close,
        }
    }

    /// Sends what goes without waiting; true: that was all.
    pub fn at_once(&mut self, stream: &mut TcpStream, cx: &mut Context<'_>) -> io::Result<bool> {
        loop {
            match self.poll_some(stream, cx) {
                Poll::Ready(Ok(false)) => {}
                Poll::Ready(done) => return done,
                Poll::Pending => return Ok(false),
            }
        }
    }

    /// Sends the rest; none: the connection is over.
    pub async fn finish(
        mut self,
        stream: &mut TcpStream,
        patience: &mut Patience<'_, '_>,
        limits: &Limits,
    ) -> Option<()> {
        loop {
            // From the last byte it took, and as long as silence may go unnoticed elsewhere.
            let until = Instant::now() + 2 * limits.idle;
            let sent = patience.wait(until, OnStop::Finish, |cx| self.poll_some(stream, cx));
            if sent.await?.ok()? {
                break;
            }
        }
        if self.close {
            let _ = stream.shutdown().await;
            return None;
        }
        Some(())
    }

    /// Sends something; true: nothing is left.
    fn poll_some(&mut self, stream: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.body.as_ref().is_some_and(FileBody::is_sealed) && self.piece.is_empty() {
            return self.poll_sealed(stream, cx);
        }
        if self.piece.is_empty()
            && let Some(body) = &mut self.body
        {
            match Pin::new(body).poll_frame(cx) {
                Poll::Ready(Some(frame)) => self.piece = frame?.into_data().unwrap_or_default(),
                Poll::Ready(None) => self.body = None,
                // The head goes alone meanwhile.
                Poll::Pending if self.head.is_empty() => return Poll::Pending,
                Poll::Pending => {}
            }
        }
        if self.head.is_empty() && self.piece.is_empty() {
            return Poll::Ready(Ok(self.body.is_none()));
        }
        let both = [IoSlice::new(&self.head), IoSlice::new(&self.piece)];
        let sent = ready!(Pin::new(stream).poll_write_vectored(cx, &both))?;
        self.forget(sent)?;
        Poll::Ready(Ok(self.is_done()))
    }

    fn poll_sealed(&mut self, stream: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if !self.head.is_empty() {
            // Together with what follows.
            let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
            let sent = ready!(poll_socket(stream, cx, |stream| Ok(rustix::net::send(
                stream, &self.head, flags
            )?)))?;
            self.forget(sent)?;
            return Poll::Ready(Ok(false));
        }
        let Some(body) = &mut self.body else {
            return Poll::Ready(Ok(true));
        };
        ready!(poll_socket(stream, cx, |stream| body.send_sealed(stream, PIECE)))?;
        Poll::Ready(Ok(body.is_end_stream()))
    }

    fn forget(&mut self, sent: usize) -> io::Result<()> {
        if sent == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let of_head = sent.min(self.head.len());
        self.head.advance(of_head);
        self.piece.advance(sent - of_head);
        Ok(())
    }

    fn is_done(&self) -> bool {
        let sent = self.body.as_ref().is_none_or(Body::is_end_stream);
        self.head.is_empty() && self.piece.is_empty() && sent
    }
}

/// Does what may find the socket full, once it is not.
fn poll_socket<T>(
    stream: &TcpStream,
    cx: &mut Context<'_>,
    mut act: impl FnMut(&TcpStream) -> io::Result<T>,
) -> Poll<io::Result<T>> {
    loop {
        ready!(stream.poll_write_ready(cx))?;
        match stream.try_io(Interest::WRITABLE, || act(stream)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return Poll::Ready(done),
        }
    }
}
