//! `ship.toml` by example: what is read, and every mistake with its words and its place.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test stops at the first surprise"
)]

use super::*;

fn read(text: &str) -> Result<ReleaseSpec, String> {
    read_ship_toml(text, None).map_err(|errors| {
        let lines: Vec<_> = errors.0.iter().map(ToString::to_string).collect();
        lines.join("\n")
    })
}

/// The file of the design, less what comes later.
const WHOLE: &str = r#"
app = "web"
platform = ["linux/arm64", "linux/amd64"]
x-team = "checkout"
[process.web]
command = ["./bin/server", "--fast"]
class = "front"
listen = { http = "tcp:8080", admin = "unix:admin.sock" }
strategy = "auto"
coexist = true
overlap = true
notify = true
probe = { http = "/healthz", listener = "http", times = 5 }
ready_timeout = "1m"
soak = "2s"
drain = "0s"
stop_signal = "SIGQUIT"
stop_timeout = "500ms"
user = "www-data"
limits = { nofile = 65_536, memory = "1GiB", pids = 500, cpu = 50 }
env = { RAILS_ENV = "production" }
[process.worker]
command = ["bin/worker"]
[[assets]]
root = "lib/static/"
url = "/static/"
mutable = ["index.html", "favicon.png"]
[[assets]]
root = "public"
url = "/"
[shared]
dirs = ["tmp", "log"]
files = [".env"]
[hooks]
[needs]
[provides]
[links]
external = ["/usr/bin/python3"]
[retention]
keep = 2
"#;

#[test]
fn a_standby_is_held_for_a_while_or_kept() {
    let read = |hold: &str| {
        let text = format!(
            "app = \"a\"\n[process.web]\ncommand = [\"x\"]\nlisten = {{ http = \"tcp:80\" }}\nstrategy = \"cut-over\"\n{hold}"
        );
        let spec = read_ship_toml(&text, None).unwrap();
        spec.check().unwrap();
        spec.processes.values().next().unwrap().standby().unwrap().hold_ms
    };
    assert_eq!(read(""), Some(600_000));
    assert_eq!(read("hold = \"90s\""), Some(90_000));
    assert_eq!(read("hold = \"keep\""), None);
}

#[test]
fn a_whole_file_is_read() {
    let spec = read(WHOLE).unwrap();
    assert_eq!(spec.platform, ["linux/amd64", "linux/arm64"]);
    assert_eq!(spec.keep, Some(2));
    assert_eq!(spec.external_links, ["/usr/bin/python3"]);
    assert_eq!(spec.assets[0].url, "/static");
    assert_eq!(spec.assets[0].folder(), "lib/static");
    assert_eq!(spec.assets[1].url, "/");
    assert_eq!(spec.shared.dirs[0].to_string(), "log");
    let web = &spec.processes[&ProcessName::new("web").unwrap()];
    assert_eq!(web.command, ["./bin/server", "--fast"]);
    assert_eq!(web.class.as_str(), "front");
    let probe = web.probe.as_ref().unwrap();
    assert_eq!((probe.times, probe.interval_ms, probe.timeout_ms), (5, 200, 1000));
    assert_eq!(web.ready_timeout_ms, 60_000);
    assert_eq!((web.soak_ms, web.drain_ms, web.stop_timeout_ms), (2000, 0, 500));
    assert_eq!(web.stop_signal, "QUIT");
    assert_eq!(web.limits.memory, Some(1 << 30));
    assert_eq!(web.limits.nofile, Some(65_536));
    assert_eq!((web.limits.pids, web.limits.cpu), (Some(500), Some(50)));
    let worker = &spec.processes[&ProcessName::new("worker").unwrap()];
    assert_eq!(worker.class.as_str(), "worker");
    assert_eq!((worker.ready_timeout_ms, worker.drain_ms), (30_000, 30_000));
    assert_eq!((worker.soak_ms, worker.stop_timeout_ms), (10_000, 10_000));
    assert!(!worker.notify);
    // What is read survives being part of a manifest.
    let json = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<ReleaseSpec>(&json).unwrap(), spec);
}

#[test]
fn an_app_can_say_not_now_and_want_both_generations() {
    let text = "app = \"a\"\n[process.web]\ncommand = [\"x\"]\ncoexist = \"always\"\nlock_wait = \"10m\"\nlock_deadline = \"go\"";
    let web = read(text).unwrap().processes.into_values().next().unwrap();
    assert_eq!((web.lock_wait_ms, web.lock_overrule), (Some(600_000), true));
    assert!(web.coexist && web.must_coexist);
}

