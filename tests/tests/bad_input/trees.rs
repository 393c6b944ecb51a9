//! Folders that cannot become a release.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use ship_tests::{Fleet, Ran, shipctl, wait};

use crate::state::{good, of, refused, with_one_release};

const NOBODY: u32 = 65534;

#[test]
fn a_folder_that_cannot_be_a_release_changes_nothing() {
    let fleet = with_one_release(1);
    let before = of(&fleet);
    let publish = |root: &Path| fleet.shipctl(&["publish", root.to_str().unwrap()]);
    for (name, spoil, words) in SPOILED {
        let root = good(&fleet, name);
        spoil(&root);
        refused(&fleet, &before, publish(&root), 1, words);
    }
    for (name, text, words) in SPECS {
        let root = good(&fleet, name);
        fs::write(root.join("ship.toml"), text).unwrap();
        refused(&fleet, &before, publish(&root), 1, words);
        // `lint` says the same before anything is sent.
        let lint = fleet.shipctl(&["lint", root.to_str().unwrap()]);
        refused(&fleet, &before, lint, 1, words);
    }
    empty(&fleet, &before);
    busy(&fleet, &before);
    unreadable(&fleet, &before);
    let page = fleet.home("h1", "site").join("current/index.html");
    assert_eq!(fs::read_to_string(page).unwrap(), "first");
}

type Spoiled = (&'static str, fn(&Path), &'static [&'static str]);

/// What is done to a good tree, and what must be said of it.
const SPOILED: &[Spoiled] = &[
    (
        "link-out",
        |root| symlink("../../secret", root.join("out")).unwrap(),
        &["\"out\"", "../../secret", "external"],
    ),
    (
        "link-absolute",
        |root| symlink("/etc/passwd", root.join("abs")).unwrap(),
        &["\"abs\"", "/etc/passwd", "external"],
    ),
    (
        "socket",
        |root| drop(std::os::unix::net::UnixListener::bind(root.join("sock")).unwrap()),
        &["\"sock\" is a socket", "remove it"],
    ),
    (
        "fifo",
        |root| mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap(),
        &["\"pipe\" is a FIFO", "remove it"],
    ),
    (
        "setuid",
        |root| {
            fs::write(root.join("su"), "x").unwrap();
            fs::set_permissions(root.join("su"), PermissionsExt::from_mode(0o4755)).unwrap();
        },
        &["\"su\" is setuid", "chmod a-s"],
    ),
    (
        "over-long",
        |root| fs::create_dir_all(root.join(format!("{}/", "l".repeat(240)).repeat(13))).unwrap(),
        &["lll", "rename it"],
    ),
    (
        "many",
        |root| {
            mknodat(CWD, root.join("a\n\x1b[31m"), FileType::Fifo, Mode::RUSR, 0).unwrap();
            mknodat(CWD, root.join("b"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        },
        &["\"a\\n\\u{1b}[31m\" is a FIFO", "\"b\" is a FIFO"],
    ),
    (
        "spec-link",
        |root| {
            fs::rename(root.join("ship.toml"), root.join("other")).unwrap();
            symlink("other", root.join("ship.toml")).unwrap();
        },
        &["ship.toml", "not a plain file"],
    ),
    (
        "spec-bytes",
        |root| fs::write(root.join("ship.toml"), b"app = \"\xff\"").unwrap(),
        &["ship.toml is not UTF-8"],
    ),
    (
        "spec-large",
        |root| fs::write(root.join("ship.toml"), vec![b'#'; 2 << 20]).unwrap(),
        &["ship.toml is larger"],
    ),
];

type Spec = (&'static str, &'static str, &'static [&'static str]);

const SPECS: &[Spec] = &[
    (
        "unknown-key",
        "app = \"site\"\nplatfrom = []\n",
        &["2:1", "platfrom", "platform", "hint:"],
    ),
    (
        "wrong-type",
        "app = \"site\"\n[process.web]\ncommand = 7\n",
        &["3:", "command", "hint:"],
    ),
    (
        "several",
        "app = \"Site\"\ncolour = 1\n[process.web]\ncommand = []\nready_timeout = \"soon\"\nlisten = { http = \"tcp:99999\" }\n",
        &["1:", "Site", "2:1", "colour", "4:", "5:", "soon", "6:", "99999"],
    ),
    ("no-toml", "app = \"site\n", &["1:", "hint:"]),
    (
        "asset-outside",
        "app = \"site\"\n[[assets]]\nroot = \"../..\"\nurl = \"/\"\n",
        &["3:", "../.."],
    ),
];

fn empty(fleet: &Fleet, before: &[String]) {
    let root = fleet.beside("trees").join("empty");
    fs::create_dir_all(root.join("folder")).unwrap();
    let ran = fleet.shipctl(&["publish", root.to_str().unwrap(), "-a", "site"]);
    refused(fleet, before, ran, 1, &["the tree is empty", "at least one file"]);
    let nowhere = root.join("nowhere");
    let ran = fleet.shipctl(&["publish", nowhere.to_str().unwrap(), "-a", "site"]);
    refused(fleet, before, ran, 1, &["nowhere is not a folder"]);
    if rustix::process::geteuid().is_root() {
        let root = good(fleet, "device");
        mknodat(
            CWD,
            root.join("null"),
            FileType::CharacterDevice,
            Mode::RUSR,
            makedev(1, 3),
        )
        .unwrap();
        let ran = fleet.shipctl(&["publish", root.to_str().unwrap()]);
        refused(fleet, before, ran, 1, &["\"null\" is a device", "remove it"]);
    }
}

/// A file that grows as long as anybody reads it.
fn busy(fleet: &Fleet, before: &[String]) {
    let root = good(fleet, "busy");
    let file = fs::File::create(root.join("log")).unwrap();
    file.set_len(64 << 20).unwrap();
    let (done, begun) = (AtomicBool::new(false), AtomicBool::new(false));
    let ran = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut end = 64 << 20;
            while !done.load(Ordering::Relaxed) {
                end += 1;
                file.set_len(end).unwrap();
                begun.store(true, Ordering::Relaxed);
                std::thread::yield_now();
            }
        });
        wait::until("it to grow", || begun.load(Ordering::Relaxed).then_some(()));
        let ran = fleet.shipctl(&["publish", root.to_str().unwrap()]);
        done.store(true, Ordering::Relaxed);
        ran
    });
    refused(
        fleet,
        before,
        ran,
        1,
        &["\"log\" changed while it was read", "when the build is done"],
    );
}

