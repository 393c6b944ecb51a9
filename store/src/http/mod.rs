//! The HTTP faces: bundles and health beside gRPC on the fleet's port; assets, health and figures on the asset port.

mod bundles;
mod metrics;
mod range;

pub use bundles::Bundles;
pub use metrics::Metrics;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use futures::future::{BoxFuture, FutureExt as _};
use http::{HeaderValue, StatusCode, header};
use hyper::body::Incoming;
use ship_assets::serve::Assets;
use tower::ServiceExt as _;

/// What stands beside gRPC on the TLS port.
pub fn beside_grpc(bundles: Bundles) -> Router {
    let router = Router::new()
        .route("/bundles/{digest}", get(bundles::get))
        .route("/deltas/{digest}", get(bundles::delta))
        .with_state(bundles);
    router.route("/healthz", get(healthz))
}

/// What answers by `router`, on a port that knows nothing of routers.
pub fn by(
    router: Router,
) -> impl Fn(http::Request<Incoming>) -> BoxFuture<'static, Response> + Send + Sync + 'static {
    move |request: http::Request<Incoming>| {
        let answered = router.clone().oneshot(request.map(Body::new));
        answered
            .map(|answered| match answered {
                Ok(response) => response,
                Err(never) => match never {},
            })
            .boxed()
    }
}

/// What the asset port has beside assets, whatever is on the shelf.
pub const BESIDES: &[&str] = &["/healthz", "/metrics"];

/// Everything on the asset port: whatever is not ours is an asset, or not there.
pub fn assets(assets: Assets, metrics: Metrics) -> Router {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics::get).with_state(metrics))
        .fallback(asset)
        .with_state(assets)
}

/// The store lives and takes requests.
async fn healthz() -> Response {
    refuse(StatusCode::OK, "ok\n".to_owned())
}

async fn asset(State(assets): State<Assets>, request: Request) -> Response {
    // No asset is asked for with a body.
    let request = request.map(|_| ());
    assets.answer(&request).await.map(Body::new)
}

/// A short text that no cache keeps.
fn refuse(status: StatusCode, text: String) -> Response {
    let mut response = (status, text).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    response
}
