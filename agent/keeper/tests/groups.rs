//! Control groups: nothing a process starts gets out of one, limits are held there, and without them all goes on as it can.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests stop at the first surprise"
)]

mod stage;

use std::path::{Path, PathBuf};

use ship_keeper::processes::{Controller, Groups, GroupsAt, keeper_name};
use ship_keeper::protocol::*;
use stage::{Stage, exists, until};

const ANY: &str = "tcp:127.0.0.1:0";

/// Brings forth one that looks like nobody's: in a session of its own, without a parent, without an environment.
const STRAY: &str = r#"
cd "$SHIP_RUN_DIR"
(env -i setsid /bin/sh -c 'trap "" TERM; echo $$ > stray; while :; do sleep 0.05; done' &)
while [ ! -s stray ]; do sleep 0.02; done
trap 'exit 0' TERM
while :; do sleep 0.05; done
"#;

fn script(mut intent: Intent, script: &str) -> Intent {
    let process = &mut intent.processes[0];
    process.command = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
    (process.listen, process.probe, process.notify) = (Vec::new(), None, false);
    (process.drain_ms, process.stop_timeout_ms) = (500, 500);
    intent.soak_ms = 0;
    intent
}

fn flag(stage: &mut Stage, name: &'static str, value: &Path) {
    let value: &'static str = Box::leak(value.to_str().unwrap().to_owned().into_boxed_str());
    stage.flags.extend([name, value]);
}

/// Where the stage's keeper has its groups; none where this machine has no place for them.
fn groups(stage: &Stage) -> Option<PathBuf> {
    let told = stage.status().groups.map(PathBuf::from);
    if told.is_none() {
        eprintln!("not here: {:?}", stage.status().falls_back);
    }
    told
}

fn stray(stage: &Stage) -> u32 {
    let mut pid = None;
    until("the stray is there", || {
        let text = std::fs::read_to_string(stage.run.join("stray")).unwrap_or_default();
        pid = text.strip_suffix('\n').and_then(|pid| pid.parse().ok());
        pid.is_some()
    });
    pid.unwrap()
}

fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[test]
fn what_hides_from_everybody_goes_with_its_generation() {
    let mut stage = Stage::new();
    stage.start();
    let Some(folder) = groups(&stage) else { return };
    stage.switch(script(stage.intent(1, "", ANY), STRAY));
    let first = stray(&stage);
    let main = stage.status().generations[0].processes[0].pid.unwrap();
    let inside = |pid: u32| {
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        groups.lines().any(|line| line.ends_with("/gen-1/web"))
    };
    assert!(inside(main) && inside(first));
    std::fs::remove_file(stage.run.join("stray")).unwrap();
    stage.switch(script(stage.intent(2, "", ANY), STRAY));
    until("the first one's stray is gone", || !lives(first));
    until("its group is gone", || !exists(&folder.join("gen-1")));
    let second = stray(&stage);
    assert!(lives(second));
    // Over the death of a keeper, too.
    stage.kill_keeper();
    stage.start();
    assert!(lives(second) && exists(&folder.join("gen-2/web")));
    stage.stop();
    assert!(!lives(second));
    assert!(!exists(&folder), "the keeper's own group is left");
}

#[test]
fn what_a_dead_keeper_left_is_swept_at_the_next_start() {
    let mut stage = Stage::new();
    stage.start();
    let Some(folder) = groups(&stage) else { return };
    stage.switch(script(stage.intent(1, "", ANY), "while :; do sleep 0.05; done"));
    stage.kill_keeper();
    let mut lost = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    std::fs::create_dir_all(folder.join("gen-77/web")).unwrap();
    std::fs::write(folder.join("gen-77/web/cgroup.procs"), lost.id().to_string()).unwrap();
    stage.start();
    assert!(!lost.wait().unwrap().success());
    stage.switch(script(stage.intent(2, "", ANY), "while :; do sleep 0.05; done"));
    until("nothing of it is left", || !exists(&folder.join("gen-77")));
    stage.stop();
}

