//! A whole fleet under test: `shipctl up` as a user runs it, and what a user can ask of it.
//!
//! * [`Fleet`]: starts and stops a fleet in a temporary folder; ends every process it started.
//! * [`shipctl`]: runs commands against it and keeps what they said.
//! * [`haproxy`], [`nginx`]: real load balancers before its hosts.
//! * [`http`]: a small client that asks as a browser would.
//! * [`s3`]: a real S3 server behind TLS.
//! * [`sample`]: releases of the sample app.
//! * [`servers`]: real servers, each under a keeper of its own.
//! * [`victim`]: kills its processes, where a test says.
//! * [`wait`]: for a state, never for a time.

#![allow(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests write plain files, fail by panicking, and say what they skip"
)]

pub mod fleet;
pub mod haproxy;
pub mod http;
pub mod load;
pub mod nginx;
pub mod s3;
pub mod sample;
pub mod servers;
pub mod shipctl;
pub mod victim;
pub mod wait;

pub use fleet::Fleet;
pub use haproxy::Haproxy;
pub use nginx::Nginx;
pub use s3::S3;
pub use shipctl::Ran;
pub use victim::Victim;

use std::path::PathBuf;

/// The folder in which cargo put the binaries of this build.
///
/// # Panics
/// When the test was not started by cargo.
pub fn bin_dir() -> PathBuf {
    let test = std::env::current_exe().unwrap_or_else(|error| panic!("no path of this test: {error}"));
    let dir = test.ancestors().nth(2).map(PathBuf::from);
    dir.unwrap_or_else(|| panic!("{} does not lie in a target folder", test.display()))
}

/// A binary of this build.
///
/// # Panics
/// When it was not built: `cargo build --workspace` makes it.
pub fn bin(name: &str) -> PathBuf {
    let path = bin_dir().join(name);
    assert!(
        path.exists(),
        "{} is missing: run `cargo build --workspace` first",
        path.display()
    );
    path
}

/// Says that a test did not run, in a form that `tests/run` counts and turns into a failure.
pub fn skipped(test: &str, why: &str) {
    eprintln!("SKIPPED {test}: {why}");
    if let Some(file) = std::env::var_os("SHIP_TESTS_SKIPPED") {
        use std::io::Write;
        let opened = std::fs::OpenOptions::new().create(true).append(true).open(file);
        if let Ok(mut file) = opened {
            let _ = writeln!(file, "{test}: {why}");
        }
    }
}
