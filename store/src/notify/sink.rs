//! Who is told.

use std::path::Path;
use std::process::ExitStatus;

use super::settings::SinkSettings;
use super::webhook::{Webhook, WebhookError};
use crate::program::{RunError, Task, run};

/// One way to tell somebody.
#[derive(Debug)]
pub struct Sink {
    settings: SinkSettings,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Webhook(Webhook),
    Command(Vec<String>),
}

/// Why a sink did not take a message. Says nothing of secrets.
#[derive(Debug, thiserror::Error)]
pub enum TellError {
    #[error(transparent)]
    Webhook(#[from] WebhookError),
    #[error("no answer within {seconds} s")]
    Silent { seconds: u64 },
    #[error(transparent)]
    Program(#[from] RunError),
    #[error("it ended with {status}: {said}")]
    Failed { status: ExitStatus, said: String },
}

impl Sink {
    /// `dir` is the folder that files of `settings` are relative to.
    pub fn new(settings: SinkSettings, dir: &Path) -> Self {
        let way = match (&settings.webhook, &settings.command) {
            (Some(url), _) => Way::Webhook(Webhook::new(url.clone(), &settings, dir)),
            (None, command) => Way::Command(command.clone().unwrap_or_default()),
        };
        Self { settings, way }
    }

    /// As people name it; an address without what may be a secret in it.
    pub fn name(&self) -> String {
        match &self.way {
            Way::Webhook(webhook) => webhook.place(),
            Way::Command(words) => words.first().cloned().unwrap_or_default(),
        }
    }

    /// Hands a message over, and waits until it was taken, for as long as the settings say.
    ///
    /// # Errors
    /// [`TellError`]: it may have arrived all the same.
    pub async fn tell(&self, message: &[u8]) -> Result<(), TellError> {
        match &self.way {
            Way::Webhook(webhook) => self.post(webhook, message).await,
            Way::Command(words) => self.hand(words, message).await,
        }
    }

    async fn post(&self, webhook: &Webhook, message: &[u8]) -> Result<(), TellError> {
        let patience = self.settings.patience();
        match tokio::time::timeout(patience, webhook.post(message)).await {
            Ok(posted) => Ok(posted?),
            Err(_) => Err(TellError::Silent {
                seconds: patience.as_secs(),
            }),
        }
    }

    /// To a program, on its standard input; exit code 0 is a word that it was taken.
    async fn hand(&self, words: &[String], message: &[u8]) -> Result<(), TellError> {
        let (program, arguments) = words
            .split_first()
            .map_or(("", words), |(first, rest)| (&**first, rest));
        let ended = run(Task {
            program: Path::new(program),
            arguments,
            surroundings: Vec::new(),
            input: message,
            patience: self.settings.patience(),
        })
        .await?;
        if ended.status.success() {
            return Ok(());
        }
        let nothing = "it said nothing".to_owned();
        Err(TellError::Failed {
            status: ended.status,
            said: Some(ended.said)
                .filter(|said| !said.is_empty())
                .unwrap_or(nothing),
        })
    }
}
