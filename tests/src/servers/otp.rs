//! An Erlang node that is upgraded from inside, by the recipe of `agent/relup`.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ship_model::spec::{Restart, Strategy, Upgrade};

use super::subject::{program, root, words};
use super::{Manners, Subject};

impl Subject {
    /// An OTP release with a number in a server's state. An [estranged](Manners::Estranged) release cannot take that state over.
    #[must_use]
    pub fn erlang() -> Option<Self> {
        let upgrade = Upgrade {
            install: words(&["bin/relup", "install"]),
            permanent: words(&["bin/relup", "permanent"]),
            back: words(&["bin/relup", "back"]),
            timeout_ms: 30_000,
        };
        program("erl").and(program("escript")).map(|_| Self {
            strategy: Strategy::Command,
            restart: Some(Restart::Command(upgrade)),
            streams: false,
            build: Some(build),
            // It keeps what idle users keep, so there is no use in a long one.
            drain: Duration::from_millis(500),
            ..Self::new("erlang", words(&["bin/server"]), &[])
        })
    }
}

fn build(tree: &Path, release: u64, manners: Manners) {
    let builder = root().join("tests/servers/otp/build");
    let built = Command::new(&builder)
        .arg(tree)
        .arg(release.to_string())
        .arg((manners != Manners::Estranged).to_string())
        .arg((manners != Manners::Sick).to_string())
        .output();
    let built = built.unwrap_or_else(|error| panic!("{}: {error}", builder.display()));
    let said = String::from_utf8_lossy(&built.stdout) + String::from_utf8_lossy(&built.stderr);
    assert!(
        built.status.success(),
        "build release {release} of erlang: {said}"
    );
}
