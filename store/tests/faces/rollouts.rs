//! Rollouts on hosts that do as they are told, or not.

use std::time::Duration;

use ship_proto::failure_of;
use ship_proto::v1::{self, FailureKind, OutcomeKind, control_request};
use tokio::time::sleep;

use crate::agent::Agent;
use crate::fleet::{Clients, Store, outcome, plan, until};

async fn three(store: &Store) -> (Clients, [Agent; 3]) {
    let agents = ["h1", "h2", "h3"].map(|name| Agent::start(store, name, &["web", "assets"]));
    let mut clients = store.operator().await;
    clients.publish_page("one").await;
    clients.publish_page("two").await;
    clients
        .hosts(&[("h1", "available"), ("h2", "available"), ("h3", "available")])
        .await;
    (clients, agents)
}

fn running(agents: &[Agent]) -> Vec<Option<u64>> {
    agents.iter().map(Agent::running).collect()
}

fn kind(status: &tonic::Status) -> FailureKind {
    failure_of(status).unwrap().kind()
}

#[tokio::test]
async fn a_release_is_promoted_and_taken_back() {
    let store = Store::start().await;
    let (mut clients, agents) = three(&store).await;
    let planned = clients.rollouts.plan(plan(0)).await.unwrap().into_inner();
    assert!(planned.changes);
    let names: Vec<_> = planned
        .view
        .unwrap()
        .steps
        .into_iter()
        .map(|step| step.name)
        .collect();
    assert_eq!(names[..4], ["check", "prefetch", "assets", "one host"]);
    let first = clients.rollouts.revert(plan(0)).await.unwrap_err();
    assert_eq!(kind(&first), FailureKind::Refused);
    assert!(
        first.message().contains("nothing to revert to"),
        "{}",
        first.message()
    );

    let view = clients.promote(1).await;
    assert_eq!(outcome(&view), OutcomeKind::Done, "{view:?}");
    assert!(view.steps.iter().all(|step| step.state == "done"), "{view:?}");
    assert_eq!(running(&agents), [Some(1); 3]);
    assert_eq!(outcome(&clients.promote(2).await), OutcomeKind::Done);
    assert_eq!(running(&agents), [Some(2); 3]);
    let again = clients.rollouts.plan(plan(2)).await.unwrap().into_inner();
    assert!(!again.changes);

    let view = clients.revert(0).await;
    assert_eq!(
        (outcome(&view), view.kind.as_str()),
        (OutcomeKind::Done, "revert")
    );
    assert_eq!(running(&agents), [Some(1); 3]);
    let held = clients.rollouts.promote(plan(0)).await.unwrap_err();
    assert_eq!(kind(&held), FailureKind::Refused);
    let status = clients.status().await;
    let app = &status.apps[0];
    assert_eq!(app.release.as_ref().unwrap().number, 1);
    assert!(app.held.contains("operator/alice"), "{}", app.held);
    assert_eq!(
        app.asset_urls.len(),
        4,
        "three hosts and the store: {:?}",
        app.asset_urls
    );
    assert!(
        app.hosts
            .iter()
            .all(|host| host.state == "available" && host.runs_app)
    );
    let events = v1::EventsRequest::default();
    let mut events = clients.fleet.events(events).await.unwrap().into_inner();
    let mut told = Vec::new();
    while let Some(event) = events.message().await.unwrap() {
        told.push((event.who, event.what));
    }
    let publish = told
        .iter()
        .filter(|(who, what)| who == "operator/alice" && what == "publish");
    assert_eq!(publish.count(), 2, "{told:?}");
    assert!(
        told.iter()
            .any(|(who, what)| who == "operator/alice" && what.contains("revert")),
        "{told:?}"
    );
}

#[tokio::test]
async fn a_host_that_fails_turns_the_rollout_back() {
    let store = Store::start().await;
    let (mut clients, agents) = three(&store).await;
    clients.promote(1).await;
    agents[2].change(|host| _ = host.broken.insert(2));
    let view = clients.promote(2).await;
    assert_eq!(outcome(&view), OutcomeKind::Reverted, "{view:?}");
    assert!(
        view.reason.contains("h3: probe: it answered 500"),
        "{}",
        view.reason
    );
    assert_eq!(view.last_lines, ["boom"]);
    assert_eq!(running(&agents), [Some(1); 3]);
    agents[2].see(|host| assert_eq!(host.ran, [1]));
    let bad = clients.rollouts.promote(plan(2)).await.unwrap_err();
    assert_eq!(kind(&bad), FailureKind::Refused);
    assert!(failure_of(&bad).unwrap().hint.contains("--force"));
}

