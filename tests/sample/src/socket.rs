//! WebSockets (RFC 6455) from bytes, as a server that echoes needs them. No sockets here.

use data_encoding::BASE64;
use sha1::{Digest as _, Sha1};

/// Longest message that is echoed, in bytes.
const PAYLOAD_LIMIT: u64 = 64 * 1024;
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
pub const GOING_AWAY: u16 = 1001;
const PROTOCOL_ERROR: u16 = 1002;
const TOO_BIG: u16 = 1009;

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// What stands in `Sec-WebSocket-Accept` for a client's key.
pub fn accept(key: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(GUID);
    BASE64.encode(&hash.finalize())
}

#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// More bytes are needed.
    Nothing,
    /// A frame was taken from the input; this is to be sent back, if anything.
    Answer(Vec<u8>),
    /// The conversation ends: this is the last thing to send.
    End(Vec<u8>),
}

/// Takes one frame from the front of `input`.
pub fn hear(input: &mut Vec<u8>) -> Said {
    let [first, second, ..] = input[..] else {
        return Said::Nothing;
    };
    let (whole, masked) = (first & 0xf0 == 0x80, second & 0x80 != 0);
    // Messages in several frames, extensions and unmasked clients are not for an echo.
    if !whole || !masked {
        return Said::End(close(PROTOCOL_ERROR));
    }
    let (size, at) = match second & 0x7f {
        126 if input.len() < 4 => return Said::Nothing,
        126 => (u64::from(u16::from_be_bytes([input[2], input[3]])), 4),
        127 => return Said::End(close(TOO_BIG)),
        short => (u64::from(short), 2),
    };
    if size > PAYLOAD_LIMIT {
        return Said::End(close(TOO_BIG));
    }
    let end = at + 4 + size as usize;
    if input.len() < end {
        return Said::Nothing;
    }
    let mask = [input[at], input[at + 1], input[at + 2], input[at + 3]];
    let payload: Vec<u8> = input[at + 4..end]
        .iter()
        .zip(mask.iter().cycle())
        .map(|(byte, mask)| byte ^ mask)
        .collect();
    input.drain(..end);
    match first & 0x0f {
        kind @ (TEXT | BINARY) => Said::Answer(frame(kind, &payload)),
        PING => Said::Answer(frame(PONG, &payload)),
        PONG => Said::Answer(Vec::new()),
        CLOSE => Said::End(frame(CLOSE, &payload[..payload.len().min(2)])),
        _ => Said::End(close(PROTOCOL_ERROR)),
    }
}

/// A close frame.
pub fn close(code: u16) -> Vec<u8> {
    frame(CLOSE, &code.to_be_bytes())
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x80 | kind];
    match u8::try_from(payload.len()) {
        Ok(short @ ..=125) => bytes.push(short),
        _ => {
            bytes.push(126);
            bytes.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        }
    }
    bytes.extend_from_slice(payload);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first, 0x80 | payload.len() as u8, 1, 2, 3, 4];
        bytes.extend(
            payload
                .iter()
                .zip([1, 2, 3, 4].iter().cycle())
                .map(|(byte, mask)| byte ^ mask),
        );
        bytes
    }

    #[test]
    fn the_key_of_the_specification_is_accepted() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_message_is_echoed_once_it_is_whole() {
        let whole = masked(0x81, b"hello");
        for cut in 0..whole.len() {
            assert_eq!(hear(&mut whole[..cut].to_vec()), Said::Nothing, "cut at {cut}");
        }
        let mut two = [&whole[..], &masked(0x89, b"x")].concat();
        assert_eq!(hear(&mut two), Said::Answer(b"\x81\x05hello".to_vec()));
        assert_eq!(hear(&mut two), Said::Answer(b"\x8a\x01x".to_vec()));
        assert!(two.is_empty());
    }

    #[test]
    fn a_close_is_answered_and_nonsense_is_closed() {
        assert_eq!(hear(&mut masked(0x88, &[3, 0xe8])), Said::End(close(1000)));
        for wrong in [&masked(0x83, b"")[..], &masked(0x01, b"x"), &[0x81, 1, b'x']] {
            assert_eq!(
                hear(&mut wrong.to_vec()),
                Said::End(close(PROTOCOL_ERROR)),
                "{wrong:?}"
            );
        }
        assert_eq!(hear(&mut vec![0x82, 0xff]), Said::End(close(TOO_BIG)));
    }
}
