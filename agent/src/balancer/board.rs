//! What balancers that ask are answered: HAProxy's agent-check (a word for whoever connects) and readiness by HTTP
//! (`GET /<app>`). How often they asked since the answer changed tells whether they know.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use ship_model::name::AppName;
use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Kind, Settings};

/// Balancers that ask at the same time; more wait in the kernel.
const MAX_ASKING: usize = 64;
/// For one who asks.
const PATIENCE: Duration = Duration::from_secs(10);
/// After an accept that failed, for want of descriptors for one.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Error)]
#[error("cannot answer balancers at {address}")]
pub struct ServeError {
    pub address: SocketAddr,
    pub source: io::Error,
}

/// Every app's light, and how often each was looked at.
#[derive(Debug, Default)]
pub struct Board {
    lights: Mutex<HashMap<AppName, Light>>,
}

#[derive(Debug, Default)]
struct Light {
    drained: bool,
    healthy: bool,
    /// Since `drained` changed, by port.
    asked: HashMap<SocketAddr, u64>,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, HashMap<AppName, Light>> {
        self.lights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends users elsewhere, or not any more. Who asked before counts anew.
    pub fn drain(&self, app: &AppName, drained: bool) {
        let mut lights = self.lock();
        let light = lights.entry(app.clone()).or_default();
        light.drained = drained;
        light.asked.clear();
    }

    /// Whether the app's processes are as they should be.
    pub fn healthy(&self, app: &AppName, healthy: bool) {
        self.lock().entry(app.clone()).or_default().healthy = healthy;
    }

    /// How often `listen` was asked about the app since its light changed.
    pub fn asked(&self, app: &AppName, listen: SocketAddr) -> u64 {
        let lights = self.lock();
        let asked = lights.get(app).and_then(|light| light.asked.get(&listen));
        asked.copied().unwrap_or(0)
    }

    /// Answers one who asks at `listen`; none: nothing is known of the app yet.
    fn look(&self, app: &AppName, listen: SocketAddr) -> Option<Seen> {
        let mut lights = self.lock();
        let light = lights.get_mut(app)?;
        *light.asked.entry(listen).or_default() += 1;
        Some(match (light.drained, light.healthy) {
            (true, _) => Seen::Drained,
            (false, true) => Seen::Up,
            (false, false) => Seen::Down,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Up,
    Drained,
    Down,
}

/// What one port answers.
#[derive(Debug, Clone)]
enum Port {
    Check {
        app: AppName,
        percent: u8,
    },
    /// App → the status while it is taken out.
    Readiness(BTreeMap<AppName, u16>),
}

/// Binds every port that `settings` name and answers there until `stop`.
///
/// # Errors
/// [`ServeError`] when one cannot be bound.
pub async fn serve(
    settings: &[Settings],
    board: &Arc<Board>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<(), ServeError> {
    for (address, port) in ports(settings) {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| ServeError { address, source })?;
        let asked = Asked {
            port: Arc::new(port),
            address,
            board: Arc::clone(board),
        };
        tasks.spawn(accept(listener, asked, stop.clone()));
    }
    Ok(())
}

fn ports(settings: &[Settings]) -> BTreeMap<SocketAddr, Port> {
    let mut ports = BTreeMap::new();
    for one in settings {
        match &one.kind {
            Kind::AgentCheck { listen, percent, .. } => {
                let app = one.app.clone();
                ports.insert(
                    *listen,
                    Port::Check {
                        app,
                        percent: *percent,
                    },
                );
            }
            Kind::Readiness {
                listen,
                drained_status,
                ..
            } => {
                let port = ports
                    .entry(*listen)
                    .or_insert_with(|| Port::Readiness(BTreeMap::new()));
                if let Port::Readiness(apps) = port {
                    apps.insert(one.app.clone(), *drained_status);
                }
            }
            Kind::Haproxy { .. } | Kind::Nginx { .. } | Kind::Hook { .. } => {}
        }
    }
    ports
}

#[derive(Debug, Clone)]
struct Asked {
    port: Arc<Port>,
    address: SocketAddr,
    board: Arc<Board>,
}

async fn accept(listener: TcpListener, asked: Asked, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(MAX_ASKING));
    loop {
        let place = tokio::select! {
            () = stop.cancelled() => return,
            place = Arc::clone(&places).acquire_owned() => place,
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let (asked, stop) = (asked.clone(), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                _ = tokio::time::timeout(PATIENCE, asked.answer(stream)) => {}
            }
            drop(place);
        });
    }
}

impl Asked {
    async fn answer(self, stream: TcpStream) {
        match &*self.port {
            Port::Check { app, percent } => {
                let word = self
                    .board
                    .look(app, self.address)
                    .map_or_else(String::new, |seen| match seen {
                        Seen::Up => format!("up ready {percent}%\n"),
                        Seen::Drained => "drain\n".to_owned(),
                        Seen::Down => "down\n".to_owned(),
                    });
                let mut stream = stream;
                // One who hangs up without listening asks again.
                let _ = stream.write_all(word.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
            Port::Readiness(_) => {
                let service = service_fn(|request| {
                    let answer = self.ready(&request);
                    async move { Ok::<_, Infallible>(answer) }
                });
                let served = hyper::server::conn::http1::Builder::new()
                    .keep_alive(false)
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
                if let Err(error) = served {
                    tracing::debug!(%error, "one who asked for readiness hung up");
                }
            }
        }
    }

    fn ready(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let Port::Readiness(apps) = &*self.port else {
            return word(StatusCode::NOT_FOUND, "nothing is told here");
        };
        if ![Method::GET, Method::HEAD, Method::OPTIONS].contains(request.method()) {
            return word(StatusCode::METHOD_NOT_ALLOWED, "GET");
        }
        let named = request.uri().path().trim_matches('/').parse::<AppName>().ok();
        let Some((app, drained)) = named.and_then(|app| apps.get_key_value(&app)) else {
            // Not 404: to some balancers that means drained.
            return word(StatusCode::BAD_REQUEST, "no such app is told here");
        };
        match self.board.look(app, self.address) {
            Some(Seen::Up) => word(StatusCode::OK, "ready"),
            Some(Seen::Drained) => {
                let status = StatusCode::from_u16(*drained).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
                word(status, "drained")
            }
            Some(Seen::Down) | None => word(StatusCode::SERVICE_UNAVAILABLE, "not ready"),
        }
    }
}

fn word(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

    use tokio::io::AsyncReadExt;

    use super::*;

    /// An address that was free a moment ago, where no client of another test is given its port.
    fn free() -> SocketAddr {
        let [_, a, b, c] = std::process::id().to_be_bytes();
        let ip = std::net::Ipv4Addr::new(127, 128 | a, b, c.max(1));
        let listener = std::net::TcpListener::bind((ip, 0)).unwrap();
        listener.local_addr().unwrap()
    }

    fn settings(kind: Kind) -> Settings {
        Settings {
            app: "web".parse().unwrap(),
            kind,
            wait: Duration::from_secs(1),
            front: None,
            check: None,
            websocket: None,
        }
    }

    async fn said(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        said
    }

    #[tokio::test]
    async fn those_who_ask_hear_what_is() {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let (board, check, ready) = loop {
            let (check, ready) = (free(), free());
            let all = [
                settings(Kind::AgentCheck {
                    listen: check,
                    percent: 50,
                    polls: 1,
                }),
                settings(Kind::Readiness {
                    listen: ready,
                    drained_status: 404,
                    polls: 1,
                }),
            ];
            let board = Arc::new(Board::default());
            // A process that another test starts holds the listener that was closed, until it executes.
            if serve(&all, &board, &tasks, &stop).await.is_ok() {
                break (board, check, ready);
            }
        };
        let app: AppName = "web".parse().unwrap();
        let get = "GET /web HTTP/1.1\r\nHost: x\r\n\r\n";
        // Nothing is known yet: an agent-check without a word changes nothing.
        assert_eq!(said(check, "").await, "");
        assert!(said(ready, get).await.starts_with("HTTP/1.1 503"));
        board.healthy(&app, true);
        assert_eq!(said(check, "").await, "up ready 50%\n");
        assert!(said(ready, get).await.starts_with("HTTP/1.1 200"));
        assert_eq!(board.asked(&app, ready), 1);
        board.drain(&app, true);
        assert_eq!(board.asked(&app, ready), 0);
        assert_eq!(said(check, "").await, "drain\n");
        assert!(said(ready, get).await.starts_with("HTTP/1.1 404"));
        assert_eq!((board.asked(&app, ready), board.asked(&app, check)), (1, 1));
        board.drain(&app, false);
        board.healthy(&app, false);
        assert_eq!(said(check, "").await, "down\n");
        assert!(
            said(ready, "GET /other HTTP/1.1\r\nHost: x\r\n\r\n")
                .await
                .starts_with("HTTP/1.1 400")
        );
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }
}