#[tokio::test]
async fn no_host_is_switched_before_the_assets_are_served() {
    let store = Store::start().await;
    let holder = Agent::start(&store, "a1", &["assets"]);
    let web = Agent::start(&store, "h1", &["web"]);
    let mut clients = store.operator().await;
    clients.publish_page("one").await;
    clients.hosts(&[("a1", "available"), ("h1", "available")]).await;
    holder.change(|host| host.holds_assets_back = true);
    let started = clients.rollouts.promote(plan(1)).await.unwrap().into_inner();
    let request = v1::WatchRequest {
        app: "web".to_owned(),
        env: "dev".to_owned(),
        deploy: started.deploy,
    };
    let mut views = clients.rollouts.watch(request).await.unwrap().into_inner();
    loop {
        let view = views.message().await.unwrap().unwrap();
        if view
            .steps
            .iter()
            .any(|step| step.name == "assets" && step.state == "running")
        {
            break;
        }
    }
    // Several heartbeats later it still waits.
    sleep(Duration::from_millis(700)).await;
    assert_eq!(web.running(), None);
    holder.change(|host| {
        assert!(
            host.report.apps[0].staged.is_empty(),
            "an asset host unpacks nothing"
        );
        host.holds_assets_back = false;
    });
    assert_eq!(outcome(&clients.end(&started).await), OutcomeKind::Done);
    assert_eq!(web.running(), Some(1));
}

#[tokio::test]
async fn two_promotes_at_once() {
    let store = Store::start_with(|settings| settings.soak_ms = 3_600_000).await;
    let (mut clients, _agents) = three(&store).await;
    let first = clients.rollouts.promote(plan(1)).await.unwrap().into_inner();
    let second = clients.rollouts.promote(plan(2)).await.unwrap_err();
    assert_eq!(kind(&second), FailureKind::Busy);
    let said = second.message();
    for part in ["deploy 1", "web@1", "operator/alice"] {
        assert!(said.contains(part), "{said}");
    }
    assert!(ship_proto::failure_of(&second).unwrap().since_ms > 0);
    let control = |verb: control_request::Verb| v1::ControlRequest {
        app: "web".to_owned(),
        env: "dev".to_owned(),
        verb: verb.into(),
        message: String::new(),
    };
    let paused = clients
        .rollouts
        .control(control(control_request::Verb::Pause))
        .await
        .unwrap()
        .into_inner();
    assert!(paused.paused);
    let resumed = clients
        .rollouts
        .control(control(control_request::Verb::Resume))
        .await
        .unwrap()
        .into_inner();
    assert!(!resumed.paused);
    clients
        .rollouts
        .control(control(control_request::Verb::Abort))
        .await
        .unwrap();
    assert_eq!(outcome(&clients.end(&first).await), OutcomeKind::Aborted);
    let nothing = clients
        .rollouts
        .control(control(control_request::Verb::Abort))
        .await
        .unwrap_err();
    assert_eq!(kind(&nothing), FailureKind::Refused);
}

#[tokio::test]
async fn the_same_request_starts_one_rollout() {
    let store = Store::start().await;
    let (mut clients, _agents) = three(&store).await;
    let request = plan(1);
    let first = clients
        .rollouts
        .promote(request.clone())
        .await
        .unwrap()
        .into_inner();
    let again = clients
        .rollouts
        .promote(request.clone())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(first, again);
    clients.end(&first).await;
    assert_eq!(
        clients
            .rollouts
            .promote(request.clone())
            .await
            .unwrap()
            .into_inner(),
        first
    );
    let other = v1::PlanRequest { number: 2, ..request };
    let refused = clients.rollouts.promote(other).await.unwrap_err();
    assert_eq!(kind(&refused), FailureKind::Invalid);
    let short = v1::PlanRequest {
        request_id: vec![1],
        ..plan(2)
    };
    assert_eq!(
        kind(&clients.rollouts.promote(short).await.unwrap_err()),
        FailureKind::Invalid
    );
}

