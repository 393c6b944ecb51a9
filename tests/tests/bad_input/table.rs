//! The table in `tests/BAD_INPUT.md` names tests that exist.

use std::fs;
use std::path::Path;

#[test]
fn every_test_in_the_table_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let table = fs::read_to_string(root.join("tests/BAD_INPUT.md")).unwrap();
    let named: Vec<_> = table
        .split('`')
        .filter_map(|piece| piece.split_once(".rs::"))
        .collect();
    assert!(named.len() > 50, "{} tests are named", named.len());
    for (file, test) in named {
        let source = fs::read_to_string(root.join(format!("{file}.rs")));
        let source = source.unwrap_or_else(|error| panic!("{file}.rs: {error}"));
        let there = source.contains("#[test]") || source.contains("#[tokio::test");
        assert!(
            there && source.contains(&format!("fn {test}()")),
            "{file}.rs has no test {test}"
        );
    }
}
