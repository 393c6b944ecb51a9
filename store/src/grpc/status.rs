//! Errors of the rooms below become words and reasons here, and nowhere else.

use std::error::Error as _;

use ship_model::name::{AppName, HostName, NameError};
use ship_model::release::ReleaseNumber;
use ship_model::rollout::{PlanRefused, StartRefused};
use ship_proto::v1::{Failure, FailureKind};
use ship_proto::{WireError, refuse, with_reason};
use tonic::Status;

use crate::bridge::BrokenOff;
use crate::clock::rfc3339;
use crate::engine::BlobsError;
use crate::garbage::{CollectError, RootsError};
use crate::keeping::MakeBundleError;
use crate::ledger::{
    ACCEPT_HINT, AddReleaseError, ClaimError, Clash, Collected, LedgerError, NotAcceptedError,
};
use crate::locate::ReadIndexError;
use crate::log::whole;
use crate::near::near_names;
use crate::publish::{BeginError, CommitError, DeltaUploadError, UploadError};
use crate::retention::{BringBackError, LookError, PromisedError, SweepError};
use crate::rollout::{FactsError, SteerError};

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

/// So few names that all of them are told.
const FEW: usize = 12;

/// No such thing, and what may have been meant.
pub fn not_found(what: &str, wanted: &str, known: impl IntoIterator<Item = String>) -> Status {
    let mut known: Vec<String> = known.into_iter().collect();
    known.sort();
    known.dedup();
    let near = near_names(wanted, known.iter().cloned());
    let (names, all) = if near.is_empty() && known.len() <= FEW {
        (known, true)
    } else {
        let all = near.len() == known.len();
        (near, all)
    };
    let named = names.join(", ");
    let message = match (names.len(), all) {
        (0, _) => format!("no {what} {wanted:?}"),
        (_, false) => format!("no {what} {wanted:?}; did you mean {named}?"),
        (1, true) => format!("no {what} {wanted:?}; there is {named}"),
        (_, true) => format!("no {what} {wanted:?}; there are {named}"),
    };
    refuse(FailureKind::NotFound, message, wanted, "")
}

pub fn no_release(app: &AppName, number: ReleaseNumber) -> Status {
    refuse(
        FailureKind::NotFound,
        format!("{app} has no release {number}"),
        &format!("{app}@{number}"),
        &format!("shipctl releases {app}"),
    )
}

pub fn collected(app: &AppName, number: ReleaseNumber, mark: &Collected) -> Status {
    refuse(
        FailureKind::Refused,
        format!(
            "the content of {app}@{number} was collected on {} by {}: nothing kept it any longer",
            rfc3339(mark.at_ms),
            mark.who
        ),
        &format!("{app}@{number}"),
        "publish its tree again, as a new release",
    )
}

pub fn collect(error: &CollectError) -> Status {
    let kind = match error {
        CollectError::Roots(RootsError::NotAccepted(refused)) => return not_accepted(refused),
        CollectError::Roots(RootsError::Stranger { .. }) => FailureKind::Refused,
        CollectError::Ledger(error) | CollectError::Roots(RootsError::Ledger(error)) => return ledger(error),
        CollectError::Blobs(error) => return blobs(error),
        CollectError::Manifest { .. } | CollectError::Chain { .. } | CollectError::Index(_) => {
            FailureKind::Refused
        }
        CollectError::Interrupted(_) => return unavailable(whole(error)),
    };
    refuse(kind, whole(error), "store", "shipstore verify")
}

pub fn broken_off(error: BrokenOff) -> Status {
    refuse(
        FailureKind::Internal,
        error.to_string(),
        "store",
        "look at the store's log",
    )
}

/// The catalog cannot be read or written: nothing the caller can do.
pub fn ledger(error: &LedgerError) -> Status {
    let message = whole(error);
    tracing::error!(error = message, "the ledger failed");
    refuse(
        FailureKind::Unavailable,
        message,
        "ledger",
        "look at the store's log; `shipstore verify` checks it",
    )
}

