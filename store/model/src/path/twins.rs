//! Names that are the same once they are folded, found among hundreds of thousands in twelve bytes for each.

use std::collections::hash_map::DefaultHasher;
use std::hash::Hasher;

/// Pairs of names with one folding, by number: each name that has one before it, with the last of those. Sorted by the
/// later name.
///
/// `fold` is asked once for each of `0..names`, and again for those that look the same.
pub fn twins(names: u32, fold: impl Fn(u32) -> Vec<u8>) -> Vec<(u32, u32)> {
    let hash = |at: u32| {
        let mut hasher = DefaultHasher::new();
        hasher.write(&fold(at));
        let [a, b, c, d, e, f, g, h] = hasher.finish().to_le_bytes();
        // In halves, so that a pair has no gaps.
        ([a, b, c, d], [e, f, g, h], at)
    };
    let mut hashes: Vec<([u8; 4], [u8; 4], u32)> = (0..names).map(hash).collect();
    hashes.sort_unstable();
    let same = |a: &([u8; 4], [u8; 4], u32), b: &([u8; 4], [u8; 4], u32)| (a.0, a.1) == (b.0, b.1);
    let mut pairs = Vec::new();
    for group in hashes.chunk_by(same).filter(|group| group.len() > 1) {
        for (number, (_, _, later)) in group.iter().enumerate() {
            let folded = fold(*later);
            let mut before = group[..number].iter().rev().map(|(_, _, at)| *at);
            pairs.extend(before.find(|at| fold(*at) == folded).map(|at| (at, *later)));
        }
    }
    pairs.sort_unstable_by_key(|(_, later)| *later);
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_paired_with_the_last_one_like_it() {
        let names = ["a", "B", "c", "A", "b", "a", "d"];
        let found = twins(7, |at| names[at as usize].to_ascii_lowercase().into_bytes());
        assert_eq!(found, [(0, 3), (1, 4), (3, 5)]);
        assert!(twins(3, |at| vec![at as u8]).is_empty());
        assert!(twins(0, |_| Vec::new()).is_empty());
    }
}
