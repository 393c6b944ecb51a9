//! Every asset at every server, some at a time.

use std::collections::BTreeMap;

use futures::{StreamExt as _, stream};
use ship_model::digest::BlobDigest;

use super::gather::{Asset, Gathered, whole};
use super::get::{Answer, GetError, Getter, Origin};
use super::known::Published;

/// Requests under way at once.
const AT_ONCE: usize = 8;

/// What one server says of one asset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The bytes that were published.
    Right,
    /// Something; nothing was published there to compare it with, or it came in an encoding that nobody asked for.
    Uncompared,
    Missing(u16),
    Wrong,
    Silent(String),
}

impl Verdict {
    pub fn is_problem(&self) -> bool {
        !matches!(self, Self::Right | Self::Uncompared)
    }

    /// For programs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Right => "right",
            Self::Uncompared => "uncompared",
            Self::Missing(_) => "missing",
            Self::Wrong => "wrong",
            Self::Silent(_) => "silent",
        }
    }

    pub fn in_words(&self) -> String {
        match self {
            Self::Right => "as published".to_owned(),
            Self::Uncompared => "not compared".to_owned(),
            Self::Missing(status) => format!("missing ({status})"),
            Self::Wrong => "other bytes".to_owned(),
            Self::Silent(why) => why.clone(),
        }
    }
}

/// One asset at one server.
#[derive(Debug)]
pub struct Found {
    pub path: String,
    pub origin: Origin,
    pub verdict: Verdict,
    /// Of what came; none if nothing did.
    pub digest: Option<BlobDigest>,
}

/// Asks for everything that the page names: where the page says it is and, if it was published, at each of `servers`. What
/// lies on another origin and was never published is somebody else's.
pub async fn ask_all(
    page: &Gathered,
    published: &BTreeMap<String, Published>,
    servers: &[Origin],
    getter: &Getter,
) -> Vec<Found> {
    let mut questions: BTreeMap<(String, Origin), String> = BTreeMap::new();
    for asset in &page.named {
        let known = published.contains_key(&asset.path);
        if known || asset.origin == page.origin {
            questions.insert((asset.path.clone(), asset.origin.clone()), asset.query.clone());
        }
        for server in servers.iter().filter(|_| known) {
            let question = (asset.path.clone(), server.clone());
            questions.entry(question).or_insert_with(|| asset.query.clone());
        }
    }
    let asking = questions.into_iter().map(|((path, origin), query)| {
        let asset = Asset { origin, path, query };
        ask(asset, published, getter)
    });
    let mut found: Vec<Found> = stream::iter(asking).buffer_unordered(AT_ONCE).collect().await;
    found.sort_by(|a, b| (&a.path, &a.origin).cmp(&(&b.path, &b.origin)));
    found
}

async fn ask(asset: Asset, published: &BTreeMap<String, Published>, getter: &Getter) -> Found {
    let path = format!("{}{}", asset.path, asset.query);
    let answer = getter.get(&asset.origin, &path, 0).await;
    let known = published.get(&asset.path);
    Found {
        verdict: judge(&answer, known),
        digest: answer
            .ok()
            .filter(|answer| answer.status == 200)
            .map(|answer| answer.digest),
        path: asset.path,
        origin: asset.origin,
    }
}

fn judge(answer: &Result<Answer, GetError>, known: Option<&Published>) -> Verdict {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return Verdict::Silent(whole(error)),
    };
    match (answer.status, known) {
        (200, Some(known)) if answer.is_plain() && !answer.is_cut => {
            if known.digests.contains(&answer.digest) {
                Verdict::Right
            } else {
                Verdict::Wrong
            }
        }
        (200..300, _) | (300..400, None) => Verdict::Uncompared,
        (status, _) => Verdict::Missing(status),
    }
}
