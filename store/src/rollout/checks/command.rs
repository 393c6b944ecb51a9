//! A gate's program, from the folder that `store.toml` names.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::geteuid;
use ship_model::rollout::Verdict;

use super::{About, Offers, Word};
use crate::log::whole;
use crate::program::{RunError, Task, run};

/// Runs it once. An error is why it could not be.
pub(super) async fn check(
    argv: &[String],
    about: &About,
    patience: Duration,
    offers: &Offers,
) -> Result<Word, String> {
    let (name, arguments) = argv.split_first().ok_or("the gate names no program")?;
    let folder = offers.settings.programs.clone().ok_or_else(|| {
        format!("the store offers no programs, and the gate asks for {name}: [gates] programs in store.toml")
    })?;
    let program = {
        let name = name.clone();
        let found = offers.bridge.run(move || offered(&folder, &name)).await;
        found.map_err(|error| error.to_string())??
    };
    let task = Task {
        program: &program,
        arguments,
        surroundings: surroundings(about),
        input: b"",
        patience,
    };
    match run(task).await {
        Ok(ended) => {
            let verdict = match ended.status.code() {
                Some(0) => Verdict::Pass,
                Some(1) => Verdict::Fail,
                _ => Verdict::Unknown,
            };
            Ok((verdict, join(&ended.status.to_string(), &ended.said)))
        }
        Err(RunError::Slow { seconds, said }) => Ok((
            Verdict::Unknown,
            join(&format!("not done within {seconds} s"), &said),
        )),
        Err(error) => Err(format!("{name}: {}", whole(&error))),
    }
}

fn join(first: &str, rest: &str) -> String {
    match rest {
        "" => first.to_owned(),
        rest => format!("{first}\n{rest}"),
    }
}

fn surroundings(about: &About) -> Vec<(&'static str, String)> {
    vec![
        ("SHIP_APP", about.app.clone()),
        ("SHIP_ENV", about.env.clone()),
        ("SHIP_RELEASE", about.release.to_string()),
        (
            "SHIP_PREVIOUS",
            about.from.map(|from| from.to_string()).unwrap_or_default(),
        ),
        ("SHIP_DEPLOY", about.deploy.to_string()),
        ("SHIP_GATE", about.gate.clone()),
    ]
}

