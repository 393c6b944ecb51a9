//! Hosts that operators take out of rotation, back in, and out of the fleet.

use ship_proto::failure_of;
use ship_proto::v1::host_request::Verb;
use ship_proto::v1::{self, FailureKind, OutcomeKind};

use crate::agent::Agent;
use crate::fleet::{Clients, Store, http, outcome, plan, until};

async fn three(store: &Store) -> (Clients, [Agent; 3]) {
    let agents = ["h1", "h2", "h3"].map(|name| Agent::start(store, name, &["web"]));
    let mut clients = store.operator().await;
    clients.publish_page("one").await;
    clients.publish_page("two").await;
    clients
        .hosts(&[("h1", "available"), ("h2", "available"), ("h3", "available")])
        .await;
    assert_eq!(outcome(&clients.promote(1).await), OutcomeKind::Done);
    (clients, agents)
}

fn wish(host: &str, verb: Verb) -> v1::HostRequest {
    v1::HostRequest {
        env: "dev".to_owned(),
        host: host.to_owned(),
        verb: verb.into(),
        message: "new memory".to_owned(),
        force: false,
    }
}

async fn say(clients: &mut Clients, host: &str, verb: Verb) -> v1::HostReply {
    clients.fleet.host(wish(host, verb)).await.unwrap().into_inner()
}

async fn refused(clients: &mut Clients, wish: v1::HostRequest) -> (FailureKind, String) {
    let status = clients.fleet.host(wish).await.unwrap_err();
    (failure_of(&status).unwrap().kind(), status.message().to_owned())
}

fn duty(reply: &v1::HostReply) -> String {
    let host = reply.host.as_ref().unwrap();
    host.standing
        .as_ref()
        .map_or_else(String::new, |standing| standing.duty.clone())
}

/// Waits until the host is in this state, or has left it to be asked again.
async fn state(clients: &Clients, host: &str, wanted: &str) {
    until(&format!("{host} to be {wanted}"), || {
        let mut clients = clients.clone();
        async move {
            let hosts = clients.status().await.hosts;
            hosts
                .iter()
                .any(|found| found.host == host && found.state == wanted)
                .then_some(())
        }
    })
    .await;
}

#[tokio::test]
async fn a_drained_host_is_not_waited_for_and_is_kept_up_to_date() {
    let mut store = Store::start().await;
    let (mut clients, agents) = three(&store).await;
    let reply = say(&mut clients, "h1", Verb::Drain).await;
    assert_eq!(duty(&reply), "drained");
    let balancer = "h1 knows of no balancer for web";
    assert!(
        reply.notes.iter().any(|note| note.starts_with(balancer)),
        "{:?}",
        reply.notes
    );
    let told = |agent: &Agent| agent.see(|host| host.desired.drained);
    until("h1 to be told", || async { told(&agents[0]).then_some(()) }).await;
    assert!(!told(&agents[1]) && !told(&agents[2]));

    // A store that is killed and comes back knows it, and tells the host so.
    store.kill();
    store.serve().await;
    let mut clients = store.operator().await;
    clients
        .hosts(&[("h1", "available"), ("h2", "available"), ("h3", "available")])
        .await;
    assert!(told(&agents[0]));

    let planned = clients
        .rollouts
        .plan(plan(2))
        .await
        .unwrap()
        .into_inner()
        .view
        .unwrap();
    assert_eq!(planned.excused, ["h1: drained"]);
    let waves = planned.steps.iter().skip(1).flat_map(|step| &step.hosts);
    assert!(waves.clone().count() > 0);
    assert!(
        waves.into_iter().all(|line| line.host != "h1"),
        "{:?}",
        planned.steps
    );
    // What ails it there stops nobody.
    agents[0].change(|host| {
        host.broken.insert(2);
    });
    assert_eq!(outcome(&clients.promote(2).await), OutcomeKind::Done);
    assert_eq!(agents[1].running(), Some(2));
    assert_eq!(agents[0].running(), Some(1));
    agents[0].change(|host| host.broken.clear());
    until("h1 to catch up", || async {
        (agents[0].running() == Some(2)).then_some(())
    })
    .await;

    let reply = say(&mut clients, "h1", Verb::Undrain).await;
    assert_eq!((duty(&reply), reply.notes.len()), (String::new(), 0));
    until("h1 to be told", || async { (!told(&agents[0])).then_some(()) }).await;
    let planned = clients
        .rollouts
        .plan(plan(1))
        .await
        .unwrap()
        .into_inner()
        .view
        .unwrap();
    assert_eq!(planned.excused, Vec::<String>::new());
}

