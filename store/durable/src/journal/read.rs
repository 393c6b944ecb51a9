//! Reading a journal from its start, and telling a torn end from damage.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{HEADER_LEN, MAGIC, OpenError, RECORD_HEAD_LEN, Record, VERSION, checksum};

/// How much of the file is looked through at once for a record behind damage.
const WINDOW: usize = 64 * 1024;

pub(super) struct End {
    pub offset: u64,
    pub next_seq: u64,
}

/// Hands all good records to `visit` and returns where they end.
pub(super) fn scan(
    path: &Path,
    file: &File,
    max_record: u32,
    mut visit: impl FnMut(Record),
) -> Result<End, OpenError> {
    let io_error = |source| OpenError::Io {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let mut reader = BufReader::with_capacity(WINDOW, file);
    let mut end = End {
        offset: HEADER_LEN,
        next_seq: read_header(path, &mut reader)?,
    };
    while let Some(record) = next_record(&mut reader, end.next_seq, max_record).map_err(io_error)? {
        end.offset += (RECORD_HEAD_LEN + record.payload.len()) as u64;
        end.next_seq += 1;
        visit(record);
    }
    let size = file.metadata().map_err(io_error)?.len();
    if size > end.offset
        && followed_by_record(file, end.offset, size, end.next_seq, max_record).map_err(io_error)?
    {
        return Err(OpenError::Damaged {
            path: path.to_owned(),
            offset: end.offset,
            after: end.next_seq.saturating_sub(1),
        });
    }
    Ok(end)
}

fn read_header(path: &Path, reader: &mut impl Read) -> Result<u64, OpenError> {
    let mut bytes = [0_u8; HEADER_LEN as usize];
    match reader.read_exact(&mut bytes) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(OpenError::NotAJournal {
                path: path.to_owned(),
            });
        }
        Err(source) => {
            return Err(OpenError::Io {
                action: "read",
                path: path.to_owned(),
                source,
            });
        }
    }
    if &bytes[..7] != MAGIC {
        return Err(OpenError::NotAJournal {
            path: path.to_owned(),
        });
    }
    if bytes[7] != VERSION {
        return Err(OpenError::Version {
            path: path.to_owned(),
            found: bytes[7],
        });
    }
    if le_u32(&bytes[16..]) != crc32fast::hash(&bytes[..16]) {
        return Err(OpenError::NotAJournal {
            path: path.to_owned(),
        });
    }
    Ok(le_u64(&bytes[8..]))
}

struct Head {
    len: u32,
    crc: u32,
    seq: u64,
}

impl Head {
    fn parse(bytes: &[u8]) -> Self {
        Self {
            len: le_u32(bytes),
            crc: le_u32(&bytes[4..]),
            seq: le_u64(&bytes[8..]),
        }
    }
}

/// The next whole and good record, or none when what follows is not one.
fn next_record(reader: &mut impl Read, seq: u64, max_record: u32) -> io::Result<Option<Record>> {
    let mut head = [0_u8; RECORD_HEAD_LEN];
    if !filled(reader, &mut head)? {
        return Ok(None);
    }
    let head = Head::parse(&head);
    if head.seq != seq || head.len > max_record {
        return Ok(None);
    }
    let mut payload = vec![0_u8; head.len as usize];
    if !filled(reader, &mut payload)? || checksum(head.len, head.seq, &payload) != head.crc {
        return Ok(None);
    }
    Ok(Some(Record { seq, payload }))
}

fn filled(reader: &mut impl Read, bytes: &mut [u8]) -> io::Result<bool> {
    match reader.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether a good record with a later number starts anywhere behind `from`.
///
/// Checksums are taken only where length and number are possible, so random bytes cost one look each.
fn followed_by_record(file: &File, from: u64, size: u64, next_seq: u64, max_record: u32) -> io::Result<bool> {
    let most_records = (size - from) / RECORD_HEAD_LEN as u64 + 1;
    let mut window = vec![0_u8; WINDOW + RECORD_HEAD_LEN];
    let mut start = from + 1;
    while start + RECORD_HEAD_LEN as u64 <= size {
        let got = read_at_most(file, &mut window, start)?;
        for at in 0..WINDOW.min((got + 1).saturating_sub(RECORD_HEAD_LEN)) {
            let head = Head::parse(&window[at..at + RECORD_HEAD_LEN]);
            let body = start + (at + RECORD_HEAD_LEN) as u64;
            // The damaged record's own number counts as a follower only when it starts elsewhere, e.g. after stray bytes.
            let possible = head.seq >= next_seq
                && head.seq - next_seq <= most_records
                && head.len <= max_record
                && body + u64::from(head.len) <= size;
            if possible && good_body(file, &head, body)? {
                return Ok(true);
            }
        }
        start += WINDOW as u64;
    }
    Ok(false)
}

fn good_body(file: &File, head: &Head, at: u64) -> io::Result<bool> {
    let mut payload = vec![0_u8; head.len as usize];
    file.read_exact_at(&mut payload, at)?;
    Ok(checksum(head.len, head.seq, &payload) == head.crc)
}

fn read_at_most(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut got = 0;
    while got < bytes.len() {
        match file.read_at(&mut bytes[got..], offset + got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

fn le_u32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn le_u64(bytes: &[u8]) -> u64 {
    u64::from(le_u32(bytes)) | (u64::from(le_u32(&bytes[4..])) << 32)
}
