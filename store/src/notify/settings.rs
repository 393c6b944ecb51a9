//! `[[notify]]`: who is told of what is done to the fleet.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use ship_model::name::HostName;

/// For whoever opens the file.
pub const TEMPLATE: &str = r#"# [[notify]]                                  # who is told of what `shipctl events` shows, from now on
# name = "pager"
# what = ["revert", "deploy *"]               # these only, as the third column spells them; `*` at the end: whatever follows
# subject = ["production/*"]                  # these only, as the fourth column spells them
# sinks = [                                   # the next one is told when the one before cannot be
#   { webhook = "https://hooks.example.com/ship", token = "pager.token" },
#   { command = ["/usr/local/bin/page"] },    # gets the message as JSON on its standard input
# ]
"#;

/// Sinks of one route.
const MOST_SINKS: usize = 4;
/// Routes of a store.
const MOST_ROUTES: usize = 16;
/// Longest time that one sink may take, in seconds.
const MOST_SECONDS: u64 = 60;

/// One `[[notify]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotifySettings {
    /// Its name among them, by which the store remembers how far it has told.
    pub name: HostName,
    /// What is told, as events spell it; none: everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub what: Vec<String>,
    /// What it was done to, as events spell it; none: anything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subject: Vec<String>,
    /// Who is told: the first that can be.
    pub sinks: Vec<SinkSettings>,
}

/// One way to tell somebody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SinkSettings {
    /// Where a message is posted to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<String>,
    /// Whether a webhook beyond loopback may be plain HTTP.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub plain_http: bool,
    /// A file with what stands behind `Authorization: Bearer`; relative to the store's folder, closed to others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<PathBuf>,
    /// Certificates (PEM) that vouch for the webhook's server, in place of the system's; relative to the store's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// A program by its absolute path, and its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
    /// How long it may take.
    #[serde(default = "default_seconds")]
    pub seconds: u64,
}

const fn default_seconds() -> u64 {
    10
}

impl SinkSettings {
    pub const fn patience(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// What is wrong with a `[[notify]]`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotifyDefect {
    #[error("there are {count}, and a store has at most {MOST_ROUTES}")]
    Many { count: usize },
    #[error("{name} is there twice")]
    Twice { name: HostName },
    #[error("{name} needs from 1 to {MOST_SINKS} sinks")]
    Sinks { name: HostName },
    #[error("{name}: a sink has either `webhook` or `command`")]
    Ways { name: HostName },
    #[error(
        "{name}: webhook must be https://HOST…, or http://HOST… on loopback or with plain_http = true, not {url:?}"
    )]
    Url { name: HostName, url: String },
    #[error("{name}: `{key}` goes with `webhook` only")]
    Only { name: HostName, key: &'static str },
    #[error("{name}: a command begins with the absolute path of a program, not {program:?}")]
    Program { name: HostName, program: String },
    #[error("{name}: `seconds` must be from 1 to {MOST_SECONDS}")]
    Seconds { name: HostName },
    #[error("{name}: {pattern:?} is no pattern: words, or their beginning and `*`")]
    Pattern { name: HostName, pattern: String },
}

/// The first thing that is wrong with `routes`.
///
/// # Errors
/// [`NotifyDefect`].
pub fn check(routes: &[NotifySettings]) -> Result<(), NotifyDefect> {
    if routes.len() > MOST_ROUTES {
        return Err(NotifyDefect::Many { count: routes.len() });
    }
    let mut names = BTreeSet::new();
    for route in routes {
        let name = || route.name.clone();
        if !names.insert(&route.name) {
            return Err(NotifyDefect::Twice { name: name() });
        }
        if !(1..=MOST_SINKS).contains(&route.sinks.len()) {
            return Err(NotifyDefect::Sinks { name: name() });
        }
        let patterns = route.what.iter().chain(&route.subject);
        for pattern in patterns {
            let words = pattern.strip_suffix('*').unwrap_or(pattern);
            if pattern.is_empty() || words.contains('*') {
                let pattern = pattern.clone();
                return Err(NotifyDefect::Pattern {
                    name: name(),
                    pattern,
                });
            }
        }
        route.sinks.iter().try_for_each(|sink| check_sink(sink, &name))?;
    }
    Ok(())
}

