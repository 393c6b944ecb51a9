//! One table of a `ship.toml` being read: every key is known or a mistake, and mistakes are collected.

use std::cell::RefCell;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::path::escape;
use crate::spec::error::{SpecError, SpecErrors};

/// Nobody reads further; the file is read again after these are mended.
const MAX_MISTAKES: usize = 100;
/// Longest key that is compared with the known ones.
const MAX_KEY: usize = 64;

/// The mistakes found so far, with where they stand.
pub(crate) struct Mistakes<'t> {
    text: &'t str,
    found: RefCell<Vec<(usize, SpecError)>>,
}

impl<'t> Mistakes<'t> {
    pub(crate) fn new(text: &'t str) -> Self {
        Self {
            text,
            found: RefCell::default(),
        }
    }

    /// `at` is a byte offset into the text.
    pub(crate) fn add(&self, at: usize, key: &str, message: impl Into<String>, hint: Option<String>) {
        if self.found.borrow().len() == MAX_MISTAKES {
            return;
        }
        let before = self.text.get(..at).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let error = SpecError {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            key: escape(key.as_bytes()),
            message: message.into(),
            hint,
        };
        self.found.borrow_mut().push((at, error));
    }

    /// Every mistake in the order of the file; none: there were none.
    pub(crate) fn into_errors(self) -> Option<SpecErrors> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|(at, _)| *at);
        let errors: Vec<_> = found.into_iter().map(|(_, error)| error).collect();
        (!errors.is_empty()).then_some(SpecErrors(errors))
    }
}

/// The keys a table may have.
#[derive(Clone, Copy)]
pub(crate) struct Keys {
    pub(crate) known: &'static [&'static str],
    /// Keys that mean something later, with what they will do.
    pub(crate) later: &'static [(&'static str, &'static str)],
}

impl Keys {
    pub(crate) const fn only(known: &'static [&'static str]) -> Self {
        Self { known, later: &[] }
    }
}

/// A table and its full name.
#[derive(Clone)]
pub(crate) struct Fields<'t> {
    mistakes: &'t Mistakes<'t>,
    name: String,
    table: &'t DeTable<'t>,
    span: Range<usize>,
}

/// A value with the place it stands at.
pub(crate) struct Found<'t, T> {
    pub(crate) value: T,
    pub(crate) at: usize,
    pub(crate) key: String,
    mistakes: &'t Mistakes<'t>,
}

impl<T> Found<'_, T> {
    pub(crate) fn bad(&self, message: impl Into<String>) {
        self.mistakes.add(self.at, &self.key, message, None);
    }

    pub(crate) fn bad_with(&self, message: impl Into<String>, hint: impl Into<String>) {
        self.mistakes.add(self.at, &self.key, message, Some(hint.into()));
    }

    /// What `read` makes of the value, or a mistake with its message.
    pub(crate) fn parse<U, E: ToString>(&self, read: impl FnOnce(&T) -> Result<U, E>) -> Option<U> {
        match read(&self.value) {
            Ok(read) => Some(read),
            Err(error) => {
                self.bad(error.to_string());
                None
            }
        }
    }
}

impl<'t> Fields<'t> {
    /// Opens a table: keys that are not known are mistakes, `x-…` excepted.
    pub(crate) fn open(
        mistakes: &'t Mistakes<'t>,
        name: &str,
        table: &'t DeTable<'t>,
        span: Range<usize>,
        keys: Keys,
    ) -> Self {
        let fields = Self {
            mistakes,
            name: name.to_owned(),
            table,
            span,
        };
        for key in table.keys() {
            fields.check_key(key, keys);
        }
        fields
    }

    fn check_key(&self, key: &Spanned<std::borrow::Cow<'t, str>>, keys: Keys) {
        let (text, at) = (key.get_ref(), key.span().start);
        if keys.known.contains(&text.as_ref()) || text.starts_with("x-") {
            return;
        }
        let full = self.full(text);
        if let Some((_, what)) = keys.later.iter().find(|(later, _)| later == text) {
            let message = format!("not yet: {what}");
            return self
                .mistakes
                .add(at, &full, message, Some("remove it for now".to_owned()));
        }
        let hint = nearest(text, keys.known).map(|known| format!("did you mean {known:?}?"));
        self.mistakes.add(at, &full, "unknown key", hint);
    }

