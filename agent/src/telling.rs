//! Log lines, each with app, host, pid, release and deploy, as text or as JSON objects.
//!
//! The five fields come from the event or from the spans around it; what does not apply is `-`.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io::Write;

use clap::ValueEnum;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// How lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// In every line, in this order.
const ALWAYS: [&str; 5] = ["app", "host", "pid", "release", "deploy"];

/// Begins to write log lines to stderr. `RUST_LOG` chooses what; `info` without it.
///
/// A second call in one process changes nothing.
pub fn begin(format: LogFormat, host: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = Lines {
        format,
        host: host.to_owned(),
    };
    // The only error is that there is a subscriber already.
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .ok();
}

struct Lines {
    format: LogFormat,
    host: String,
}

#[derive(Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(outer) = span.extensions().get::<Fields>() {
                for (name, value) in &outer.0 {
                    fields.0.entry(name).or_insert_with(|| value.clone());
                }
            }
        }
        event.record(&mut fields);
        fields.0.entry("host").or_insert_with(|| self.host.clone());
        fields.0.insert("pid", std::process::id().to_string());
        let at = OffsetDateTime::now_utc().format(&Rfc3339).unwrap_or_default();
        let level = event.metadata().level().as_str();
        let line = match self.format {
            LogFormat::Text => text(&at, level, fields.0),
            LogFormat::Json => json(&at, level, fields.0),
        };
        // A log that cannot be written must not stop what it tells of.
        std::io::stderr().lock().write_all(line.as_bytes()).ok();
    }
}

fn text(at: &str, level: &str, mut fields: BTreeMap<&'static str, String>) -> String {
    let message = fields.remove("message").unwrap_or_default();
    let mut line = format!("{at} {level:5} {}", ship_model::path::escape(message.as_bytes()));
    for name in ALWAYS {
        let value = fields.remove(name);
        // Writing to a string does not fail.
        write!(line, " {name}={}", value.as_deref().unwrap_or("-")).ok();
    }
    for (name, value) in fields {
        let value = ship_model::path::escape(value.as_bytes());
        let quoted = if value.is_empty() || value.contains(' ') {
            format!("{value:?}")
        } else {
            value
        };
        write!(line, " {name}={quoted}").ok();
    }
    line.push('\n');
    line
}

fn json(at: &str, level: &str, fields: BTreeMap<&'static str, String>) -> String {
    let mut line = serde_json::Map::new();
    line.insert("ts".to_owned(), at.into());
    line.insert("level".to_owned(), level.into());
    for name in ALWAYS {
        line.insert(name.to_owned(), "-".into());
    }
    for (name, value) in fields {
        line.insert(name.to_owned(), value.into());
    }
    format!("{}\n", serde_json::Value::Object(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_the_five_fields() {
        let fields = || {
            BTreeMap::from([
                ("message", "a\nb".to_owned()),
                ("app", "web".to_owned()),
                ("x", "1 2".to_owned()),
            ])
        };
        let line = text("T", "INFO", fields());
        assert_eq!(
            line,
            "T INFO  a\\nb app=web host=- pid=- release=- deploy=- x=\"1 2\"\n"
        );
        let line = json("T", "INFO", fields());
        for name in ALWAYS {
            assert!(line.contains(&format!("\"{name}\":")), "{line}");
        }
        assert_eq!(line.matches('\n').count(), 1);
    }
}
