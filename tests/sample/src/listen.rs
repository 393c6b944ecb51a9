//! Where the listener comes from: handed over by the starter, or bound by hand.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use listenfd::ListenFd;

#[derive(Debug, thiserror::Error)]
pub enum TakeListenerError {
    #[error("take the listener handed over as fd 3")]
    Inherited(#[source] io::Error),
    #[error("bind {address}")]
    Bind { address: SocketAddr, source: io::Error },
    #[error("make the listener non-blocking")]
    NonBlocking(#[source] io::Error),
    #[error(
        "no listener: LISTEN_FDS is unset or LISTEN_PID is not this process; start it under Ship or give --listen ADDR"
    )]
    None,
}

/// The first handed-over socket if `LISTEN_FDS` and `LISTEN_PID` are meant for this process, else `address` bound here.
///
/// # Errors
/// When fd 3 is no listening stream socket, the address cannot be bound, or there is neither.
pub fn take(address: Option<SocketAddr>) -> Result<OwnedFd, TakeListenerError> {
    let mut handed = ListenFd::from_env();
    if handed.len() > 0 {
        return inherited(&mut handed).map_err(TakeListenerError::Inherited);
    }
    let address = address.ok_or(TakeListenerError::None)?;
    let listener =
        TcpListener::bind(address).map_err(|source| TakeListenerError::Bind { address, source })?;
    listener
        .set_nonblocking(true)
        .map_err(TakeListenerError::NonBlocking)?;
    Ok(listener.into())
}

fn inherited(handed: &mut ListenFd) -> io::Result<OwnedFd> {
    let listener: OwnedFd = match handed.take_tcp_listener(0) {
        Ok(Some(tcp)) => tcp.into(),
        _ => match handed.take_unix_listener(0)? {
            Some(unix) => unix.into(),
            None => return Err(io::Error::from(io::ErrorKind::NotFound)),
        },
    };
    if !rustix::net::sockopt::socket_acceptconn(&listener)? {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the socket does not listen",
        ));
    }
    // The flag belongs to the socket, not to this process: a generation that shares the socket sees it too, which is
    // why every accept here follows a readiness report and tolerates an empty queue.
    rustix::io::ioctl_fionbio(&listener, true)?;
    Ok(listener)
}
