//! Frames of RFC 6455 as a client writes and reads them. No sockets here.

/// Longest payload that is accepted, in bytes.
const PAYLOAD_LIMIT: usize = 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Kind {
    fn of(code: u8) -> Result<Self, Malformed> {
        match code {
            1 => Ok(Self::Text),
            2 => Ok(Self::Binary),
            8 => Ok(Self::Close),
            9 => Ok(Self::Ping),
            10 => Ok(Self::Pong),
            _ => Err(Malformed("an opcode nobody agreed on")),
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Text => 1,
            Self::Binary => 2,
            Self::Close => 8,
            Self::Ping => 9,
            Self::Pong => 10,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: Kind,
    pub payload: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed frame: {0}")]
pub struct Malformed(pub &'static str);

/// The first frame of `bytes` and its length there; `None` when more is needed. Messages in several frames are refused:
/// nothing that is asked of a server here is answered so.
///
/// # Errors
/// When the bytes are no frame that a server may send.
pub fn decode(bytes: &[u8]) -> Result<Option<(Frame, usize)>, Malformed> {
    let [first, second, rest @ ..] = bytes else {
        return Ok(None);
    };
    if first & 0x70 != 0 || second & 0x80 != 0 {
        return Err(Malformed("reserved bits, or a server that masks"));
    }
    if first & 0x80 == 0 {
        return Err(Malformed("a message in several frames"));
    }
    let kind = Kind::of(first & 0x0f)?;
    let (size, at) = match (second & 0x7f, rest) {
        (126, [a, b, ..]) => (u64::from(u16::from_be_bytes([*a, *b])), 4),
        (127, [a, b, c, d, e, f, g, h, ..]) => (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), 10),
        (126 | 127, _) => return Ok(None),
        (short, _) => (u64::from(short), 2),
    };
    let size = usize::try_from(size)
        .ok()
        .filter(|size| *size <= PAYLOAD_LIMIT)
        .ok_or(Malformed("a payload beyond 1 MiB"))?;
    if !matches!(kind, Kind::Text | Kind::Binary) && size > 125 {
        return Err(Malformed("a control frame that is too long"));
    }
    let payload = bytes.get(at..at + size).map(<[u8]>::to_vec);
    Ok(payload.map(|payload| (Frame { kind, payload }, at + size)))
}

/// A frame as a client sends it, masked. `payload` up to 64 KiB; more is cut off.
pub fn encode(kind: Kind, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(usize::from(u16::MAX))];
    let mut frame = vec![0x80 | kind.code()];
    match u8::try_from(payload.len()) {
        Ok(short @ ..=125) => frame.push(0x80 | short),
        _ => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(&mask);
    frame.extend(
        payload
            .iter()
            .zip(mask.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    frame
}

/// The code of a close frame; 1005 when it carries none.
pub fn close_code(payload: &[u8]) -> u16 {
    match payload {
        [a, b, ..] => u16::from_be_bytes([*a, *b]),
        _ => 1005,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::*;

    #[test]
    fn frames_are_read_whole_or_waited_for() {
        let mut wire = vec![0x81, 126, 0x01, 0x00];
        wire.extend([b'x'; 256]);
        wire.extend([0x88, 2, 0x03, 0xe9]);
        for cut in 0..260 {
            assert_eq!(decode(&wire[..cut]).unwrap(), None, "cut at {cut}");
        }
        let (text, length) = decode(&wire).unwrap().unwrap();
        assert_eq!((text.kind, text.payload.len(), length), (Kind::Text, 256, 260));
        let (close, _) = decode(&wire[length..]).unwrap().unwrap();
        assert_eq!((close.kind, close_code(&close.payload)), (Kind::Close, 1001));
        assert_eq!(close_code(&[]), 1005);
    }

    #[test]
    fn what_a_server_may_not_send_is_said_so() {
        for wrong in [
            &[0x81, 0x81, 0, 0, 0, 0, 0][..],
            &[0xc1, 0],
            &[0x01, 0],
            &[0x83, 0],
            &[0x88, 126, 0, 200],
            &[0x82, 127, 0, 0, 0, 0, 0x7f, 0, 0, 0],
        ] {
            assert!(decode(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_sent_is_masked() {
        let sent = encode(Kind::Text, b"Hello", [0x37, 0xfa, 0x21, 0x3d]);
        // The example of RFC 6455, section 5.7.
        let wanted = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        assert_eq!(sent, wanted);
        assert_eq!(encode(Kind::Text, &[0; 300], [1; 4])[1..4], [0xfe, 0x01, 0x2c]);
    }
}
