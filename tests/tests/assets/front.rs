//! HAProxy before asset ports that do not all have everything.

use std::net::SocketAddr;

use ship_assets::serve::{Assets, serve};
use ship_tests::{Haproxy, http, skipped, wait};

use super::{Host, NEW, OLD, recipe, replaced};

/// The asset ports of some hosts, until it is dropped.
struct Ports {
    addresses: Vec<SocketAddr>,
    _runtime: tokio::runtime::Runtime,
}

impl Ports {
    fn of(hosts: &[&Host]) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let addresses = hosts.iter().map(|host| {
            let listener = runtime
                .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
                .unwrap();
            let address = listener.local_addr().unwrap();
            runtime.spawn(serve(
                listener,
                Assets::new(host.shelf.clone()),
                std::future::pending(),
            ));
            address
        });
        Self {
            addresses: addresses.collect(),
            _runtime: runtime,
        }
    }
}

#[test]
fn a_host_that_lacks_a_file_is_passed_over() {
    let hosts = [Host::new(), Host::new(), Host::new()];
    for host in &hosts {
        host.switch(1, &[(OLD, b"one"), ("index.html", b"page")]);
    }
    // One has got the new release; the file of one is damaged.
    hosts[2].switch(2, &[(NEW, b"two"), ("index.html", b"page")]);
    std::fs::write(hosts[0].path("assets/static").join(OLD), b"0ne").unwrap();
    let ports = Ports::of(&[&hosts[0], &hosts[1], &hosts[2]]);
    let config = |socket: &std::path::Path, front: SocketAddr| {
        let mut text = replaced(&recipe("haproxy.cfg"), "bind :80", &format!("bind {front}"));
        for (nth, address) in ports.addresses.iter().enumerate() {
            let from = format!("10.0.0.1{}:7480", nth + 1);
            text = replaced(&text, &from, &address.to_string());
        }
        format!(
            "global\n    stats socket {} level admin\n{text}",
            socket.display()
        )
    };
    let Some(haproxy) = Haproxy::with(config) else {
        return skipped("a_host_that_lacks_a_file_is_passed_over", "no HAProxy");
    };
    let get = |path: &str| http::get(haproxy.front(), path).unwrap();
    wait::until("the asset hosts to be up", || {
        (get("/static/index.html").status == 200).then_some(())
    });
    for _ in 0..30 {
        assert_eq!(get(&format!("/static/{OLD}")).body, b"one");
        assert_eq!(get(&format!("/static/{NEW}")).body, b"two");
    }
    let none = get("/static/none.0123456789abcdef.js");
    assert_eq!(
        (none.status, none.header("cache-control")),
        (404, Some("no-store"))
    );
}
