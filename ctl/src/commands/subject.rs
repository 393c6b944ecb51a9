//! What a verb is about: the app and release that were typed, or are meant.

use std::path::Path;

use ship_model::name::AppName;
use ship_model::release::{ReleaseNumber, ReleaseRef};
use ship_proto::v1::{GetReleaseRequest, ReleaseRecord};

use super::Fleet;
use super::tree::read_spec;
use crate::context::Context;
use crate::error::{CommandError, Exit};

/// A release that was meant: its app, and its number where one was given.
#[derive(Debug, Clone)]
pub struct Subject {
    pub app: AppName,
    pub number: Option<ReleaseNumber>,
}

/// The app of the words, else of `-a` or the context, else of the `ship.toml` in this folder.
pub fn subject(typed: Option<&ReleaseRef>, context: &Context) -> Result<Subject, CommandError> {
    let app = typed
        .and_then(|typed| typed.app.clone())
        .or_else(|| context.app.clone())
        .or_else(app_of_this_folder)
        .ok_or_else(no_app)?;
    Ok(Subject {
        app,
        number: typed.and_then(|typed| typed.number),
    })
}

/// What a user who stands in an application's folder means. A `ship.toml` with mistakes names nothing here: `publish`
/// and `lint` tell what is wrong with it.
fn app_of_this_folder() -> Option<AppName> {
    read_spec(Path::new("."), None).ok().map(|spec| spec.app)
}

fn no_app() -> CommandError {
    CommandError::usage(
        "which app? Neither the words, -a, SHIP_APP, the context nor a ship.toml here name one",
    )
    .hint("name it: APP or APP@NUMBER, as in web@4; `shipctl releases` lists what there is")
}

impl Subject {
    /// The release's record; the newest one's without a number.
    pub async fn record(&self, fleet: &Fleet) -> Result<ReleaseRecord, CommandError> {
        let request = GetReleaseRequest {
            app: self.app.to_string(),
            number: self.number.map_or(0, |number| number.0),
        };
        let record = fleet.client.releases().get(request).await?.into_inner();
        if record.release.is_none() {
            return Err(CommandError::new(
                Exit::Error,
                "the store answered with a release that has no number",
            ));
        }
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::*;
    use std::path::PathBuf;

    fn context(app: Option<&str>) -> Context {
        Context {
            path: PathBuf::new(),
            store: "127.0.0.1:1".into(),
            env: "dev".parse().unwrap(),
            app: app.map(|app| app.parse().unwrap()),
            ca: PathBuf::new(),
            cert: PathBuf::new(),
            key: PathBuf::new(),
            assets: None,
        }
    }

    #[test]
    fn words_win_over_the_context() {
        let of = |typed: &str, app| {
            let typed: ReleaseRef = typed.parse().unwrap();
            let subject = subject(Some(&typed), &context(app)).unwrap();
            (subject.app.to_string(), subject.number.map(|n| n.0))
        };
        assert_eq!(of("web@4", Some("shop")), ("web".to_owned(), Some(4)));
        assert_eq!(of("4", Some("shop")), ("shop".to_owned(), Some(4)));
        assert_eq!(of("web", None), ("web".to_owned(), None));
        assert_eq!(subject(None, &context(None)).unwrap_err().exit(), Exit::Usage);
    }
}
