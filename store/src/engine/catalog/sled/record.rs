//! What stands in a journal record: batches that were committed together, by one write and one fsync.
//!
//! One journal record for all of them, because a power cut may leave a later page of one write and not an
//! earlier one: what is torn is then always the journal's last record.
//!
//! ```text
//! group   (length:u32 record)*
//! record  version:u8(=1) kind:u8 seq:u64 state:u128 count:u32 change*count        little endian
//! kind    1 a committed batch · 2 a part of a checkpoint · 3 a checkpoint's end
//! change  op:u8 (0 delete, 1 put) version:u64 key:u16 length, bytes [value: u32 length, bytes]
//! ```
//! `seq` numbers batches and grows by one from batch to batch; all parts of a checkpoint have the number
//! of the last batch they contain. `state` is the sum (modulo 2^128) of the hashes of all records that
//! stand after the batch: it does not depend on the order in which they came to stand.

const VERSION: u8 = 1;

/// Bytes of values after which a group takes no further batch.
pub(super) const GROUP_BYTES: usize = 4 << 20;
/// Longest journal record: a group that was just short of full, one largest batch more, and their keys.
pub(super) const MAX_RECORD: u32 = 16 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Batch = 1,
    Part = 2,
    End = 3,
}

/// One key's new value; none: it is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Applied {
    pub key: String,
    pub version: u64,
    pub value: Option<Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub kind: Kind,
    pub seq: u64,
    pub state: u128,
    pub changes: Vec<Applied>,
}

impl Record {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, self.kind as u8];
        out.extend_from_slice(&self.seq.to_le_bytes());
        out.extend_from_slice(&self.state.to_le_bytes());
        out.extend_from_slice(&(self.changes.len() as u32).to_le_bytes());
        for change in &self.changes {
            out.push(change.value.is_some().into());
            out.extend_from_slice(&change.version.to_le_bytes());
            out.extend_from_slice(&(change.key.len() as u16).to_le_bytes());
            out.extend_from_slice(change.key.as_bytes());
            if let Some(value) = &change.value {
                out.extend_from_slice(&(value.len() as u32).to_le_bytes());
                out.extend_from_slice(value);
            }
        }
        out
    }

    /// None for bytes that this program did not write.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        if reader.array::<1>()? != [VERSION] {
            return None;
        }
        let kind = match reader.array::<1>()? {
            [1] => Kind::Batch,
            [2] => Kind::Part,
            [3] => Kind::End,
            _ => return None,
        };
        let seq = u64::from_le_bytes(reader.array()?);
        let state = u128::from_le_bytes(reader.array()?);
        let count = u32::from_le_bytes(reader.array()?);
        let mut changes = Vec::new();
        for _ in 0..count {
            changes.push(reader.change()?);
        }
        reader.0.is_empty().then_some(Self {
            kind,
            seq,
            state,
            changes,
        })
    }
}

/// The bytes of records that stand together or not at all.
pub(super) fn encode_group(records: &[Record]) -> Vec<u8> {
    let mut out = Vec::new();
    for record in records {
        let bytes = record.encode();
        out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(&bytes);
    }
    out
}

/// None when anything in it is not what this program wrote.
pub(super) fn decode_group(bytes: &[u8]) -> Option<Vec<Record>> {
    let mut reader = Reader(bytes);
    let mut records = Vec::new();
    while !reader.0.is_empty() {
        let len = u32::from_le_bytes(reader.array()?);
        records.push(Record::decode(&reader.bytes(len as usize)?)?);
    }
    Some(records)
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn bytes(&mut self, len: usize) -> Option<Vec<u8>> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken.to_vec())
    }

    fn change(&mut self) -> Option<Applied> {
        let [op] = self.array()?;
        let version = u64::from_le_bytes(self.array()?);
        let key = usize::from(u16::from_le_bytes(self.array()?));
        let key = String::from_utf8(self.bytes(key)?).ok()?;
        let value = match op {
            0 => None,
            1 => {
                let len = u32::from_le_bytes(self.array()?);
                Some(self.bytes(len as usize)?)
            }
            _ => return None,
        };
        Some(Applied { key, version, value })
    }
}

/// What one standing record adds to the state.
pub(super) fn weight(key: &str, version: u64, value: &[u8]) -> u128 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u32).to_le_bytes());
    hasher.update(key.as_bytes());
    hasher.update(&version.to_le_bytes());
    hasher.update(value);
    let mut first = [0; 16];
    hasher.finalize_xof().fill(&mut first);
    u128::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail")]

    use super::*;

    fn example() -> Record {
        Record {
            kind: Kind::Batch,
            seq: 7,
            state: 1 << 100,
            changes: vec![
                Applied {
                    key: "app/web".to_owned(),
                    version: 7,
                    value: Some(b"value".to_vec()),
                },
                Applied {
                    key: "gone".to_owned(),
                    version: 7,
                    value: None,
                },
            ],
        }
    }

    #[test]
    fn a_record_is_frozen_as_bytes() {
        let frozen = concat!(
            "0101",
            "0700000000000000",
            "00000000000000000000000010000000",
            "02000000",
            "01070000000000000007006170702f7765620500000076616c7565",
            "0007000000000000000400676f6e65",
        );
        assert_eq!(hex(&example().encode()), frozen);
        assert_eq!(Record::decode(&example().encode()), Some(example()));
    }

    #[test]
    fn other_bytes_are_refused() {
        let good = example().encode();
        for end in 0..good.len() {
            assert_eq!(Record::decode(&good[..end]), None, "cut at {end}");
        }
        let mut longer = good.clone();
        longer.push(0);
        assert_eq!(Record::decode(&longer), None);
        for (at, byte) in [(0, 2), (1, 0), (1, 9), (30, 2)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert_eq!(Record::decode(&bad), None, "byte {at} as {byte}");
        }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
