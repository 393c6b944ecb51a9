//! What a person should look at before publishing: twins and likely secrets.

use ship_model::manifest::Manifest;
use ship_model::path::{TreePath, twins};
use unicode_normalization::UnicodeNormalization;

/// Most warnings that one walk gives.
pub const MAX_WARNINGS: usize = 100;

/// Allowed, and worth a look.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Warning {
    #[error(
        "\"{path}\" and \"{twin}\" differ only in case or in how their letters are encoded: some systems take them for one"
    )]
    Twin { path: TreePath, twin: TreePath },
    #[error(
        "\"{path}\" looks like a secret: everybody who can read the release can read it; keep it in shared/ on the hosts"
    )]
    Secret { path: TreePath },
}

/// Sorts the warnings found so far, adds twins, and cuts the list.
pub(super) fn finish(manifest: &Manifest, warnings: &mut Vec<Warning>) {
    warnings.sort_unstable();
    let entries = manifest.entries();
    let path = |at: u32| entries.at(at as usize).path;
    let twins = twins(entries.len() as u32, |at| fold(path(at).as_bytes()));
    let twin = twins.iter().map(|(first, second)| Warning::Twin {
        path: path(*first).to_path(),
        twin: path(*second).to_path(),
    });
    warnings.truncate(MAX_WARNINGS);
    let room = MAX_WARNINGS - warnings.len();
    warnings.extend(twin.take(room));
}

fn fold(path: &[u8]) -> Vec<u8> {
    if path.is_ascii() {
        return path.to_ascii_lowercase();
    }
    match std::str::from_utf8(path) {
        Ok(text) => {
            let composed: String = text.nfkc().flat_map(char::to_lowercase).nfkc().collect();
            composed.into_bytes()
        }
        Err(_) => path.to_vec(),
    }
}

/// Names by which programs find secrets.
pub(super) fn secret_name(path: &[u8]) -> bool {
    let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
    let exact: &[&[u8]] = &[
        b".env",
        b".netrc",
        b".pgpass",
        b".htpasswd",
        b"id_rsa",
        b"id_dsa",
        b"id_ecdsa",
        b"id_ed25519",
        b"master.key",
    ];
    let example = [&b".example"[..], b".sample", b".template", b".dist"]
        .iter()
        .any(|end| name.ends_with(end));
    exact.contains(&name)
        || (name.starts_with(b".env.") && !example)
        || path.ends_with(b".aws/credentials")
        || [&b".p12"[..], b".pfx", b".jks"]
            .iter()
            .any(|end| name.ends_with(end))
}

/// A private key in PEM at the start of a file, whatever its name. Certificates are no secret.
pub(super) fn secret_content(first: &[u8]) -> bool {
    let first = &first[..first.len().min(4096)];
    let begin = b"-----BEGIN ";
    first
        .split(|b| *b == b'\n')
        .filter_map(|line| line.strip_prefix(begin))
        .any(|rest| rest.trim_ascii_end().ends_with(b"PRIVATE KEY-----"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_told_from_their_likes() {
        for secret in [
            &b".env"[..],
            b"a/.env.production",
            b"home/.ssh/id_rsa",
            b"x/.aws/credentials",
            b"k.p12",
        ] {
            assert!(secret_name(secret));
        }
        for tame in [
            &b".env.example"[..],
            b"env",
            b"id_rsa.pub",
            b"credentials",
            b"a.pem",
            b"environment.rb",
        ] {
            assert!(!secret_name(tame));
        }
        assert!(secret_content(b"-----BEGIN PRIVATE KEY-----\nMII"));
        assert!(secret_content(b"# key\r\n-----BEGIN RSA PRIVATE KEY-----\r\nMII"));
        assert!(!secret_content(b"-----BEGIN CERTIFICATE-----\nMII"));
        assert!(!secret_content(b"say -----BEGIN PRIVATE KEY-----"));
    }

    #[test]
    fn twins_fold_to_one() {
        for (a, b) in [
            ("Foo/bar", "foo/BAR"),
            ("caf\u{e9}", "cafe\u{301}"),
            ("\u{fb01}n", "FIN"),
        ] {
            assert_eq!(fold(a.as_bytes()), fold(b.as_bytes()));
        }
        assert_ne!(fold(b"a\xff"), fold(b"A\xff"));
    }
}
