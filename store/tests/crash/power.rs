//! The power goes out: what was not handed to the disk is gone. What was acknowledged must not be.
//!
//! A file system in an image, a writer in it, and `FS_IOC_SHUTDOWN` without flushing the log at a moment
//! of the writer's work. Needs root, loop devices, mkfs.ext4 and perl; without them the test says so
//! loudly and passes, or fails when SHIP_REQUIRE_POWER_CUT is set. SHIP_POWER_CUTS: how many cuts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::child::start;
use super::commits::{assert_all_stand, interrupted};

const CUTS: usize = 5;
/// Prints the moment just before, in microseconds. An fsync that runs at that moment may find its transaction gone, because
/// it was aborted, and call that done: nobody could hear such a thing from a machine without power.
const SHUTDOWN: &str = r#"use Time::HiRes; open(F, "<", $ARGV[0]) or die "open: $!";
my $no_log_flush = pack("I", 2);
printf("%.0f", Time::HiRes::time() * 1e6);
ioctl(F, 0x8004587d, $no_log_flush) or die "shutdown: $!";"#;

fn done(program: &str, args: &[&str]) -> Result<String, String> {
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = start(&mut command).and_then(Child::wait_with_output);
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(format!(
            "{program}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
    }
}

/// A disk in a file; taken apart when dropped.
struct Disk {
    image: PathBuf,
    place: PathBuf,
    device: Option<String>,
    mounted: bool,
}

impl Disk {
    fn new(dir: &Path) -> Result<Self, String> {
        let image = dir.join("image");
        let file = fs::File::create(&image).map_err(|error| error.to_string())?;
        file.set_len(96 << 20).map_err(|error| error.to_string())?;
        let place = dir.join("mounted");
        fs::create_dir(&place).map_err(|error| error.to_string())?;
        done("mkfs.ext4", &["-q", "-F", image.to_str().unwrap()])?;
        let mut disk = Self {
            image,
            place,
            device: None,
            mounted: false,
        };
        disk.power_on()?;
        Ok(disk)
    }

    fn power_on(&mut self) -> Result<(), String> {
        let device = done("losetup", &["--find", "--show", self.image.to_str().unwrap()])?;
        self.device = Some(device.clone());
        // A device of that number may have had other content before.
        done("blockdev", &["--flushbufs", &device])?;
        done("mount", &["-t", "ext4", &device, self.place.to_str().unwrap()])?;
        self.mounted = true;
        Ok(())
    }

    /// When the power went, in microseconds of the clock.
    fn power_off(&self) -> Result<u128, String> {
        let file = self.place.join("lost+found");
        let at = done("perl", &["-e", SHUTDOWN, file.to_str().unwrap()])?;
        at.parse().map_err(|_| format!("perl said {at}"))
    }

    fn detach(&mut self) -> Result<(), String> {
        if self.mounted {
            done("umount", &[self.place.to_str().unwrap()])?;
            self.mounted = false;
        }
        match self.device.take() {
            Some(device) => done("losetup", &["--detach", &device]).map(drop),
            None => Ok(()),
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            eprintln!("a disk was not taken apart: {error}");
        }
    }
}

#[test]
fn a_power_cut_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = match Disk::new(dir.path()) {
        Ok(disk) => disk,
        Err(reason) => {
            eprintln!("SKIPPED: no power cut can be made here ({reason})");
            assert!(std::env::var_os("SHIP_REQUIRE_POWER_CUT").is_none(), "{reason}");
            return;
        }
    };
    let cuts = std::env::var("SHIP_POWER_CUTS")
        .ok()
        .and_then(|text| text.parse().ok());
    let store = disk.place.join("store");
    let (mut all, mut gone) = (Vec::new(), 0);
    for cut in 0..cuts.unwrap_or(CUTS) {
        fs::create_dir_all(&store).unwrap();
        let control = disk.place.join("control");
        let names = interrupted(&store, 7 + (cut * 37) % 150, |child| {
            fs::write(&control, vec![1; 200_000]).unwrap();
            let at = disk.power_off().unwrap();
            child.kill().unwrap();
            at
        });
        all.extend(names);
        disk.detach().unwrap();
        disk.power_on().unwrap();
        let left = fs::read(&control).unwrap_or_default();
        gone += usize::from(left.len() < 200_000 || left.contains(&0));
        let _ = fs::remove_file(&control);
        assert_all_stand(&store, &all);
    }
    // What nobody synced must be gone, or no cut did cut. Now and then a machine that is short of memory writes it all the same.
    assert!(gone > 0, "the power stayed on");
    disk.detach().unwrap();
}
