//! By hand, to a folder of the operator's machine.

use std::fs;

use ship_tests::Fleet;

use crate::{bare, has, named, publish, pushed, run};

#[test]
fn what_lacks_in_a_folder_is_brought_from_the_store_and_nothing_is_replaced() {
    let fleet = Fleet::start(1);
    // Nobody promotes these; the second names one of the first, and has one that moves by the segment.
    let large: Vec<u8> = (0..10_u32 << 20)
        .map(|at| (at.wrapping_mul(at) >> 7) as u8)
        .collect();
    publish(&fleet, &[b"one", b"both"]);
    publish(&fleet, &[b"two", b"both", b"", &large]);
    let folder = fleet.beside("cdn");
    let to = folder.to_str().unwrap();
    let json = ["-o", "json"];

    let looked = run(bare(
        &fleet,
        &[&["site", "--to", to, "--dry-run"], &json[..]].concat(),
    ))
    .json();
    assert_eq!(pushed(&looked), (0, 0, 5), "{looked:#}");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);

    let one = run(bare(&fleet, &[&["site@1", "--to", to], &json[..]].concat())).json();
    assert_eq!(pushed(&one), (2, 0, 0), "{one:#}");
    assert!(has(&folder, b"one") && has(&folder, b"both") && !has(&folder, b"two"));
    let all = run(bare(&fleet, &[&["site", "--to", to], &json[..]].concat())).json();
    assert_eq!(pushed(&all), (3, 2, 0), "{all:#}");
    assert_eq!(all["pushes"][0]["releases"], 2, "{all:#}");
    assert!(has(&folder, b"two") && has(&folder, b"") && has(&folder, &large));
    let names = |folder: &std::path::Path| fs::read_dir(folder).unwrap().count();
    assert_eq!((names(&folder), names(&folder.join("static"))), (1, 5));
    let again = run(bare(&fleet, &["site", "--to", to])).expect(0);
    assert!(again.stderr.contains("5 there already"), "{again}");

    // Somebody else's is theirs; what only lacks is brought all the same, by the releases before it.
    let theirs = folder.join("static").join(named(b"one"));
    fs::write(&theirs, b"ONE").unwrap();
    fs::remove_file(folder.join("static").join(named(b"two"))).unwrap();
    let refused = run(bare(&fleet, &["site", "--to", to])).expect(1);
    assert!(refused.stderr.contains("other bytes"), "{refused}");
    assert!(refused.stderr.contains(&named(b"one")), "{refused}");
    assert_eq!(fs::read(&theirs).unwrap(), b"ONE");
    assert!(has(&folder, b"two"));

    let missing = folder.join("mnt/");
    let refused = run(bare(&fleet, &["site", "--to", missing.to_str().unwrap()])).expect(1);
    assert!(refused.stderr.contains("is not a folder"), "{refused}");
    assert!(!missing.exists());
    let unknown = run(bare(&fleet, &["site@9", "--to", to])).expect(1);
    assert!(unknown.stderr.contains("no release 9"), "{unknown}");
    for (words, part) in [
        (&["site", "--to", "cdn", "--dry-run"][..], "--dry-run is for"),
        (&["site", "--dry-run"], "--to"),
        (&["site", "--to", "ftp://x"], "s3://"),
    ] {
        let refused = run(bare(&fleet, words)).expect(2);
        assert!(refused.stderr.contains(part), "{refused}");
    }
}
