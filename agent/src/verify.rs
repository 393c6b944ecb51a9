//! Looks at every release of an app on this host, and says what is wrong with each.

use ship_bundle::stage::Depth;
use ship_proto::v1;

use crate::layout::AppLayout;
use crate::session::chain;
use crate::stage;

/// Problems told of one release.
const MAX_TOLD: usize = 100;

/// One line for each release; a release that cannot be looked at is a damaged one.
pub fn app(layout: &AppLayout, depth: Depth) -> Vec<v1::VerifiedRelease> {
    let here = match stage::list(layout) {
        Ok(here) => here,
        Err(error) => {
            tracing::error!(app = %layout.app, error = chain(&error), "releases cannot be listed");
            return Vec::new();
        }
    };
    here.iter()
        .map(|release| {
            let mut line = v1::VerifiedRelease {
                app: layout.app.to_string(),
                release: Some(release.target.into()),
                ..v1::VerifiedRelease::default()
            };
            match stage::verify(layout, &release.target, depth) {
                Ok(report) => {
                    line.files = report.checked;
                    line.bytes_read = report.hashed_bytes;
                    let told = report.problems.iter().take(MAX_TOLD);
                    line.damage = told.map(ToString::to_string).collect();
                }
                Err(error) => line.damage = vec![chain(&error)],
            }
            line
        })
        .collect()
}
