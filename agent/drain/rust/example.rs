//! A server on hyper that follows the drain contract: pages, streams, WebSockets that echo.

mod drain;

use std::convert::Infallible;
use std::time::Duration;

use drain::Drain;
use futures::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, frame::coding::CloseCode};

type Body = BoxBody<Bytes, Infallible>;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let broken = std::env::var("BROKEN").unwrap_or_default();
    anyhow::ensure!(broken != "exit", "this release cannot start");
    let listener = listener()?;
    let drain = Drain::from_environment();
    let mut stop = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            // By then nobody is connected, or the time is over.
            _ = stop.recv() => return Ok(()),
        };
        stream.set_nodelay(true)?;
        let (drain, sick) = (drain.clone(), broken == "sick");
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let drain = drain.clone();
            async move {
                let version = request.version();
                let mut answer = answer(request, sick, &drain);
                if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
                    drain.mark(version, &mut answer);
                }
                Ok::<_, Infallible>(answer)
            }
        });
        let serving = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::spawn(serving);
    }
}

fn listener() -> anyhow::Result<tokio::net::TcpListener> {
    let handed_over = listenfd::ListenFd::from_env().take_tcp_listener(0)?;
    let listener = handed_over.ok_or_else(|| anyhow::anyhow!("no listener in LISTEN_FDS"))?;
    listener.set_nonblocking(true)?;
    Ok(tokio::net::TcpListener::from_std(listener)?)
}

fn answer(request: Request<Incoming>, sick: bool, drain: &Drain) -> Response<Body> {
    let mut answer = match request.uri().path() {
        "/ws" => upgrade(request, drain.clone()),
        "/stream" => Response::new(stream(seconds(request.uri().query().unwrap_or_default()))),
        path => {
            let mut page = Response::new(Full::from("ok\n").boxed());
            if path == "/healthz" && sick {
                *page.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            }
            page
        }
    };
    let release = std::env::var("SHIP_RELEASE").unwrap_or_default();
    if let Ok(release) = release.parse() {
        answer.headers_mut().insert("x-release", release);
    }
    answer
}

fn seconds(query: &str) -> f64 {
    let value = query
        .strip_prefix("seconds=")
        .and_then(|value| value.parse().ok());
    value.unwrap_or_default()
}

fn stream(seconds: f64) -> Body {
    let pieces = futures::stream::iter(0..(seconds * 10.0) as u64).then(|_| async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        Ok(Frame::data(Bytes::from_static(b"a piece\n")))
    });
    BodyExt::boxed(StreamBody::new(pieces))
}

fn upgrade(request: Request<Incoming>, drain: Drain) -> Response<Body> {
    let key = request
        .headers()
        .get("sec-websocket-key")
        .map(|key| derive_accept_key(key.as_bytes()));
    let mut answer = Response::new(Full::default().boxed());
    let Some(accept) = key.and_then(|key| key.parse().ok()) else {
        *answer.status_mut() = StatusCode::BAD_REQUEST;
        return answer;
    };
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            let io = TokioIo::new(upgraded);
            echo(
                WebSocketStream::from_raw_socket(io, Role::Server, None).await,
                drain,
            )
            .await;
        }
    });
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, header::HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    answer
}

/// Sends back what comes, until either side closes.
async fn echo<Stream>(mut socket: WebSocketStream<Stream>, drain: Drain)
where
    Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let leave = async {
        drain.begun().await;
        tokio::time::sleep(drain::spread(Duration::from_millis(500))).await;
    };
    tokio::pin!(leave);
    let mut leaving = false;
    loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) if !leaving => {
                    if socket.send(message).await.is_err() {
                        return;
                    }
                }
                Some(Ok(_)) => {}
                _ => return,
            },
            () = &mut leave, if !leaving => {
                leaving = true;
                let away = CloseFrame { code: CloseCode::Away, reason: "please come back".into() };
                // The client answers it, and that ends the loop.
                if socket.close(Some(away)).await.is_err() {
                    return;
                }
            }
        }
    }
}