fn check_sink(sink: &SinkSettings, name: &impl Fn() -> HostName) -> Result<(), NotifyDefect> {
    if !(1..=MOST_SECONDS).contains(&sink.seconds) {
        return Err(NotifyDefect::Seconds { name: name() });
    }
    match (&sink.webhook, &sink.command) {
        (Some(url), None) if !is_url(url, sink.plain_http) => Err(NotifyDefect::Url {
            name: name(),
            url: url.clone(),
        }),
        (Some(_), None) => Ok(()),
        (None, Some(command)) => {
            let program = command.first().cloned().unwrap_or_default();
            if !program.starts_with('/') {
                return Err(NotifyDefect::Program {
                    name: name(),
                    program,
                });
            }
            let beside = [
                ("token", sink.token.is_some()),
                ("ca", sink.ca.is_some()),
                ("plain_http", sink.plain_http),
            ];
            match beside.into_iter().find(|(_, set)| *set) {
                Some((key, _)) => Err(NotifyDefect::Only { name: name(), key }),
                None => Ok(()),
            }
        }
        _ => Err(NotifyDefect::Ways { name: name() }),
    }
}

fn is_url(text: &str, plain_anywhere: bool) -> bool {
    let Ok(url) = reqwest::Url::parse(text) else {
        return false;
    };
    // A name and a password in an address end up in logs.
    if url.host_str().is_none() || !url.username().is_empty() || url.password().is_some() {
        return false;
    }
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let is_loopback = host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    match url.scheme() {
        "https" => true,
        "http" => plain_anywhere || is_loopback,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

    use super::*;

    #[derive(Deserialize)]
    struct Given {
        notify: Vec<NotifySettings>,
    }

    fn checked(text: &str) -> Result<(), String> {
        let given: Given = toml::from_str(text).map_err(|error| error.to_string())?;
        check(&given.notify).map_err(|defect| defect.to_string())
    }

    fn route(sinks: &str) -> String {
        format!("[[notify]]\nname = \"pager\"\nsinks = [{sinks}]\n")
    }

    #[test]
    fn what_the_template_says_is_good() {
        let text: Vec<_> = TEMPLATE
            .lines()
            .map(|line| line.strip_prefix("# ").unwrap())
            .collect();
        assert_eq!(checked(&text.join("\n")), Ok(()));
    }

    #[test]
    fn what_is_wrong_with_a_route_is_named() {
        let good = "{ command = [\"/bin/true\"] }";
        for sink in [
            good,
            "{ webhook = \"https://example.com/x?y=z\" }",
            "{ webhook = \"http://127.0.0.1:8080/\" }",
            "{ webhook = \"http://[::1]:8080/\" }",
            "{ webhook = \"http://example.com/\", plain_http = true }",
        ] {
            assert_eq!(checked(&route(sink)), Ok(()), "{sink}");
        }
        let many = [good; 5].join(", ");
        let patterns =
            |words: &str| format!("[[notify]]\nname = \"pager\"\nwhat = [{words}]\nsinks = [{good}]\n");
        for (text, part) in [
            (route(""), "from 1 to 4 sinks"),
            (route(&many), "from 1 to 4 sinks"),
            (route("{}"), "either `webhook` or `command`"),
            (
                route("{ webhook = \"https://a.b\", command = [\"/bin/true\"] }"),
                "either `webhook` or",
            ),
            (route("{ webhook = \"http://example.com/\" }"), "plain_http"),
            (route("{ webhook = \"ftp://example.com/\" }"), "https://HOST"),
            (route("{ webhook = \"https://me:secret@a.b/\" }"), "https://HOST"),
            (route("{ webhook = \"nonsense\" }"), "https://HOST"),
            (route("{ command = [] }"), "absolute path"),
            (route("{ command = [\"page\"] }"), "absolute path"),
            (
                route("{ command = [\"/bin/true\"], token = \"t\" }"),
                "`token` goes with `webhook`",
            ),
            (route("{ command = [\"/bin/true\"], seconds = 0 }"), "`seconds`"),
            (route("{ command = [\"/bin/true\"], seconds = 61 }"), "`seconds`"),
            (format!("{}{}", route(good), route(good)), "pager is there twice"),
            (patterns("\"\""), "is no pattern"),
            (patterns("\"a*b\""), "is no pattern"),
            (route("{ comand = [\"/bin/true\"] }"), "unknown field"),
        ] {
            let said = checked(&text).unwrap_err();
            assert!(said.contains(part), "{text}: {said}");
        }
    }
}
