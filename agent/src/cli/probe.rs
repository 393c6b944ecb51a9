//! `ship-agent probe`: one question to gRPC's health service, over HTTP/2 without TLS.
//!
//! A keeper runs it with a connection to the new generation as standard input, so that nobody else can answer.

use std::io::Write;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use crate::probe::{Health, ProbeError, ask_connection, ask_tcp, ask_unix};
use crate::session::chain;

/// Nobody answered: one that starts may do so yet.
const NOBODY: u8 = 3;

pub(super) fn probe(addr: &str, service: &str, timeout: Duration) -> ExitCode {
    let answer = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(ask(addr, service, timeout)),
        Err(source) => Err(ProbeError::Connect {
            addr: addr.to_owned(),
            source,
        }),
    };
    let (words, code) = match answer {
        Ok(Health::Serving) => ("SERVING".to_owned(), ExitCode::SUCCESS),
        Ok(health) => (health.to_string(), ExitCode::from(1)),
        Err(error) if error.is_nobody() => (chain(&error), ExitCode::from(NOBODY)),
        Err(error) => (chain(&error), ExitCode::from(1)),
    };
    // Whoever asked may have gone; the exit code says it too.
    let _ = writeln!(std::io::stdout(), "{words}");
    code
}

async fn ask(addr: &str, service: &str, timeout: Duration) -> Result<Health, ProbeError> {
    let asked = async {
        match addr.strip_prefix("unix:") {
            _ if addr == "-" => {
                let connection = std::io::stdin().as_fd().try_clone_to_owned();
                let connection = connection.map_err(|source| ProbeError::Connect {
                    addr: "standard input".to_owned(),
                    source,
                })?;
                ask_connection(connection, service).await
            }
            Some(path) => ask_unix(path.as_ref(), service).await,
            None => ask_tcp(addr, service).await,
        }
    };
    tokio::time::timeout(timeout, asked)
        .await
        .unwrap_or(Err(ProbeError::Late { timeout }))
}
