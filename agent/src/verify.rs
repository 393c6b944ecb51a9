//! Looks at every release of an app on this host, and says what is wrong with each.

use ship_bundle::stage::{Depth, list_staged};
use ship_model::release::Target;
use ship_proto::v1;

use crate::layout::AppLayout;
use crate::session::chain;
use crate::stage;

/// Problems told of one release.
const MAX_TOLD: usize = 100;

/// One line for each folder; one that is not believed to hold a release is damaged.
pub fn app(layout: &AppLayout, depth: Depth) -> Vec<v1::VerifiedRelease> {
    let line = |target: Option<Target>| v1::VerifiedRelease {
        app: layout.app.to_string(),
        release: target.map(Into::into),
        ..v1::VerifiedRelease::default()
    };
    let mut lines: Vec<_> = match stage::list(layout) {
        Ok(here) => here
            .iter()
            .map(|release| look(line(Some(release.target)), layout, &release.target, depth))
            .collect(),
        Err(error) => vec![v1::VerifiedRelease {
            damage: vec![chain(&error)],
            ..line(None)
        }],
    };
    let listed = list_staged(&layout.releases()).unwrap_or_default();
    for folder in listed {
        if let Err(error) = folder.release {
            lines.push(v1::VerifiedRelease {
                damage: vec![format!("{}: {}", folder.folder, chain(&error))],
                ..line(None)
            });
        }
    }
    lines
}

fn look(
    mut line: v1::VerifiedRelease,
    layout: &AppLayout,
    target: &Target,
    depth: Depth,
) -> v1::VerifiedRelease {
    match stage::verify(layout, target, depth) {
        Ok(report) => {
            line.files = report.checked;
            line.bytes_read = report.hashed_bytes;
            let told = |damage: bool| {
                let problems = report.problems.iter();
                let problems = problems.filter(move |problem| problem.is_damage() == damage);
                problems.take(MAX_TOLD).map(ToString::to_string).collect()
            };
            (line.damage, line.extra) = (told(true), told(false));
        }
        Err(error) => line.damage = vec![chain(&error)],
    }
    line
}
