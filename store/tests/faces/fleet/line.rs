//! The line to a store: TLS, gRPC over it, and plain requests.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

/// A TLS client as every client of the fleet is one: verifies the store by its one name. No certificate of its own
/// if `folder` holds none.
pub fn tls(folder: &Path, alpn: &[&[u8]]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for certificate in pem(&folder.join("ca.pem")) {
        roots.add(certificate).unwrap();
    }
    let builder = ClientConfig::builder_with_provider(ship_store::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match fs::read(folder.join("key.pem")) {
        Ok(key) => {
            let key = rustls_pemfile::private_key(&mut &key[..]).unwrap().unwrap();
            builder
                .with_client_auth_cert(pem(&folder.join("cert.pem")), key)
                .unwrap()
        }
        Err(_) => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

fn pem(path: &Path) -> Vec<rustls::pki_types::CertificateDer<'static>> {
    let pem = fs::read(path).unwrap();
    rustls_pemfile::certs(&mut &pem[..])
        .collect::<Result<_, _>>()
        .unwrap()
}

pub async fn connect(address: SocketAddr, tls: &TlsConnector) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    tls.connect(ServerName::try_from("store.ship.internal").unwrap(), stream)
        .await
}

pub async fn channel(address: SocketAddr, folder: &Path) -> Result<Channel, tonic::transport::Error> {
    let tls = tls(folder, &[b"h2"]);
    let connector = tower::service_fn(move |_| {
        let tls = tls.clone();
        async move { connect(address, &tls).await.map(TokioIo::new) }
    });
    // The connector does TLS itself; the scheme is for the request line only.
    Endpoint::from_static("http://store.ship.internal")
        .connect_with_connector(connector)
        .await
}

/// One HTTP/1.1 request; status, head and body.
pub async fn http(
    address: SocketAddr,
    folder: Option<&Path>,
    method: &str,
    path: &str,
    headers: &str,
) -> (u16, String, Vec<u8>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let request = format!("{method} {path} HTTP/1.1\r\nhost: store\r\nconnection: close\r\n{headers}\r\n");
    let mut answer = Vec::new();
    match folder {
        Some(folder) => {
            let mut stream = connect(address, &tls(folder, &[b"http/1.1"])).await.unwrap();
            // A server that has heard enough may answer and close before all was sent.
            let _ = stream.write_all(request.as_bytes()).await;
            let _ = stream.read_to_end(&mut answer).await;
        }
        None => {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let _ = stream.read_to_end(&mut answer).await;
        }
    }
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .expect("a whole head");
    let head = String::from_utf8(answer[..end].to_vec()).unwrap().to_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_off(end + 4);
    let body = if head.contains("transfer-encoding: chunked") {
        unchunked(&body)
    } else {
        body
    };
    (status, head, body)
}

fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n").unwrap();
        let len = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if len == 0 {
            return body;
        }
        body.extend_from_slice(&rest[end + 2..end + 2 + len]);
        rest = &rest[end + 4 + len..];
    }
}
