//! The fleet's certificate authority and the certificates it issues.
//!
//! ```text
//! D/tls/ca.pem      the fleet's CA, 10 years; everyone trusts exactly this one
//! D/tls/ca-key.pem  its key: signs newcomers, is read by `issue` only, never by `serve`
//! D/tls/cert.pem    the store's own certificate, for `store.ship.internal`
//! D/tls/key.pem     its key
//! ```
//!
//! Keys are P-256 and readable by their owner only. A certificate begins five minutes back, for hosts whose clocks
//! are a little behind.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
};
use ship_durable::{FileError, sync_dir, write_file, write_private_file};
use ship_model::name::{EnvName, HostName};
use time::{Duration, OffsetDateTime};

use crate::identity::{Role, is_holder_name};

/// The DNS name by which every client verifies the store, wherever it listens.
pub const SERVER_NAME: &str = "store.ship.internal";
/// Days that an issued certificate is valid, unless told otherwise.
pub const LEAF_DAYS: u32 = 365;
const CA_DAYS: i64 = 3653;

/// Why a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    #[error("{fleet:?} cannot name a fleet: use 1 to 63 of a-z, 0-9, '-' and '.'")]
    FleetName { fleet: String },
    #[error("{name:?} cannot name a certificate's holder: use 1 to 63 letters, digits and -_.@+")]
    HolderName { name: String },
    #[error("{san:?} is neither an IP address nor a DNS name")]
    San { san: String },
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("cannot make the folder {}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error("{} exists already: give another folder, or remove it", path.display())]
    Exists { path: PathBuf },
    #[error("cannot write a certificate")]
    Write(#[from] FileError),
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
}

/// Whom a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A person or program with a role; never [`Role::Agent`].
    Person {
        role: Role,
        name: String,
    },
    Agent {
        env: EnvName,
        host: HostName,
    },
    Store {
        name: String,
        sans: Vec<String>,
    },
}

/// A fleet's CA, with its key.
pub struct Authority {
    fleet: String,
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("fleet", &self.fleet)
            .finish_non_exhaustive()
    }
}

/// A certificate and its key, both PEM.
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes a new CA in `folder` and leaves its certificate and key there, durably.
    pub fn init(folder: &Path, fleet: &str, now_ms: u64) -> Result<Self, IssueError> {
        check_fleet(fleet)?;
        private_folder(folder)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = params(&format!("{fleet} fleet CA"), now_ms, CA_DAYS);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.pem();
        // The key first: a CA certificate without its key could sign nothing, and would look complete.
        write_private_file(&folder.join("ca-key.pem"), key.serialize_pem().as_bytes())?;
        write_file(&folder.join("ca.pem"), certificate.as_bytes())?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key)?;
        Ok(Self {
            fleet: fleet.to_owned(),
            certificate,
            issuer,
        })
    }

    /// Opens the CA that [`init`](Self::init) left in `folder`.
    pub fn open(folder: &Path, fleet: &str) -> Result<Self, IssueError> {
        let certificate = read(&folder.join("ca.pem"))?;
        let key = KeyPair::from_pem(&read(&folder.join("ca-key.pem"))?)?;
        Ok(Self {
            fleet: fleet.to_owned(),
            issuer: Issuer::from_ca_cert_pem(&certificate, key)?,
            certificate,
        })
    }

    /// Makes a key and signs a certificate for `holder` that is valid for `days`.
    pub fn issue(&self, holder: &Holder, days: u32, now_ms: u64) -> Result<Issued, IssueError> {
        let (path, mut sans, usage) = names_of(holder)?;
        let uri = format!("spiffe://{}/{path}", self.fleet);
        sans.insert(0, SanType::URI(uri.as_str().try_into()?));
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = params(&path, now_ms, i64::from(days));
        params.subject_alt_names = sans;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        Ok(Issued {
            certificate: params.signed_by(&key, &self.issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }

    /// Leaves `ca.pem`, `cert.pem` and `key.pem` in `folder`, durably; an existing certificate is not replaced
    /// unless `renew`.
    pub fn leave(&self, issued: &Issued, folder: &Path, renew: bool) -> Result<(), IssueError> {
        private_folder(folder)?;
        let certificate = folder.join("cert.pem");
        if !renew && certificate.exists() {
            return Err(IssueError::Exists { path: certificate });
        }
        write_file(&folder.join("ca.pem"), self.certificate.as_bytes())?;
        write_private_file(&folder.join("key.pem"), issued.key.as_bytes())?;
        write_file(&certificate, issued.certificate.as_bytes())?;
        Ok(sync_dir(folder)?)
    }
}

type Names = (String, Vec<SanType>, ExtendedKeyUsagePurpose);

fn names_of(holder: &Holder) -> Result<Names, IssueError> {
    match holder {
        Holder::Person { role, name } => {
            check_holder(name)?;
            Ok((
                format!("{role}/{name}"),
                Vec::new(),
                ExtendedKeyUsagePurpose::ClientAuth,
            ))
        }
        Holder::Agent { env, host } => Ok((
            format!("agent/{env}/{host}"),
            Vec::new(),
            ExtendedKeyUsagePurpose::ClientAuth,
        )),
        Holder::Store { name, sans } => {
            check_holder(name)?;
            let mut all = vec![SanType::DnsName(SERVER_NAME.try_into()?)];
            for san in sans {
                all.push(server_san(san)?);
            }
            Ok((format!("store/{name}"), all, ExtendedKeyUsagePurpose::ServerAuth))
        }
    }
}

fn server_san(san: &str) -> Result<SanType, IssueError> {
    if let Ok(ip) = san.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(ip));
    }
    let refused = || IssueError::San {
        san: san.chars().take(200).collect(),
    };
    let label =
        |label: &str| !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if san.len() > 253 || !san.split('.').all(label) {
        return Err(refused());
    }
    Ok(SanType::DnsName(san.try_into().map_err(|_| refused())?))
}

