//! The story that the demo tells.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::account::Account;
use super::load::{Followed, Users, follow};
use super::shell::{Said, Shell};
use crate::error::{CommandError, Exit};
use crate::fleet::{Binaries, run_tool};
use crate::ui::{Bar, DIM, Ui, paint};
use crate::words::{bytes, clean, duration};

/// Requests per second of each kind: over new connections, and over kept ones.
const RATE: u32 = 100;
/// Answers that must be seen before and after something happens.
const SOME: u64 = 60;

struct Stage<'a> {
    dir: &'a Path,
    ship_load: PathBuf,
    sample: PathBuf,
    shell: Shell,
    ui: &'a Ui,
    bar: Bar,
    account: Account,
    /// Where each host's app answers.
    pages: Vec<String>,
    /// Whoever serves assets: hosts and the store.
    bases: Vec<String>,
}

pub async fn tell(dir: &Path, binaries: &Binaries, ui: &Ui) -> Result<Account, CommandError> {
    let mut stage = Stage {
        dir,
        ship_load: binaries.path("ship-load").to_owned(),
        sample: binaries.path("ship-sample").to_owned(),
        shell: Shell::new(dir.join("context.toml"))?,
        ui,
        bar: Bar::spinner(ui, ""),
        account: Account::default(),
        pages: Vec::new(),
        bases: Vec::new(),
    };
    let told = Box::pin(stage.tell()).await;
    stage.bar.clear();
    told.map(|()| stage.account)
}

