//! Who may call what: one table, looked at in one place, before any message is read.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::{StatusCode, header};
use ship_proto::v1::FailureKind;
use ship_proto::{PROTOCOL, refuse};
use tonic::{Code, Status};

use crate::clock::Clock;
use crate::identity::{Caller, Role};
use crate::listen::Peer;
use crate::rollout::fleet::{Fleet, Left};

use Role::{Agent, Operator, Publisher, Viewer};

const LOOK: &[Role] = &[Viewer, Publisher, Operator];
const PUBLISH: &[Role] = &[Publisher, Operator];
const OPERATE: &[Role] = &[Operator];
const FETCH: &[Role] = &[Viewer, Publisher, Operator, Agent];
const SPEAK: &[Role] = &[Agent];

/// Every call of every service, and the roles that may make it.
pub const TABLE: &[(&str, &[Role])] = &[
    ("/ship.v1.Releases/Begin", PUBLISH),
    ("/ship.v1.Releases/Missing", PUBLISH),
    ("/ship.v1.Releases/Upload", PUBLISH),
    ("/ship.v1.Releases/UploadDelta", PUBLISH),
    ("/ship.v1.Releases/Commit", PUBLISH),
    ("/ship.v1.Releases/List", LOOK),
    ("/ship.v1.Releases/Get", FETCH),
    ("/ship.v1.Releases/Manifest", FETCH),
    ("/ship.v1.Releases/Locate", FETCH),
    ("/ship.v1.Releases/Deltas", FETCH),
    ("/ship.v1.Releases/Leaves", FETCH),
    ("/ship.v1.Releases/Pin", OPERATE),
    ("/ship.v1.Releases/Collect", OPERATE),
    ("/ship.v1.Rollouts/Plan", LOOK),
    ("/ship.v1.Rollouts/Promote", OPERATE),
    ("/ship.v1.Rollouts/Revert", OPERATE),
    ("/ship.v1.Rollouts/Watch", LOOK),
    ("/ship.v1.Rollouts/Control", OPERATE),
    ("/ship.v1.Rollouts/Answer", OPERATE),
    ("/ship.v1.Environments/Apply", OPERATE),
    ("/ship.v1.Environments/Show", LOOK),
    ("/ship.v1.Fleet/Status", LOOK),
    ("/ship.v1.Fleet/Logs", LOOK),
    ("/ship.v1.Fleet/Events", LOOK),
    ("/ship.v1.Fleet/Host", OPERATE),
    ("/ship.v1.Assets/Look", LOOK),
    ("/ship.v1.Assets/Find", FETCH),
    ("/ship.v1.Assets/Sweep", OPERATE),
    ("/ship.v1.Assets/Expired", FETCH),
    ("/ship.v1.Assets/Push", OPERATE),
    ("/ship.v1.Agents/Session", SPEAK),
    ("/ship.v1.Agents/Give", SPEAK),
];

/// What is looked at before a call.
#[derive(Debug, Clone)]
pub struct Door {
    pub clock: Clock,
    pub fleet: Arc<Fleet>,
}

/// Lets a call through with its [`Caller`] as an extension, or answers with the reason why not.
///
/// What is no gRPC at all is told so in plain HTTP: a browser has lost its way.
pub async fn check(State(door): State<Door>, mut request: Request, next: Next) -> Response {
    let kind = request.headers().get(header::CONTENT_TYPE);
    if !kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        let text = "not found; this port speaks gRPC, /bundles/<digest> and /healthz\n";
        return (StatusCode::NOT_FOUND, text).into_response();
    }
    match admit(&request, &door) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(status) => status.into_http::<Body>(),
    }
}

fn admit(request: &Request, door: &Door) -> Result<Caller, Status> {
    let path = request.uri().path();
    let caller = caller_of_request(request.extensions().get(), door.clock.now_ms())?;
    if let Some(left) = door.fleet.left(&caller) {
        return Err(has_left(&left));
    }
    if let Some(spoken) = request.headers().get("ship-protocol")
        && spoken != PROTOCOL
    {
        return Err(refuse(
            FailureKind::Invalid,
            format!("the caller speaks protocol {spoken:?}, this store speaks {PROTOCOL:?}"),
            "ship-protocol",
            "update the older of the two",
        ));
    }
    match TABLE.iter().find(|(call, _)| *call == path) {
        Some((_, roles)) if roles.contains(&caller.role) => Ok(caller),
        Some((call, roles)) => Err(denied(call, roles, &caller)),
        None => Err(refuse(
            FailureKind::Invalid,
            format!("this store has no call {path:?}"),
            path,
            "update the store, or use a client of its version",
        )),
    }
}

/// The caller whom a connection's certificate names.
pub fn caller_of_request(peer: Option<&Peer>, now_ms: u64) -> Result<Caller, Status> {
    let caller = match peer.and_then(|peer| peer.caller.as_ref()) {
        None => {
            return Err(unauthenticated(
                "no client certificate was shown: every call needs one of this fleet",
                "use a context made by `shipstore issue` or `shipctl up`",
            ));
        }
        Some(Err(error)) => {
            return Err(unauthenticated(
                &error.to_string(),
                "have a certificate issued by this fleet",
            ));
        }
        Some(Ok(caller)) => caller,
    };
    if caller.not_after_ms < now_ms {
        return Err(unauthenticated(
            &format!("the certificate of {caller} has expired"),
            "have a new one issued: `shipstore issue`",
        ));
    }
    Ok(caller.clone())
}

/// To an agent whose host has left the fleet: its certificate is good, and no longer accepted.
pub fn has_left(left: &Left) -> Status {
    refuse(
        FailureKind::Denied,
        left.to_string(),
        left.host.as_str(),
        &format!(
            "stop its agent; or take it back: shipctl host undrain {} -e {}",
            left.host, left.env
        ),
    )
}

fn unauthenticated(message: &str, hint: &str) -> Status {
    let reason = refuse(FailureKind::Denied, message, "certificate", hint);
    Status::with_metadata(Code::Unauthenticated, message, reason.metadata().clone())
}

fn denied(call: &str, roles: &[Role], caller: &Caller) -> Status {
    let verb = call.rsplit('/').next().unwrap_or(call);
    let needed: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
    let needed = needed.join(" or ");
    refuse(
        FailureKind::Denied,
        format!("{verb} needs the role {needed}; this certificate is {caller}"),
        &caller.to_string(),
        &format!("use a certificate with the role {needed}"),
    )
}
