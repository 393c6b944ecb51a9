//! What an answer over HTTP means to a gate.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Verdict;

/// What passes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expect {
    pub status: u16,
    /// None: the status is all that counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub json: Option<JsonTest>,
}

/// A value in a JSON answer; all that is said of it must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JsonTest {
    /// Where it stands, by RFC 6901: `/data/result/0/value/1`.
    pub pointer: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_least: Option<Figure>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_most: Option<Figure>,
    /// The value as text: `ok`, `true`, `3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub equals: Option<String>,
}

/// A finite number as it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Figure(String);

/// Why a text is no figure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no number")]
pub struct FigureError(String);

impl Figure {
    pub fn new(text: &str) -> Result<Self, FigureError> {
        match finite(text) {
            Some(_) if text.len() <= 32 => Ok(Self(text.to_owned())),
            _ => Err(FigureError(text.chars().take(64).collect())),
        }
    }

    fn value(&self) -> f64 {
        finite(&self.0).unwrap_or_default()
    }
}

fn finite(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().filter(|value| value.is_finite())
}

impl TryFrom<String> for Figure {
    type Error = FigureError;

    fn try_from(text: String) -> Result<Self, FigureError> {
        Self::new(&text)
    }
}

impl From<Figure> for String {
    fn from(figure: Figure) -> Self {
        figure.0
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl Expect {
    /// What an answer comes to, and what to say of it. Where a value is looked for, an answer without it is unknown: a
    /// metrics server that is ill says nothing about the release.
    pub fn judge(&self, status: u16, body: &[u8]) -> (Verdict, String) {
        let answered = format!("answered {status}");
        match &self.json {
            None if status == self.status => (Verdict::Pass, answered),
            None => (Verdict::Fail, format!("{answered}, not {}", self.status)),
            Some(_) if status != self.status => {
                (Verdict::Unknown, format!("{answered}, not {}", self.status))
            }
            Some(test) => test.judge(body),
        }
    }
}

impl JsonTest {
    fn judge(&self, body: &[u8]) -> (Verdict, String) {
        let unknown = |why: String| (Verdict::Unknown, why);
        let Ok(json) = serde_json::from_slice::<Value>(body) else {
            return unknown("the answer is no JSON".to_owned());
        };
        let found = match json.pointer(&self.pointer) {
            None => return unknown(format!("the answer has nothing at {}", self.pointer)),
            Some(Value::String(text)) => text.clone(),
            Some(value @ (Value::Bool(_) | Value::Number(_))) => value.to_string(),
            Some(_) => return unknown(format!("{} is no single value", self.pointer)),
        };
        let mut wrong: Option<String> = None;
        for (limit, is_least) in [(&self.at_least, true), (&self.at_most, false)] {
            let Some(limit) = limit else { continue };
            let Some(value) = finite(&found) else {
                return unknown(format!("{} is {}, no number", self.pointer, brief(&found)));
            };
            let holds = if is_least {
                value >= limit.value()
            } else {
                value <= limit.value()
            };
            let word = if is_least { "less" } else { "more" };
            wrong = wrong.or_else(|| (!holds).then(|| format!("{word} than {limit}")));
        }
        if let Some(equals) = self.equals.as_ref().filter(|equals| **equals != found) {
            wrong = wrong.or_else(|| Some(format!("not {equals:?}")));
        }
        let told = format!("{} is {}", self.pointer, brief(&found));
        match wrong {
            None => (Verdict::Pass, told),
            Some(wrong) => (Verdict::Fail, format!("{told}, {wrong}")),
        }
    }
}

fn brief(text: &str) -> String {
    text.chars().take(100).collect()
}
