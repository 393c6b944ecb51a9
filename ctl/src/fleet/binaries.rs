//! The programs of a fleet: beside this one, in `SHIP_BIN_DIR`, or on PATH; started by `cargo run`, they
//! are built when they are missing.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{CommandError, Exit};
use crate::ui::Ui;

/// A program and the package that builds it.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    pub name: &'static str,
    package: &'static str,
}

/// What `up` needs.
pub const FLEET: [Program; 3] = [
    Program {
        name: "shipstore",
        package: "ship-store",
    },
    Program {
        name: "ship-agent",
        package: "ship-agent",
    },
    Program {
        name: "ship-keeper",
        package: "ship-keeper",
    },
];
/// The sample web app.
pub const SAMPLE: Program = Program {
    name: "ship-sample",
    package: "ship-sample",
};
/// The load generator.
pub const LOAD: Program = Program {
    name: "ship-load",
    package: "ship-load",
};

#[derive(Debug, thiserror::Error)]
enum BuildError {
    #[error("start {}", cargo.display())]
    Start { cargo: PathBuf, source: io::Error },
    #[error("the build failed")]
    Failed,
}

/// Where each program lies.
#[derive(Debug, Clone)]
pub struct Binaries(BTreeMap<&'static str, PathBuf>);

impl Binaries {
    /// Finds all of `programs`, and builds them where that is possible and needed.
    pub fn find(programs: &[Program], ui: &Ui) -> Result<Self, CommandError> {
        let places = places();
        let mut missing = missing(programs, &places);
        if !missing.is_empty()
            && let Some(cargo) = std::env::var_os("CARGO")
        {
            build(&PathBuf::from(cargo), programs, ui)
                .map_err(|error| CommandError::of(Exit::Error, &error))?;
            missing = self::missing(programs, &places);
        }
        if !missing.is_empty() {
            return Err(absent(&missing));
        }
        let found = programs
            .iter()
            .filter_map(|program| Some((program.name, locate(program.name, &places)?)));
        Ok(Self(found.collect()))
    }

    /// A program that was asked for.
    pub fn path(&self, name: &'static str) -> &Path {
        self.0.get(name).map_or(Path::new(name), PathBuf::as_path)
    }
}

/// The folders in which programs are looked for, in order.
fn places() -> Vec<PathBuf> {
    let own = std::env::current_exe().ok();
    let own = own.and_then(|exe| exe.parent().map(Path::to_owned));
    let told = std::env::var_os("SHIP_BIN_DIR").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path: Vec<PathBuf> = std::env::split_paths(&path).collect();
    own.into_iter().chain(told).chain(path).collect()
}

fn locate(name: &str, places: &[PathBuf]) -> Option<PathBuf> {
    let found = places
        .iter()
        .map(|place| place.join(name))
        .find(|path| path.is_file())?;
    // Children run in other folders: a relative place would be lost on them.
    found.canonicalize().ok()
}

fn missing(programs: &[Program], places: &[PathBuf]) -> Vec<&'static str> {
    let absent = programs
        .iter()
        .filter(|program| locate(program.name, places).is_none());
    absent.map(|program| program.name).collect()
}

fn absent(missing: &[&str]) -> CommandError {
    CommandError::new(
        Exit::Error,
        format!("cannot find {}", missing.join(", ")),
    )
    .hint("they lie beside shipctl, in the folder SHIP_BIN_DIR, or on PATH")
    .hint("in a checkout: cargo build --release, or cargo run --release --bin shipctl -- up, which builds them")
}

/// Builds into the folder and profile that this program came from.
fn build(cargo: &Path, programs: &[Program], ui: &Ui) -> Result<(), BuildError> {
    let arguments = arguments(programs, std::env::current_exe().ok().as_deref());
    let shown: Vec<_> = arguments.iter().map(|word| word.to_string_lossy()).collect();
    ui.say(format!("building what is missing: cargo {}", shown.join(" ")));
    let mut command = Command::new(cargo);
    command
        .args(&arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    if ui.is_quiet() {
        command.arg("--quiet");
    }
    if let Some(checkout) = std::env::var_os("CARGO_MANIFEST_DIR") {
        command.current_dir(checkout);
    }
    // Build scripts are run again when these change, and `cargo run` set them for this program: ring, and all that
    // stands on it, would be built anew here and once more by the next `cargo run`.
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_of_this_run(name)) {
        command.env_remove(name);
    }
    let status = command.status().map_err(|source| BuildError::Start {
        cargo: cargo.to_owned(),
        source,
    })?;
    if status.success() {
        Ok(())
    } else {
        Err(BuildError::Failed)
    }
}

/// Variables that cargo sets for a program that it runs, and for nobody else.
fn is_of_this_run(name: &OsStr) -> bool {
    let of_package = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];
    let name = name.to_string_lossy();
    of_package.iter().any(|prefix| name.starts_with(prefix)) || name == "CARGO_PRIMARY_PACKAGE"
}

fn arguments(programs: &[Program], own: Option<&Path>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["build".into()];
    let profile = own.and_then(Path::parent);
    let release = profile.is_some_and(|folder| folder.ends_with("release"));
    if release {
        arguments.push("--release".into());
    }
    if let Some(target) = profile.and_then(Path::parent) {
        arguments.push("--target-dir".into());
        arguments.push(target.into());
    }
    for program in programs {
        arguments.push("-p".into());
        arguments.push(program.package.into());
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_what_runs() {
        let words = |own| -> Vec<String> {
            let own = Path::new(own);
            let words = arguments(&FLEET[..1], Some(own)).into_iter();
            words.map(|word| word.to_string_lossy().into_owned()).collect()
        };
        assert_eq!(
            words("/t/release/shipctl"),
            ["build", "--release", "--target-dir", "/t", "-p", "ship-store"]
        );
        assert_eq!(
            words("/t/debug/shipctl"),
            ["build", "--target-dir", "/t", "-p", "ship-store"]
        );
    }

    #[test]
    fn the_build_sees_no_variable_of_the_run() {
        for name in ["CARGO_PKG_VERSION", "CARGO_MANIFEST_DIR", "CARGO_BIN_NAME"] {
            assert!(is_of_this_run(OsStr::new(name)), "{name}");
        }
        for name in [
            "CARGO_HOME",
            "CARGO_TARGET_DIR",
            "CARGO_BUILD_JOBS",
            "CARGO_NET_OFFLINE",
            "PATH",
        ] {
            assert!(!is_of_this_run(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn who_has_nothing_is_told_where_to_look() {
        let fault = absent(&["shipstore", "ship-agent"]);
        assert_eq!(fault.message(), "cannot find shipstore, ship-agent");
        assert_eq!(fault.hints().len(), 2);
    }
}
