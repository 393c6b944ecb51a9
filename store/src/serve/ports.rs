//! The ports: taken, told and remembered.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};
use ship_durable::write_file;
use tokio::net::TcpListener;

use super::{Options, ServeError};
use crate::settings::Settings;

/// Where the store serves: `run/addresses.json`, there while it does and remembered after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    pub grpc: SocketAddr,
    pub assets: SocketAddr,
    pub pid: u32,
}

pub(super) fn address_of(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}

pub(super) async fn bind(
    options: &Options,
    settings: &mut Settings,
) -> Result<(TcpListener, TcpListener), ServeError> {
    let last = fs::read(options.dir.join("run/addresses.json")).ok();
    let last: Option<Addresses> = last.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let before = settings.clone();
    settings.listen = options.listen.unwrap_or(settings.listen);
    settings.assets_listen = options.assets_listen.unwrap_or(settings.assets_listen);
    settings.check_listen(&options.dir)?;
    let last_grpc = last.as_ref().map(|last| last.grpc);
    let listener = bind_one(settings.listen, last_grpc, "--listen").await?;
    let last_assets = last.as_ref().map(|last| last.assets);
    let assets = bind_one(settings.assets_listen, last_assets, "--assets-listen").await?;
    settings.listen = address_of(&listener, settings.listen);
    settings.assets_listen = address_of(&assets, settings.assets_listen);
    if *settings != before {
        settings.remember_addresses(&options.dir)?;
    }
    Ok((listener, assets))
}

/// Listens on `asked`; for port 0 on the port of the last time, if that can be had.
async fn bind_one(
    asked: SocketAddr,
    last: Option<SocketAddr>,
    option: &'static str,
) -> Result<TcpListener, ServeError> {
    let again = last.filter(|last| asked.port() == 0 && last.ip() == asked.ip());
    if let Some(last) = again
        && let Ok(listener) = TcpListener::bind(last).await
    {
        return Ok(listener);
    }
    TcpListener::bind(asked)
        .await
        .map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => ServeError::Taken {
                address: asked,
                option,
            },
            _ => ServeError::Listen {
                address: asked,
                source,
            },
        })
}

pub(super) fn remember(dir: &Path, addresses: &Addresses) -> Result<(), ServeError> {
    let run = dir.join("run");
    fs::create_dir_all(&run).map_err(|source| ServeError::MakeFolder {
        path: run.clone(),
        source,
    })?;
    let text = serde_json::to_vec(addresses).unwrap_or_default();
    Ok(write_file(&run.join("addresses.json"), &text)?)
}
