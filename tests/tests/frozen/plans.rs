//! Plans and environments as files, and what a store keeps of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ship_model::environment::read_environment;
use ship_model::host::HostState;
use ship_model::name::ClassName;
use ship_model::release::ReleaseNumber;
use ship_model::rollout::{
    Amount, Content, EnvState, HostView, Plan, Policy, Profile, ReleaseInfo, Request, Wish, plan, read_plan,
    write_plan,
};
use ship_store::engine::Catalog;
use ship_store::engine::catalog::MemoryCatalog;
use ship_store::ledger::{Act, EnvironmentFile, Ledger};

use super::sample::{app, env, env_state_gated, env_state_later, host, target};
use super::{frozen, writes_the_same};

#[test]
fn a_state_with_a_way_of_its_own_is_read_and_written() {
    const FILE: &str = "env-state-way-1.json";
    let state = env_state_later();
    writes_the_same(FILE, &state.encode().unwrap());
    assert_eq!(EnvState::decode(&frozen(FILE)).unwrap(), state);
}

#[test]
fn a_state_at_its_gates_is_read_and_written() {
    const FILE: &str = "env-state-gates-1.json";
    let state = env_state_gated();
    writes_the_same(FILE, &state.encode().unwrap());
    assert_eq!(EnvState::decode(&frozen(FILE)).unwrap(), state);
}

#[test]
fn an_environments_gates_are_read() {
    let text = String::from_utf8(frozen("environment-gates-1.toml")).unwrap();
    let read = read_environment(&text).unwrap();
    let normal = read.policy(&Policy::default(), Profile::Normal);
    let gates: Vec<_> = normal.steps.iter().map(|step| step.gates.len()).collect();
    assert_eq!(gates, [1, 3]);
    let emergency = read.policy(&Policy::default(), Profile::Emergency);
    assert_eq!(emergency.skipped_gates, ["dns", "errors", "go", "smoke"]);
}

fn planned() -> Plan {
    let info = ReleaseInfo {
        target: target(455),
        classes: [ClassName::new("web").unwrap()].into(),
        platform: Vec::new(),
        keep: None,
        switch_waits_ms: 0,
        content: Content::Kept,
    };
    let view = |name: &str| HostView {
        name: host(name),
        state: HostState::Available,
        classes: vec![ClassName::new("web").unwrap()],
        platform: None,
        last_report: None,
        last_seen_ms: Some(1),
        drained: false,
        bytes: None,
    };
    let request = Request {
        wish: Wish::Promote {
            release: Some(ReleaseNumber(455)),
        },
        force: false,
        message: Some("spring sale".to_owned()),
        without: BTreeSet::new(),
    };
    let releases = BTreeMap::from([(ReleaseNumber(455), info)]);
    let views = [view("h1"), view("h2")];
    plan(
        &EnvState::new(env(), app()),
        &views,
        &releases,
        &request,
        &Policy::default(),
    )
    .unwrap()
}

#[test]
fn a_plans_file_is_read_and_written() {
    const FILE: &str = "plan-1.json";
    let plan = planned();
    writes_the_same(FILE, &write_plan(&plan, true).unwrap());
    assert_eq!(read_plan(&frozen(FILE)).unwrap(), plan);
}

#[test]
fn an_environments_file_is_read() {
    let text = String::from_utf8(frozen("environment-1.toml")).unwrap();
    let read = read_environment(&text).unwrap();
    assert_eq!((read.env.as_str(), read.steps.len()), ("production", 3));
    let policy = read.policy(&Policy::default(), Profile::Careful);
    assert_eq!(policy.min_healthy, Some(Amount::Count(2)));
    assert_eq!((policy.soak_ms, policy.auto_revert), (3_600_000, false));
    assert_eq!(policy.steps[0].names, ["web-1", "eu-*"]);
}

#[test]
fn an_applied_file_is_kept_as_it_was() {
    const FILE: &str = "store-record-environment-1";
    let catalog: Arc<dyn Catalog> = Arc::new(MemoryCatalog::default());
    let ledger = Ledger::new(Arc::clone(&catalog));
    let file = EnvironmentFile {
        env: env(),
        version: 1,
        text: "version = 1\nenv = \"production\"\n".to_owned(),
        who: "operator/alice".to_owned(),
        at_ms: 1_760_000_000_006,
        message: "first".to_owned(),
    };
    let act = Act {
        at_ms: file.at_ms,
        who: file.who.clone(),
        what: "env apply".to_owned(),
        subject: "production".to_owned(),
        detail: String::new(),
    };
    assert!(ledger.put_environment_file(&file, &act).unwrap());
    for key in ["environment/", "environment-version/"] {
        let entries = catalog.range(key, None, 2).unwrap();
        assert_eq!(entries.len(), 1, "{key}");
        writes_the_same(FILE, &entries[0].value.bytes);
    }
    assert_eq!(ledger.environment_file(&env()).unwrap(), Some(file.clone()));
    assert!(
        !ledger.put_environment_file(&file, &act).unwrap(),
        "each number is given once"
    );
    assert_eq!(ledger.environment_versions(&env()).unwrap(), [file]);
}
