//! Asset files: where a URL path leads, and what type its bytes have.

use std::fs::{File, OpenOptions};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// URL path under which assets are asked for.
pub const PREFIX: &str = "/assets/";

/// The folders that hold assets, asked in this order.
#[derive(Debug)]
pub struct Assets {
    /// Every retained version's assets, laid out by URL path (`$SHIP_ASSETS_DIR/assets/app-….css`).
    union: Option<PathBuf>,
    /// The release's own `public`.
    own: PathBuf,
}

/// An asset that is there.
#[derive(Debug)]
pub struct Asset {
    pub file: File,
    pub length: u64,
    pub content_type: &'static str,
}

impl Assets {
    pub fn new(union: Option<PathBuf>, own: PathBuf) -> Self {
        Self { union, own }
    }

    /// Opens what the still encoded `url_path` names; `None` when nothing does or the path would leave the folders.
    pub fn find(&self, url_path: &str) -> Option<Asset> {
        let relative = relative_path(url_path)?;
        let roots = self.union.iter().chain(std::iter::once(&self.own));
        let (file, length) = roots
            .map(|root| root.join(&relative))
            .find_map(|path| open(&path))?;
        Some(Asset {
            file,
            length,
            content_type: content_type(&relative),
        })
    }
}

/// Opens a regular file; non-blocking, so that a fifo in its place cannot hold the server up.
fn open(path: &Path) -> Option<(File, u64)> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits();
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.cast_signed())
        .open(path)
        .ok()?;
    let metadata = file.metadata().ok()?;
    metadata.is_file().then_some((file, metadata.len()))
}

/// The decoded path below a root, or `None` if any part of it could lead elsewhere.
fn relative_path(url_path: &str) -> Option<PathBuf> {
    let decoded = percent_decode(url_path.strip_prefix('/')?)?;
    let mut path = PathBuf::new();
    for part in decoded.split(|byte| *byte == b'/') {
        if part.is_empty() || part == b"." || part == b".." || part.contains(&0) {
            return None;
        }
        path.push(std::ffi::OsString::from_vec(part.to_vec()));
    }
    Some(path)
}

fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [hex_digit(rest.next()?)?, hex_digit(rest.next()?)?];
            bytes.push(digits[0] * 16 + digits[1]);
        } else {
            bytes.push(byte);
        }
    }
    Some(bytes)
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

fn content_type(path: &Path) -> &'static str {
    match path
        .extension()
        .and_then(|extension| extension.to_str())
        .unwrap_or_default()
    {
        "html" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "json" | "map" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "wasm" => "application/wasm",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use std::io::{Read, Write};

    use super::*;

    fn put(root: &Path, name: &str, text: &str) {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn text(asset: Option<Asset>) -> Option<String> {
        let mut text = String::new();
        asset?.file.read_to_string(&mut text).unwrap();
        Some(text)
    }

    #[test]
    fn the_union_is_asked_first_then_the_release() {
        let folder = tempfile::tempdir().unwrap();
        let (union, own) = (folder.path().join("union"), folder.path().join("own"));
        put(&union, "assets/a.css", "union");
        put(&own, "assets/a.css", "own");
        put(&own, "assets/b.js", "only own");
        let assets = Assets::new(Some(union), own);
        assert_eq!(text(assets.find("/assets/a.css")).unwrap(), "union");
        assert_eq!(text(assets.find("/assets/b.js")).unwrap(), "only own");
        assert_eq!(
            assets.find("/assets/b.js").unwrap().content_type,
            "text/javascript; charset=utf-8"
        );
        assert!(assets.find("/assets").is_none(), "a folder is no asset");
        assert!(assets.find("/assets/none.css").is_none());
    }

    #[test]
    fn no_spelling_of_a_path_leaves_the_folders() {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "secret", "secret");
        put(folder.path(), "own/assets/a b.css", "spaced");
        let assets = Assets::new(None, folder.path().join("own"));
        assert_eq!(text(assets.find("/assets/a%20b.css")).unwrap(), "spaced");
        for path in [
            "/assets/../../secret",
            "/assets/%2e%2e/%2E%2e/secret",
            "/assets/..%2f..%2fsecret",
            "/assets//../../secret",
            "/assets/./a%20b.css",
            "//etc/passwd",
            "/%2fetc/passwd",
            "/assets/a%00b",
            "/assets/a%2",
            "/assets/a%zz",
            "/assets/a%+1",
        ] {
            assert!(assets.find(path).is_none(), "{path}");
        }
    }
}