/// The program's path, if nobody but root or the store's own user can have written it.
fn offered(folder: &Path, name: &str) -> Result<PathBuf, String> {
    let program = folder.join(name);
    for path in [folder, &program] {
        let found = fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let owner = found.uid() == 0 || found.uid() == geteuid().as_raw();
        if !owner || found.mode() & 0o022 != 0 {
            return Err(format!(
                "{} may be written by others than root and the store's user",
                path.display()
            ));
        }
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::panic,
        reason = "a test may stop at the first surprise"
    )]
    use std::os::unix::fs::PermissionsExt as _;

    use ship_durable::{rename, write_file};
    use tempfile::TempDir;

    use super::*;
    use crate::bridge::Bridge;
    use crate::settings::GateSettings;

    fn about() -> About {
        About {
            app: "web".to_owned(),
            env: "production".to_owned(),
            release: 5,
            from: None,
            deploy: 7,
            gate: "smoke".to_owned(),
        }
    }

    fn offers(script: &str, mode: u32) -> (TempDir, Offers) {
        let folder = TempDir::new().unwrap();
        let (made, program) = (folder.path().join("made"), folder.path().join("smoke"));
        write_file(&made, format!("#!/bin/sh\n{script}\n").as_bytes()).unwrap();
        fs::set_permissions(&made, fs::Permissions::from_mode(mode)).unwrap();
        rename(&made, &program).unwrap();
        let offers = Offers {
            settings: GateSettings {
                programs: Some(folder.path().to_owned()),
                site: Vec::new(),
            },
            bridge: Bridge::new(1),
        };
        (folder, offers)
    }

    const LONG: Duration = Duration::from_secs(120);

    /// A file that was written a moment ago may still be open in a process that another test is just starting.
    async fn asked(argv: &[&str], patience: Duration, offers: &Offers) -> Result<Word, String> {
        let argv: Vec<String> = argv.iter().map(|word| (*word).to_owned()).collect();
        loop {
            let made = check(&argv, &about(), patience, offers).await;
            match &made {
                Err(why) if why.contains("Text file busy") => tokio::task::yield_now().await,
                _ => return made,
            }
        }
    }

    #[tokio::test]
    async fn the_exit_code_is_the_verdict_and_the_surroundings_are_its_own() {
        let (_folder, offers) = offers("env | sort; pwd; echo \"$2\"; exit $1", 0o755);
        for (code, verdict) in [
            ("0", Verdict::Pass),
            ("1", Verdict::Fail),
            ("2", Verdict::Unknown),
            ("75", Verdict::Unknown),
        ] {
            let (found, said) = asked(&["smoke", code, "a b; $(id)"], LONG, &offers)
                .await
                .unwrap();
            assert_eq!(found, verdict, "{said}");
            let lines: Vec<&str> = said.lines().collect();
            assert_eq!(lines[0], format!("exit status: {code}"));
            assert!(
                lines.contains(&"SHIP_RELEASE=5") && lines.contains(&"SHIP_PREVIOUS="),
                "{said}"
            );
            assert!(!said.contains("CARGO") && !said.contains("HOME="), "{said}");
            assert_eq!(lines[lines.len() - 2..], ["/", "a b; $(id)"]);
        }
    }

    #[tokio::test]
    async fn what_it_prints_is_bounded_and_escaped() {
        let (_folder, offers) = offers(
            "yes | head -c 3000000; printf 'last\\033[31m\\n' >&2; exit 1",
            0o755,
        );
        let (verdict, said) = asked(&["smoke"], LONG, &offers).await.unwrap();
        assert_eq!(verdict, Verdict::Fail);
        assert!(
            said.len() < 2 * crate::program::KEPT && said.contains("last\\u{1b}[31m"),
            "{}",
            said.len()
        );
    }

    #[tokio::test]
    async fn one_that_takes_too_long_is_unknown_and_ends_with_all_it_started() {
        let (folder, offers) = offers("sleep 1000 & echo $! > \"$1\"; wait", 0o755);
        let place = folder.path().join("child");
        let place = place.display().to_string();
        // So long that it has come to its wait.
        let (verdict, said) = loop {
            let word = asked(&["smoke", &place], Duration::from_secs(1), &offers)
                .await
                .unwrap();
            if fs::read_to_string(&place).is_ok_and(|text| !text.trim().is_empty()) {
                break word;
            }
        };
        assert_eq!(verdict, Verdict::Unknown);
        assert!(said.starts_with("not done within 1 s"), "{said}");
        let child: i32 = fs::read_to_string(&place).unwrap().trim().parse().unwrap();
        let is_over = || {
            let status = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            !status.contains("(sleep)") || status.contains(") Z ")
        };
        while !is_over() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn only_what_nobody_else_can_write_is_run() {
        let (folder, offers) = offers("exit 0", 0o777);
        let refused = asked(&["smoke"], LONG, &offers).await.unwrap_err();
        assert!(refused.contains("may be written by others"), "{refused}");
        let absent = asked(&["absent"], LONG, &offers).await.unwrap_err();
        assert!(absent.contains("No such file"), "{absent}");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        fs::set_permissions(folder.path().join("smoke"), fs::Permissions::from_mode(0o755)).unwrap();
        let refused = asked(&["smoke"], LONG, &offers).await.unwrap_err();
        assert!(refused.contains("may be written by others"), "{refused}");
        let nothing = Offers {
            settings: GateSettings::default(),
            bridge: Bridge::new(1),
        };
        let refused = asked(&["smoke"], LONG, &nothing).await.unwrap_err();
        assert!(refused.contains("offers no programs"), "{refused}");
    }
}