/// Root reads everything, so a user who may not publishes: with a context and a program of its own.
fn unreadable(fleet: &Fleet, before: &[String]) {
    let root = good(fleet, "unreadable");
    fs::write(root.join("closed"), "x").unwrap();
    fs::set_permissions(root.join("closed"), PermissionsExt::from_mode(0o000)).unwrap();
    let ran = as_nobody(fleet, &["publish", root.to_str().unwrap()]);
    refused(
        fleet,
        before,
        ran,
        1,
        &["\"closed\" cannot be read", "let the publishing user read it"],
    );
}

fn as_nobody(fleet: &Fleet, args: &[&str]) -> Ran {
    if !rustix::process::geteuid().is_root() {
        return fleet.shipctl(args);
    }
    let own = fleet.beside("nobody");
    let mut context = PathBuf::new();
    for name in ["context.toml", "tls/ca.pem", "tls/cert.pem", "tls/key.pem"] {
        let to = own.join(name);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(fleet.dir().join(name), &to).unwrap();
        chown(&to, Some(NOBODY), Some(NOBODY)).unwrap();
        if name == "context.toml" {
            context = to;
        }
    }
    let program = own.join("shipctl");
    let shipctl = ship_tests::bin("shipctl");
    if fs::hard_link(&shipctl, &program).is_err() {
        // By a process: what this one holds open for writing cannot be run while another test is starting something.
        let copied = Command::new("cp").args([&shipctl, &program]).status();
        assert!(copied.unwrap().success());
    }
    fs::set_permissions(fleet.dir().parent().unwrap(), PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new(&program);
    command.arg("-c").arg(context).args(args).current_dir("/");
    command
        .env("NO_COLOR", "1")
        .env("HOME", "/")
        .uid(NOBODY)
        .gid(NOBODY);
    shipctl::finish(command, args)
}