#[test]
fn the_smallest_files() {
    let app = AppName::new("shop").unwrap();
    assert_eq!(
        read_ship_toml("", Some(app.clone())),
        Ok(ReleaseSpec::static_files(app.clone()))
    );
    assert_eq!(read("app = \"shop\""), Ok(ReleaseSpec::static_files(app.clone())));
    let template = init_template(&app);
    assert_eq!(read(&template), Ok(ReleaseSpec::static_files(app.clone())));
    // What the template shows works when the comment signs are taken away.
    let keys = |line: &str| {
        let key = line.strip_prefix("# ").unwrap_or(line);
        let is_toml = key.starts_with('[') || key.split(' ').nth(1) == Some("=") || key.is_empty();
        is_toml.then(|| key.to_owned())
    };
    let shown: Vec<_> = template.lines().filter_map(keys).collect();
    let spec = read(&shown.join("\n")).unwrap();
    assert_eq!(spec.processes.len(), 1);
    assert_eq!(spec.assets.len(), 1);
}

#[test]
fn every_mistake_has_its_place_and_words() {
    let table = [
        ("", "1:1: app: is missing (app = \"web\")"),
        (
            "app = 7",
            "1:7: app: must be a text in quotes, not a whole number",
        ),
        (
            "app = \"Web\"",
            "1:7: app: \"Web\" is not an app's name: use 1 to 63 of a-z, 0-9, '-', '_' and '.', beginning with a letter or a digit",
        ),
        (
            "app = \"a\"\nplatfrom = []",
            "2:1: platfrom: unknown key (did you mean \"platform\"?)",
        ),
        ("app = \"a\"\nzzz = 1", "2:1: zzz: unknown key"),
        (
            "app = \"a\"\nplatform = [\"linux/amd64\", \"windows\"]",
            "2:28: platform[1]: \"windows\" is not one of linux/amd64, linux/arm64",
        ),
        (
            "app = \"a\"\n[process.web]\nlisten = \"tcp:80\"\ncommand = [\"x\"]",
            "3:10: process.web.listen: must be a table of named addresses (listen = { http = \"tcp:8080\" })",
        ),
        (
            "app = \"a\"\n[process.web]\ncommand = []",
            "3:11: process.web.command: must name a program (command = [\"bin/program\"])",
        ),
        (
            "app = \"a\"\n[process.web]\ncommand = [\"../evil\"]",
            "3:12: process.web.command[0]: path \"../evil\" cannot be part of a release: it has a '.' or '..' component",
        ),
        (
            "app = \"a\"\n[process.web]\ncommand = [\"x\"]\nstrategy = \"cut-over\"",
            "2:1: process.web.listen: is missing (listen = { http = \"tcp:8080\" })",
        ),
        (
            "app = \"a\"\n[process.web]\ncommand = [\"x\"]\nlisten = { http = \"tcp:80\" }\nstrategy = \"cut-over\"\nhold = \"a while\"",
            "6:8: process.web.hold: \"a while\" is not a duration: write \"500ms\", \"30s\", \"2m\" or \"1h\"",
        ),
        (
            "app = \"a\"\n[process.web]\ncommand = [\"x\"]\nhold = \"1m\"",
            "4:8: process.web.hold: has no meaning with strategy \"listen-fds\", only with cut-over",
        ),
        (
            "app = \"a\"\n[process.web]\ncommand = [\"x\"]\nlisten = { http = \"tcp:80\" }\nstrategy = \"cut-over\"\n[process.jobs]\nclass = \"web\"\ncommand = [\"x\"]\noverlap = false",
            "2:10: process.web: \"cut-over\" keeps the whole old release to go back to, but of process jobs overlap = false ends the old one first (\"listen-fds\" or \"auto\")",
        ),
        (
            "app = \"a\"\n[process.web]\ncommand = [\"x\"]\nstrategy = \"bind-join\"\nlisten = { http = \"unix:a.sock\" }",
            "5:10: process.web.listen: http is a Unix socket, which cannot be joined (strategy = \"listen-fds\" hands it over)",
        ),
        (
            "app = \"a\"\n[process.web]\ncommand = [\"x\"]\nstrategy = \"bind-join\"\nlisten = { http = \"tcp:0\" }",
            "5:10: process.web.listen: http has port 0, which a process that binds by itself cannot know (strategy = \"listen-fds\" hands it over)",
        ),
        (
            "app = \"a\"\n[process.web]\ncommand = [\"x\"]\nstrategy = \"listen_fds\"",
            "4:12: process.web.strategy: \"listen_fds\" is no strategy (did you mean \"listen-fds\"?)",
        ),
        (
            "app = \"a\"\n[process.web]\ncommand = [\"x\"]\nprobe = { http = \"/\" }",
            "4:9: process.web.probe: needs a listener to ask",
        ),
        (
            "app = \"a\"\n[process.web]\ncommand = [\"x\"]\nlisten = { http = \"tcp:80\" }\nprobe = { grpc = true }",
            "5:18: process.web.probe.grpc: must be a text in quotes, not true or false",
        ),
        (
            "app = \"a\"\n[process.web]\ncommand = [\"x\"]\nlisten = { http = \"tcp:80\" }\nprobe = { grpc = \"\", tcp = true }",
            "5:9: process.web.probe: must have one of tcp, grpc, not more",
        ),
        (
            "app = \"a\"\n[process.web]\ncommand = [\"x\"]\npidfile = \"web.pid\"",
            "4:11: process.web.pidfile: has no meaning with strategy \"listen-fds\", only with signal-reexec",
        ),
        (
            "app = \"a\"\n[process.web]\ncommand = [\"x\"]\nserver = \"apache\"",
            "4:10: process.web.server: \"apache\" is not one of nginx, haproxy, unicorn, gunicorn, puma, php-fpm (leave it out, and name the signals: signals = { reload = \"HUP\" })",
        ),
        (
            "app = \"a\"\n[process.web]\ncommand = [\"x\"]\ncanary = 5",
            "4:10: process.web.canary: needs a listener, and a strategy that runs two generations side by side",
        ),
        (
            "app = \"a\"\n[process.web]\ncommand = [\"x\"]\nlisten = { http = \"unix:a\" }\ncanary = 5",
            "5:10: process.web.canary: needs a TCP or UDP listener: the clients of a Unix socket have no addresses to be told apart by",
        ),
        (
            "app = \"a\"\n[process.web]\ncommand = [\"x\"]\nlock_deadline = \"go\"\ncoexist = \"never\"",
            "4:17: process.web.lock_deadline: means nothing without lock_wait (lock_wait = \"10m\")\n5:11: process.web.coexist: must be true, false or \"always\" (coexist = true)",
        ),
        (
            "app = \"a\"\n[process.web]\ncommand = [\"x\"]\nlock_wait = \"1m\"\nlock_deadline = \"maybe\"",
            "5:17: process.web.lock_deadline: must be \"fail\" (the default) or \"go\"",
        ),
        (
            "app = \"a\"\n[process.web]\ncommand = [\"x\"]\nlimits = { pids = 0, cpu = 20000 }",
            "4:19: process.web.limits.pids: must be a whole number from 1 to 4194304\n4:28: process.web.limits.cpu: must be a whole number from 1 to 10000",
        ),
        (
            "app = \"a\"\n[process.web]\ncommand = [\"x\"]\nlisten = { http = \"tcp:80\" }\ncanary = 60",
            "5:10: process.web.canary: must be a whole number from 1 to 50",
        ),
        (
            "app = \"a\"\n[process.web]\ncommand = [\"x\"]\nlisten = { http = \"tcp:80\" }\nprobe = { tcp = true, times = 0 }",
            "5:31: process.web.probe.times: must be a whole number from 1 to 100",
        ),
        (
            "app = \"a\"\n[process.web]\ncommand = [\"x\"]\nlisten = { dns = \"udp:53\" }\nprobe = { tcp = true }",
            "5:9: process.web.probe: needs a listener that takes connections, and this one takes datagrams (probe = { command = [\"bin/check\"] } asks any)",
        ),
        (
            "app = \"a\"\n[process.web]\ncommand = [\"x\"]\nlisten = { http = \"tcp:80\" }\nprobe = { tcp = true, listener = \"htp\" }",
            "5:34: process.web.probe.listener: \"htp\" is not one of this process's listeners",
        ),
        (
            "app = \"a\"\n[process.web]\ncommand = [\"x\"]\ndrain = 30",
            "4:9: process.web.drain: must be a text in quotes, not a whole number",
        ),
        (
            "app = \"a\"\n[process.web]\ncommand = [\"x\"]\nready_timeout = \"0s\"",
            "4:17: process.web.ready_timeout: must be at least 1ms",
        ),
        (
            "app = \"a\"\n[process.web]\ncommand = [\"x\"]\nenv = { SHIP_APP = \"b\" }",
            "4:9: process.web.env.SHIP_APP: is set by Ship itself",
        ),
        (
            "app = \"a\"\n[process.web]\ncommand = [\"x\"]\nlimits = { memory = \"1GB\" }",
            "4:21: process.web.limits.memory: \"1GB\" is not a size: write \"512KiB\", \"64MiB\" or \"1GiB\"",
        ),
        (
            "app = \"a\"\n[process.Web]\ncommand = [\"x\"]",
            "2:10: process.Web: \"Web\" is not a process's name: use 1 to 63 of a-z, 0-9, '-', '_' and '.', beginning with a letter or a digit",
        ),
        (
            "app = \"a\"\n[[assets]]\nroot = \"a\"\nurl = \"/x\"\n[[assets]]\nroot = \"a/b\"\nurl = \"/x\"",
            "6:8: assets[1].root: overlaps with root \"a\"\n7:7: assets[1].url: is the URL of another root",
        ),
        (
            "app = \"a\"\n[[assets]]\nroot = \".\"\nurl = \"/x\"\n[[assets]]\nroot = \"a/b\"\nurl = \"/y\"",
            "6:8: assets[1].root: overlaps with root \".\"",
        ),
        (
            "app = \"a\"\n[process.web]\ncommand = [\"x\"]\n[[assets]]\nroot = \".\"\nurl = \"/\"",
            "5:8: assets[0].root: would hand out the program to everybody: name the folder that browsers fetch",
        ),
        (
            "app = \"a\"\n[[assets]]\nroot = \"a\"\nurl = \"static\"",
            "4:7: assets[0].url: \"static\" must begin with '/'",
        ),
        (
            "app = \"a\"\n[[assets]]\nroot = \"/etc\"\nurl = \"/\"",
            "3:8: assets[0].root: path \"/etc\" cannot be part of a release: it is absolute",
        ),
        (
            "app = \"a\"\n[hooks]\nbefore_switch = [\"x\"]",
            "2:1: hooks: need a process: without one, nothing is started or stopped",
        ),
        (
            "app = \"a\"\n[[assets]]\nroot = \"p\"\nurl = \"/\"\nprivate = [\"*.map\", \"/x\"]",
            "5:21: assets[0].private[1]: \"/x\" must be relative to the root, without an empty, \".\" or \"..\" part",
        ),
        (
            "app = \"a\"\n[needs]\nbilling = \">= 3\"",
            "3:1: needs.billing: not yet: needs between apps (remove it for now)",
        ),
        (
            "app = \"a\"\n[shared]\ndirs = [\"log\"]\nfiles = [\"log/a\"]",
            "4:10: shared.files[0]: overlaps with \"log\"",
        ),
        (
            "app = \"a\"\n[retention]\nkeep = 0",
            "3:8: retention.keep: must be a whole number from 1 to 1000",
        ),
        (
            "app = \"a\"\n[links]\nexternal = [\"x\"]",
            "3:13: links.external[0]: \"x\" must be an absolute path",
        ),
        (
            "app = \"ä\"; x",
            "1:10: unexpected key or value, expected newline, `#`",
        ),
    ];
    for (text, expected) in table {
        match read(text) {
            Ok(_) => panic!("was accepted:\n{text}"),
            Err(errors) => assert_eq!(errors, expected, "for\n{text}"),
        }
    }
}

