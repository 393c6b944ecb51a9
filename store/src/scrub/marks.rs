//! How far the store was read.

use std::path::Path;

use serde::{Deserialize, Serialize};
use ship_durable::FileError;

use crate::engine::{Object, ObjectKind};

const VERSION: u32 = 1;
/// It is some hundred bytes.
const MOST: u64 = 64 << 10;

/// A round, as `scrub.json` has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marks {
    version: u32,
    /// When the round began, in milliseconds since 1970, by the store's clock.
    pub began_ms: u64,
    /// `bundle 3f9a…`: the last object that was dealt with; none: none yet.
    after: Option<String>,
    /// The round was read to its end.
    over: bool,
    /// Of this round.
    pub objects: u64,
    pub bytes: u64,
    /// When a round was last read to its end; 0: never.
    pub ended_ms: u64,
}

impl Marks {
    /// A new round.
    pub fn begin(now_ms: u64, ended_ms: u64) -> Self {
        Self {
            version: VERSION,
            began_ms: now_ms,
            after: None,
            over: false,
            objects: 0,
            bytes: 0,
            ended_ms,
        }
    }

    /// What cannot be read costs reading: a round begins.
    pub fn read(path: &Path) -> Self {
        let small = std::fs::metadata(path).is_ok_and(|found| found.len() <= MOST);
        let bytes = small.then(|| std::fs::read(path).ok()).flatten();
        let marks = bytes.and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok());
        let none = Self {
            over: true,
            ..Self::begin(0, 0)
        };
        marks.filter(|marks| marks.version == VERSION).unwrap_or(none)
    }

    /// Durable when it returns.
    pub fn write(&self, path: &Path) -> Result<(), FileError> {
        // A record of words and numbers can always be written.
        let bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        ship_durable::write_file(path, &bytes)
    }

    pub const fn is_over(&self) -> bool {
        self.over
    }

    /// Whether the next round begins. A time that is still to come was written by a wrong clock.
    pub fn is_due(&self, every_ms: u64, now_ms: u64) -> bool {
        now_ms
            .checked_sub(self.began_ms)
            .is_none_or(|age| age >= every_ms)
    }

    /// Whether this round has not come to the object yet.
    pub fn is_ahead(&self, object: &Object) -> bool {
        let place = |kind: ObjectKind| ObjectKind::ALL.iter().position(|of| *of == kind);
        let Some((kind, hex)) = self.after.as_deref().and_then(|after| after.split_once(' ')) else {
            return true;
        };
        let after = (ObjectKind::named(kind).and_then(place), hex);
        let here = object.hex();
        (place(object.kind()), here.as_str()) > after
    }

    pub fn passed(&mut self, object: Object, bytes: u64) {
        self.after = Some(object.to_string());
        self.objects += 1;
        self.bytes += bytes;
    }

    pub fn end(&mut self, now_ms: u64) {
        self.over = true;
        self.ended_ms = now_ms;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use ship_model::digest::{BundleDigest, DeltaDigest, ReleaseId};

    use super::*;

    #[test]
    fn a_round_goes_on_where_it_was_and_the_next_comes_in_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scrub.json");
        let none = Marks::read(&path);
        assert!(none.is_over() && none.is_due(1_000, 5_000));
        let mut marks = Marks::begin(10_000, 7);
        let all = [
            Object::Bundle(BundleDigest::from_bytes([1; 32])),
            Object::Bundle(BundleDigest::from_bytes([2; 32])),
            Object::Manifest(ReleaseId::from_bytes([0; 32])),
            Object::Kept(DeltaDigest::from_bytes([0; 32])),
        ];
        assert!(all.is_sorted());
        assert!(all.iter().all(|object| marks.is_ahead(object)));
        marks.passed(all[1], 5);
        marks.write(&path).unwrap();
        let read = Marks::read(&path);
        assert_eq!(read, marks);
        assert_eq!(
            all.map(|object| read.is_ahead(&object)),
            [false, false, true, true]
        );
        marks.end(20_000);
        assert!(!marks.is_due(15_000, 20_000) && marks.is_due(15_000, 25_000));
        assert!(marks.is_due(15_000, 9_000), "a clock that was set back");
        ship_durable::write_file(&path, b"{\"version\":1,").unwrap();
        assert!(Marks::read(&path).is_over());
    }
}
