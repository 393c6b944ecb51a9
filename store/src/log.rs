//! Log lines: text for people or JSON for machines, each with app, host, pid, release and deploy.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::{self, Write as _};

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, fmt as lines};

/// What a line looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Fields that every line has, `-` where there is none.
const ALWAYS: [&str; 5] = ["app", "host", "pid", "release", "deploy"];

/// Sends log lines to `out` for the rest of the process; `RUST_LOG` chooses which, `info` when it is not set.
pub fn begin<W>(format: LogFormat, out: W)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = lines()
        .with_env_filter(filter)
        .with_writer(out)
        .event_format(Lines(format))
        .finish();
    // A second call, which only tests make, changes nothing.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// An error with everything that lies under it, in one line: `cannot do this: because of that`.
pub fn whole(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut under = error.source();
    while let Some(error) = under {
        // Writing to a string cannot fail.
        let _ = write!(text, ": {error}");
        under = error.source();
    }
    text
}

struct Lines(LogFormat);

#[derive(Default)]
struct Fields(BTreeMap<&'static str, Value>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), Value::from(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), Value::from(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name(), Value::from(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name(), Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name(), Value::from(value));
    }

    fn record_error(&mut self, field: &Field, error: &(dyn Error + 'static)) {
        self.0.insert(field.name(), Value::from(whole(error)));
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        fields.0.insert("pid", Value::from(std::process::id()));
        for name in ALWAYS {
            fields.0.entry(name).or_insert_with(|| Value::from("-"));
        }
        let message = fields.0.remove("message").unwrap_or_default();
        let at = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        let level = event.metadata().level();
        match self.0 {
            LogFormat::Json => {
                fields.0.insert("at", Value::from(at));
                fields.0.insert("level", Value::from(level.as_str()));
                fields.0.insert("message", message);
                let line = serde_json::to_string(&fields.0).map_err(|_| fmt::Error)?;
                writeln!(out, "{line}")
            }
            LogFormat::Text => {
                write!(out, "{at} {level:<5} {}", plain(&message))?;
                for name in ALWAYS {
                    let value = fields.0.remove(name).unwrap_or_default();
                    write!(out, " {name}={}", plain(&value))?;
                }
                for (name, value) in &fields.0 {
                    write!(out, " {name}={}", plain(value))?;
                }
                writeln!(out)
            }
        }
    }
}

/// Text with control characters escaped: what came from outside must not paint on a terminal.
fn plain(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    text.chars()
        .fold(String::with_capacity(text.len()), |mut line, c| {
            if c.is_control() {
                line.extend(c.escape_default());
            } else {
                line.push(c);
            }
            line
        })
}
