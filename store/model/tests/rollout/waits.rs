//! A release that says how long it may take is given that time.

use ship_model::release::ReleaseNumber;
use ship_model::rollout::Wish;

use crate::fleet::{Fleet, SimHost, host};

/// Ten minutes of `lock_wait`, say: of the one that comes, and of the one that leaves.
#[test]
fn what_a_release_waits_for_is_added_to_its_hosts_deadline() {
    let mut fleet = Fleet::new();
    fleet.hosts.insert(host("h1"), SimHost::default());
    let deadline = |fleet: &Fleet| {
        let wish = Wish::Promote {
            release: Some(ReleaseNumber(2)),
        };
        let plan = fleet.plan(wish, false).unwrap();
        plan.policy.switch_deadline_ms - fleet.policy.switch_deadline_ms
    };
    for number in [1, 2] {
        fleet.publish(number);
    }
    assert_eq!(deadline(&fleet), 0);
    fleet.releases.get_mut(&ReleaseNumber(2)).unwrap().switch_waits_ms = 600_000;
    assert_eq!(deadline(&fleet), 600_000);
    fleet.releases.get_mut(&ReleaseNumber(1)).unwrap().switch_waits_ms = 700_000;
    assert_eq!(deadline(&fleet), 600_000, "nothing runs yet");
    fleet.state.current = Some(crate::fleet::release(1));
    assert_eq!(deadline(&fleet), 700_000);
}