#[test]
fn all_mistakes_come_at_once_in_the_order_of_the_file() {
    let text = "nmae = 1\n[process.web]\ncomand = [\"x\"]\ndrain = \"soon\"\n[process.b]\ncommand = [\"x\"]\nlisten = { a = \"tcp:80\", b = \"tcp:[::]:80\" }\n";
    let errors = read_ship_toml(text, None).unwrap_err();
    let keys: Vec<_> = errors
        .0
        .iter()
        .map(|error| (error.line, error.key.as_str()))
        .collect();
    assert_eq!(
        keys,
        [
            (1, "nmae"),
            (1, "app"),
            (2, "process.web.command"),
            (3, "process.web.comand"),
            (4, "process.web.drain"),
            (5, "process.b"),
        ]
    );
    assert!(
        errors
            .to_string()
            .starts_with("ship.toml has 6 mistakes:\n  1:1: nmae: unknown key")
    );
}

#[test]
fn hostile_texts_are_refused_without_harm() {
    let deep = format!("app = \"a\"\nx-y = {}1{}", "[".repeat(20_000), "]".repeat(20_000));
    let long_key = format!("app = \"a\"\n{} = 1", "k".repeat(100_000));
    let control = "app = \"a\"\n\"\\u001b[31m\" = 1";
    let huge = " ".repeat(300 << 10);
    for text in [
        &deep,
        &long_key,
        control,
        &huge,
        "app = \"a\"\n[process]\nweb = 3",
        "\u{feff}\0",
    ] {
        let Err(errors) = read_ship_toml(text, None) else {
            panic!("was accepted: {:.60}", text);
        };
        assert!(!errors.0.is_empty());
        assert!(!errors.to_string().contains('\u{1b}'));
    }
}