fn params(common_name: &str, now_ms: u64, days: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    params.distinguished_name = name;
    let now_s = i64::try_from(now_ms / 1000).unwrap_or(0);
    let now = OffsetDateTime::from_unix_timestamp(now_s).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    params.not_before = now - Duration::minutes(5);
    params.not_after = now + Duration::days(days);
    params
}

/// The fleet's name is the trust domain of every certificate.
fn check_fleet(fleet: &str) -> Result<(), IssueError> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    if (1..=63).contains(&fleet.len()) && fleet.bytes().all(allowed) {
        return Ok(());
    }
    Err(IssueError::FleetName {
        fleet: fleet.chars().take(80).collect(),
    })
}

fn check_holder(name: &str) -> Result<(), IssueError> {
    if is_holder_name(name) {
        return Ok(());
    }
    Err(IssueError::HolderName {
        name: name.chars().take(80).collect(),
    })
}

fn private_folder(path: &Path) -> Result<(), IssueError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| IssueError::Folder {
        path: path.to_owned(),
        source,
    })
}

fn read(path: &Path) -> Result<String, IssueError> {
    fs::read_to_string(path).map_err(|source| IssueError::Read {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::identity::caller_of;

    const NOW: u64 = 1_790_000_000_000;

    #[test]
    fn a_certificate_names_its_holder_and_hides_its_key() {
        let dir = tempfile::tempdir().unwrap();
        Authority::init(&dir.path().join("ca"), "acme", NOW).unwrap();
        let authority = Authority::open(&dir.path().join("ca"), "acme").unwrap();
        let holder = Holder::Agent {
            env: "dev".parse().unwrap(),
            host: "h1".parse().unwrap(),
        };
        let issued = authority.issue(&holder, 10, NOW).unwrap();
        let out = dir.path().join("out");
        authority.leave(&issued, &out, false).unwrap();
        let mode = fs::metadata(out.join("key.pem")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let pem = fs::read(out.join("cert.pem")).unwrap();
        let leaf = rustls_pemfile::certs(&mut &pem[..]).next().unwrap().unwrap();
        let caller = caller_of(&leaf, "acme").unwrap();
        assert_eq!(caller.to_string(), "agent/dev/h1");
        assert_eq!(caller.not_after_ms, NOW + 10 * 86_400_000);
        assert!(caller_of(&leaf, "other").is_err());
        let again = authority.leave(&issued, &out, false);
        assert!(matches!(again, Err(IssueError::Exists { .. })));
        authority.leave(&issued, &out, true).unwrap();
    }

    #[test]
    fn names_that_cannot_be_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for fleet in ["", "a/b", "A", "ä", &"a".repeat(64)] {
            let made = Authority::init(&dir.path().join("x"), fleet, NOW);
            assert!(matches!(made, Err(IssueError::FleetName { .. })), "{fleet:?}");
        }
        assert!(!dir.path().join("x").exists());
        let authority = Authority::init(&dir.path().join("ca"), "acme", NOW).unwrap();
        for name in ["", "a/b", "a b", "a\n"] {
            let holder = Holder::Person {
                role: Role::Viewer,
                name: name.to_owned(),
            };
            assert!(authority.issue(&holder, 1, NOW).is_err(), "{name:?}");
        }
        for san in ["", "a b", "*.example.com", "-\n", "a..b"] {
            let holder = Holder::Store {
                name: "main".to_owned(),
                sans: vec![san.to_owned()],
            };
            assert!(authority.issue(&holder, 1, NOW).is_err(), "{san:?}");
        }
    }
}
