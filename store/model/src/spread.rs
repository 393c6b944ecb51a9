//! Who gets what from whom, so that a release that many hosts want leaves the store a few times only.
//!
//! Every host of a group reckons for each piece of an object the same owner among them, by the highest random weight: the
//! owner gets the piece from the store or a mirror, the others from the owner. A host that comes or goes moves only the
//! pieces that it owns. Nobody announces anything.

use crate::name::HostName;

/// Bytes of a piece, unless a single leaf is longer.
pub const PIECE: u64 = 1 << 20;
/// Hosts that may ask each other, at most.
pub const GROUP: usize = 64;

/// The places in `hosts` of the first and the second owner of a piece; the order of `hosts` does not matter.
pub fn owners(object: &[u8; 32], piece: u64, hosts: &[HostName]) -> (Option<usize>, Option<usize>) {
    let (mut first, mut second) = (None, None);
    for (place, host) in hosts.iter().enumerate() {
        let found = Some((weight(object, piece, host), place));
        if found > first {
            (first, second) = (found, first);
        } else if found > second {
            second = found;
        }
    }
    (first.map(|(_, place)| place), second.map(|(_, place)| place))
}

fn weight(object: &[u8; 32], piece: u64, host: &HostName) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(object).update(&piece.to_le_bytes());
    hasher.update(host.as_str().as_bytes());
    let mut weight = [0; 8];
    hasher.finalize_xof().fill(&mut weight);
    weight
}

/// Cuts `count` hosts into groups of nearly equal size, none larger than [`GROUP`]: the group of the host at `place`.
pub fn group_of(place: usize, count: usize) -> std::ops::Range<usize> {
    let groups = count.div_ceil(GROUP).max(1);
    let of = |place: usize| place * groups / count.max(1);
    let group = of(place);
    let start = (group * count).div_ceil(groups);
    let end = ((group + 1) * count).div_ceil(groups);
    start..end
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;

    fn hosts(count: usize) -> Vec<HostName> {
        (0..count)
            .map(|number| format!("h{number}").parse().unwrap())
            .collect()
    }

    #[test]
    fn pieces_are_spread_and_few_move_when_a_host_goes() {
        let all = hosts(50);
        let mut owned = vec![0; all.len()];
        let mut moved = 0;
        let without: Vec<_> = all.iter().filter(|host| host.as_str() != "h7").cloned().collect();
        for piece in 0..5_000 {
            let (first, second) = owners(&[3; 32], piece, &all);
            assert_ne!(first, second);
            owned[first.unwrap()] += 1;
            let then = owners(&[3; 32], piece, &without).0.unwrap();
            if all[first.unwrap()].as_str() == "h7" {
                assert_eq!(without[then], all[second.unwrap()], "the second steps in");
            } else {
                moved += usize::from(without[then] != all[first.unwrap()]);
            }
        }
        assert_eq!(moved, 0);
        assert!(owned.iter().all(|pieces| (50..200).contains(pieces)), "{owned:?}");
        assert_eq!(owners(&[3; 32], 0, &[]), (None, None));
        assert_eq!(owners(&[3; 32], 0, &hosts(1)), (Some(0), None));
    }

    #[test]
    fn groups_cover_all_hosts_and_are_bounded() {
        for count in [1, 2, 63, 64, 65, 129, 5_000, 10_000] {
            let mut next = 0;
            while next < count {
                let group = group_of(next, count);
                assert!(
                    group.start == next && group.len() <= GROUP,
                    "{next} of {count}: {group:?}"
                );
                assert!(group.clone().all(|place| group_of(place, count) == group));
                next = group.end;
            }
        }
        let sizes: Vec<_> = [0, 128].map(|place| group_of(place, 129).len()).into();
        assert_eq!(sizes, [43, 43]);
    }
}
