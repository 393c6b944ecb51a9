//! Who calls: the one name in a client's certificate, and what its role may do.
//!
//! A certificate names its holder in exactly one URI: `spiffe://<fleet>/operator/alice`, or for an agent
//! `spiffe://<fleet>/agent/<environment>/<host>`. Nothing else in it is looked at: no common name, no DNS name.

use std::fmt;
use std::str::FromStr;

use ship_model::name::{EnvName, HostName};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// What a certificate lets its holder do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// May look.
    Viewer,
    /// May look and publish.
    Publisher,
    /// May do everything an operator's terminal can.
    Operator,
    /// Speaks for the one host its certificate names.
    Agent,
}

impl Role {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Publisher => "publisher",
            Self::Operator => "operator",
            Self::Agent => "agent",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a role: use viewer, publisher, operator or agent")]
pub struct RoleError {
    text: String,
}

impl FromStr for Role {
    type Err = RoleError;
    fn from_str(text: &str) -> Result<Self, RoleError> {
        match text {
            "viewer" => Ok(Self::Viewer),
            "publisher" => Ok(Self::Publisher),
            "operator" => Ok(Self::Operator),
            "agent" => Ok(Self::Agent),
            other => Err(RoleError {
                text: other.chars().take(80).collect(),
            }),
        }
    }
}

/// The holder of a certificate of this fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub role: Role,
    /// For an agent: `<environment>/<host>`.
    pub name: String,
    /// The host an agent speaks for.
    pub host: Option<(EnvName, HostName)>,
    /// Milliseconds since 1970 after which the certificate no longer counts, also on connections made before.
    pub not_after_ms: u64,
}

impl fmt::Display for Caller {
    /// `operator/alice`: as the audit chain and refusals name it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.role, self.name)
    }
}

/// Why a certificate names nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("the client's certificate cannot be read")]
    Unreadable,
    #[error("the client's certificate has {found} names of the form spiffe://…, not one")]
    Names { found: usize },
    #[error("the client's certificate names {uri:?}, which is not in fleet {fleet:?}")]
    OtherFleet { uri: String, fleet: String },
    #[error(
        "the client's certificate names {uri:?}: expected spiffe://FLEET/ROLE/NAME or spiffe://FLEET/agent/ENV/HOST"
    )]
    Shape { uri: String },
}

/// Reads who holds `leaf`, a DER certificate whose chain to the fleet's CA was verified.
pub fn caller_of(leaf: &[u8], fleet: &str) -> Result<Caller, IdentityError> {
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(|_| IdentityError::Unreadable)?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| IdentityError::Unreadable)?;
    let uris: Vec<&str> = names
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect();
    let [uri] = uris[..] else {
        return Err(IdentityError::Names { found: uris.len() });
    };
    let not_after = certificate.validity().not_after.timestamp();
    named_by(
        uri,
        fleet,
        u64::try_from(not_after).unwrap_or(0).saturating_mul(1000),
    )
}

fn named_by(uri: &str, fleet: &str, not_after_ms: u64) -> Result<Caller, IdentityError> {
    let shape = || IdentityError::Shape {
        uri: uri.chars().take(200).collect(),
    };
    let rest = uri.strip_prefix("spiffe://").ok_or_else(shape)?;
    let (domain, path) = rest.split_once('/').ok_or_else(shape)?;
    if domain != fleet {
        return Err(IdentityError::OtherFleet {
            uri: uri.chars().take(200).collect(),
            fleet: fleet.to_owned(),
        });
    }
    let (role, name) = path.split_once('/').ok_or_else(shape)?;
    let role: Role = role.parse().map_err(|_| shape())?;
    let host = match role {
        Role::Agent => {
            let (env, host) = name.split_once('/').ok_or_else(shape)?;
            let env = env.parse().map_err(|_| shape())?;
            Some((env, host.parse().map_err(|_| shape())?))
        }
        _ if is_holder_name(name) => None,
        _ => return Err(shape()),
    };
    Ok(Caller {
        role,
        name: name.to_owned(),
        host,
        not_after_ms,
    })
}

/// Whether `text` can name a person or a program in a certificate: 1 to 63 of letters, digits and `-_.@+`.
pub fn is_holder_name(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.@+".contains(&b);
    (1..=63).contains(&text.len()) && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use super::*;

    #[test]
    fn names_in_certificates() {
        let read = |uri: &str| named_by(uri, "acme", 7).map(|caller| caller.to_string());
        assert_eq!(read("spiffe://acme/operator/alice").unwrap(), "operator/alice");
        assert_eq!(read("spiffe://acme/agent/dev/h1").unwrap(), "agent/dev/h1");
        let agent = named_by("spiffe://acme/agent/dev/h1", "acme", 7).unwrap();
        assert_eq!(agent.host.unwrap().1.as_str(), "h1");
        for bad in [
            "",
            "https://acme/operator/alice",
            "spiffe://acme",
            "spiffe://acme/operator",
            "spiffe://acme/operator/",
            "spiffe://acme/root/alice",
            "spiffe://acme/operator/a/b",
            "spiffe://acme/agent/h1",
            "spiffe://acme/agent/dev/../h1",
            "spiffe://acme/agent/dev/H1",
            "spiffe://acme/store/main",
        ] {
            assert!(matches!(read(bad), Err(IdentityError::Shape { .. })), "{bad:?}");
        }
        assert!(matches!(
            read("spiffe://acme2/operator/alice"),
            Err(IdentityError::OtherFleet { .. })
        ));
    }
}
