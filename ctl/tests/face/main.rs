//! What a user sees where no store is needed: help, mistakes, exit codes. Each as one text: stdout, stderr
//! and status together.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]

use std::path::Path;
use std::process::Command;

/// Runs shipctl in `folder`, with nothing of the caller's environment that could speak to it.
fn shipctl(folder: &Path, words: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_shipctl"))
        .args(words)
        .current_dir(folder)
        .env_clear()
        .env("HOME", folder)
        .output()
        .unwrap();
    let place = folder.display().to_string();
    let clean = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&place, "$HOME");
    format!(
        "{}--- stderr\n{}--- exit {}\n",
        clean(&output.stdout),
        clean(&output.stderr),
        output.status.code().unwrap()
    )
}

fn empty() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn write(folder: &Path, name: &str, text: &str) {
    use std::io::Write as _;
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::File::create(path)
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
}

#[test]
fn help_teaches() {
    let folder = empty();
    insta::assert_snapshot!("help", shipctl(folder.path(), &["--help"]));
    for verb in [
        "init",
        "lint",
        "publish",
        "releases",
        "show",
        "diff",
        "export",
        "pin",
        "unpin",
        "gc",
        "env",
        "plan",
        "promote",
        "revert",
        "attach",
        "approve",
        "reject",
        "ack",
        "pause",
        "resume",
        "abort",
        "status",
        "hosts",
        "host",
        "logs",
        "events",
        "why",
        "asset",
        "doctor",
        "up",
        "demo",
        "completion",
    ] {
        let text = shipctl(folder.path(), &[verb, "-h"]);
        assert!(text.ends_with("--- exit 0\n"), "{text}");
        let own = text.split("Everywhere:").next().unwrap();
        let after = text.rsplit("(NO_COLOR is honoured as well)\n").next().unwrap();
        insta::assert_snapshot!(format!("help_{verb}"), format!("{own}...\n{after}"));
    }
}

#[test]
fn parts_of_env_teach_too() {
    let folder = empty();
    for part in ["apply", "show"] {
        let text = shipctl(folder.path(), &["env", part, "-h"]);
        assert!(text.ends_with("--- exit 0\n"), "{text}");
        let own = text.split("Everywhere:").next().unwrap();
        let after = text.rsplit("(NO_COLOR is honoured as well)\n").next().unwrap();
        insta::assert_snapshot!(format!("help_env_{part}"), format!("{own}...\n{after}"));
    }
}

/// What is wrong with a file is told without a store.
#[test]
fn an_environments_file_is_checked_here_first() {
    let folder = empty();
    let text = "version = 1\nenv = \"dev\"\n[policy]\nmax_unavailabel = 1\nwave = \"0%\"\n";
    write(folder.path(), "ship.dev.toml", text);
    insta::assert_snapshot!(
        "env_mistakes",
        shipctl(folder.path(), &["env", "apply", "ship.dev.toml"])
    );
    insta::assert_snapshot!(
        "plan_absent",
        shipctl(folder.path(), &["promote", "--plan", "plan.json"])
    );
    write(folder.path(), "plan.json", "{\"version\":7}");
    insta::assert_snapshot!(
        "plan_newer",
        shipctl(folder.path(), &["promote", "--plan", "plan.json"])
    );
}

#[test]
fn shells_learn_every_verb() {
    let folder = empty();
    for (shell, mark) in [
        ("bash", "complete -F"),
        ("zsh", "#compdef shipctl"),
        ("fish", "complete -c shipctl"),
    ] {
        let script = shipctl(folder.path(), &["completion", shell]);
        assert!(script.ends_with("--- exit 0\n"), "{script}");
        for part in [mark, "promote", "without", "completion"] {
            assert!(script.contains(part), "{shell} has no {part}");
        }
    }
    assert!(shipctl(folder.path(), &["completion", "tcsh"]).ends_with("--- exit 2\n"));
}

#[test]
fn wrong_words_are_usage() {
    let folder = empty();
    insta::assert_snapshot!("unknown_verb", shipctl(folder.path(), &["promte", "web"]));
    insta::assert_snapshot!("bad_release", shipctl(folder.path(), &["promote", "web@x"]));
    insta::assert_snapshot!(
        "bad_time",
        shipctl(folder.path(), &["promote", "web", "--wait-timeout", "5"])
    );
}

#[test]
fn no_fleet_is_named() {
    let folder = empty();
    insta::assert_snapshot!("no_context", shipctl(folder.path(), &["status"]));
    insta::assert_snapshot!(
        "absent_context",
        shipctl(folder.path(), &["-c", "x.toml", "status"])
    );
    write(folder.path(), "context.toml", "version = 1\nstores = 1\n");
    insta::assert_snapshot!("near_context", shipctl(folder.path(), &["status"]));
    insta::assert_snapshot!(
        "bad_context",
        shipctl(folder.path(), &["-c", "context.toml", "status"])
    );
    insta::assert_snapshot!(
        "json_error",
        shipctl(folder.path(), &["-c", "x.toml", "-o", "json", "status"])
    );
}

#[test]
fn a_first_ship_toml() {
    let folder = empty();
    insta::assert_snapshot!("init", shipctl(folder.path(), &["init", "-a", "web"]));
    insta::assert_snapshot!("init_again", shipctl(folder.path(), &["init", "-a", "web"]));
    insta::assert_snapshot!("lint_good", shipctl(folder.path(), &["lint"]));
}