pub fn not_accepted(error: &NotAcceptedError) -> Status {
    refuse(FailureKind::Fenced, error.to_string(), "store", ACCEPT_HINT)
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
        SteerError::Environment { env, .. } => refuse(
            FailureKind::Refused,
            whole(error),
            env.as_str(),
            &format!("apply it anew: shipctl env apply ship.{env}.toml"),
        ),
        SteerError::NotProven {
            app, wanted, release, ..
        } => refuse(
            FailureKind::Refused,
            error.to_string(),
            &format!("{app}@{release}"),
            &format!("shipctl promote {app}@{release} -e {wanted}"),
        ),
        SteerError::Reused => invalid(error.to_string(), "request_id"),
        SteerError::Behind { env, app, .. } => refuse(
            FailureKind::Fenced,
            error.to_string(),
            &format!("{env}/{app}"),
            ACCEPT_HINT,
        ),
        SteerError::NotAccepted(error) => not_accepted(error),
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
        PlanRefused::Collected { app, release, .. } => refuse(
            FailureKind::Refused,
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
        } => with_reason(
            message,
            &Failure {
                kind: FailureKind::Busy.into(),
                subject: format!("{env}/{app}@{release}"),
                hint: format!("shipctl attach {app} -e {env}"),
                since_ms: *since_ms,
            },
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
        PlanRefused::NoHosts { .. } => refuse(FailureKind::Refused, message, "hosts", "shipctl hosts"),
        PlanRefused::TooManyAway { away: hosts, .. } | PlanRefused::AssetHostsAway { hosts } => refuse(
            FailureKind::Refused,
            message,
            "hosts",
            &format!(
                "`shipctl hosts` tells more; go on without them: shipctl promote{}",
                without(hosts)
            ),
        ),
        PlanRefused::AllDrained { hosts } => {
            let hint = hosts
                .first()
                .map_or_else(String::new, |host| format!("shipctl host undrain {host}"));
            refuse(FailureKind::Refused, message, "hosts", &hint)
        }
        PlanRefused::Drifted { .. } => refuse(
            FailureKind::Refused,
            message,
            "plan",
            "plan again: shipctl plan APP@N --save FILE",
        ),
        PlanRefused::StepWithoutHosts { env, .. } => refuse(
            FailureKind::Refused,
            message,
            "step",
            &format!("`shipctl hosts` lists the hosts, `shipctl env show -e {env}` the steps"),
        ),
        PlanRefused::AlreadyRuns { app, release, .. } => refuse(
            FailureKind::Refused,
            message,
            &format!("{app}@{release}"),
            "shipctl status",
        ),
        _ => refuse(FailureKind::Refused, message, "plan", ""),
    }
}

/// ` --without h1 --without h2`, for ten hosts at most: nobody types more.
fn without(hosts: &[HostName]) -> String {
    let named = hosts.iter().take(10);
    named.map(|host| format!(" --without {host}")).collect()
}

fn start_refused(refused: &StartRefused) -> Status {
    let kind = match refused {
        StartRefused::Busy { .. } | StartRefused::Drifted { .. } => FailureKind::Busy,
        StartRefused::NothingRuns
        | StartRefused::GoesBack { .. }
        | StartRefused::NotPaused { .. }
        | StartRefused::NoGate { .. }
        | StartRefused::NoApproval { .. }
        | StartRefused::NoManualGate { .. }
        | StartRefused::OtherDeploy { .. }
        | StartRefused::OtherStep { .. }
        | StartRefused::NotHis { .. } => FailureKind::Refused,
    };
    refuse(kind, refused.to_string(), "rollout", "shipctl status")
}

pub fn blobs(error: &BlobsError) -> Status {
    let message = whole(error);
    match error {
        BlobsError::Absent { object } => refuse(FailureKind::NotFound, message, &object.hex(), ""),
        BlobsError::Damaged { object, .. } => {
            tracing::error!(error = message, "an object is damaged");
            let hint = "publish the release again: that heals it";
            refuse(FailureKind::Damaged, message, &object.hex(), hint)
        }
        BlobsError::Mismatch { object, .. } | BlobsError::TooLong { object, .. } => {
            refuse(FailureKind::Invalid, message, &object.hex(), "")
        }
        BlobsError::DiskFull { .. } => refuse(
            FailureKind::Unavailable,
            message,
            "disk",
            "free space on the store's disk",
        ),
        BlobsError::Io { .. } | BlobsError::Durable { .. } => {
            tracing::error!(error = message, "objects cannot be read or written");
            refuse(
                FailureKind::Unavailable,
                message,
                "objects",
                "look at the store's log",
            )
        }
    }
}

fn clashes(all: &[Clash]) -> Status {
    let first = all.first().map_or_else(String::new, ToString::to_string);
    let more = match all.len() {
        0 | 1 => String::new(),
        n => format!(" (and {} more)", n - 1),
    };
    let subject = all.first().map(|clash| clash.url.clone()).unwrap_or_default();
    let hint = "rebuild so that the name changes with its content, or list it as mutable in ship.toml";
    refuse(FailureKind::Clash, format!("{first}{more}"), &subject, hint)
}

pub fn look(error: &LookError) -> Status {
    match error {
        LookError::Ledger { source, .. } => ledger(source),
        LookError::Incomplete { .. } => refuse(
            FailureKind::Unavailable,
            whole(error),
            "assets",
            "try again later",
        ),
        LookError::Stranger { app, release, .. } => refuse(
            FailureKind::Unavailable,
            whole(error),
            &format!("{app}@{release}"),
            "promote a release of this store there first; `shipctl hosts` tells who is where",
        ),
        LookError::Union { .. } | LookError::Record { .. } => {
            let message = whole(error);
            tracing::error!(error = message, "assets cannot be judged");
            refuse(
                FailureKind::Unavailable,
                message,
                "assets",
                "look at the store's log",
            )
        }
    }
}

pub fn sweep(error: &SweepError) -> Status {
    match error {
        SweepError::Look(error) => look(error),
        SweepError::Ledger { source, .. } => ledger(source),
        SweepError::Forget { .. } | SweepError::Interrupted(_) => {
            let message = whole(error);
            tracing::error!(error = message, "expired assets are not all removed");
            refuse(
                FailureKind::Unavailable,
                message,
                "assets",
                "look at the store's log",
            )
        }
    }
}