#[test]
fn a_limit_of_processes_is_held() {
    let mut stage = Stage::new();
    stage.start();
    let found = Groups::find(Path::new("/proc"), &GroupsAt::Nowhere, "x");
    assert!(found.missing(Controller::Pids).is_some());
    if stage
        .status()
        .falls_back
        .iter()
        .any(|words| words.contains("limits.pids"))
    {
        eprintln!("not here: {:?}", stage.status().falls_back);
        return;
    }
    let bomb = "for n in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1000 & done; echo all of them; while :; do sleep 0.05; done";
    let mut wanted = script(stage.intent(1, "", ANY), bomb);
    wanted.processes[0].limits.pids = Some(6);
    // It never counts as up before it has ended.
    wanted.processes[0].notify = true;
    let outcome = stage.switch(wanted);
    assert_eq!(outcome.result, SwitchResult::Failed, "{outcome:?}");
    assert!(
        !outcome.last_lines.contains(&"all of them".to_owned()),
        "{outcome:?}"
    );
    assert!(
        outcome
            .last_lines
            .iter()
            .any(|line| line.to_lowercase().contains("fork")),
        "{outcome:?}"
    );
    let mut wanted = script(stage.intent(2, "", ANY), bomb);
    wanted.processes[0].limits.pids = Some(100);
    assert_eq!(stage.switch(wanted).result, SwitchResult::Switched);
    stage.stop();
}

#[test]
fn without_a_place_for_groups_all_goes_on_and_the_status_says_so() {
    let mut stage = Stage::new();
    let machine = stage.dir.path().join("machine");
    std::fs::create_dir_all(machine.join("self")).unwrap();
    // Nobody can make a folder there, root neither.
    let mounts = "30 24 0:26 / /proc/sys rw - cgroup2 cgroup2 rw\n";
    std::fs::write(machine.join("self/mountinfo"), mounts).unwrap();
    std::fs::write(machine.join("self/cgroup"), "0::/\n").unwrap();
    flag(&mut stage, "--machine", &machine);
    stage.start();
    let status = stage.status();
    assert_eq!(status.groups, None);
    let told = |words: &str| status.falls_back.iter().any(|line| line.contains(words));
    assert!(
        told("no control groups") && told("limits.pids is not held"),
        "{status:?}"
    );
    let script = |intent| script(intent, "(setsid sleep 1000 &); while :; do sleep 0.05; done");
    let mut limited = script(stage.intent(1, "", ANY));
    limited.processes[0].limits.memory = Some(1 << 30);
    stage.switch(limited);
    let pid = stage.status().generations[0].processes[0].pid.unwrap();
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    assert!(
        limits
            .lines()
            .any(|line| line.starts_with("Max address space") && line.contains("1073741824")),
        "{limits}"
    );
    stage.until("the limit's way is told", |status| {
        status
            .notes
            .iter()
            .any(|note| note.contains("process web: limits.memory limits the address space"))
    });
    stage.switch(script(stage.intent(2, "", ANY)));
    until("all of the first one is gone", || !lives(pid));
    stage.stop();
    assert_eq!(stage.processes(), Vec::<u32>::new());
}

/// Files as the kernel has them, made by hand: what is read and written there is seen, though nothing comes of it.
#[test]
fn a_process_that_is_killed_for_memory_is_told_so_with_its_limit() {
    let mut stage = Stage::new();
    let machine = stage.dir.path().join("machine");
    let mount = machine.join("mount");
    let group = mount.join("ship").join(keeper_name("web", &stage.state));
    let leaf = group.join("gen-1/web");
    std::fs::create_dir_all(&leaf).unwrap();
    std::fs::create_dir_all(machine.join("self")).unwrap();
    std::fs::create_dir_all(&stage.state).unwrap();
    std::fs::write(mount.join("cgroup.controllers"), "memory pids\n").unwrap();
    for folder in leaf.ancestors().take(5) {
        std::fs::write(folder.join("cgroup.subtree_control"), "").unwrap();
        std::fs::write(folder.join("cgroup.procs"), "").unwrap();
    }
    for file in ["memory.max", "memory.high"] {
        std::fs::write(leaf.join(file), "max").unwrap();
    }
    std::fs::write(leaf.join("memory.events"), "high 0\noom_kill 2\n").unwrap();
    let mounts = format!("30 24 0:26 / {} rw - cgroup2 cgroup2 rw\n", mount.display());
    std::fs::write(machine.join("self/mountinfo"), mounts).unwrap();
    std::fs::write(machine.join("self/cgroup"), "0::/\n").unwrap();
    flag(&mut stage, "--machine", &machine);
    stage.start();
    let starve = format!(
        "cd {}; printf 'high 9\\noom_kill 3\\n' > memory.events; : > cgroup.procs; kill -KILL $$",
        leaf.display()
    );
    let mut greedy = script(stage.intent(1, "", ANY), &starve);
    greedy.processes[0].limits.memory = Some(1 << 30);
    let outcome = stage.switch(greedy);
    let reason = outcome.reason.unwrap();
    assert!(
        reason.contains("was ended by signal 9, killed for memory: its limit is 1 GiB"),
        "{reason}"
    );
    let read = |file: &str| std::fs::read_to_string(leaf.join(file)).unwrap();
    assert_eq!(read("memory.max"), "1073741824");
    assert_eq!(read("memory.high"), (15 * (1_u64 << 30) / 16).to_string());
    let given = std::fs::read_to_string(mount.join("cgroup.subtree_control")).unwrap();
    assert_eq!(given, "+memory");
    stage.stop();
}

