//! `/metrics`: what this host counts, on a port of its own. The asset port is the public's; this one is whoever's that can
//! reach its address, so it is loopback unless an operator says otherwise.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use ship_assets::serve::{Limits, Port};
use ship_model::figures::{self, Page};
use ship_model::name::{EnvName, HostName};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::report::Reporter;

/// Connections at once: a few that scrape.
const CONNECTIONS: usize = 16;

/// Who this host is, and what it knows of itself.
#[derive(Debug, Clone)]
pub struct Face {
    pub env: EnvName,
    pub host: HostName,
    pub reporter: Arc<Reporter>,
}

/// Serves figures at `address` until `stop`; a port that was taken free once is remembered in `state`.
///
/// # Errors
/// When nothing can listen there.
pub async fn serve(
    address: SocketAddr,
    face: Face,
    state: &Path,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let listener = bind(address, &state.join("metrics_port")).await;
    let listener = listener.with_context(|| format!("cannot tell figures at {address}"))?;
    tracing::info!(
        url = format!("http://{}/metrics", listener.local_addr()?),
        "figures are told"
    );
    let port = Port {
        tls: None,
        limits: Limits {
            connections: CONNECTIONS,
            ..Limits::default()
        },
    };
    let answer = move |request: Request<_>| std::future::ready(face.answer(&request));
    tasks.spawn(port.serve(listener, answer, stop.clone().cancelled_owned()));
    Ok(())
}

/// Listens at `address`; port 0 is the port that `remembered` names, or a free one that is written there.
///
/// # Errors
/// When nobody can listen there, or the port cannot be remembered.
pub async fn bind(address: SocketAddr, remembered: &Path) -> anyhow::Result<TcpListener> {
    let known = std::fs::read_to_string(remembered).ok();
    let known = known.and_then(|port| port.trim().parse().ok());
    let wanted = match (address.port(), known) {
        (0, Some(port)) => SocketAddr::new(address.ip(), port),
        _ => address,
    };
    let listener = match TcpListener::bind(wanted).await {
        // Somebody has the remembered port; a new one is better than none.
        Err(error) if wanted != address => {
            tracing::warn!(%error, %wanted, "the remembered port cannot be taken");
            TcpListener::bind(address).await
        }
        other => other,
    };
    let listener = listener.with_context(|| format!("cannot listen at {wanted}"))?;
    if address.port() == 0 {
        let bound = listener.local_addr().context("cannot tell the port")?;
        ship_durable::write_file(remembered, bound.port().to_string().as_bytes())?;
    }
    Ok(listener)
}

impl Face {
    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let (status, kind, text) = if request.uri().path() == "/metrics" {
            (StatusCode::OK, figures::CONTENT_TYPE, self.page())
        } else {
            let kind = "text/plain; charset=utf-8";
            (
                StatusCode::NOT_FOUND,
                kind,
                "figures are at /metrics\n".to_owned(),
            )
        };
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }

    fn page(&self) -> String {
        self.reporter.refresh();
        let report = self.reporter.subscribe().borrow().clone();
        let mut page = Page::default();
        figures::hosts(&mut page, &[(&self.env, &self.host, &report)]);
        page.end()
    }
}
