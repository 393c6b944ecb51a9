//! Texts that mean something: durations, sizes, addresses, signals.

use std::net::IpAddr;

use crate::spec::ListenAddr;

/// A day: nothing that Ship waits for takes longer.
pub(super) const MAX_DURATION_MS: u64 = 24 * 60 * 60 * 1000;

/// Signals that may be sent to a process.
const SIGNALS: [&str; 8] = ["TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "WINCH", "KILL"];

/// `500ms`, `30s`, `2m`, `1h` as milliseconds.
pub(crate) fn duration_ms(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is not a duration: write \"500ms\", \"30s\", \"2m\" or \"1h\"");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(bad()),
    };
    let number: u64 = number.parse().map_err(|_| bad())?;
    let ms = number.checked_mul(factor).filter(|ms| *ms <= MAX_DURATION_MS);
    ms.ok_or_else(|| format!("{text:?} is longer than a day"))
}

/// `65536`, `512KiB`, `1GiB` as bytes.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is not a size: write \"512KiB\", \"64MiB\" or \"1GiB\"");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return Err(bad()),
    };
    let number: u64 = number.parse().map_err(|_| bad())?;
    let bytes = number.checked_mul(1 << shift);
    bytes.ok_or_else(|| format!("{text:?} is too large"))
}

/// `tcp:8080`, `tcp:127.0.0.1:0`, `tcp:[::]:8080`, `udp:5353`, `unix:web.sock`, `unix:/run/web.sock`.
pub(super) fn listen_addr(text: &str) -> Result<ListenAddr, String> {
    let bad = || {
        format!(
            "{text:?} is not an address: write \"tcp:8080\", \"tcp:127.0.0.1:8080\", \"tcp:[::]:8080\", \"udp:5353\" or \"unix:web.sock\""
        )
    };
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_path(path).ok_or_else(bad);
    }
    let (scheme, rest) = text.split_once(':').ok_or_else(bad)?;
    if !matches!(scheme, "tcp" | "udp") {
        return Err(bad());
    }
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) => (Some(host), port),
        None => (None, rest),
    };
    let port = Some(port)
        .filter(|port| port.bytes().all(|b| b.is_ascii_digit()))
        .and_then(|port| port.parse().ok());
    let port: u16 = port.ok_or_else(|| format!("{text:?} has no port from 0 to 65535"))?;
    let ip = host.map(ip).transpose().map_err(|()| {
        format!("{text:?} has no IP address: names are not looked up, and IPv6 stands in brackets")
    })?;
    Ok(match scheme {
        "udp" => ListenAddr::Udp { ip, port },
        _ => ListenAddr::Tcp { ip, port },
    })
}

fn ip(host: &str) -> Result<IpAddr, ()> {
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match bracketed {
        Some(v6) => v6.parse().map(IpAddr::V6).map_err(|_| ()),
        None => host.parse().map(IpAddr::V4).map_err(|_| ()),
    }
}

pub(super) fn unix_path(path: &str) -> Option<ListenAddr> {
    let relative = path.strip_prefix('/').unwrap_or(path);
    let tame = relative.split('/').all(|part| !matches!(part, "" | "." | ".."));
    (tame && path.len() <= 1024 && !path.contains('\0')).then(|| ListenAddr::Unix {
        path: path.to_owned(),
    })
}

/// `TERM` or `SIGTERM` as `TERM`.
pub(super) fn signal(text: &str) -> Result<String, String> {
    let name = text.strip_prefix("SIG").unwrap_or(text);
    if SIGNALS.contains(&name) {
        Ok(name.to_owned())
    } else {
        Err(format!("{text:?} is not one of {}", SIGNALS.join(", ")))
    }
}

/// A file's name below the app's run folder.
pub(super) fn pidfile(text: &str) -> Result<String, String> {
    let tame = text.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if tame && text.len() <= 255 && !text.contains('\0') {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is not a plain path below SHIP_RUN_DIR"))
    }
}

/// A gRPC service's full name, `shop.v1.Orders`; empty: the server as a whole.
pub(super) fn grpc_service(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_');
    if text.len() <= 255 && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "{text:?} is not a service's name: \"shop.v1.Orders\", or \"\" for the whole server"
        ))
    }
}

/// A user's name or number, as `/etc/passwd` could have it.
pub(super) fn user(text: &str) -> Result<String, String> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let first = text
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    if first && text.len() <= 32 && text.bytes().all(inner) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is not a user's name or number"))
    }
}

/// A path for `GET`.
pub(super) fn http_path(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    if text.starts_with('/') && plain && text.len() <= 2048 {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "{text:?} is not a path to ask for: it begins with '/', and has no spaces or '#'"
        ))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

    use super::*;

    #[test]
    fn durations_and_sizes() {
        for (text, ms) in [
            ("500ms", 500),
            ("30s", 30_000),
            ("2m", 120_000),
            ("24h", 86_400_000),
            ("0s", 0),
        ] {
            assert_eq!(duration_ms(text), Ok(ms), "{text}");
        }
        for text in [
            "",
            "30",
            "s",
            "-1s",
            "1.5s",
            "1 s",
            "25h",
            "1d",
            "99999999999999999999s",
            "1m30s",
            "3é",
        ] {
            assert!(duration_ms(text).is_err(), "{text:?} was accepted");
        }
        for (text, bytes) in [("1GiB", 1 << 30), ("512KiB", 512 << 10), ("0B", 0)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "1", "1GB", "GiB", "-1B", "99999999999TiB"] {
            assert!(size(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn addresses() {
        let tcp = |ip: Option<&str>, port| ListenAddr::Tcp {
            ip: ip.map(|ip| ip.parse().unwrap()),
            port,
        };
        let unix = |path: &str| ListenAddr::Unix {
            path: path.to_owned(),
        };
        for (text, addr) in [
            ("tcp:8080", tcp(None, 8080)),
            ("tcp:127.0.0.1:0", tcp(Some("127.0.0.1"), 0)),
            ("tcp:[::]:8080", tcp(Some("::"), 8080)),
            ("udp:53", ListenAddr::Udp { ip: None, port: 53 }),
            ("unix:web.sock", unix("web.sock")),
            ("unix:/run/web.sock", unix("/run/web.sock")),
        ] {
            assert_eq!(listen_addr(text), Ok(addr), "{text}");
        }
        for text in [
            "",
            "8080",
            "tcp:",
            "tcp:65536",
            "tcp:+80",
            "tcp:localhost:80",
            "tcp:::80",
            "tcp:[1.2.3.4]:80",
            "tcp::80",
            "unix:",
            "unix:/",
            "unix:../x",
            "unix:a//b",
            "udp:",
            "sctp:53",
        ] {
            assert!(listen_addr(text).is_err(), "{text:?} was accepted");
        }
    }
}