#[test]
fn a_spec_from_elsewhere_obeys_the_same_rules() {
    let whole = read(WHOLE).unwrap();
    assert_eq!(whole.check(), Ok(()));
    let web = ProcessName::new("web").unwrap();
    let bend = |bend: &dyn Fn(&mut ReleaseSpec, &mut ProcessSpec)| {
        let mut spec = whole.clone();
        let mut process = spec.processes[&web].clone();
        bend(&mut spec, &mut process);
        spec.processes.insert(web.clone(), process);
        spec.check().unwrap_err().key
    };
    type Bend = fn(&mut ReleaseSpec, &mut ProcessSpec);
    let table: [(&str, Bend); 16] = [
        ("assets[0].url", |spec, _| {
            spec.assets[0].url = "/../etc".to_owned()
        }),
        ("assets[0].url", |spec, _| {
            spec.assets[0].url = "/static/".to_owned()
        }),
        ("assets[1]", |spec, _| {
            spec.assets[1].root = TreePath::new(b"lib/static/x").ok()
        }),
        ("assets[1]", |spec, _| spec.assets[1].url = "/static".to_owned()),
        ("shared", |spec, _| {
            spec.shared.files.push(TreePath::new(b"log/x").unwrap())
        }),
        ("links.external", |spec, _| {
            spec.external_links.push("../x".to_owned())
        }),
        ("retention.keep", |spec, _| spec.keep = Some(0)),
        ("process.web.command", |_, web| web.command.clear()),
        ("process.web.command", |_, web| {
            web.command[0] = "../../bin/sh".to_owned()
        }),
        ("process.web.listen", |_, web| {
            let path = "../../sock".to_owned();
            web.listen.insert("x".to_owned(), ListenAddr::Unix { path });
        }),
        ("process.web.timeouts", |_, web| web.drain_ms = u64::MAX),
        ("process.web.stop_signal", |_, web| {
            web.stop_signal = "STOP".to_owned()
        }),
        ("process.web.user", |_, web| web.user = Some("a b".to_owned())),
        ("process.web.env", |_, web| {
            drop(web.env.insert("SHIP_HOST".to_owned(), String::new()))
        }),
        ("process.web.probe", |_, web| {
            web.probe.as_mut().unwrap().times = 0
        }),
        ("process.web.probe", |_, web| {
            web.probe.as_mut().unwrap().listener = Some("nope".to_owned())
        }),
    ];
    for (key, bent) in table {
        assert_eq!(bend(&bent), key);
    }
    // No manifest carries such a spec, made here or sent.
    let mut spec = whole.clone();
    spec.assets[0].url = "/../etc".to_owned();
    let entry = crate::manifest::Entry {
        path: TreePath::new(b"lib/static/a").unwrap(),
        kind: crate::manifest::EntryKind::File {
            executable: false,
            size: 0,
            digest: crate::digest::BlobDigest::of(b""),
        },
    };
    let refused = crate::manifest::Manifest::new(spec, vec![entry]).unwrap_err();
    assert!(matches!(refused, crate::manifest::ManifestError::Meaning(_)));
}