pub fn bring_back(error: &BringBackError) -> Status {
    match error {
        BringBackError::Ledger { source, .. } => ledger(source),
        BringBackError::Add { app, release, .. } => refuse(
            FailureKind::Unavailable,
            whole(error),
            &format!("{app}@{release}"),
            "`shipstore verify` tells what is damaged; publishing the release again heals it",
        ),
    }
}

pub fn promised(error: &PromisedError) -> Status {
    match error {
        PromisedError::Ledger { source, .. } => ledger(source),
        PromisedError::Size { .. } => refuse(
            FailureKind::Unavailable,
            whole(error),
            "assets",
            "look at the store's log",
        ),
    }
}

pub fn begin(error: &BeginError) -> Status {
    match error {
        BeginError::Manifest(_) | BeginError::App { .. } | BeginError::Assets(_) => {
            invalid(whole(error), "manifest")
        }
        BeginError::NotAccepted(error) => not_accepted(error),
        BeginError::Clash(all) => clashes(all),
        BeginError::Blobs(error) => blobs(error),
        BeginError::Ledger(error) => ledger(error),
        BeginError::Write(_) => unavailable(whole(error)),
    }
}

pub fn upload(error: &UploadError) -> Status {
    match error {
        UploadError::TooLong { .. } => invalid(whole(error), "bundle"),
        UploadError::Bundle(_) => refuse(FailureKind::Damaged, whole(error), "bundle", "publish again"),
        UploadError::Segments { .. } | UploadError::List { .. } => {
            refuse(FailureKind::Damaged, whole(error), "bundle", "publish again")
        }
        UploadError::Index(_) => unavailable(whole(error)),
        UploadError::Blobs(error) => blobs(error),
        UploadError::Write(_) => unavailable(whole(error)),
    }
}

/// Whatever it is, a bundle may be taken: only what passes by itself is worth another try.
pub fn upload_delta(error: &DeltaUploadError) -> Status {
    let message = whole(error);
    let whole_files = |kind| refuse(kind, message.clone(), "delta", "send what is missing as a bundle");
    match error {
        DeltaUploadError::Base { .. } | DeltaUploadError::NotBegun { .. } => {
            whole_files(FailureKind::NotFound)
        }
        DeltaUploadError::App { .. }
        | DeltaUploadError::Manifests { .. }
        | DeltaUploadError::TooLong { .. }
        | DeltaUploadError::Way { .. }
        | DeltaUploadError::Work { .. } => whole_files(FailureKind::Invalid),
        DeltaUploadError::Blobs(error) | DeltaUploadError::Make(MakeBundleError::Blobs(error)) => {
            blobs(error)
        }
        DeltaUploadError::Ledger(error) => ledger(error),
        DeltaUploadError::Write(_) | DeltaUploadError::Make(MakeBundleError::Interrupted(_)) => {
            unavailable(message)
        }
        DeltaUploadError::Manifest { .. }
        | DeltaUploadError::Mismatch { .. }
        | DeltaUploadError::Footer(_)
        | DeltaUploadError::Gives
        | DeltaUploadError::Lay(_)
        | DeltaUploadError::Apply(_)
        | DeltaUploadError::Content { .. }
        | DeltaUploadError::Lost { .. }
        | DeltaUploadError::Make(_) => whole_files(FailureKind::Damaged),
    }
}

pub fn commit(error: &CommitError) -> Status {
    let message = whole(error);
    match error {
        CommitError::NotBegun { id } => {
            refuse(FailureKind::NotFound, message, &id.to_string(), "publish again")
        }
        CommitError::UnknownBundle { bundle } => refuse(
            FailureKind::NotFound,
            message,
            &bundle.to_string(),
            "publish again",
        ),
        CommitError::Missing { path, .. } => refuse(FailureKind::Refused, message, path, "publish again"),
        CommitError::Manifest(_)
        | CommitError::App { .. }
        | CommitError::TooLong { .. }
        | CommitError::Assets(_)
        | CommitError::Release(AddReleaseError::Reused { .. }) => invalid(message, "release"),
        CommitError::NotAccepted(error) => not_accepted(error),
        CommitError::Claim(ClaimError::Clash(all)) => clashes(all),
        CommitError::Claim(ClaimError::Contended { url }) => {
            refuse(FailureKind::Busy, message, url, "publish again")
        }
        CommitError::Release(AddReleaseError::Voided) => {
            refuse(FailureKind::Busy, message, "release", "publish again")
        }
        CommitError::Claim(ClaimError::Ledger(error))
        | CommitError::Release(AddReleaseError::Ledger(error))
        | CommitError::Ledger(error) => ledger(error),
        CommitError::Index(ReadIndexError::Blobs(error)) | CommitError::Blobs(error) => blobs(error),
        CommitError::Index(_) => refuse(FailureKind::Damaged, message, "bundle", "publish again"),
        CommitError::Bring(_) => refuse(FailureKind::Damaged, message, "release", "publish again"),
        CommitError::Interrupted(_) => unavailable(message),
    }
}
