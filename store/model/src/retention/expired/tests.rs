#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::BTreeSet;

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::*;
use crate::desired::{DeployNumber, Epoch};
use crate::digest::ReleaseId;
use crate::release::ReleaseNumber;

fn web() -> AppName {
    "web".parse().unwrap()
}

fn target(number: u64) -> Target {
    Target {
        number: ReleaseNumber(number),
        id: ReleaseId::of(&number.to_le_bytes()),
    }
}

fn targets(numbers: impl IntoIterator<Item = u64>) -> Vec<Target> {
    numbers.into_iter().map(target).collect()
}

fn desired(run: Option<u64>, stage: &[u64], assets: impl IntoIterator<Item = u64>) -> DesiredApp {
    DesiredApp {
        app: web(),
        env: "dev".parse().unwrap(),
        epoch: Epoch(1),
        deploy: DeployNumber(1),
        run: run.map(target),
        runs_app: run.is_some(),
        stage: targets(stage.iter().copied()),
        assets: targets(assets),
    }
}

fn url(asset: u64) -> String {
    format!("/static/app.{asset:08x}.js")
}

fn list(assets: impl IntoIterator<Item = u64>) -> ExpiredList {
    assets.into_iter().map(|asset| UrlHash::of(&url(asset))).collect()
}

#[test]
fn a_list_is_named_by_what_is_in_it_and_whose_it_is() {
    let (one, same) = (list([1, 2, 3]), list([3, 1, 2, 2]));
    assert_eq!(one, same);
    assert_eq!(one.digest(&web()), same.digest(&web()));
    assert_ne!(one.digest(&web()), one.digest(&"shop".parse().unwrap()));
    assert_ne!(one.digest(&web()), list([1, 2]).digest(&web()));
    // What hosts and stores of every version must agree on.
    assert_eq!(list([]).digest(&web()).short(), "b69e18d9859f");
    assert_eq!(one.digest(&web()).short(), "b68e5d2ea1bd");
}

#[test]
fn it_arrives_as_it_was_sent_or_not_at_all() {
    let sent = list(0..10);
    let mut taken = ExpiredList::default();
    for part in sent.parts(3) {
        taken.take(&part).unwrap();
    }
    assert_eq!(taken, sent);
    let last: Vec<u8> = sent.parts(10).next().unwrap();
    for (part, error) in [
        (&last[..15], ExpiredListError::Length { len: 15 }),
        (&last[..16], ExpiredListError::Order),
    ] {
        assert_eq!(taken.clone().take(part), Err(error));
    }
    let many = vec![0; (MAX_EXPIRED + 1) * 16];
    assert_eq!(ExpiredList::default().take(&many), Err(ExpiredListError::TooMany));
}

#[test]
fn a_host_spares_what_it_needs_and_what_the_store_does_not_know() {
    let desired = desired(Some(5), &[5, 4], 1..=5);
    let sparing = Sparing::new(&desired, targets([3, 9]));
    for (release, spared) in [
        (5, true),  // runs
        (4, true),  // unpacked, as desired
        (3, true),  // unpacked here, or what a revert on the host goes to
        (2, false), // judged, and nothing here needs it
        (1, false),
        (7, true), // a store from a backup has never heard of it
        (9, true),
    ] {
        assert_eq!(sparing.spares(&target(release)), spared, "{release}");
    }
    // The same number with other content is another release.
    let other = Target {
        id: ReleaseId::of(b"other"),
        ..target(1)
    };
    assert!(sparing.spares(&other));
}

#[test]
fn a_faded_release_lacks_nothing_only_while_all_that_went_is_listed() {
    let urls = [url(1), url(2)];
    let forgotten = || urls.iter().map(String::as_str);
    assert!(list([1, 2, 3]).agrees(forgotten()));
    assert!(!list([1, 3]).agrees(forgotten()), "2 was brought back");
    assert!(!list([]).agrees(forgotten()));
}

proptest! {
    /// Against the rule said the long way: a path goes when it is listed and no release that needs it, or that nobody
    /// judged, names it.
    #[test]
    fn what_goes_is_listed_and_needed_by_nobody(
        names in vec(btree_set(0_u64..12, 0..6), 1..8),
        expired in btree_set(0_u64..12, 0..12),
        judged in btree_set(0_u64..8, 0..8),
        staged in btree_set(0_u64..8, 0..3),
        here in btree_set(0_u64..8, 0..3),
        run in proptest::option::of(0_u64..8),
    ) {
        let staged: Vec<u64> = staged.into_iter().collect();
        let desired = desired(run, &staged, judged.iter().copied());
        let sparing = Sparing::new(&desired, targets(here.iter().copied()));
        let listed = list(expired.iter().copied());
        let spared: BTreeSet<u64> = names.iter().enumerate()
            .filter(|(release, _)| sparing.spares(&target(*release as u64)))
            .flat_map(|(_, names)| names.iter().copied())
            .collect();
        for asset in 0..12 {
            let needed = names.iter().enumerate().any(|(release, names)| {
                let release = release as u64;
                let needs = run == Some(release) || staged.contains(&release) || here.contains(&release);
                names.contains(&asset) && (needs || !judged.contains(&release))
            });
            let goes = listed.contains(&url(asset)) && !spared.contains(&asset);
            prop_assert_eq!(goes, expired.contains(&asset) && !needed, "asset {}", asset);
        }
    }
}
