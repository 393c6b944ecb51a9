//! `Range` of RFC 9110, section 14: one range of bytes; several are answered with the whole.

/// What a `Range` header asks of a file of a given size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Whole,
    /// First byte and length; the length is at least 1.
    Part {
        first: u64,
        len: u64,
    },
    Unsatisfiable,
}

/// A header that is not well-formed is ignored, as the RFC allows; so are several ranges, which only help
/// an attacker to multiply the work.
pub(super) fn parse(header: &str, size: u64) -> Asked {
    let Some(spec) = header.trim().strip_prefix("bytes=") else {
        return Asked::Whole;
    };
    let Some((first, last)) = spec.trim().split_once('-') else {
        return Asked::Whole;
    };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        // More digits than a u64 holds lie beyond any file.
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (first, last) {
        ("", suffix) => match number(suffix) {
            None => Asked::Whole,
            Some(0) => Asked::Unsatisfiable,
            Some(_) if size == 0 => Asked::Unsatisfiable,
            Some(len) => Asked::Part {
                first: size.saturating_sub(len),
                len: len.min(size),
            },
        },
        (first, "") => match number(first) {
            None => Asked::Whole,
            Some(first) if first >= size => Asked::Unsatisfiable,
            Some(first) => Asked::Part {
                first,
                len: size - first,
            },
        },
        (first, last) => match (number(first), number(last)) {
            (Some(first), Some(last)) if first > last => Asked::Whole,
            (Some(first), Some(_)) if first >= size => Asked::Unsatisfiable,
            (Some(first), Some(last)) => Asked::Part {
                first,
                len: last.min(size - 1) - first + 1,
            },
            _ => Asked::Whole,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_as_the_rfc_has_them() {
        let part = |first, len| Asked::Part { first, len };
        for (header, size, asked) in [
            ("bytes=0-0", 10, part(0, 1)),
            ("bytes=2-5", 10, part(2, 4)),
            ("bytes=2-99", 10, part(2, 8)),
            ("bytes=2-99999999999999999999999", 10, part(2, 8)),
            ("bytes=2-", 10, part(2, 8)),
            ("bytes=-3", 10, part(7, 3)),
            ("bytes=-30", 10, part(0, 10)),
            ("bytes=10-", 10, Asked::Unsatisfiable),
            ("bytes=10-12", 10, Asked::Unsatisfiable),
            ("bytes=99999999999999999999999-", 10, Asked::Unsatisfiable),
            ("bytes=-0", 10, Asked::Unsatisfiable),
            ("bytes=-1", 0, Asked::Unsatisfiable),
            ("bytes=0-", 0, Asked::Unsatisfiable),
            ("bytes=5-2", 10, Asked::Whole),
            ("bytes=0-0,0-0,0-0", 10, Asked::Whole),
            ("bytes=a-b", 10, Asked::Whole),
            ("bytes=", 10, Asked::Whole),
            ("bytes=--1", 10, Asked::Whole),
            ("lines=0-1", 10, Asked::Whole),
        ] {
            assert_eq!(parse(header, size), asked, "{header} of {size}");
        }
    }
}