#[tokio::test]
async fn hosts_that_are_needed_stay_unless_somebody_says_why() {
    let store = Store::start().await;
    let (mut clients, _agents) = three(&store).await;
    for host in ["h1", "h2"] {
        assert_eq!(duty(&say(&mut clients, host, Verb::Drain).await), "drained");
        // Asked twice, it is the same.
        assert_eq!(duty(&say(&mut clients, host, Verb::Drain).await), "drained");
    }
    for verb in [Verb::Drain, Verb::Retire] {
        let (kind, said) = refused(&mut clients, wish("h3", verb)).await;
        assert_eq!(kind, FailureKind::Refused);
        assert_eq!(
            said,
            "without h3, no host would serve web, and 1 must: nobody is left"
        );
    }
    let forced = |message: &str| v1::HostRequest {
        force: true,
        message: message.to_owned(),
        ..wish("h3", Verb::Drain)
    };
    assert_eq!(refused(&mut clients, forced(" ")).await.0, FailureKind::Invalid);
    let reply = clients.fleet.host(forced("the hall is on fire")).await.unwrap();
    assert_eq!(duty(&reply.into_inner()), "drained");
    // Nobody is left to begin with; the way back stays open.
    let none = clients.rollouts.promote(plan(2)).await.unwrap_err();
    assert!(
        none.message().contains("is drained: h1, h2, h3"),
        "{}",
        none.message()
    );
    for (odd, kind) in [
        (wish("h9", Verb::Drain), FailureKind::NotFound),
        (wish("../h1", Verb::Drain), FailureKind::Invalid),
        (wish("h1", Verb::Unspecified), FailureKind::Invalid),
        (
            v1::HostRequest {
                message: "x".repeat(5000),
                ..wish("h1", Verb::Drain)
            },
            FailureKind::Invalid,
        ),
        (wish("h1", Verb::Archive), FailureKind::Refused),
    ] {
        assert_eq!(refused(&mut clients, odd.clone()).await.0, kind, "{odd:?}");
    }
    let events = v1::EventsRequest {
        limit: 50,
        follow: false,
    };
    let mut events = clients.fleet.events(events).await.unwrap().into_inner();
    let mut acts = Vec::new();
    while let Some(event) = events.message().await.unwrap() {
        if event.what.starts_with("host ") {
            acts.push((event.who, event.what, event.subject, event.detail));
        }
    }
    let act = |subject: &str, detail: &str| {
        let all = ["operator/alice", "host drain", subject, detail];
        let [who, what, subject, detail] = all.map(str::to_owned);
        (who, what, subject, detail)
    };
    assert_eq!(
        acts,
        [
            act("dev/h1", "new memory"),
            act("dev/h2", "new memory"),
            act("dev/h3", "forced: the hall is on fire")
        ]
    );
}

