//! The chain of acts, and compare-and-swap of what an environment runs.

use std::sync::Arc;

use ship_model::name::{ClassName, EnvName, HostName};
use ship_model::rollout::EnvState;
use ship_store::engine::catalog::MemoryCatalog;
use ship_store::engine::{Catalog, Change, Outcome, Seen, Write};
use ship_store::ledger::{
    Act, AuditDefect, EnvChange, HostRecord, Ledger, Made, RequestRecord, Restored, Stored,
};

use super::tree::{request, web};

fn act(number: u64) -> Act {
    Act {
        at_ms: number,
        who: "operator/alice".to_owned(),
        what: "promote".to_owned(),
        subject: format!("web@{number}"),
        detail: "because".to_owned(),
    }
}

fn chained(links: u64) -> (Arc<MemoryCatalog>, Ledger) {
    let catalog = Arc::new(MemoryCatalog::default());
    let ledger = Ledger::new(catalog.clone());
    for number in 1..=links {
        ledger.audit(&[act(number)]).unwrap();
    }
    (catalog, ledger)
}

fn change(catalog: &MemoryCatalog, key: &str, write: impl FnOnce(Vec<u8>) -> Write) {
    let found = catalog.get(key).unwrap().unwrap();
    let change = Change {
        key: key.to_owned(),
        expected: Some(found.version),
        write: write(found.bytes),
    };
    let Outcome::Committed(_) = catalog.compare_and_swap(vec![change]).unwrap() else {
        panic!("{key}");
    };
}

#[test]
fn every_change_of_the_chain_is_seen() {
    let key = |seq: u64| format!("audit/{seq:020}");
    let (_, ledger) = chained(300);
    let whole = ledger.verify_audit().unwrap();
    assert_eq!((whole.links, whole.defect), (300, None));

    let (catalog, ledger) = chained(5);
    change(&catalog, &key(3), |bytes| {
        let text = String::from_utf8(bytes).unwrap();
        Write::Put(text.replace("because", "be cause").into_bytes())
    });
    let defect = ledger.verify_audit().unwrap().defect;
    assert_eq!(defect, Some(AuditDefect::Changed { seq: 3 }));

    for removed in 1..=5 {
        let (catalog, ledger) = chained(5);
        change(&catalog, &key(removed), |_| Write::Delete);
        let defect = ledger.verify_audit().unwrap().defect;
        assert_eq!(defect, Some(AuditDefect::Missing { seq: removed }));
    }

    // A link that was rewritten with a hash of its own does not fit the next one.
    let (catalog, ledger) = chained(5);
    let (other, _) = {
        let catalog = Arc::new(MemoryCatalog::default());
        let ledger = Ledger::new(catalog.clone());
        ledger.audit(&[act(1), act(7)]).unwrap();
        (catalog, ledger)
    };
    let forged = other.get(&key(2)).unwrap().unwrap().bytes;
    change(&catalog, &key(2), |_| Write::Put(forged));
    let defect = ledger.verify_audit().unwrap().defect;
    assert_eq!(defect, Some(AuditDefect::Unlinked { seq: 3 }));
}

#[test]
fn the_chain_is_read_from_either_end() {
    let (_, ledger) = chained(7);
    let seqs = |links: Vec<ship_store::ledger::AuditLink>| -> Vec<u64> {
        links.iter().map(|link| link.seq).collect()
    };
    assert_eq!(seqs(ledger.audit_tail(3).unwrap()), [5, 6, 7]);
    assert_eq!(seqs(ledger.audit_tail(100).unwrap()).len(), 7);
    assert_eq!(seqs(ledger.audit_after(2, 2).unwrap()), [3, 4]);
    assert_eq!(seqs(ledger.audit_after(7, 2).unwrap()), [0; 0]);
}

#[test]
fn an_act_of_any_length_is_chained() {
    let (_, ledger) = chained(0);
    let mut long = act(1);
    long.detail = "ä".repeat(100_000);
    ledger.audit(&[long, act(2)]).unwrap();
    assert_eq!(ledger.verify_audit().unwrap().defect, None);
    assert!(ledger.audit_tail(2).unwrap()[0].detail.len() <= 4096);
}

