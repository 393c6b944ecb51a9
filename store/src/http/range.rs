//! Which bytes of a body were asked for.

/// What to answer to a `Range` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// No range, or one that means nothing here: everything.
    Whole,
    /// From the first byte, this many; never none.
    Part { first: u64, len: u64 },
    /// Nothing of what exists.
    Beyond,
}

/// Reads a `Range` header for a body of `total` bytes. Several ranges at once are answered with everything, which is
/// allowed and costs nothing to refuse.
pub fn wanted(header: Option<&str>, total: u64) -> Wanted {
    let Some(range) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else {
        return Wanted::Whole;
    };
    let Some((first, last)) = range.trim().split_once('-').filter(|_| !range.contains(',')) else {
        return Wanted::Whole;
    };
    let number = |text: &str| -> Option<u64> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // More than fits is more than there is.
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    match (number(first), number(last)) {
        (Some(first), _) if first >= total && (last.is_empty() || number(last) >= Some(first)) => {
            Wanted::Beyond
        }
        (Some(first), Some(last)) if last >= first => part(first, last.min(total - 1)),
        (Some(first), None) if last.is_empty() => part(first, total - 1),
        (None, Some(0)) if first.is_empty() => Wanted::Beyond,
        (None, Some(_)) if first.is_empty() && total == 0 => Wanted::Beyond,
        (None, Some(tail)) if first.is_empty() => part(total - tail.min(total), total - 1),
        _ => Wanted::Whole,
    }
}

const fn part(first: u64, last: u64) -> Wanted {
    Wanted::Part {
        first,
        len: last - first + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_as_clients_ask_for_them() {
        let part = |first, len| Wanted::Part { first, len };
        for (header, then) in [
            (None, Wanted::Whole),
            (Some("bytes=0-0"), part(0, 1)),
            (Some("bytes=0-9"), part(0, 10)),
            (Some("bytes=2-"), part(2, 8)),
            (Some("bytes=2-99"), part(2, 8)),
            (Some("bytes=-3"), part(7, 3)),
            (Some("bytes=-99"), part(0, 10)),
            (Some("bytes=10-"), Wanted::Beyond),
            (Some("bytes=10-12"), Wanted::Beyond),
            (Some("bytes=-0"), Wanted::Beyond),
            (Some("bytes=99999999999999999999999-"), Wanted::Beyond),
            (Some("bytes=5-4"), Wanted::Whole),
            (Some("bytes=12-11"), Wanted::Whole),
            (Some("bytes=0-1,3-4"), Wanted::Whole),
            (Some("bytes=a-b"), Wanted::Whole),
            (Some("bytes=+1-2"), Wanted::Whole),
            (Some("items=0-1"), Wanted::Whole),
            (Some("bytes="), Wanted::Whole),
            (Some("bytes=-"), Wanted::Whole),
        ] {
            assert_eq!(wanted(header, 10), then, "{header:?}");
        }
        assert_eq!(wanted(Some("bytes=0-"), 0), Wanted::Beyond);
        assert_eq!(wanted(Some("bytes=-5"), 0), Wanted::Beyond);
    }
}
