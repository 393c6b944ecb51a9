//! Errors of the rooms below become words and reasons here, and nowhere else.

use std::error::Error;
use std::fmt::Write as _;

use ship_model::name::NameError;
use ship_model::rollout::{PlanRefused, StartRefused};
use ship_proto::v1::FailureKind;
use ship_proto::{WireError, refuse};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tonic::Status;

use crate::bridge::BrokenOff;
use crate::ledger::LedgerError;
use crate::near::near_names;
use crate::rollout::{FactsError, SteerError};

/// An error with everything that lies under it, in one line: `cannot do this: because of that`.
pub fn whole(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut under = error.source();
    while let Some(error) = under {
        // Writing to a string cannot fail.
        let _ = write!(text, ": {error}");
        under = error.source();
    }
    text
}

/// The caller's words do not fit.
pub fn invalid(message: impl Into<String>, subject: &str) -> Status {
    refuse(FailureKind::Invalid, message, subject, "")
}

pub fn bad_name(error: &NameError) -> Status {
    invalid(error.to_string(), "name")
}

pub fn bad_message(error: &WireError) -> Status {
    invalid(whole(error), "message")
}

/// No such thing, and what may have been meant.
pub fn not_found(what: &str, wanted: &str, known: impl IntoIterator<Item = String>) -> Status {
    let near = near_names(wanted, known);
    let message = if near.is_empty() {
        format!("no {what} {wanted:?}")
    } else {
        format!("no {what} {wanted:?}; there is {}", near.join(", "))
    };
    refuse(FailureKind::NotFound, message, wanted, "")
}

pub fn broken_off(error: BrokenOff) -> Status {
    refuse(FailureKind::Internal, error.to_string(), "store", "look at the store's log")
}

/// The catalog cannot be read or written: nothing the caller can do.
pub fn ledger(error: &LedgerError) -> Status {
    let message = whole(error);
    tracing::error!(error = message, "the ledger failed");
    refuse(FailureKind::Unavailable, message, "ledger", "look at the store's log; `shipstore verify` checks it")
}

pub fn unavailable(message: impl Into<String>) -> Status {
    refuse(FailureKind::Unavailable, message, "store", "try again")
}

pub fn steer(error: &SteerError) -> Status {
    match error {
        SteerError::Plan(refused) => plan_refused(refused),
        SteerError::Refused(refused) => start_refused(refused),
        SteerError::Facts(FactsError::Ledger { source, .. }) => ledger(source),
        SteerError::Facts(FactsError::Manifest { app, release, .. }) => refuse(
            FailureKind::Damaged,
            error.source().map_or_else(String::new, ToString::to_string),
            &format!("{app}@{release}"),
            "`shipstore verify` tells what is damaged; publishing the release again heals it",
        ),
        SteerError::Reused => invalid(error.to_string(), "request_id"),
        SteerError::Behind { env, app, .. } => refuse(
            FailureKind::Fenced,
            error.to_string(),
            &format!("{env}/{app}"),
            "start the newer store again, or bring this one up to date",
        ),
        SteerError::Ledger(error) => ledger(error),
        SteerError::Contended | SteerError::Crowded { .. } => {
            refuse(FailureKind::Busy, error.to_string(), "store", "try again")
        }
        SteerError::BrokenOff(error) => broken_off(*error),
        SteerError::Ending => unavailable(error.to_string()),
    }
}

fn plan_refused(refused: &PlanRefused) -> Status {
    let message = refused.to_string();
    match refused {
        PlanRefused::UnknownRelease { app, release } => refuse(
            FailureKind::NotFound,
            message,
            &format!("{app}@{release}"),
            &format!("shipctl releases {app}"),
        ),
        PlanRefused::NothingPublished { app } => {
            refuse(FailureKind::NotFound, message, app.as_str(), "shipctl publish")
        }
        PlanRefused::Busy {
            env,
            app,
            release,
            since_ms,
            ..
        } => refuse(
            FailureKind::Busy,
            format!("{message} (since {})", clock_time(*since_ms)),
            &format!("{env}/{app}@{release}"),
            &format!("shipctl attach {app} -e {env}"),
        ),
        PlanRefused::Bad { app, release, .. } => refuse(
            FailureKind::Refused,
            message,
            &format!("{app}@{release}"),
            &format!("shipctl promote {app}@{release} --force"),
        ),
        PlanRefused::NothingToRevertTo { app, .. } => refuse(
            FailureKind::Refused,
            message,
            app.as_str(),
            &format!("shipctl releases {app}"),
        ),
        PlanRefused::NoHosts { .. } | PlanRefused::TooManyAway { .. } | PlanRefused::AssetHostsAway { .. } => {
            refuse(FailureKind::Refused, message, "hosts", "shipctl hosts")
        }
        PlanRefused::AlreadyRuns { app, release, .. } => {
            refuse(FailureKind::Refused, message, &format!("{app}@{release}"), "shipctl status")
        }
        _ => refuse(FailureKind::Refused, message, "plan", ""),
    }
}

fn start_refused(refused: &StartRefused) -> Status {
    let kind = match refused {
        StartRefused::Busy { .. } | StartRefused::Drifted { .. } => FailureKind::Busy,
        StartRefused::NothingRuns | StartRefused::GoesBack { .. } | StartRefused::NotPaused { .. } => {
            FailureKind::Refused
        }
    };
    refuse(kind, refused.to_string(), "rollout", "shipctl status")
}

/// `2026-11-22T01:05:00Z`.
fn clock_time(ms: u64) -> String {
    let time = i64::try_from(ms / 1000).ok();
    let time = time.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}
