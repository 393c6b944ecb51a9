//! The page, and everything it names, directly or through style sheets and modules.

use std::collections::{BTreeSet, VecDeque};

use ship_model::assets::page::{Base, Kind, Named, Place, in_page, in_script, in_style, is_template};

use super::get::{Answer, Getter, MAX_TEXT, Origin};
use super::no_page;
use crate::error::{CommandError, Exit};

/// Most assets that are followed and asked for.
const MAX_ASSETS: usize = 2000;
/// Most texts that are read to see what they name.
const MAX_TEXTS: usize = 200;
/// Redirects from the typed address to the page.
const MAX_REDIRECTS: usize = 5;

/// Something that a browser would fetch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asset {
    pub origin: Origin,
    /// As it is asked for, without the query.
    pub path: String,
    /// With its `?`, or empty.
    pub query: String,
}

/// A page and what it names.
#[derive(Debug)]
pub struct Gathered {
    /// After redirects.
    pub url: String,
    pub origin: Origin,
    /// Each once, sorted.
    pub named: Vec<Asset>,
    /// Names on other origins, as they are written out.
    pub elsewhere: Vec<String>,
    /// It names more than is followed.
    pub is_cut: bool,
}

/// Fetches the page at `url` and follows what it names, breadth first.
pub async fn gather(url: &str, getter: &Getter) -> Result<Gathered, CommandError> {
    let (origin, path, page) = open(url, getter).await?;
    let base = Base {
        origin: Some(origin.to_string()),
        path: path.clone(),
    };
    let mut walk = Walk {
        page: origin.clone(),
        seen: BTreeSet::new(),
        elsewhere: BTreeSet::new(),
        ahead: VecDeque::new(),
        is_cut: page.start.len() >= MAX_TEXT,
    };
    let in_page = in_page(&page.start);
    let base = match in_page.base.map(|href| base.resolve(&href)) {
        Some(Place::Here { path, .. }) => Base { path, ..base },
        Some(Place::There { origin, path, .. }) => Base {
            origin: Some(origin),
            path,
        },
        _ => base,
    };
    walk.take_in(in_page.named, &base);
    walk.follow(getter).await;
    Ok(Gathered {
        url: format!("{origin}{path}"),
        origin,
        named: walk.seen.into_iter().collect(),
        elsewhere: walk.elsewhere.into_iter().collect(),
        is_cut: walk.is_cut,
    })
}

/// The page itself, wherever the address leads.
async fn open(url: &str, getter: &Getter) -> Result<(Origin, String, Answer), CommandError> {
    let mut origin = Origin::read(url).ok_or_else(|| no_page(url))?;
    let start = url
        .split_once("://")
        .and_then(|(_, rest)| Some(&rest[rest.find('/')?..]));
    let mut path = start.unwrap_or("/").split('#').next().unwrap_or("/").to_owned();
    for _ in 0..=MAX_REDIRECTS {
        let answer = getter.get(&origin, &path, MAX_TEXT).await;
        let answer = answer.map_err(|error| {
            CommandError::new(Exit::Error, format!("ask for {origin}{path}")).because(whole(&error))
        })?;
        let Some(next) = answer.location().map(str::to_owned) else {
            return match answer.status {
                200..300 => Ok((origin, path, answer)),
                status => Err(CommandError::new(
                    Exit::Error,
                    format!("{origin}{path} answers {status}"),
                )),
            };
        };
        let base = Base {
            origin: Some(origin.to_string()),
            path: path.split('?').next().unwrap_or_default().to_owned(),
        };
        match base.resolve(&next) {
            Place::Here { path: to, query } => path = format!("{to}{query}"),
            Place::There {
                origin: host,
                path: to,
                query,
            } => {
                origin = Origin::read(&host).ok_or_else(|| no_page(&next))?;
                path = format!("{to}{query}");
            }
            Place::Nowhere => return Err(no_page(&next)),
        }
    }
    Err(CommandError::new(
        Exit::Error,
        format!("{url} leads on more than {MAX_REDIRECTS} times"),
    ))
}

/// An error with its causes, in one line.
pub fn whole(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    text
}

struct Walk {
    page: Origin,
    seen: BTreeSet<Asset>,
    elsewhere: BTreeSet<String>,
    /// Texts that may name more.
    ahead: VecDeque<(Asset, Kind)>,
    is_cut: bool,
}

impl Walk {
    fn take_in(&mut self, named: Vec<Named>, base: &Base) {
        for named in named.into_iter().filter(|named| !is_template(&named.url)) {
            let (origin, path, query) = match base.resolve(&named.url) {
                Place::Nowhere => continue,
                Place::Here { path, query } => (base.origin.clone().unwrap_or_default(), path, query),
                Place::There { origin, path, query } => (origin, path, query),
            };
            let Some(origin) = Origin::read(&origin) else {
                continue;
            };
            if self.seen.len() + self.elsewhere.len() >= MAX_ASSETS {
                self.is_cut = true;
                return;
            }
            let asset = Asset { origin, path, query };
            self.keep(asset, named.kind);
        }
    }

    /// What lies on another origin is asked for where the page's own scripts and styles lie: a CDN's name. It is not known
    /// here whether it is one, so that it is kept by its path, and asked for if something of that path was published.
    fn keep(&mut self, asset: Asset, kind: Kind) {
        if asset.origin != self.page {
            self.elsewhere
                .insert(format!("{}{}{}", asset.origin, asset.path, asset.query));
        }
        if self.seen.insert(asset.clone()) && asset.origin == self.page && kind != Kind::Other {
            self.ahead.push_back((asset, kind));
        }
    }

    async fn follow(&mut self, getter: &Getter) {
        let mut read = 0;
        while let Some((asset, kind)) = self.ahead.pop_front() {
            if read == MAX_TEXTS {
                self.is_cut = true;
                return;
            }
            read += 1;
            let path = format!("{}{}", asset.path, asset.query);
            // Whether it is there is asked later, everywhere.
            let Ok(answer) = getter.get(&asset.origin, &path, MAX_TEXT).await else {
                continue;
            };
            if answer.status != 200 || !answer.is_plain() {
                continue;
            }
            let named = match kind {
                Kind::Style => in_style(&answer.start),
                Kind::Script if answer.content_type() != "text/html" => in_script(&answer.start),
                _ => continue,
            };
            let base = Base {
                origin: Some(asset.origin.to_string()),
                path: asset.path,
            };
            self.take_in(named, &base);
        }
    }
}
