//! Names near a mistyped one.

/// Of `known`, at most three names that `wanted` may have meant: all of them when there are so few.
pub fn near_names(wanted: &str, known: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut known: Vec<String> = known.into_iter().collect();
    known.sort();
    known.dedup();
    if known.len() <= 3 {
        return known;
    }
    let mut far: Vec<(usize, String)> = known
        .into_iter()
        .map(|name| (distance(wanted, &name), name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 3 || name.starts_with(wanted))
        .collect();
    far.sort();
    far.into_iter().take(3).map(|(_, name)| name).collect()
}

/// Single-character edits between two names; names are short.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().take(100).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistyped_names_find_their_neighbours() {
        let known = ["web", "shop", "billing", "mail", "search"].map(str::to_owned);
        assert_eq!(near_names("wbe", known.clone()), ["web"]);
        assert_eq!(near_names("biling", known.clone()), ["billing"]);
        assert_eq!(near_names("sh", known.clone()), ["shop"]);
        assert!(near_names("zzzzzz", known).is_empty());
        assert_eq!(near_names("x", ["only".to_owned()]), ["only"]);
    }
}
