//! What a host lets its agent and keepers do.

use ship_model::report::{MissingPrivilege, Privileges};

use crate::v1;

impl From<Privileges> for v1::Privileges {
    fn from(privileges: Privileges) -> Self {
        let missing = privileges.missing.into_iter();
        Self {
            missing: missing
                .map(|missing| v1::MissingPrivilege {
                    what: missing.what,
                    instead: missing.instead,
                })
                .collect(),
        }
    }
}

impl From<v1::Privileges> for Privileges {
    fn from(wire: v1::Privileges) -> Self {
        let missing = wire.missing.into_iter();
        Self {
            missing: missing
                .map(|missing| MissingPrivilege {
                    what: missing.what,
                    instead: missing.instead,
                })
                .collect(),
        }
    }
}
