//! Tar members as this room writes them, and a reader that accepts exactly those.
//!
//! A member is a GNU header (mode 0644 or 0755, everything else zero), the content, and zeros up to a multiple of 512.
//! A path over 100 bytes goes before it as a `././@LongLink` member of kind `L`; a size of 8 GiB or more is base-256.
//! There is one spelling for each member: the reader takes path, mode and size from what it reads, spells the header
//! itself and compares all bytes. So no two readers can disagree about a bundle, whatever tar's dialects allow.

use std::io::{self, Read};

use ship_model::path::{MAX_PATH, PathError, TreePath};

const BLOCK: usize = 512;
const NAME: usize = 100;
/// Largest file that a bundle carries: 1 PiB, so that sums of a few sizes cannot overflow.
pub(crate) const MAX_FILE: u64 = 1 << 50;
/// Two blocks of zeros end an archive.
pub(crate) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// Why bytes are not a member as we write it.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    #[error("a tar header is not in the one form that bundles have")]
    Header,
    #[error("a tar member has a bad name")]
    Path(#[source] PathError),
    #[error("the archive's end mark is incomplete or followed by more")]
    End,
    #[error("tar member \"{path}\" is padded with something else than zeros")]
    Padding { path: TreePath },
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
}

/// What a member's header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub path: TreePath,
    pub executable: bool,
    pub size: u64,
}

impl Member {
    /// The bytes before the content.
    pub fn header(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.header_len());
        let name = self.path.as_bytes();
        if name.len() > NAME {
            out.extend_from_slice(&block(b"././@LongLink", 0o644, name.len() as u64 + 1, b'L'));
            out.extend_from_slice(name);
            out.resize(out.len() + name_padding(name.len()), 0);
        }
        let mode = if self.executable { 0o755 } else { 0o644 };
        out.extend_from_slice(&block(&name[..name.len().min(NAME)], mode, self.size, b'0'));
        out
    }

    pub fn header_len(&self) -> usize {
        match self.path.as_bytes().len() {
            len if len > NAME => 2 * BLOCK + len + name_padding(len),
            _ => BLOCK,
        }
    }

    /// Zeros after the content.
    pub fn padding(&self) -> usize {
        (BLOCK - (self.size % BLOCK as u64) as usize) % BLOCK
    }

    /// Header, content and padding.
    pub fn raw_len(&self) -> u64 {
        self.header_len() as u64 + self.size + self.padding() as u64
    }
}

/// A long name ends with at least one NUL.
fn name_padding(len: usize) -> usize {
    BLOCK - len % BLOCK
}

fn block(name: &[u8], mode: u32, size: u64, kind: u8) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    block[..name.len()].copy_from_slice(name);
    block[100..107].copy_from_slice(format!("{mode:07o}").as_bytes());
    block[108..115].copy_from_slice(b"0000000");
    block[116..123].copy_from_slice(b"0000000");
    if size < 1 << 33 {
        block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    } else {
        block[124] = 0x80;
        block[128..136].copy_from_slice(&size.to_be_bytes());
    }
    block[136..147].copy_from_slice(b"00000000000");
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar  \0");
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

/// The next member of a tar stream; none at its end, which must be the two blocks of zeros and nothing more.
///
/// # Errors
/// [`TarError`]; a stream that ends before the end mark is one.
pub(crate) fn next_member(source: &mut impl Read) -> Result<Option<Member>, TarError> {
    let mut first = [0; BLOCK];
    source.read_exact(&mut first).map_err(TarError::Read)?;
    if first == [0; BLOCK] {
        return end(source).map(|()| None);
    }
    let mut seen = first.to_vec();
    let name = if first[156] == b'L' {
        long_name(source, &first, &mut seen)?
    } else {
        let len = first[..NAME].iter().position(|b| *b == 0).unwrap_or(NAME);
        first[..len].to_vec()
    };
    let header: &[u8] = &seen[seen.len() - BLOCK..];
    let member = Member {
        path: TreePath::new(&name).map_err(TarError::Path)?,
        executable: header.get(100..107) == Some(b"0000755"),
        size: size(header)
            .filter(|size| *size <= MAX_FILE)
            .ok_or(TarError::Header)?,
    };
    if member.header() != seen {
        return Err(TarError::Header);
    }
    Ok(Some(member))
}

