//! Who is told.

use std::path::Path;

use super::command::{self, CommandError};
use super::settings::SinkSettings;
use super::webhook::{Webhook, WebhookError};

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
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error("it took longer than {seconds} s")]
    Slow { seconds: u64 },
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
        let patience = self.settings.patience();
        let telling = async {
            match &self.way {
                Way::Webhook(webhook) => webhook.post(message).await.map_err(TellError::from),
                Way::Command(words) => command::run(words, message).await.map_err(TellError::from),
            }
        };
        let told = tokio::time::timeout(patience, telling).await;
        told.unwrap_or_else(|_| {
            Err(TellError::Slow {
                seconds: patience.as_secs(),
            })
        })
    }
}
