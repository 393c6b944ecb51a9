//! How a record becomes bytes.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The form of all records; raised when one of them changes in a way that an older program would misread.
const VERSION: u8 = 1;
const JSON: u8 = b'j';
const ZSTD: u8 = b'z';
/// Records of at least this many bytes are compressed: an environment of thousands of hosts repeats itself.
const LARGE: usize = 16 * 1024;
/// What a compressed record may become at most.
const MOST: usize = 64 << 20;

/// Why bytes are not a record, or a record has no bytes.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("it has format {found}; this program knows {VERSION}: update it")]
    Version { found: u8 },
    #[error("it is damaged: {reason}")]
    Damaged { reason: &'static str },
    #[error("it is not what is expected here")]
    Json(#[from] serde_json::Error),
    #[error("it cannot be compressed or expanded")]
    Zstd(#[source] std::io::Error),
}

pub(super) fn encode<T: Serialize>(record: &T) -> Result<Vec<u8>, RecordError> {
    let mut bytes = vec![VERSION, JSON];
    serde_json::to_writer(&mut bytes, record)?;
    if bytes.len() < LARGE {
        return Ok(bytes);
    }
    let mut packed = vec![VERSION, ZSTD];
    packed.extend(zstd::bulk::compress(&bytes[2..], 3).map_err(RecordError::Zstd)?);
    Ok(packed)
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RecordError> {
    match bytes {
        [VERSION, JSON, json @ ..] => Ok(serde_json::from_slice(json)?),
        [VERSION, ZSTD, packed @ ..] => {
            let json = zstd::bulk::decompress(packed, MOST).map_err(RecordError::Zstd)?;
            Ok(serde_json::from_slice(&json)?)
        }
        [VERSION, ..] => Err(RecordError::Damaged {
            reason: "its coding is unknown",
        }),
        [found, _, ..] => Err(RecordError::Version { found: *found }),
        _ => Err(RecordError::Damaged {
            reason: "it is too short",
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]

    use super::*;

    #[test]
    fn small_and_large_records_come_back() {
        for len in [0, 1, LARGE, 1 << 20] {
            let text = "x".repeat(len);
            let bytes = encode(&text).unwrap();
            assert_eq!(decode::<String>(&bytes).unwrap(), text);
            assert!(bytes.len() < LARGE + 16);
        }
    }

    #[test]
    fn other_bytes_are_refused() {
        for bad in [
            &b""[..],
            b"\x01",
            b"\x02j{}",
            b"\x01x{}",
            b"\x01j{",
            b"\x01zgarbage",
        ] {
            assert!(decode::<String>(bad).is_err(), "{bad:?}");
        }
    }
}