#[test]
fn lint_tells_every_mistake() {
    let folder = empty();
    write(
        folder.path(),
        "ship.toml",
        "app = \"web\"\nplatfrom = []\n[process.web]\ncommand = []\n",
    );
    let text = shipctl(folder.path(), &["lint"]);
    assert!(text.contains("platfrom") && text.contains("command"), "{text}");
    assert!(text.ends_with("--- exit 1\n"), "{text}");
    insta::assert_snapshot!(
        "lint_nameless",
        shipctl(
            &{
                let bare = folder.path().join("bare");
                write(&bare, "index.html", "<p>");
                bare
            },
            &["lint"]
        )
    );
    insta::assert_snapshot!("lint_no_folder", shipctl(folder.path(), &["lint", "nowhere"]));
}

#[test]
fn lint_tells_what_an_open_page_would_miss() {
    let folder = empty();
    write(
        folder.path(),
        "ship.toml",
        "app = \"site\"\n[[assets]]\nroot = \"public\"\nurl = \"/static\"\nmutable = [\"plain.css\"]\n\
         private = [\"*.map\", \"nothing/**\"]\n[[assets]]\nroot = \"docs\"\nurl = \"/docs\"\n",
    );
    write(
        folder.path(),
        "public/index.html",
        "<link rel=stylesheet href=plain.css>\n<script src=/static/gone.js></script><a href=/static/nowhere>\n\
         <img src=/static/logo.png><img src=/other/x.png><img src=https://example.com/static/y.png>\n\
         <img src=main.3f9a12bc.js.map>",
    );
    write(
        folder.path(),
        "public/plain.css",
        "@import 'absent.css'; a { b: url(logo.png) }",
    );
    write(
        folder.path(),
        "public/main.3f9a12bc.js",
        "import(\"./lazy.77c1aa00.js\");import './main.3f9a12bc.js'",
    );
    write(folder.path(), "public/main.3f9a12bc.js.map", "{}");
    write(folder.path(), "public/logo.png", "png");
    write(folder.path(), "docs/open.js.map", "{}");
    write(
        folder.path(),
        "templates/page.html",
        "<script src='/static/absent.js'></script><script src='{{ x }}'></script><img src=a.png>",
    );
    insta::assert_snapshot!("lint_assets", shipctl(folder.path(), &["lint"]));
    let strict = shipctl(folder.path(), &["lint", "--strict", "-o", "json"]);
    assert!(strict.ends_with("--- exit 1\n"), "{strict}");
    insta::assert_snapshot!("lint_assets_json", strict);
}

#[test]
fn a_broken_manifest_of_a_tool_is_told_and_stops_nothing() {
    let folder = empty();
    write(
        folder.path(),
        "ship.toml",
        "app = \"site\"\n[[assets]]\nroot = \".\"\nurl = \"/\"\n",
    );
    write(folder.path(), "manifest.json", "{\"a\": ");
    write(folder.path(), "index.html", "<p>");
    let told = shipctl(folder.path(), &["lint"]);
    assert!(
        told.contains("\"manifest.json\" looks like the manifest of a build tool and is no JSON"),
        "{told}"
    );
    assert!(told.ends_with("--- exit 0\n"), "{told}");
}

#[test]
fn programs_of_a_fleet_that_are_missing() {
    // Elsewhere it has no siblings. A copy could not be run while a thread that starts another program holds it open.
    let folder = empty();
    let (shipctl, alone) = (env!("CARGO_BIN_EXE_shipctl"), folder.path().join("shipctl"));
    std::fs::hard_link(shipctl, &alone)
        .or_else(|_| std::fs::copy(shipctl, &alone).map(drop))
        .unwrap();
    let output = Command::new(&alone)
        .args(["up", "--dir", "fleet"])
        .current_dir(folder.path())
        .env_clear()
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    insta::assert_snapshot!("up_alone", String::from_utf8_lossy(&output.stderr));
    assert!(!folder.path().join("fleet").exists(), "nothing was made");
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let folder = empty();
    let mut child = Command::new(env!("CARGO_BIN_EXE_shipctl"))
        .arg("--help")
        .current_dir(folder.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_program_that_is_not_in_the_release_is_found_before_a_host_looks_for_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = empty();
    let listed = |command: &str| {
        write(
            folder.path(),
            "ship.toml",
            &format!(
                "app = \"web\"\n[process.web]\ncommand = [\"{command}\"]\n[shared]\ndirs = [\"tools\"]\n"
            ),
        );
        shipctl(folder.path(), &["lint"])
    };
    let place = folder.path().canonicalize().unwrap();
    let script = format!("#!{}/env/bin/python\n", place.display());
    write(folder.path(), "run.sh", &script);
    assert!(listed("bin/server").contains("\"bin/server\" is not in the release"));
    assert!(listed("./run.sh").contains("\"./run.sh\" is not executable: chmod +x ./run.sh"));
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder.path().join("run.sh"), mode).unwrap();
    let warned = listed("./run.sh");
    assert!(warned.contains("names this folder") && warned.contains("[\"env/bin/python\", \"-m\", …]"));
    assert!(warned.ends_with("--- exit 0\n"), "{warned}");
    let warned = listed("run.sh");
    assert!(
        warned.contains("looked up in PATH; for the release's own write \"./run.sh\""),
        "{warned}"
    );
    for fine in ["tools/server", "/usr/bin/env", "node"] {
        let quiet = listed(fine);
        assert!(!quiet.contains("process.web"), "{quiet}");
    }
}