#[tokio::test]
async fn a_store_that_is_killed_goes_on_where_it_was() {
    // The deadline runs through four starts of the store.
    let mut store = Store::start_with(|settings| settings.switch_deadline_ms = 120_000).await;
    let (mut clients, agents) = three(&store).await;
    clients.promote(1).await;
    // A host that does not answer holds the rollout up in its wave.
    agents[1].change(|host| host.mute = true);
    let started = clients.rollouts.promote(plan(2)).await.unwrap().into_inner();
    for round in 0..4 {
        store.kill();
        assert_ne!(running(&agents), [Some(2); 3], "round {round}");
        store.serve().await;
        clients = store.operator().await;
        // Nobody is uncertain because the store was away.
        for host in clients.status().await.hosts {
            assert!(!["uncertain", "unavailable"].contains(&&*host.state), "{host:?}");
        }
        sleep(Duration::from_millis(100 * round)).await;
    }
    agents[1].change(|host| host.mute = false);
    let view = clients.end(&started).await;
    assert_eq!(outcome(&view), OutcomeKind::Done, "{view:?}");
    until("all hosts to run it", || async {
        (running(&agents) == [Some(2); 3]).then_some(())
    })
    .await;
    assert_eq!(
        clients.status().await.apps[0].deploy,
        2,
        "no second rollout was begun"
    );
    assert!(store.stop().success());
}

#[tokio::test]
async fn what_is_unknown_is_named_with_its_neighbours() {
    let store = Store::start().await;
    let (mut clients, _agents) = three(&store).await;
    let ask = |app: &str, env: &str, number| v1::PlanRequest {
        app: app.to_owned(),
        env: env.to_owned(),
        ..plan(number)
    };
    for (request, part) in [
        (ask("wbe", "dev", 1), "there is web"),
        (ask("web", "prod", 1), "there is dev"),
        (ask("web", "dev", 9), "no release 9"),
    ] {
        let status = clients.rollouts.promote(request).await.unwrap_err();
        assert_eq!(kind(&status), FailureKind::NotFound);
        assert!(status.message().contains(part), "{}", status.message());
    }
    assert_eq!(
        kind(&clients.rollouts.promote(ask("../x", "dev", 1)).await.unwrap_err()),
        FailureKind::Invalid
    );
    let watch = v1::WatchRequest {
        app: "web".to_owned(),
        env: "dev".to_owned(),
        deploy: 0,
    };
    assert_eq!(
        kind(&clients.rollouts.watch(watch).await.unwrap_err()),
        FailureKind::NotFound
    );
}

#[tokio::test]
async fn a_plan_tells_what_each_host_fetches_and_a_rollout_when_its_steps_were() {
    let store = Store::start().await;
    let agent = Agent::start(&store, "h1", &["web", "assets"]);
    let mut clients = store.operator().await;
    let files = |page: &'static [u8]| [("index.html", page), ("same.txt", &b"0123456789"[..])];
    clients.publish("web", &files(b"one")).await.unwrap();
    clients.publish("web", &files(b"three")).await.unwrap();
    clients.hosts(&[("h1", "available")]).await;
    let cost = |view: &v1::RolloutView| {
        let prefetch = view.steps.iter().find(|step| step.name == "prefetch").unwrap();
        (prefetch.hosts[0].new_bytes, prefetch.hosts[0].shared_bytes)
    };
    let first = clients
        .rollouts
        .plan(plan(1))
        .await
        .unwrap()
        .into_inner()
        .view
        .unwrap();
    assert_eq!(cost(&first), (Some(13), Some(0)));
    clients.promote(1).await;
    let second = clients
        .rollouts
        .plan(plan(2))
        .await
        .unwrap()
        .into_inner()
        .view
        .unwrap();
    assert_eq!(cost(&second), (Some(5), Some(10)));
    let done = clients.promote(2).await;
    assert_eq!(cost(&done), (Some(5), Some(10)));
    let times: Vec<_> = done
        .steps
        .iter()
        .map(|step| (step.started_at_ms, step.ended_at_ms))
        .collect();
    assert!(
        times.iter().all(|(start, end)| *start > 0 && end >= start),
        "{times:?}"
    );
    assert!(times.windows(2).all(|pair| pair[0].1 == pair[1].0), "{times:?}");
    let back = v1::PlanRequest {
        revert: true,
        ..plan(0)
    };
    let back = clients
        .rollouts
        .plan(back)
        .await
        .unwrap()
        .into_inner()
        .view
        .unwrap();
    assert_eq!(back.steps[1].detail, "back to web@1; nothing is fetched");

    agent.change(|host| _ = host.broken.insert(1));
    let view = clients.revert(0).await;
    assert_eq!(outcome(&view), OutcomeKind::Partial, "{view:?}");
    assert_eq!(view.steps[1].state, "failed", "{view:?}");
    assert_eq!(view.steps[1].hosts[0].state, "failed", "{view:?}");
}

