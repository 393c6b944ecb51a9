//! How long the switch of a link takes on a file system: `link [--dir DIR] [--times N]` prints one JSON object.
//!
//! `durable` is what a switch does: new link, rename over the old, fsync of the folder. `visible` is the part after which
//! every new lookup sees the new release, measured by the same two system calls without the fsync.
#![allow(
    clippy::disallowed_methods,
    reason = "it measures time, and the bare system calls beside ours"
)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

type Failed = Box<dyn std::error::Error>;

fn main() -> Result<(), Failed> {
    let (mut dir, mut times) = (std::env::temp_dir(), 1000_u32);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--dir" => dir = PathBuf::from(value),
            "--times" => times = value.parse()?,
            _ => return Err(format!("{word} is not known: link [--dir DIR] [--times N]").into()),
        }
    }
    let folder = tempfile::tempdir_in(&dir)?;
    let durable = measure(times, |nth| {
        Ok(ship_durable::replace_symlink(
            &folder.path().join("current"),
            &release(nth),
        )?)
    })?;
    let visible = measure(times, |nth| bare(folder.path(), &release(nth)))?;
    writeln!(
        std::io::stdout(),
        r#"{{"unit":"us","durable":{durable},"visible":{visible}}}"#
    )?;
    Ok(())
}

fn release(nth: u32) -> PathBuf {
    PathBuf::from(format!("releases/{}-1f0c9a3b77d0", 454 + nth % 2))
}

fn bare(folder: &Path, target: &Path) -> Result<(), Failed> {
    let aside = folder.join("aside");
    std::os::unix::fs::symlink(target, &aside)?;
    std::fs::rename(&aside, folder.join("current"))?;
    Ok(())
}

fn measure(times: u32, mut switch: impl FnMut(u32) -> Result<(), Failed>) -> Result<String, Failed> {
    let mut taken = Vec::new();
    for nth in 0..times {
        let began = Instant::now();
        switch(nth)?;
        taken.push(began.elapsed());
    }
    taken.sort();
    let at = |share: usize| {
        let place = (taken.len() * share / 100).min(taken.len().saturating_sub(1));
        taken.get(place).map_or(0.0, |taken| taken.as_secs_f64() * 1e6)
    };
    Ok(format!(
        r#"{{"n":{times},"median":{},"p90":{},"p99":{},"max":{}}}"#,
        at(50),
        at(90),
        at(99),
        at(100)
    ))
}