/// A group of the kernel's own below which a keeper may make others, in every hierarchy; taken away when dropped.
struct Delegated(String);

impl Delegated {
    fn new() -> Self {
        Self(format!("ship-test-{}", std::process::id()))
    }

    /// Where the memory of a keeper's groups is limited, as this machine has it mounted.
    fn memory(&self, stage: &Stage) -> PathBuf {
        let mounts = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].map(Path::new);
        let mount = mounts
            .into_iter()
            .find(|mount| exists(&mount.join(&self.0)))
            .unwrap();
        mount
            .join(&self.0)
            .join("ship")
            .join(keeper_name("web", &stage.state))
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        let mounts = std::fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten();
        let mounts = mounts.map(|mount| mount.path()).chain(["/sys/fs/cgroup".into()]);
        mounts.for_each(|mount| take_away(&mount.join(&self.0)));
    }
}

/// Groups are folders whose files cannot be removed.
fn take_away(group: &Path) {
    let inner = std::fs::read_dir(group).into_iter().flatten().flatten();
    let folders = inner.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.for_each(|entry| take_away(&entry.path()));
    let _ = std::fs::remove_dir(group);
}

/// The real thing, where this machine lets a memory group be made: as root, outside of a container that hides them.
#[test]
fn the_kernel_holds_the_memory_of_each_generation_and_its_kill_is_told() {
    // Taken away after the stage has ended what is in it.
    let delegated = Delegated::new();
    let mut stage = Stage::new();
    flag(&mut stage, "--cgroups", &Path::new("/").join(&delegated.0));
    stage.start();
    let mut modest = script(stage.intent(1, "", ANY), "while :; do sleep 0.05; done");
    modest.processes[0].limits.memory = Some(256 << 20);
    assert_eq!(stage.switch(modest).result, SwitchResult::Switched);
    let status = stage.status();
    let fell_back = status.falls_back.iter().chain(&status.notes);
    if let Some(words) = fell_back
        .into_iter()
        .find(|words| words.contains("limits.memory"))
    {
        eprintln!("not here: {words}");
        return stage.stop();
    }
    let group = delegated.memory(&stage);
    let limit = |generation: &str| {
        let files =
            ["memory.limit_in_bytes", "memory.max"].map(|file| group.join(generation).join("web").join(file));
        let text = files.iter().find_map(|file| std::fs::read_to_string(file).ok());
        text.map(|text| text.trim().to_owned())
    };
    assert_eq!(limit("gen-1").as_deref(), Some("268435456"));

    // It keeps a line in memory until that ends, which it never does.
    let mut greedy = script(stage.intent(2, "", ANY), "exec tail /dev/zero");
    greedy.processes[0].limits.memory = Some(64 << 20);
    greedy.processes[0].notify = true;
    let outcome = stage.switch(greedy);
    assert_eq!(
        (outcome.result, outcome.running),
        (SwitchResult::Failed, Some(1)),
        "{outcome:?}"
    );
    let reason = outcome.reason.unwrap();
    assert!(
        reason.contains("was ended by signal 9, killed for memory: its limit is 64 MiB"),
        "{reason}"
    );
    until("its group is gone", || !exists(&group.join("gen-2")));
    assert_eq!(limit("gen-1").as_deref(), Some("268435456"));
    stage.stop();
    until("no group is left", || !exists(&group));
}
