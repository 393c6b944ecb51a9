//! What a sink is told.
//!
//! ```json
//! {"version":1,"route":"pager","seq":812,"at":"2026-11-22T10:00:00Z","who":"operator/alice","what":"revert",
//!  "subject":"production/web","detail":"too slow","hash":"…","left_out":0,"test":false}
//! ```
//! `seq` numbers the events of a store: whoever gets one twice, because the store died before it knew that it was taken, tells
//! by it.

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::settings::NotifySettings;
use crate::ledger::AuditLink;

const VERSION: u32 = 1;

/// One event, as a route tells it. Fields may be added within a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    version: u32,
    route: String,
    /// The event's number; 0 for a test.
    seq: u64,
    /// RFC 3339, by the store's clock.
    at: String,
    who: String,
    what: String,
    subject: String,
    detail: String,
    /// The event's link of the audit chain.
    hash: String,
    /// Earlier events that nobody could be told for so long that they are left out: `shipctl events` has them.
    left_out: u64,
    /// Nothing happened: somebody looks whether messages arrive.
    test: bool,
}

impl Message {
    pub fn of(route: &NotifySettings, link: AuditLink, left_out: u64) -> Self {
        Self {
            version: VERSION,
            route: route.name.to_string(),
            seq: link.seq,
            at: at(link.at_ms),
            who: link.who,
            what: link.what,
            subject: link.subject,
            detail: link.detail,
            hash: link.hash,
            left_out,
            test: false,
        }
    }

    /// That messages arrive, as `who` wants to know.
    pub fn test(route: &NotifySettings, who: &str, now_ms: u64) -> Self {
        Self {
            version: VERSION,
            route: route.name.to_string(),
            seq: 0,
            at: at(now_ms),
            who: who.to_owned(),
            what: "test".to_owned(),
            subject: String::new(),
            detail: "a test of this route: nothing happened".to_owned(),
            hash: String::new(),
            left_out: 0,
            test: true,
        }
    }

    /// One line of JSON.
    pub fn to_json(&self) -> Vec<u8> {
        // Of texts and numbers only: it cannot fail.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

fn at(ms: u64) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000);
    let text = time.ok().and_then(|time| time.format(&Rfc3339).ok());
    text.unwrap_or_else(|| ms.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;

    #[test]
    fn a_message_is_frozen() {
        let route = NotifySettings {
            name: "pager".parse().unwrap(),
            what: Vec::new(),
            subject: Vec::new(),
            sinks: Vec::new(),
        };
        let link = AuditLink {
            seq: 812,
            at_ms: 1_795_341_600_123,
            who: "operator/alice".to_owned(),
            what: "revert".to_owned(),
            subject: "production/web".to_owned(),
            detail: "too \"slow\"\n".to_owned(),
            previous: "0".repeat(64),
            hash: "ab".repeat(32),
        };
        let told = String::from_utf8(Message::of(&route, link, 3).to_json()).unwrap();
        let frozen = format!(
            concat!(
                r#"{{"version":1,"route":"pager","seq":812,"at":"2026-11-22T10:00:00.123Z","who":"operator/alice","#,
                r#""what":"revert","subject":"production/web","detail":"too \"slow\"\n","hash":"{}","#,
                r#""left_out":3,"test":false}}"#,
                "\n"
            ),
            "ab".repeat(32)
        );
        assert_eq!(told, frozen);
    }
}
