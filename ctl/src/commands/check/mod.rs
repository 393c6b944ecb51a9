//! `shipctl asset check`: a page as a browser sees it, and every asset it names, on every server that should have it.
//!
//! [`mod@gather`] reads the page and follows what it names, [`known`] looks up what was published, [`ask`] asks every server
//! and compares, [`get`] is the one HTTP request that all of them make.

mod ask;
mod gather;
mod get;
mod known;

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use ship_proto::v1::StatusReply;

use self::ask::{Found, Verdict, ask_all};
use self::gather::{Gathered, gather};
use self::get::{Getter, Origin};
use self::known::Published;
use super::{Fleet, Outcome, status};
use crate::error::{CommandError, Exit};
use crate::ui::{Table, Ui};
use crate::words::{clean, count, parse_duration};

/// Ask for a page and all it names, everywhere it should be, and compare with what was published
#[derive(Debug, Args)]
#[command(after_help = "\
Follows style sheets, modules, preloads and import maps. Each asset is asked for at the
page's own host, at every asset host and at the store; a CDN is checked by giving the
page's address there. What is published is known by its digest, so that wrong bytes are
found as well as missing ones. Exit 1 when anything is missing, wrong or silent.
  shipctl asset check https://www.example.com/
  shipctl asset check https://www.example.com/ -o json | jq '.problems'")]
pub struct Check {
    /// Address of a page
    url: String,
    /// Ask the hosts that run the app as well, where it serves its assets itself
    #[arg(long)]
    app_hosts: bool,
    /// For one answer
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = parse_duration)]
    timeout: Duration,
}

pub async fn run(verb: Check, fleet: &Fleet, ui: &Ui) -> Outcome {
    let getter = Getter::new(&fleet.context, verb.timeout);
    let getter = getter.map_err(|error| CommandError::of(Exit::Error, &error))?;
    let page = gather(&verb.url, &getter).await?;
    let reply = status::ask(fleet, fleet.context.app.as_ref()).await?;
    let servers = servers(&reply, fleet, verb.app_hosts);
    let published = known::published(&page, &reply, fleet).await?;
    let found = ask_all(&page, &published, &servers, &getter).await;
    let report = Report {
        page: &page,
        published: &published,
        servers: &servers,
        found: &found,
    };
    if ui.is_json() {
        ui.json(&report.as_json());
    } else {
        report.show(ui);
    }
    Ok(if report.problems().next().is_some() {
        Exit::Error
    } else {
        Exit::Done
    })
}

/// Where the store knows assets to be served, each once.
fn servers(reply: &StatusReply, fleet: &Fleet, app_hosts: bool) -> Vec<Origin> {
    let of_hosts = reply.apps.iter().flat_map(|app| app.asset_urls.iter());
    let told = fleet.context.assets.iter().chain([&reply.asset_url]);
    let mut all: Vec<Origin> = of_hosts.chain(told).filter_map(|url| Origin::read(url)).collect();
    if app_hosts {
        let hosts = reply.apps.iter().flat_map(|app| app.hosts.iter());
        let reports = hosts
            .filter(|host| host.runs_app)
            .filter_map(|host| host.report.as_ref());
        let listening = reports.flat_map(|report| report.listen.values());
        all.extend(listening.filter_map(|at| Origin::read(&format!("http://{at}"))));
    }
    all.sort();
    all.dedup();
    all
}

struct Report<'a> {
    page: &'a Gathered,
    published: &'a BTreeMap<String, Published>,
    servers: &'a [Origin],
    found: &'a [Found],
}

impl Report<'_> {
    fn problems(&self) -> impl Iterator<Item = &Found> {
        self.found.iter().filter(|found| found.verdict.is_problem())
    }

    fn show(&self, ui: &Ui) {
        let mut table = Table::new(&["asset", "at", "found", "published"]);
        let mut problems = 0;
        for found in self.problems() {
            problems += 1;
            let published = self.published.get(&found.path);
            let published = published.map_or_else(|| "-".to_owned(), |known| known.digests_short());
            table.row([
                clean(&found.path),
                found.origin.to_string(),
                clean(&found.verdict.in_words()),
                published,
            ]);
        }
        if problems > 0 {
            table.print(ui);
        }
        let foreign = match self.page.elsewhere.len() {
            0 => String::new(),
            number => format!("; {} elsewhere not asked for", count(number as u64, "name")),
        };
        let cut = if self.page.is_cut {
            "; it names more than are followed"
        } else {
            ""
        };
        ui.line(format!(
            "{}: {} at {}, {} asked, {problems} wrong{foreign}{cut}",
            clean(&self.page.url),
            count(self.page.named.len() as u64, "asset"),
            count(self.servers.len() as u64 + 1, "server"),
            self.found.len(),
        ));
        let silent = self
            .problems()
            .filter(|found| matches!(found.verdict, Verdict::Silent(_)));
        if silent.count() > 0 {
            ui.hint("which hosts are away: shipctl hosts; why: shipctl why HOST");
        }
    }

    fn as_json(&self) -> serde_json::Value {
        let shown = |found: &Found| {
            let known = self.published.get(&found.path);
            serde_json::json!({
                "path": found.path, "at": found.origin.to_string(), "verdict": found.verdict.name(),
                "detail": found.verdict.in_words(), "digest": found.digest,
                "published": known.map(|known| &known.digests), "release": known.map(|known| known.release),
            })
        };
        let named = self.page.named.iter().map(|asset| &asset.path);
        let servers = self.servers.iter().map(ToString::to_string);
        serde_json::json!({
            "url": self.page.url, "named": named.collect::<Vec<_>>(), "elsewhere": self.page.elsewhere,
            "servers": servers.collect::<Vec<_>>(), "asked": self.found.len(), "cut": self.page.is_cut,
            "problems": self.problems().map(shown).collect::<Vec<_>>(),
            "found": self.found.iter().map(shown).collect::<Vec<_>>(),
        })
    }
}

/// What is wrong with an address that was typed.
fn no_page(url: &str) -> CommandError {
    CommandError::usage(format!("{:?} is not the address of a page", clean(url)))
        .hint("as in https://www.example.com/ or http://127.0.0.1:8080/index.html")
}