    pub(crate) fn full(&self, key: &str) -> String {
        if self.name.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.name)
        }
    }

    pub(crate) fn missing(&self, key: &str, hint: &str) {
        let (at, full) = (self.span.start, self.full(key));
        self.mistakes.add(at, &full, "is missing", Some(hint.to_owned()));
    }

    pub(crate) fn get(&self, key: &str) -> Option<Found<'t, &'t DeValue<'t>>> {
        let value = self.table.get(key)?;
        Some(self.found(self.full(key), value))
    }

    fn found(&self, key: String, value: &'t Spanned<DeValue<'t>>) -> Found<'t, &'t DeValue<'t>> {
        Found {
            value: value.get_ref(),
            at: value.span().start,
            key,
            mistakes: self.mistakes,
        }
    }

    /// Every entry of a table whose keys are free.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'t str, Found<'t, &'t DeValue<'t>>)> {
        self.table.iter().map(|(key, value)| {
            let name: &'t str = key.get_ref();
            (name, self.found(self.full(name), value))
        })
    }

    /// The place of a key of this table itself, for a mistake about the name.
    pub(crate) fn key(&self, name: &str) -> Found<'t, ()> {
        let at = self.table.get_key_value(name).map(|(key, _)| key.span().start);
        Found {
            value: (),
            at: at.unwrap_or(self.span.start),
            key: self.full(name),
            mistakes: self.mistakes,
        }
    }

    pub(crate) fn text(&self, key: &str) -> Option<Found<'t, &'t str>> {
        self.get(key)?.text()
    }

    pub(crate) fn flag(&self, key: &str) -> Option<Found<'t, bool>> {
        let found = self.get(key)?;
        found.typed(found.value.as_bool(), "true or false")
    }

    /// A whole number within `range`.
    pub(crate) fn number(&self, key: &str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let found = self.get(key)?;
        let wanted = format!("a whole number from {} to {}", range.start(), range.end());
        let integer = found.typed(found.value.as_integer(), &wanted)?;
        let digits = integer.value.as_str().replace('_', "");
        let number = u64::from_str_radix(&digits, integer.value.radix()).ok();
        let inside = number.filter(|number| range.contains(number));
        if inside.is_none() {
            integer.bad(format!("must be {wanted}"));
        }
        inside
    }

    /// A list of texts; each with its own place.
    pub(crate) fn texts(&self, key: &str) -> Vec<Found<'t, &'t str>> {
        let Some(found) = self.get(key) else {
            return Vec::new();
        };
        let Some(list) = found.typed(found.value.as_array(), "a list of texts") else {
            return Vec::new();
        };
        let items = list.value.iter().enumerate();
        items
            .filter_map(|(at, item)| self.found(format!("{}[{at}]", list.key), item).text())
            .collect()
    }

    pub(crate) fn table(&self, key: &str, keys: Keys) -> Option<Fields<'t>> {
        self.get(key)?.table(Some(keys))
    }

    /// A table whose keys are free.
    pub(crate) fn free_table(&self, key: &str) -> Option<Fields<'t>> {
        self.get(key)?.table(None)
    }

    /// The tables of `[[key]]`.
    pub(crate) fn tables(&self, key: &str, keys: Keys) -> Vec<Fields<'t>> {
        let Some(found) = self.get(key) else {
            return Vec::new();
        };
        let hint = format!("a list of tables, [[{key}]]");
        let Some(list) = found.typed(found.value.as_array(), &hint) else {
            return Vec::new();
        };
        let items = list.value.iter().enumerate();
        items
            .filter_map(|(at, item)| {
                let mut found = self.found(format!("{key}[{at}]"), item);
                found.at = item.span().start;
                found.table(Some(keys))
            })
            .collect()
    }
}

impl<'t> Found<'t, &'t DeValue<'t>> {
    /// The value where it has the wanted type; otherwise a mistake.
    pub(crate) fn typed<T>(&self, value: Option<T>, wanted: &str) -> Option<Found<'t, T>> {
        if value.is_none() {
            self.bad(format!("must be {wanted}, not {}", kind(self.value)));
        }
        value.map(|value| Found {
            value,
            at: self.at,
            key: self.key.clone(),
            mistakes: self.mistakes,
        })
    }

    pub(crate) fn text(&self) -> Option<Found<'t, &'t str>> {
        let value: &'t DeValue<'t> = self.value;
        let text = self.typed(value.as_str(), "a text in quotes")?;
        if text.value.contains('\0') {
            text.bad("must not contain NUL");
            return None;
        }
        Some(text)
    }

    pub(crate) fn table(&self, keys: Option<Keys>) -> Option<Fields<'t>> {
        let value: &'t DeValue<'t> = self.value;
        let table = self.typed(value.as_table(), "a table")?;
        let span = self.at..self.at;
        let Some(keys) = keys else {
            return Some(Fields {
                mistakes: self.mistakes,
                name: self.key.clone(),
                table: table.value,
                span,
            });
        };
        Some(Fields::open(self.mistakes, &self.key, table.value, span, keys))
    }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// The known key that was most likely meant.
pub(crate) fn nearest<'k>(text: &str, known: &[&'k str]) -> Option<&'k str> {
    if text.len() > MAX_KEY {
        return None;
    }
    let near = known.iter().map(|key| (distance(text, key), *key));
    let allowed = 1 + text.len() / 4;
    let (_, key) = near.filter(|(distance, _)| *distance <= allowed).min()?;
    Some(key)
}

/// Letters to insert, drop, change or swap with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let changed = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = changed.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}
