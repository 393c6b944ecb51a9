//! Machine-readable reasons beside a gRPC status.

use prost::Message as _;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::v1::{Failure, FailureKind};

/// Metadata key of the encoded [`Failure`].
pub const FAILURE_KEY: &str = "ship-failure-bin";

/// A status that carries its reason in a form programs can act on.
pub fn refuse(kind: FailureKind, message: impl Into<String>, subject: &str, hint: &str) -> Status {
    with_reason(
        message,
        &Failure {
            kind: kind.into(),
            subject: subject.to_owned(),
            hint: hint.to_owned(),
            since_ms: 0,
        },
    )
}

/// A status with a reason that is already made.
pub fn with_reason(message: impl Into<String>, failure: &Failure) -> Status {
    let mut status = Status::new(code(failure.kind()), message);
    let value = MetadataValue::from_bytes(&failure.encode_to_vec());
    status.metadata_mut().insert_bin(FAILURE_KEY, value);
    status
}

/// The reason a peer gave, if it gave one.
pub fn failure_of(status: &Status) -> Option<Failure> {
    let value = status.metadata().get_bin(FAILURE_KEY)?.to_bytes().ok()?;
    Failure::decode(value).ok()
}

const fn code(kind: FailureKind) -> Code {
    match kind {
        FailureKind::Invalid => Code::InvalidArgument,
        FailureKind::NotFound => Code::NotFound,
        FailureKind::Refused | FailureKind::Clash | FailureKind::Fenced => Code::FailedPrecondition,
        FailureKind::Denied => Code::PermissionDenied,
        FailureKind::Busy => Code::Aborted,
        FailureKind::Damaged => Code::DataLoss,
        FailureKind::Unavailable => Code::Unavailable,
        FailureKind::Internal | FailureKind::Unspecified => Code::Internal,
    }
}