fn end(source: &mut impl Read) -> Result<(), TarError> {
    let mut rest = Vec::new();
    source
        .take(BLOCK as u64 + 1)
        .read_to_end(&mut rest)
        .map_err(TarError::Read)?;
    if rest == [0; BLOCK] {
        Ok(())
    } else {
        Err(TarError::End)
    }
}

/// Reads the long name and the header after it; both go to `seen`.
fn long_name(source: &mut impl Read, first: &[u8], seen: &mut Vec<u8>) -> Result<Vec<u8>, TarError> {
    let len = size(first).filter(|len| *len <= MAX_PATH as u64 + 1 && *len > NAME as u64);
    let len = len.ok_or(TarError::Header)? as usize - 1;
    let from = seen.len();
    seen.resize(from + len + name_padding(len) + BLOCK, 0);
    source.read_exact(&mut seen[from..]).map_err(TarError::Read)?;
    Ok(seen[from..from + len].to_vec())
}

fn size(header: &[u8]) -> Option<u64> {
    let field = header.get(124..136)?;
    if field[0] == 0x80 {
        return Some(u64::from_be_bytes(field[4..].try_into().ok()?));
    }
    let text = std::str::from_utf8(&field[..11]).ok()?;
    u64::from_str_radix(text, 8).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    fn member(len: usize, executable: bool, size: u64) -> Member {
        let mut path = b"abcdefghijklmno/".repeat(len / 16 + 1);
        path.truncate(len);
        *path.last_mut().unwrap() = b'z';
        Member {
            path: TreePath::new(&path).unwrap(),
            executable,
            size,
        }
    }

    #[test]
    fn every_header_reads_back() {
        for len in [1, 99, 100, 101, 511, 512, 513, 1023, 1024, 3072] {
            for (executable, size) in [
                (false, 0),
                (true, 1),
                (false, (1 << 33) - 1),
                (true, 1 << 33),
                (true, MAX_FILE),
            ] {
                let member = member(len, executable, size);
                let header = member.header();
                assert_eq!(header.len(), member.header_len());
                assert_eq!(header.len() % BLOCK, 0);
                assert_eq!(next_member(&mut &header[..]).unwrap().unwrap(), member);
            }
        }
    }

    #[test]
    fn no_other_spelling_is_read() {
        for member in [member(5, true, 700), member(150, false, 1 << 40)] {
            let good = member.header();
            for at in 0..good.len() {
                for bit in 0..8 {
                    let mut bad = good.clone();
                    bad[at] ^= 1 << bit;
                    // The tail of a long name is covered by no checksum of tar: it is another name then.
                    let other = next_member(&mut &bad[..]).ok().flatten();
                    let renamed = at >= BLOCK + NAME && at < BLOCK + member.path.as_bytes().len();
                    assert!(
                        other.is_none_or(|other| renamed && other.path != member.path),
                        "bit {bit} at {at}"
                    );
                }
                assert!(next_member(&mut &good[..at]).is_err(), "cut at {at}");
            }
        }
    }

    #[test]
    fn the_end_is_two_blocks_and_nothing_more() {
        assert!(next_member(&mut &END[..]).unwrap().is_none());
        for bad in [
            &END[..BLOCK],
            &END[..BLOCK + 1],
            &[0; 3 * BLOCK],
            &[0; 2 * BLOCK + 1],
        ] {
            assert!(next_member(&mut &bad[..]).is_err());
        }
    }

    #[test]
    fn kinds_that_are_no_files_are_refused() {
        for kind in b"12345678xgKSVM\0" {
            let bytes = block(b"a", 0o644, 0, *kind);
            assert!(matches!(next_member(&mut &bytes[..]), Err(TarError::Header)));
        }
    }
}
