//! Which other hosts this one talks to: agents of its own fleet and environment, by the one name in their certificates.
//!
//! An agent's certificate is made for a client, and names `spiffe://FLEET/agent/ENV/HOST`. Between hosts it is shown by
//! both sides, so both check it as a client's: the chain to the fleet's CA, then the name. DNS names do not count.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use ship_model::name::HostName;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The one URI that a certificate names.
pub fn name_in(leaf: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    });
    let uri = uris.next()?;
    uris.next().is_none().then_some(uri)
}

/// `spiffe://FLEET/agent/ENV/`, out of a host's own name; none when the name is no host's.
pub fn kin_of(own: &str) -> Option<String> {
    let (fleet, path) = own.strip_prefix("spiffe://")?.split_once('/')?;
    let (env, host) = path.strip_prefix("agent/")?.split_once('/')?;
    host.parse::<HostName>().ok()?;
    Some(format!("spiffe://{fleet}/agent/{env}/"))
}

/// Admits hosts whose names begin as this host's does, or exactly one of them.
#[derive(Debug)]
pub struct Kin {
    chain: Arc<dyn ClientCertVerifier>,
    /// As [`kin_of`] gives it.
    prefix: String,
    only: Option<HostName>,
}

impl Kin {
    pub const fn new(chain: Arc<dyn ClientCertVerifier>, prefix: String, only: Option<HostName>) -> Self {
        Self { chain, prefix, only }
    }

    fn admits(&self, name: &str) -> bool {
        let host = name.strip_prefix(&self.prefix).and_then(|host| host.parse().ok());
        host.is_some_and(|host: HostName| self.only.as_ref().is_none_or(|only| *only == host))
    }

    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        self.chain.verify_client_cert(leaf, others, now)?;
        match name_in(leaf) {
            Some(name) if self.admits(&name) => Ok(()),
            _ => Err(Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            )),
        }
    }
}

impl ServerCertVerifier for Kin {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(leaf, others, now)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

impl ClientCertVerifier for Kin {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(leaf, others, now)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]
    use rustls::RootCertStore;
    use rustls::server::WebPkiClientVerifier;

    use super::*;

    #[test]
    fn only_hosts_of_the_same_fleet_and_environment_are_kin() {
        for (own, kin) in [
            ("spiffe://acme/agent/dev/h1", Some("spiffe://acme/agent/dev/")),
            ("spiffe://acme/operator/alice", None),
            ("spiffe://acme/agent/dev", None),
            ("spiffe://acme/agent/dev/a/b", None),
            ("https://acme/agent/dev/h1", None),
        ] {
            assert_eq!(kin_of(own).as_deref(), kin, "{own}");
        }
        let issued = rcgen::generate_simple_self_signed(Vec::new()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(issued.cert.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        let prefix = "spiffe://acme/agent/dev/".to_owned();
        let mut kin = Kin::new(chain.unwrap(), prefix, None);
        assert!(kin.admits("spiffe://acme/agent/dev/h2"));
        for other in [
            "spiffe://acme/agent/prod/h2",
            "spiffe://acme2/agent/dev/h2",
            "spiffe://acme/operator/h2",
            "spiffe://acme/agent/dev/",
            "spiffe://acme/agent/dev/h2/h3",
            "",
        ] {
            assert!(!kin.admits(other), "{other}");
        }
        kin.only = Some("h2".parse().unwrap());
        assert!(kin.admits("spiffe://acme/agent/dev/h2") && !kin.admits("spiffe://acme/agent/dev/h3"));
    }
}