#[tokio::test]
async fn a_host_that_is_away_is_left_out_by_name() {
    let store = Store::start_with(|settings| {
        settings.uncertain_after_ms = 3_000;
        settings.unavailable_after_ms = 6_000;
    })
    .await;
    let (mut clients, agents) = three(&store).await;
    for agent in &agents[1..] {
        agent.change(|host| host.mute = true);
    }
    clients
        .hosts(&[("h1", "available"), ("h2", "unavailable"), ("h3", "unavailable")])
        .await;
    let refused = clients.rollouts.promote(plan(1)).await.unwrap_err();
    let hint = failure_of(&refused).unwrap().hint;
    assert!(hint.contains("--without h2 --without h3"), "{hint}");
    let typo = v1::PlanRequest {
        without: vec!["h22".to_owned()],
        ..plan(1)
    };
    let typo = clients.rollouts.promote(typo).await.unwrap_err();
    assert_eq!(kind(&typo), FailureKind::NotFound);
    let request = v1::PlanRequest {
        without: vec!["h2".to_owned(), "h3".to_owned()],
        ..plan(1)
    };
    let started = clients.rollouts.promote(request).await.unwrap().into_inner();
    let view = clients.end(&started).await;
    assert_eq!(outcome(&view), OutcomeKind::Done, "{view:?}");
    assert_eq!(running(&agents), [Some(1), None, None]);
}

#[tokio::test]
async fn a_release_for_another_platform_is_refused_before_anything_moves() {
    let store = Store::start().await;
    let (mut clients, agents) = three(&store).await;
    agents[1].change(|host| host.report.platform = Some("linux/arm64".to_owned()));
    let tree = |spec: &mut ship_model::spec::ReleaseSpec| {
        spec.platform = vec!["linux/amd64".to_owned()];
        spec.keep = Some(1);
    };
    let record = clients
        .publish_with("web", &[("index.html", b"amd64")], tree)
        .await
        .unwrap();
    let number = record.release.unwrap().number;
    crate::fleet::until("the refusal", || {
        let mut clients = clients.clone();
        async move {
            let refused = clients.rollouts.plan(plan(number)).await.err()?;
            (refused.message().contains("h2 is linux/arm64")).then_some(())
        }
    })
    .await;
    assert_eq!(running(&agents), [None, None, None]);
}

#[tokio::test]
async fn a_release_says_how_many_older_ones_hosts_keep() {
    let store = Store::start().await;
    let agent = Agent::start(&store, "h1", &["web", "assets"]);
    let mut clients = store.operator().await;
    for page in [&b"one"[..], b"two", b"three", b"four", b"five"] {
        let keeps_one = |spec: &mut ship_model::spec::ReleaseSpec| spec.keep = Some(1);
        clients
            .publish_with("web", &[("index.html", page)], keeps_one)
            .await
            .unwrap();
    }
    clients.hosts(&[("h1", "available")]).await;
    for number in 1..=5 {
        assert_eq!(outcome(&clients.promote(number).await), OutcomeKind::Done);
    }
    // The running one, the one before, and one more.
    crate::fleet::until("older releases to be dropped", || async {
        let mut staged: Vec<u64> = agent.see(|host| {
            host.report.apps[0]
                .staged
                .iter()
                .map(|target| target.number.0)
                .collect()
        });
        staged.sort_unstable();
        (staged == [3, 4, 5]).then_some(())
    })
    .await;
}