/// What a link's hash is taken over must never change: old chains would break.
#[test]
fn a_link_is_frozen() {
    let (_, ledger) = chained(2);
    let links = ledger.audit_tail(2).unwrap();
    assert_eq!(
        links[1].hash,
        "177af3a1930984c594a9dc556b655f4b78fd54fe5c5743ed70964082bcc28c65"
    );
}

#[test]
fn what_an_environment_runs_is_decided_once() {
    let (_, ledger) = chained(0);
    let env = EnvName::new("dev").unwrap();
    let mut watch = ledger.watch_environments();
    let mut state = EnvState::new(env.clone(), web());
    let made = RequestRecord {
        asked: "x".to_owned(),
        made: Made::Deploy {
            env: env.clone(),
            app: web(),
            deploy: state.last_deploy,
        },
    };
    let acts = [act(1), act(2)];
    let put = |state: &EnvState, expected, request| {
        let change = EnvChange {
            state,
            expected,
            acts: &acts,
            request,
        };
        ledger.put_env_state(change).unwrap()
    };
    let Stored::Done(first) = put(&state, None, Some((request(1), &made))) else {
        panic!("a first state was refused");
    };
    let Some(Seen::Keys(keys)) = watch.try_next() else {
        panic!("nobody was told");
    };
    assert_eq!(Ledger::env_of_key(&keys[0]), Some((env.clone(), web())));
    let Stored::Conflict(Some(current)) = put(&state, None, None) else {
        panic!("a stale change was taken");
    };
    assert_eq!((current.version, &current.record), (first, &state));
    // The same request again changes nothing, though the version fits.
    state.epoch = state.epoch.next();
    let Stored::Conflict(Some(current)) = put(&state, Some(first), Some((request(1), &made))) else {
        panic!("a request was carried out twice");
    };
    assert_eq!(current.version, first);
    assert_eq!(ledger.request(request(1)).unwrap(), Some(made.clone()));
    assert!(matches!(put(&state, Some(first), None), Stored::Done(_)));
    assert_eq!(ledger.env_states(Some(&env)).unwrap().len(), 1);
    assert_eq!(ledger.env_states(None).unwrap()[0].record, state);
    assert_eq!(ledger.env_states(Some(&EnvName::new("de").unwrap())).unwrap(), []);
    assert_eq!(ledger.verify_audit().unwrap().links, 4);
}

#[test]
fn hosts_are_remembered() {
    let (_, ledger) = chained(0);
    let host = HostRecord {
        env: EnvName::new("dev").unwrap(),
        host: HostName::new("h1").unwrap(),
        classes: vec![ClassName::new("web").unwrap()],
        asset_url: None,
        served: false,
        agent_version: "0.1.0".to_owned(),
        first_seen_ms: 5,
        standing: None,
    };
    let Stored::Done(version) = ledger.put_host(&host, None, &[]).unwrap() else {
        panic!("refused");
    };
    assert!(matches!(
        ledger.put_host(&host, None, &[act(1)]).unwrap(),
        Stored::Conflict(Some(_))
    ));
    assert_eq!(ledger.verify_audit().unwrap().links, 0);
    let found = ledger.host(&host.env, &host.host).unwrap().unwrap();
    assert_eq!((found.version, &found.record), (version, &host));
    assert_eq!(ledger.hosts(None).unwrap().len(), 1);
}

#[test]
fn the_mark_of_a_restored_store_stays_until_it_is_accepted() {
    let (_, ledger) = chained(0);
    let mark = Restored {
        at_ms: 1,
        from: "/backup".to_owned(),
    };
    assert!(matches!(
        ledger.mark_restored(&mark, &act(1)).unwrap(),
        Stored::Done(_)
    ));
    assert_eq!(ledger.restored().unwrap(), Some(mark));
    assert!(matches!(
        ledger.accept_restored(&act(2)).unwrap(),
        Stored::Done(_)
    ));
    assert_eq!(ledger.restored().unwrap(), None);
}
