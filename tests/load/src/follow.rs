//! Follows pages to their assets, as a browser would, at every place that must serve them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::fetch::{Fetched, fetch};
use crate::history::History;
pub use crate::history::HistoryError;
use crate::links::{self, Kind};
use crate::target::Target;

/// Assets followed from one page before it counts as endless.
const ASSETS: usize = 20_000;
/// Failures told in full.
const TOLD: usize = 200;

#[derive(Debug, Clone)]
pub struct FollowPlan {
    pub pages: Vec<Target>,
    /// Other origins that must serve every asset too; of these URLs only the origin counts.
    pub asset_bases: Vec<Target>,
    /// Remembers every immutable asset across runs; all of them are asked again.
    pub history: Option<PathBuf>,
    /// Whether 16 hex digits in a name must be the beginning of the BLAKE3 of the bytes.
    pub check_fingerprints: bool,
    /// For one page or asset.
    pub timeout: Duration,
}

impl FollowPlan {
    pub fn new(pages: Vec<Target>) -> Self {
        Self {
            pages,
            asset_bases: Vec::new(),
            history: None,
            check_fingerprints: true,
            timeout: Duration::from_secs(10),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// No answer, or none of status 200.
    Missing,
    /// Other bytes than before, or than elsewhere.
    Changed,
    Empty,
    /// The type does not fit the name.
    ContentType,
    /// The name's fingerprint is not that of the bytes.
    Fingerprint,
    /// A page that cannot be fetched.
    Page,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedAsset {
    pub url: String,
    pub fault: Fault,
    pub detail: String,
    /// What named it: a path, or "history".
    pub from: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FollowReport {
    /// Pages fetched.
    pub pages: u64,
    /// Different asset paths.
    pub assets: u64,
    /// Assets asked for, at all places together.
    pub assets_asked: u64,
    pub missing: u64,
    pub changed: u64,
    /// Pages that failed, and assets that are empty, of the wrong type or wrongly named.
    pub bad: u64,
    pub bytes: u64,
    /// The first 200.
    pub failed: Vec<FailedAsset>,
}

impl FollowReport {
    /// Whether every page and every asset was as it should be.
    pub fn sound(&self) -> bool {
        self.missing + self.changed + self.bad == 0
    }
}

/// Fetches the pages, everything they lead to, and everything the history knows.
///
/// # Errors
/// When the history cannot be read or written. What is missing is no error: it is in the report.
pub fn follow(plan: &FollowPlan) -> Result<FollowReport, HistoryError> {
    let history = History::open(plan.history.as_deref())?;
    let known = history.known().clone();
    let mut walk = Walk {
        plan,
        history,
        digests: known,
        asked: BTreeSet::new(),
        report: FollowReport::default(),
    };
    for page in &plan.pages {
        walk.page(page)?;
    }
    walk.ask_history()?;
    let paths: BTreeSet<&String> = walk.asked.iter().map(|(_, path)| path).collect();
    walk.report.assets = paths.len() as u64;
    Ok(walk.report)
}

/// A reference that waits to be followed: the first of these paths that is there is meant.
struct Named {
    paths: Vec<String>,
    from: String,
}

struct Walk<'a> {
    plan: &'a FollowPlan,
    history: History,
    /// The digest of each asset path, from the history or from the first answer.
    digests: BTreeMap<String, String>,
    /// Origins and paths asked already.
    asked: BTreeSet<(String, String)>,
    report: FollowReport,
}

impl Walk<'_> {
    fn page(&mut self, page: &Target) -> Result<(), HistoryError> {
        let fetched = match fetch(page, self.plan.timeout) {
            Ok(fetched) if fetched.head.status == 200 && fetched.length > 0 => fetched,
            Ok(fetched) => {
                let detail = format!("status {}, {} bytes", fetched.head.status, fetched.length);
                self.fail(page, Fault::Page, detail, "");
                return Ok(());
            }
            Err(error) => {
                self.fail(page, Fault::Page, words(&error), "");
                return Ok(());
            }
        };
        self.report.pages += 1;
        self.report.bytes += fetched.length;
        let mut queue = VecDeque::from(named(page, page, &fetched));
        let mut steps = 0;
        while let Some(next) = queue.pop_front() {
            steps += 1;
            if steps > ASSETS {
                self.fail(
                    page,
                    Fault::Page,
                    format!("leads to more than {ASSETS} assets"),
                    "",
                );
                break;
            }
            queue.extend(self.asset(page, &next)?);
        }
        Ok(())
    }

    /// Asks for one asset at the page's origin and at every base; returns what it names.
    fn asset(&mut self, page: &Target, named_by: &Named) -> Result<Vec<Named>, HistoryError> {
        let mut answer = None;
        for path in &named_by.paths {
            let target = page.at(path);
            if !self.asked.insert((target.authority.clone(), path.clone())) {
                return Ok(Vec::new());
            }
            self.report.assets_asked += 1;
            let fetched = fetch(&target, self.plan.timeout).map_err(|error| words(&error));
            let there = matches!(&fetched, Ok(fetched) if fetched.head.status == 200);
            answer = Some((target, fetched));
            if there {
                break;
            }
        }
        let Some((target, fetched)) = answer else {
            return Ok(Vec::new());
        };
        let further = match &fetched {
            Ok(fetched) if fetched.head.status == 200 => named(page, &target, fetched),
            _ => Vec::new(),
        };
        self.judge(&target, fetched, &named_by.from)?;
        for base in &self.plan.asset_bases {
            self.ask_at(base, &target.path, &named_by.from)?;
        }
        Ok(further)
    }

    fn ask_history(&mut self) -> Result<(), HistoryError> {
        let known: Vec<String> = self.history.known().keys().cloned().collect();
        let plan = self.plan;
        for path in known {
            for origin in plan.pages.iter().chain(&plan.asset_bases) {
                self.ask_at(origin, &path, "history")?;
            }
        }
        Ok(())
    }

    fn ask_at(&mut self, origin: &Target, path: &str, from: &str) -> Result<(), HistoryError> {
        if !self.asked.insert((origin.authority.clone(), path.to_owned())) {
            return Ok(());
        }
        self.report.assets_asked += 1;
        let target = origin.at(path);
        let fetched = fetch(&target, self.plan.timeout).map_err(|error| words(&error));
        self.judge(&target, fetched, from)
    }

    fn judge(
        &mut self,
        at: &Target,
        answer: Result<Fetched, String>,
        from: &str,
    ) -> Result<(), HistoryError> {
        let fetched = match answer {
            Ok(fetched) if fetched.head.status == 200 => fetched,
            Ok(fetched) => {
                self.fail(
                    at,
                    Fault::Missing,
                    format!("status {}", fetched.head.status),
                    from,
                );
                return Ok(());
            }
            Err(words) => {
                self.fail(at, Fault::Missing, words, from);
                return Ok(());
            }
        };
        self.report.bytes += fetched.length;
        let digest = fetched.digest.to_hex();
        if let Some((fault, detail)) = self.fault(&at.path, &fetched) {
            self.fail(at, fault, detail, from);
            return Ok(());
        }
        self.digests
            .entry(at.path.clone())
            .or_insert_with(|| digest.to_string());
        let fingerprinted = links::fingerprint(path_only(&at.path)).is_some();
        if fingerprinted || fetched.head.cache_control.contains("immutable") {
            self.history.remember(&at.path, &digest)?;
        }
        Ok(())
    }

    fn fault(&self, path: &str, fetched: &Fetched) -> Option<(Fault, String)> {
        if fetched.length == 0 {
            return Some((Fault::Empty, "no bytes".into()));
        }
        let digest = fetched.digest.to_hex();
        if let Some(before) = self
            .digests
            .get(path)
            .filter(|before| before.as_str() != digest.as_str())
        {
            return Some((Fault::Changed, format!("was {before}, is {digest}")));
        }
        if !type_fits(path_only(path), &fetched.head.content_type) {
            return Some((Fault::ContentType, fetched.head.content_type.clone()));
        }
        let mark = links::fingerprint(path_only(path)).filter(|mark| is_sixteen_hex(mark))?;
        (self.plan.check_fingerprints && !digest.starts_with(mark))
            .then(|| (Fault::Fingerprint, format!("the bytes are {}", &digest[..16])))
    }

    fn fail(&mut self, at: &Target, fault: Fault, detail: String, from: &str) {
        match fault {
            Fault::Missing => self.report.missing += 1,
            Fault::Changed => self.report.changed += 1,
            _ => self.report.bad += 1,
        }
        if self.report.failed.len() < TOLD {
            self.report.failed.push(FailedAsset {
                url: at.to_string(),
                fault,
                detail,
                from: from.to_owned(),
            });
        }
    }
}

/// What `fetched`, found at `at`, leads to. A script's bare path (`static/js/x.js`) is meant from the page on by some
/// bundlers and from the script on by others.
fn named(page: &Target, at: &Target, fetched: &Fetched) -> Vec<Named> {
    let kind = Kind::of(&fetched.head.content_type);
    let text = String::from_utf8_lossy(&fetched.text);
    let from = &at.path;
    let resolve = |base: &Target, reference: &str| links::resolve(&page.authority, &base.path, reference);
    let follow = |reference: String| {
        let bare = kind == Kind::Script && !reference.starts_with(['.', '/']);
        let first = if bare { resolve(page, &reference) } else { None };
        let mut paths: Vec<String> = first.into_iter().chain(resolve(at, &reference)).collect();
        paths.dedup();
        (!paths.is_empty()).then(|| Named {
            paths,
            from: from.clone(),
        })
    };
    links::references(kind, &text)
        .into_iter()
        .filter_map(follow)
        .collect()
}

fn path_only(path: &str) -> &str {
    path.split('?').next().unwrap_or_default()
}

fn is_sixteen_hex(mark: &str) -> bool {
    mark.len() == 16
        && mark
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Whether a type fits a name: an error page served as 200 is caught by this.
fn type_fits(path: &str, content_type: &str) -> bool {
    let kind = content_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let extension = path
        .rsplit('/')
        .next()
        .and_then(|name| name.rsplit_once('.'))
        .map_or("", |(_, end)| end);
    match extension {
        "css" => kind == "text/css",
        "js" | "mjs" => kind == "text/javascript" || kind == "application/javascript",
        "svg" => kind == "image/svg+xml",
        "png" | "jpg" | "jpeg" | "gif" | "webp" | "avif" | "ico" => kind.starts_with("image/"),
        "html" => kind == "text/html",
        _ => kind != "text/html",
    }
}

/// An error with its causes, in one line.
fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
