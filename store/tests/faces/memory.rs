//! A plan says beforehand where a host has no memory for two generations.

use ship_model::report::AppMemory;
use ship_model::spec::read_ship_toml;
use ship_proto::v1;

use crate::agent::Agent;
use crate::fleet::{Clients, Store, plan, until};

async fn publish(clients: &mut Clients, page: &str, coexist: &str) {
    let toml = format!(
        "app = \"web\"\n[process.web]\ncommand = [\"./serve\"]\nlisten = {{ http = \"tcp:8080\" }}\ncoexist = {coexist}\n"
    );
    let processes = read_ship_toml(&toml, None).unwrap().processes;
    let files = [("index.html", page.as_bytes()), ("serve", b"#!/bin/sh\n")];
    let published = clients.publish_with("web", &files, |spec| spec.processes = processes);
    published.await.unwrap();
}

/// The only way of the plan to `number`, once it is as `good` says.
async fn way(clients: &Clients, number: u64, good: impl Fn(&v1::HostWay) -> bool) -> v1::HostWay {
    until(&format!("a plan to {number}"), || {
        let (mut clients, good) = (clients.clone(), &good);
        async move {
            let planned = clients.rollouts.plan(plan(number)).await.unwrap().into_inner();
            assert_eq!(planned.ways.len(), 1, "{planned:?}");
            planned.ways.into_iter().next().filter(good)
        }
    })
    .await
}

#[tokio::test]
async fn a_plan_tells_the_gap_that_want_of_memory_makes() {
    let store = Store::start().await;
    let agent = Agent::start(&store, "h1", &["web"]);
    let mut clients = store.operator().await;
    publish(&mut clients, "one", "true").await;
    publish(&mut clients, "two", "true").await;
    publish(&mut clients, "three", "\"always\"").await;
    clients.hosts(&[("h1", "available")]).await;
    clients.promote(1).await;
    let unsaid = way(&clients, 2, |_| true).await;
    assert_eq!((&*unsaid.gap, &*unsaid.tight), ("", ""), "{unsaid:?}");

    let has = |free: u64| {
        agent.change(|host| {
            host.report.apps[0].memory = Some(AppMemory {
                used: [("web".to_owned(), 10 << 20)].into(),
                free,
                whose: "on the host".to_owned(),
            });
            host.report.apps[0].balancers = vec!["haproxy".to_owned()];
        });
    };
    has(9 << 20);
    let short = way(&clients, 2, |way| !way.tight.is_empty()).await;
    assert_eq!(short.gap, "no memory for two generations", "{short:?}");
    assert_eq!(short.tight, "9 MiB available on the host, 12 MiB wanted");
    assert_eq!(short.covered_by, "queue", "no balancer is told of it: {short:?}");
    let fails = way(&clients, 3, |way| !way.tight.is_empty()).await;
    assert_eq!(fails.gap, "", "{fails:?}");
    assert!(fails.tight.contains("so the switch fails"), "{fails:?}");

    has(12 << 20);
    way(&clients, 2, |way| way.tight.is_empty() && way.gap.is_empty()).await;
}
