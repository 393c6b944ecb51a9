//! A gate for display.

use serde::{Deserialize, Serialize};

use super::{Ask, Gate, GateProgress, Verdict};

/// One gate of one step, as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateLine {
    pub gate: String,
    /// `approval`, `manual`, `command`, `http`.
    pub kind: String,
    pub state: GateState,
    /// What it asks for, or what it said last.
    pub detail: String,
    /// Who said yes.
    pub by: Vec<String>,
    /// People who are still to say yes; 0: nobody is waited for.
    pub wanted: u32,
}

/// What is known of a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GateState {
    /// Nothing was said yet, or not by enough people.
    Waiting,
    /// It holds; of a check: by the last look, and perhaps not long enough yet.
    Passes,
    Fails,
    Unknown,
}

impl GateState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Passes => "passes",
            Self::Fails => "fails",
            Self::Unknown => "unknown",
        }
    }
}

impl Gate {
    /// How it stands by what is known; none: nothing is.
    pub fn line(&self, known: Option<&GateProgress>) -> GateLine {
        let by: Vec<String> = known
            .iter()
            .flat_map(|known| &known.words)
            .map(|word| match &word.note {
                None => word.who.clone(),
                Some(note) => format!("{}: {note}", word.who),
            })
            .collect();
        let said = known.map(|known| known.said.as_str()).unwrap_or_default();
        let checked = known.and_then(|known| known.verdict);
        let given = u32::try_from(by.len()).unwrap_or(u32::MAX);
        let (state, detail, wanted) = match &self.ask {
            Ask::Approval { count, .. } => {
                let wanted = count.saturating_sub(given);
                (people(wanted), self.asks(), wanted)
            }
            Ask::Manual { text } => {
                let wanted = 1_u32.saturating_sub(given);
                (people(wanted), text.clone(), wanted)
            }
            Ask::Command { .. } | Ask::Http { .. } => match checked {
                None => (GateState::Waiting, self.asks(), 0),
                Some(Verdict::Pass) => (GateState::Passes, said.to_owned(), 0),
                Some(Verdict::Fail) => (GateState::Fails, said.to_owned(), 0),
                Some(Verdict::Unknown) => (GateState::Unknown, said.to_owned(), 0),
            },
        };
        GateLine {
            gate: self.name.clone(),
            kind: self.kind().to_owned(),
            state,
            detail,
            by,
            wanted,
        }
    }

    /// What it asks for, in words.
    pub fn asks(&self) -> String {
        match &self.ask {
            Ask::Approval { count, others, by } => {
                let who = match by.is_empty() {
                    true if *count == 1 => "1 operator".to_owned(),
                    true => format!("{count} operators"),
                    false => format!("{count} of {}", by.iter().cloned().collect::<Vec<_>>().join(", ")),
                };
                let not = if *others {
                    ", not by whom it was promoted"
                } else {
                    ""
                };
                format!("approval by {who}{not}")
            }
            Ask::Manual { text } => text.clone(),
            Ask::Command { argv, .. } => argv.join(" "),
            Ask::Http { url, .. } => url.clone(),
        }
    }
}

const fn people(wanted: u32) -> GateState {
    match wanted {
        0 => GateState::Passes,
        _ => GateState::Waiting,
    }
}
