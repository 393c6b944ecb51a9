//! What this store knows of a bucket, whose objects are not listed: which releases are all there, and what was taken away.
//!
//! ```text
//! push/production-cdn/
//!   web-455-1f0c…        {"number":455,"id":"1f0c…"}      all of release 455 is there
//!   web-454-77aa…        {"version":2,"release":{…},"forgotten":["0a1b…",…]}      but for these paths, by their hash
//!   web.expired-list     the list of expired assets as far as it was acted on: 16 bytes for each path
//! ```
//! Derived: whatever is lost of it is pushed or looked for again, and costs requests.

use std::fs;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use ship_durable::{sync_dir, write_file};
use ship_model::name::AppName;
use ship_model::release::Target;
use ship_model::retention::{ExpiredList, MAX_EXPIRED, UrlHash};

use super::place::PushError;

/// Longest file of one release, in bytes: 60,000 paths.
const LONGEST: u64 = 4 << 20;
const VERSION: u8 = 2;

#[derive(Debug)]
pub(super) struct Remembered {
    folder: PathBuf,
    held: Mutex<Option<Held>>,
}

/// Releases by what is there of them.
#[derive(Debug, Clone, Default)]
pub(super) struct Held {
    pub whole: Vec<Target>,
    pub faded: Vec<Target>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Faded {
    version: u8,
    release: Target,
    /// [`UrlHash`]es as text.
    forgotten: Vec<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum File {
    Whole(Target),
    Faded(Faded),
}

impl Remembered {
    pub fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            held: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn held(&self) -> Held {
        let mut held = self.lock();
        if let Some(held) = &*held {
            return held.clone();
        }
        match self.read() {
            Ok(found) => held.insert(found).clone(),
            Err(error) => {
                tracing::warn!(%error, folder = %self.folder.display(), "cannot tell what was pushed");
                Held::default()
            }
        }
    }

    fn read(&self) -> io::Result<Held> {
        let mut found = Held::default();
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|end| end == LIST) {
                continue;
            }
            // One that cannot be read is pushed again: nothing is lost by that.
            match parse(&read_file(&path, LONGEST)?) {
                Some(File::Whole(target)) => found.whole.push(target),
                Some(File::Faded(faded)) => found.faded.push(faded.release),
                None => {}
            }
        }
        Ok(found)
    }

    fn path(&self, app: &AppName, target: Target) -> PathBuf {
        self.folder.join(format!("{app}-{}", target.folder()))
    }

    /// Notes what is there of a release: all but `forgotten`. Durable before anybody is told.
    pub fn note(&self, app: &AppName, target: Target, forgotten: &[UrlHash]) -> Result<(), PushError> {
        // What is on the disk is known before this changes it.
        let mut held = self.held();
        let words = if forgotten.is_empty() {
            serde_json::to_vec(&target)
        } else {
            serde_json::to_vec(&Faded {
                version: VERSION,
                release: target,
                forgotten: forgotten.iter().map(ToString::to_string).collect(),
            })
        };
        self.write(&self.path(app, target), &words.unwrap_or_default())?;
        held.forget(target);
        match forgotten {
            [] => held.whole.push(target),
            _ => held.faded.push(target),
        }
        *self.lock() = Some(held);
        Ok(())
    }

    /// Notes that nobody can tell what is there of a release.
    pub fn drop(&self, app: &AppName, target: Target) -> Result<(), PushError> {
        let mut held = self.held();
        let path = self.path(app, target);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(PushError::Read { path, source });
            }
            _ => sync_dir(&self.folder)?,
        }
        held.forget(target);
        *self.lock() = Some(held);
        Ok(())
    }

    /// The paths that were taken away of a faded release; none when it is not one.
    pub fn forgotten(&self, app: &AppName, target: Target) -> Option<Vec<UrlHash>> {
        let file = parse(&read_file(&self.path(app, target), LONGEST).ok()?)?;
        let File::Faded(faded) = file else { return None };
        faded.forgotten.iter().map(|text| text.parse().ok()).collect()
    }

    fn list(&self, app: &AppName) -> PathBuf {
        self.folder.join(format!("{app}.{LIST}"))
    }

    /// The paths that are known to be gone; empty when nobody can tell.
    pub fn acted(&self, app: &AppName) -> ExpiredList {
        let most = 16 * MAX_EXPIRED as u64;
        let mut list = ExpiredList::default();
        match read_file(&self.list(app), most).map(|bytes| list.take(&bytes)) {
            Ok(Ok(())) => list,
            _ => ExpiredList::default(),
        }
    }

    pub fn act(&self, app: &AppName, list: &ExpiredList) -> Result<(), PushError> {
        let bytes: Vec<u8> = list.parts(MAX_EXPIRED).flatten().collect();
        self.write(&self.list(app), &bytes)
    }

    fn write(&self, path: &std::path::Path, bytes: &[u8]) -> Result<(), PushError> {
        let made = fs::create_dir_all(&self.folder);
        made.map_err(|source| PushError::Read {
            path: self.folder.clone(),
            source,
        })?;
        Ok(write_file(path, bytes)?)
    }
}

const LIST: &str = "expired-list";

impl Held {
    fn forget(&mut self, target: Target) {
        self.whole.retain(|known| *known != target);
        self.faded.retain(|known| *known != target);
    }
}

fn parse(bytes: &[u8]) -> Option<File> {
    match serde_json::from_slice(bytes).ok()? {
        File::Faded(faded) if faded.version != VERSION => None,
        file => Some(file),
    }
}

fn read_file(path: &std::path::Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
    use ship_model::digest::ReleaseId;
    use ship_model::release::ReleaseNumber;

    use super::*;

    fn target(number: u64) -> Target {
        Target {
            number: ReleaseNumber(number),
            id: ReleaseId::of(&number.to_le_bytes()),
        }
    }

    #[test]
    fn what_is_there_survives_a_restart_and_what_is_damaged_is_not_known() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("dev-cdn");
        let web: AppName = "web".parse().unwrap();
        let gone = [UrlHash::of("/a.js"), UrlHash::of("/b.js")];
        let list: ExpiredList = gone.into_iter().collect();
        let remembered = Remembered::new(folder.clone());
        assert!(remembered.acted(&web).is_empty());
        for number in 1..=3 {
            remembered.note(&web, target(number), &[]).unwrap();
        }
        remembered.note(&web, target(1), &gone).unwrap();
        remembered.drop(&web, target(3)).unwrap();
        remembered.act(&web, &list).unwrap();
        for remembered in [&remembered, &Remembered::new(folder.clone())] {
            let held = remembered.held();
            assert_eq!((held.whole, held.faded), (vec![target(2)], vec![target(1)]));
            assert_eq!(remembered.forgotten(&web, target(1)).unwrap(), gone);
            assert_eq!(remembered.forgotten(&web, target(2)), None);
            assert_eq!(remembered.acted(&web), list);
        }
        // Back.
        remembered.note(&web, target(1), &[]).unwrap();
        assert_eq!(Remembered::new(folder.clone()).held().whole.len(), 2);
        let file = remembered.path(&web, target(2));
        write_file(&file, b"{\"version\":3,\"release\":1}").unwrap();
        write_file(&remembered.list(&web), &[0; 17]).unwrap();
        let again = Remembered::new(folder);
        assert_eq!(again.held().whole, [target(1)]);
        assert!(again.acted(&web).is_empty());
    }
}