impl Stage<'_> {
    async fn tell(&mut self) -> Result<(), CommandError> {
        self.first_release().await?;
        let mut users = Users::start(&self.ship_load, &self.pages, RATE)?;
        self.show_users(&users);
        users.until("an answer", |report| report.ok >= SOME).await?;
        self.say(&format!(
            "✓ users ask: {} requests per second, half over new connections",
            2 * RATE
        ));
        let promote = self.second_release().await?;
        self.broken_release().await?;
        let watching = self.revert().await?;
        let report = users.stop().await?;
        self.account.promote_first = since(promote, report.of(2).first_us);
        self.account.broken_answers = report.of(3).answers + watching.of(3).answers;
        self.account.users = vec![report, watching];
        self.all_assets().await
    }

    fn say(&self, text: &str) {
        self.bar.say(self.ui, text);
    }

    fn command(&self, words: &[&str]) {
        let shown = typed(words);
        self.bar.set_message(format!("shipctl {shown}"));
        self.say(&paint(DIM, format!("\n$ shipctl {shown}")));
    }

    async fn run(&self, words: &[&str], expected: Exit) -> Result<Said, CommandError> {
        self.command(words);
        self.shell.run(words, expected).await
    }

    /// Shows on the bar what users see meanwhile.
    fn show_users(&self, users: &Users) {
        if !self.ui.is_lively() {
            return;
        }
        let (mut reports, bar) = (users.reports(), self.bar.clone());
        tokio::spawn(async move {
            while reports.changed().await.is_ok() {
                let report = reports.borrow_and_update().clone();
                bar.set_message(format!("users: {} answers, {} lost", report.ok, report.failed));
            }
        });
    }

    async fn first_release(&mut self) -> Result<(), CommandError> {
        self.publish(1, false).await?;
        let said = self.run(&["promote", "web@1"], Exit::Done).await?;
        self.say(&format!("✓ web@1 runs on 3 hosts, {}", duration(said.took)));
        self.find_listeners().await?;
        self.count_bytes().await?;
        self.follow("version 1").await
    }

    /// When the promote was typed.
    async fn second_release(&mut self) -> Result<u64, CommandError> {
        self.publish(2, false).await?;
        let plan = self.run(&["plan", "web@2"], Exit::Done).await?;
        self.show_plan(&plan.json);
        let said = self
            .run(&["promote", "web@2", "-m", "version 2"], Exit::Done)
            .await?;
        self.account.promote_all = said.took;
        self.say(&format!(
            "✓ web@2 runs on 3 hosts, {}, under load",
            duration(said.took)
        ));
        self.count_bytes().await?;
        self.follow("versions 1 and 2").await?;
        Ok(said.began_us)
    }

    async fn broken_release(&mut self) -> Result<(), CommandError> {
        self.publish(3, true).await?;
        let said = self.run(&["promote", "web@3"], Exit::Reverted).await?;
        let reason = clean(said.json["reason"].as_str().unwrap_or("its probe failed"));
        self.say(&format!(
            "✓ web@3 is broken and was taken back, exit code 5: {reason}"
        ));
        self.follow("after the broken version").await
    }

    async fn revert(&mut self) -> Result<super::load::Report, CommandError> {
        // A second group, so that its first answer of the old release is the first after the command.
        let mut watching = Users::start(&self.ship_load, &self.pages, RATE / 2)?;
        watching
            .until("an answer of version 2", |report| {
                report.of(2).answers >= SOME / 2
            })
            .await?;
        let said = self
            .run(&["revert", "web", "-m", "version 2 is not liked"], Exit::Done)
            .await?;
        self.account.revert_all = said.took;
        watching
            .until("answers of version 1", |report| report.of(1).answers >= SOME)
            .await?;
        let report = watching.stop().await?;
        self.account.revert_first = since(said.began_us, report.of(1).first_us);
        self.account.revert_last_old = since(said.began_us, report.of(2).last_us);
        self.say(&format!(
            "✓ web@1 runs again, first answer after {}",
            duration(self.account.revert_first)
        ));
        Ok(report)
    }

    async fn publish(&mut self, version: u32, broken: bool) -> Result<(), CommandError> {
        let tree = self.dir.join("sample").join(format!("v{version}"));
        let number = version.to_string();
        let mut words = vec![
            "make".as_ref(),
            "--out".as_ref(),
            tree.as_os_str(),
            "--version".as_ref(),
            number.as_ref(),
        ];
        if broken {
            words.push("--broken".as_ref());
        }
        run_tool(&self.sample, &words).await?;
        let shown = tree.display().to_string();
        let said = self
            .run(
                &["publish", &shown, "--label", &format!("version {version}")],
                Exit::Done,
            )
            .await?;
        let of = |key: &str| said.json[key].as_u64().unwrap_or(0);
        self.account.stored_bytes += of("stored_bytes");
        self.say(&format!(
            "✓ web@{}: {} files, {}, of which {} are new",
            of("release"),
            of("files"),
            bytes(of("bytes")),
            bytes(of("new_bytes"))
        ));
        Ok(())
    }

    fn show_plan(&self, plan: &Value) {
        for step in plan["steps"].as_array().into_iter().flatten() {
            let hosts = step["hosts"].as_array().into_iter().flatten();
            let hosts: Vec<_> = hosts
                .filter_map(|host| host["host"].as_str())
                .map(clean)
                .collect();
            self.say(&format!(
                "  {} {:<10} {}",
                step["number"],
                clean(step["name"].as_str().unwrap_or("")),
                hosts.join(", ")
            ));
        }
    }

    async fn find_listeners(&mut self) -> Result<(), CommandError> {
        let said = self.shell.run(&["status", "web"], Exit::Done).await?;
        let app = &said.json["apps"][0];
        let texts = |list: &Value| -> Vec<String> {
            let list = list.as_array().into_iter().flatten();
            list.filter_map(|text| text.as_str().map(str::to_owned)).collect()
        };
        let hosts = app["hosts"].as_array().into_iter().flatten();
        let listeners = hosts.filter_map(|host| host["listen"]["http"].as_str());
        self.pages = listeners.map(|address| format!("http://{address}/")).collect();
        self.bases = texts(&app["asset_urls"]);
        let store = said.json["store_asset_url"].as_str().map(str::to_owned);
        self.bases
            .extend(store.filter(|url| !url.is_empty() && !self.bases.contains(url)));
        if self.pages.len() == 3 && self.bases.len() >= 3 {
            return Ok(());
        }
        Err(CommandError::new(
            Exit::Error,
            format!(
                "status names {} listeners and {} asset servers",
                self.pages.len(),
                self.bases.len()
            ),
        ))
    }

    fn history(&self) -> PathBuf {
        self.dir.join("history.jsonl")
    }

    async fn follow(&mut self, what: &str) -> Result<(), CommandError> {
        let found = follow(&self.ship_load, &self.pages, &self.bases, &self.history()).await?;
        self.say(&format!("✓ pages followed, {what}: {}", words(&found)));
        self.account.followed.push(found);
        Ok(())
    }

    /// Every fingerprinted asset of every version that was published, the broken one too, from everybody.
    async fn all_assets(&mut self) -> Result<(), CommandError> {
        let mut lines = String::new();
        for release in ["web@1", "web@2", "web@3"] {
            let said = self.shell.run(&["asset", "ls", release], Exit::Done).await?;
            let assets = said.json["assets"].as_array().into_iter().flatten();
            for asset in assets.filter(|asset| asset["fingerprinted"] == true) {
                let line = serde_json::json!({ "path": asset["url"], "digest": asset["digest"] });
                lines.push_str(&format!("{line}\n"));
            }
        }
        let path = self.dir.join("published.jsonl");
        ship_durable::write_file(&path, lines.as_bytes())
            .map_err(|source| CommandError::internal("write the list of assets", source))?;
        let found = follow(&self.ship_load, &self.pages, &self.bases, &path).await?;
        self.say(&format!(
            "✓ every asset of versions 1, 2 and 3, from every host: {}",
            words(&found)
        ));
        self.account.followed.push(found);
        self.follow("at the end").await
    }

    /// What the last update brought to the hosts.
    async fn count_bytes(&mut self) -> Result<(), CommandError> {
        let said = self.shell.run(&["status", "web"], Exit::Done).await?;
        let hosts = said.json["apps"][0]["hosts"].as_array().into_iter().flatten();
        self.account.fetched_bytes += hosts
            .filter_map(|host| host["fetched_bytes"].as_u64())
            .sum::<u64>();
        Ok(())
    }
}

fn words(found: &Followed) -> String {
    format!(
        "{} assets asked, {} missing",
        found.assets_asked,
        found.missing + found.changed + found.bad
    )
}

/// From one moment to a later one; nothing when the later never came.
fn since(began_us: u64, at_us: u64) -> Duration {
    Duration::from_micros(at_us.saturating_sub(began_us))
}

/// As one would type it into a shell.
fn typed(words: &[&str]) -> String {
    let quoted = |word: &&str| match word.contains(' ') {
        true => format!("\"{word}\""),
        false => (*word).to_owned(),
    };
    words.iter().map(quoted).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_typed() {
        assert_eq!(
            typed(&["promote", "web@2", "-m", "version 2"]),
            "promote web@2 -m \"version 2\""
        );
    }
}