#[tokio::test]
async fn a_retired_host_stops_and_is_not_let_in_again() {
    let mut store = Store::start().await;
    let (mut clients, agents) = three(&store).await;
    assert_eq!(duty(&say(&mut clients, "h3", Verb::Retire).await), "retiring");
    state(&clients, "h3", "retired").await;
    assert_eq!(agents[2].running(), None);
    until("h3 to be told", || async {
        agents[2].see(|host| {
            let told = "h3 of dev is retired since ";
            let said = host.refusals.last().filter(|said| said.contains(told))?;
            assert!(said.ends_with("its certificate is no longer accepted"), "{said}");
            Some(())
        })
    })
    .await;
    // Not by any other call either, nor for bytes.
    let mut host = Clients::new(store.channel("agent/dev", "h3").await);
    let call = host
        .releases
        .get(v1::GetReleaseRequest::default())
        .await
        .unwrap_err();
    assert_eq!(failure_of(&call).unwrap().kind(), FailureKind::Denied);
    assert!(
        call.message().contains("h3 of dev is retired"),
        "{}",
        call.message()
    );
    let certificate = store.certificate("agent/dev", "h3");
    let bundle = format!("/bundles/{}", "a".repeat(64));
    let answer = http(store.addresses().grpc, Some(&certificate), "GET", &bundle, "").await;
    assert_eq!(answer.0, 401);

    // So it stays after a restart, which no plan waits for.
    store.kill();
    store.serve().await;
    let mut clients = store.operator().await;
    state(&clients, "h3", "retired").await;
    assert_eq!(outcome(&clients.promote(2).await), OutcomeKind::Done);
    assert_eq!([agents[0].running(), agents[1].running()], [Some(2); 2]);
    assert_eq!(agents[2].running(), None);
    let (_, said) = refused(&mut clients, wish("h3", Verb::Drain)).await;
    assert!(said.contains("take it back first"), "{said}");

    // Taken back, it is as a new one, and comes to run what all run.
    assert_eq!(duty(&say(&mut clients, "h3", Verb::Undrain).await), "");
    until("h3 to run release 2", || async {
        (agents[2].running() == Some(2)).then_some(())
    })
    .await;
    state(&clients, "h3", "available").await;

    // One whose machine is gone is asked nothing.
    agents[1].change(|host| host.mute = true);
    assert_eq!(duty(&say(&mut clients, "h2", Verb::Gone).await), "terminated");
    state(&clients, "h2", "terminated").await;
    assert_eq!(outcome(&clients.promote(1).await), OutcomeKind::Done);
    let (_, said) = refused(&mut clients, wish("h2", Verb::Undrain)).await;
    assert!(said.contains("joins as a new host"), "{said}");
}

/// In the middle of a rollout: nothing waits for it any more, and what was to come there comes by itself.
#[tokio::test]
async fn a_host_that_is_drained_or_retired_under_way_holds_up_nobody() {
    let store = Store::start().await;
    let (mut clients, agents) = three(&store).await;
    agents[1].change(|host| host.holds_assets_back = true);
    agents[2].change(|host| host.holds_assets_back = true);
    let mut asked = plan(2);
    asked.request_id = crate::fleet::request_id();
    let started = clients.rollouts.promote(asked).await.unwrap().into_inner();
    say(&mut clients, "h2", Verb::Drain).await;
    say(&mut clients, "h3", Verb::Retire).await;
    let view = clients.end(&started).await;
    assert_eq!(outcome(&view), OutcomeKind::Done, "{view:?}");
    assert_eq!(agents[0].running(), Some(2));
    state(&clients, "h3", "retired").await;
    agents[1].change(|host| host.holds_assets_back = false);
    until("h2 to catch up", || async {
        (agents[1].running() == Some(2)).then_some(())
    })
    .await;
}

/// Killed between the record and everything that follows from it.
#[tokio::test]
async fn a_word_that_was_written_is_carried_out_by_the_next_life() {
    let mut store = Store::start().await;
    let (_, agents) = three(&store).await;
    assert!(store.stop().success());
    store
        .serve_with(&[(
            ship_durable::fault::FAULT_VARIABLE,
            "store.standing.written=kill@1",
        )])
        .await;
    let mut clients = store.operator().await;
    clients
        .hosts(&[("h1", "available"), ("h2", "available"), ("h3", "available")])
        .await;
    assert!(clients.fleet.host(wish("h3", Verb::Retire)).await.is_err());
    store.kill();
    store.serve().await;
    let clients = store.operator().await;
    state(&clients, "h3", "retired").await;
    assert_eq!(agents[2].running(), None);
}
