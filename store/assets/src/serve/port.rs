//! An asset port: connections from strangers, HTTP/1.1 and HTTP/2, with TLS or without.
//!
//! Every connection is a task of its own, so one that is slow hurts nobody else; what it may cost is bounded. A
//! handshake and the head of a request have deadlines, and a connection over which nothing moved for a while, in either
//! direction, is asked to go and then cut.

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Assets;
use super::plain::Plain;
use super::tls::PortTls;

/// A pause after the process ran out of descriptors, so that accept does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a connection may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Served at once; more wait in the kernel's queue.
    pub connections: usize,
    pub handshake: Duration,
    /// For a request's head, and for the next one to begin (HTTP/1.1).
    pub head: Duration,
    /// Without a byte in either direction; noticed within twice that.
    pub idle: Duration,
    /// For what is under way when a connection is asked to go.
    pub grace: Duration,
    /// Requests at once on one HTTP/2 connection.
    pub streams: u32,
    /// Bytes of a request's head.
    pub headers: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(20),
            idle: Duration::from_secs(30),
            grace: Duration::from_secs(5),
            streams: 100,
            headers: 16 << 10,
        }
    }
}

/// How connections are taken.
#[derive(Debug, Clone, Default)]
pub struct Port {
    /// None: plain HTTP.
    pub tls: Option<Arc<PortTls>>,
    pub limits: Limits,
}

impl Port {
    /// Serves until `shutdown` is ready, then lets answers under way go on for [`Limits::grace`].
    pub async fn serve<A, F, B>(self, listener: TcpListener, answer: A, shutdown: impl Future<Output = ()>)
    where
        A: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        self.run(listener, None, answer, shutdown).await;
    }

    /// As [`Self::serve`], and requests for what is on the shelf of `assets` are answered by the shortest way there is. `answer`
    /// gets the others, those for a path in `besides`, and all that come with TLS or over HTTP/2: it must give the same
    /// answers for what is on the shelf.
    pub async fn serve_assets<A, F, B>(
        self,
        listener: TcpListener,
        assets: Assets,
        besides: &'static [&'static str],
        answer: A,
        shutdown: impl Future<Output = ()>,
    ) where
        A: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let plain = Plain { assets, besides };
        self.run(listener, Some(plain), answer, shutdown).await;
    }

    async fn run<A, F, B>(
        self,
        listener: TcpListener,
        plain: Option<Plain>,
        answer: A,
        shutdown: impl Future<Output = ()>,
    ) where
        A: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let places = Arc::new(Semaphore::new(self.limits.connections));
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let door = Arc::new(Door {
            port: self,
            plain,
            answer,
            stop: stop.clone(),
        });
        let mut shutdown = pin!(shutdown);
        loop {
            let accepted = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (place, listener.accept().await)
            };
            tokio::select! {
                () = &mut shutdown => break,
                (place, accepted) = accepted => match accepted {
                    Ok((stream, _)) => {
                        let door = Arc::clone(&door);
                        tasks.spawn(async move {
                            door.connection(stream).await;
                            drop(place);
                        });
                    }
                    Err(error) => {
                        tracing::warn!(%error, "asset connection not accepted");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(listener);
        stop.cancel();
        tasks.close();
        // Each has a deadline of its own.
        tasks.wait().await;
    }
}

/// What all connections of a port share.
struct Door<A> {
    port: Port,
    plain: Option<Plain>,
    answer: A,
    stop: CancellationToken,
}

impl<A, F, B> Door<A>
where
    A: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    async fn connection(&self, mut stream: TcpStream) {
        // Small answers must not wait for an acknowledgement of the head before.
        let _ = stream.set_nodelay(true);
        let came = match &self.plain {
            Some(plain) if self.port.tls.is_none() => {
                plain.speak(&mut stream, &self.port.limits, &self.stop).await
            }
            _ => Some(Bytes::new()),
        };
        if let Some(came) = came {
            // Aside, since most connections never need the room that this takes.
            Box::pin(self.any(stream, came)).await;
        }
    }

    /// `came`: what was read of the connection already.
    async fn any(&self, stream: TcpStream, came: Bytes) {
        let moved = Arc::new(AtomicU64::new(0));
        let stream = Watched {
            came,
            stream,
            moved: Arc::clone(&moved),
        };
        let (answer, limits, stop) = (&self.answer, &self.port.limits, &self.stop);
        let Some(tls) = &self.port.tls else {
            return speak(stream, &moved, answer, limits, stop).await;
        };
        let shaken = timeout(limits.handshake, TlsAcceptor::from(tls.current()).accept(stream));
        let shaken = tokio::select! {
            shaken = shaken => shaken,
            () = stop.cancelled() => return,
        };
        match shaken {
            Ok(Ok(stream)) => speak(stream, &moved, answer, limits, stop).await,
            Ok(Err(error)) => tracing::debug!(%error, "handshake failed"),
            Err(_) => tracing::debug!("handshake took too long"),
        }
    }
}

async fn speak<S, A, F, B>(stream: S, moved: &AtomicU64, answer: A, limits: &Limits, stop: &CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    A: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let builder = builder(limits);
    let service = service_fn(move |request: Request<Incoming>| {
        let answered = answer(request);
        async move { Ok::<_, Infallible>(answered.await) }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        // A client that goes away is no error of ours.
        _ = connection.as_mut() => return,
        () = stop.cancelled() => {}
        () = until_idle(moved, limits.idle) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(limits.grace, connection).await;
}

fn builder(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(limits.headers as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        // What a client leaves unread is held once for each of its streams.
        .max_send_buf_size(32 << 10)
        .max_header_list_size(limits.headers);
    builder
}

/// Ends when nothing moved between two looks.
async fn until_idle(moved: &AtomicU64, idle: Duration) {
    loop {
        let before = moved.load(Ordering::Relaxed);
        sleep(idle).await;
        if moved.load(Ordering::Relaxed) == before {
            return;
        }
    }
}

/// A connection that counts what moves over it.
struct Watched {
    /// What was read of it before.
    came: Bytes,
    stream: TcpStream,
    moved: Arc<AtomicU64>,
}

impl Watched {
    fn count(&self, polled: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = polled {
            self.moved.fetch_add(*bytes as u64, Ordering::Relaxed);
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.came.is_empty() {
            let part = self.came.len().min(buffer.remaining());
            buffer.put_slice(&self.came.split_to(part));
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let bytes = buffer.filled().len() - before;
        self.moved.fetch_add(bytes as u64, Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.count(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.count(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
