//! Writes a release tree of the sample app.
//!
//! A pure function of the version decides every file but `bin/server`: some differ at each version, some at every
//! third, most never, so that consecutive releases make an interesting diff and share most of their content.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What to write.
#[derive(Debug, Clone)]
pub struct Plan {
    pub number: u32,
    /// Whether the health check fails.
    pub broken: bool,
    /// The `listen` value of `ship.toml`.
    pub listen: String,
    /// The executable that becomes `bin/server`.
    pub server: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum WriteTreeError {
    #[error("{out} is not empty; give a folder that is absent or empty")]
    NotEmpty { out: PathBuf },
    #[error(
        "the listen value {listen:?} cannot stand in ship.toml: no quotes, backslashes or control characters"
    )]
    Listen { listen: String },
    #[error("create folder {path}")]
    Folder { path: PathBuf, source: io::Error },
    #[error("write {path}")]
    Write { path: PathBuf, source: io::Error },
    #[error("copy the server {from} to {to}")]
    Server {
        from: PathBuf,
        to: PathBuf,
        source: io::Error,
    },
}

/// Writes the tree into `out`.
///
/// # Errors
/// When `out` already holds something, the listen value is unfit, or a file cannot be written.
pub fn write(plan: &Plan, out: &Path) -> Result<(), WriteTreeError> {
    let unfit = |letter: char| letter.is_control() || letter == '"' || letter == '\\';
    if plan.listen.contains(unfit) {
        return Err(WriteTreeError::Listen {
            listen: plan.listen.clone(),
        });
    }
    if fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(WriteTreeError::NotEmpty { out: out.to_owned() });
    }
    for (name, content) in files(plan) {
        write_file(&out.join(name), &content)?;
    }
    copy_server(&plan.server, &out.join("bin/server"))
}

fn write_file(path: &Path, content: &str) -> Result<(), WriteTreeError> {
    create_parent(path)?;
    File::create_new(path)
        .and_then(|mut file| file.write_all(content.as_bytes()))
        .map_err(|source| WriteTreeError::Write {
            path: path.to_owned(),
            source,
        })
}

/// A copy, not a link: a later build of the sample must not change a release. `copy` takes the permissions along.
fn copy_server(from: &Path, to: &Path) -> Result<(), WriteTreeError> {
    create_parent(to)?;
    fs::copy(from, to)
        .map(drop)
        .map_err(|source| WriteTreeError::Server {
            from: from.to_owned(),
            to: to.to_owned(),
            source,
        })
}

fn create_parent(path: &Path) -> Result<(), WriteTreeError> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(|source| WriteTreeError::Folder {
        path: parent.to_owned(),
        source,
    })
}

/// Every file of the tree but the executable, by path.
fn files(plan: &Plan) -> BTreeMap<String, String> {
    let assets = Assets::of(plan.number);
    let mut files = BTreeMap::new();
    for asset in assets.all() {
        files.insert(format!("public{}", asset.url), asset.content.clone());
    }
    files.insert("ship.toml".into(), ship_toml(&plan.listen));
    files.insert("config/app.json".into(), settings(plan));
    files.insert("templates/index.html".into(), index(plan.number, &assets));
    files.insert("templates/about.html".into(), about(plan.number, &assets));
    files.insert("CHANGELOG.md".into(), changelog(plan.number));
    files.extend(locales(plan.number));
    files.extend(help_pages());
    files
}

/// One fingerprinted file: its name carries the first 16 hex digits of its BLAKE3.
#[derive(Debug)]
struct Asset {
    url: String,
    content: String,
}

impl Asset {
    fn new(name: &str, extension: &str, content: String) -> Self {
        let digest = blake3::hash(content.as_bytes()).to_hex();
        Self {
            url: format!("/assets/{name}-{}.{extension}", &digest[..16]),
            content,
        }
    }
}

/// All assets of one version. References nest: the page names the script, the script names the chunk.
#[derive(Debug)]
struct Assets {
    logo: Asset,
    backdrop: Asset,
    vendor: Asset,
    theme: Asset,
    style: Asset,
    chunk: Asset,
    script: Asset,
}

impl Assets {
    fn of(number: u32) -> Self {
        let backdrop = Asset::new("backdrop", "svg", backdrop(number / 3));
        let chunk = Asset::new("chunk", "js", chunk(number));
        Self {
            logo: Asset::new("logo", "svg", logo()),
            vendor: Asset::new("vendor", "js", vendor()),
            theme: Asset::new("theme", "css", theme(number / 3)),
            style: Asset::new("app", "css", style(number, &backdrop.url)),
            script: Asset::new("app", "js", script(number, &chunk.url)),
            backdrop,
            chunk,
        }
    }

    fn all(&self) -> [&Asset; 7] {
        [
            &self.logo,
            &self.backdrop,
            &self.vendor,
            &self.theme,
            &self.style,
            &self.chunk,
            &self.script,
        ]
    }
}

fn logo() -> String {
    "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 32 32\"><path d=\"M4 20h24l-4 8H8z\" fill=\"#1d4e89\"/>\
     <path d=\"M15 4v14H6zM17 8v10h8z\" fill=\"#f7b32b\"/></svg>\n"
        .into()
}

fn backdrop(shade: u32) -> String {
    let hue = shade * 47 % 360;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"64\" height=\"64\">\
         <rect width=\"64\" height=\"64\" fill=\"hsl({hue},60%,94%)\"/></svg>\n"
    )
}

/// Stands for a library: large beside the rest, and the same in every version.
fn vendor() -> String {
    let mut text = String::from("// A library that changes seldom.\nexport const table = [\n");
    for row in 0..2000_u64 {
        let value = (row + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        text.push_str(&format!("  [{row}, \"{value:016x}\"],\n"));
    }
    text.push_str("];\n");
    text
}

fn theme(edition: u32) -> String {
    format!(":root {{ --edition: {edition}; --ink: #102a43; --paper: #fffdf7; }}\n")
}

fn style(number: u32, backdrop: &str) -> String {
    let hue = number * 61 % 360;
    format!(
        "body {{ font: 16px/1.5 sans-serif; color: var(--ink); background: var(--paper) url(\"{backdrop}\"); }}\n\
         h1 {{ color: hsl({hue}, 55%, 35%); }}\n"
    )
}

fn script(number: u32, chunk: &str) -> String {
    format!(
        "// Version {number}.\n\
         const more = document.querySelector(\"#more\");\n\
         more?.addEventListener(\"click\", async () => {{\n  \
         const {{ tell }} = await import(\"{chunk}\");\n  more.textContent = tell();\n}});\n"
    )
}

fn chunk(number: u32) -> String {
    format!("export const tell = () => \"the lazily loaded part of version {number}\";\n")
}

fn ship_toml(listen: &str) -> String {
    format!(
        r#"# The sample web app of Ship.
app = "web"

[process.web]
command = ["bin/server", "serve"]
class = "web"
listen = {{ http = "{listen}" }}
strategy = "listen-fds"
probe = {{ http = "/healthz", times = 3 }}
ready_timeout = "10s"
drain = "5s"
stop_signal = "TERM"
stop_timeout = "5s"

[[assets]]
root = "public/assets"
url = "/assets"
"#
    )
}

fn settings(plan: &Plan) -> String {
    format!(
        "{{\n  \"version\": {},\n  \"healthy\": {}\n}}\n",
        plan.number, !plan.broken
    )
}

fn head(title: &str, assets: &Assets) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"release\" content=\"{{{{release}}}}\">\n<title>{title}</title>\n\
         <link rel=\"icon\" href=\"{}\">\n<link rel=\"stylesheet\" href=\"{}\">\n\
         <link rel=\"stylesheet\" href=\"{}\">\n",
        assets.logo.url, assets.theme.url, assets.style.url
    )
}

fn index(number: u32, assets: &Assets) -> String {
    let head = head("Sample", assets);
    format!(
        "{head}<script type=\"module\" src=\"{}\"></script>\n<script type=\"module\" src=\"{}\"></script>\n</head>\n\
         <body>\n<h1><img src=\"{}\" alt=\"\" width=\"32\"> Version {number}</h1>\n\
         <p>Release {{{{release}}}}.</p>\n<button id=\"more\">More</button>\n<p><a href=\"/about\">About</a></p>\n\
         </body>\n</html>\n",
        assets.vendor.url, assets.script.url, assets.logo.url
    )
}

fn about(number: u32, assets: &Assets) -> String {
    let head = head("About", assets);
    format!(
        "{head}</head>\n<body>\n<h1>About version {number}</h1>\n<p><a href=\"/\">Home</a></p>\n</body>\n</html>\n"
    )
}

fn changelog(number: u32) -> String {
    let first = number.saturating_sub(20).max(1);
    let lines: String = (first..=number)
        .rev()
        .map(|version| format!("- {version}: greets as {version}\n"))
        .collect();
    format!("# Changes\n\n{lines}")
}

/// Sixteen translations; one of them is touched at each version.
fn locales(number: u32) -> impl Iterator<Item = (String, String)> {
    const LANGUAGES: [&str; 16] = [
        "ar", "cs", "da", "de", "en", "es", "fi", "fr", "hi", "it", "ja", "nl", "pl", "pt", "sv", "uk",
    ];
    LANGUAGES.iter().zip(0_u32..).map(move |(language, place)| {
        // The last version up to this one that touched this language.
        let touched = (1..=number)
            .rev()
            .find(|version| version % 16 == place)
            .unwrap_or(0);
        (
            format!("locales/{language}.json"),
            format!("{{\n  \"language\": \"{language}\",\n  \"revision\": {touched}\n}}\n"),
        )
    })
}

/// Twenty-four pages that never change.
fn help_pages() -> impl Iterator<Item = (String, String)> {
    (1..=24_u32).map(|page| {
        let body: String = (1..=page + 4)
            .map(|line| format!("{line}. Step {line} of topic {page}.\n"))
            .collect();
        (
            format!("help/topic-{page:02}.md"),
            format!("# Topic {page}\n\n{body}"),
        )
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

    use super::*;

    fn plan(number: u32) -> Plan {
        Plan {
            number,
            broken: false,
            listen: "tcp:8080".into(),
            server: std::env::current_exe().unwrap(),
        }
    }

    #[test]
    fn a_version_is_the_same_each_time_and_differs_from_the_next() {
        let (one, again, two) = (files(&plan(1)), files(&plan(1)), files(&plan(2)));
        assert_eq!(one, again);
        let same = one
            .iter()
            .filter(|(name, content)| two.get(*name) == Some(*content))
            .count();
        assert!(one.len() >= 45, "{} files", one.len());
        assert!(
            same > 35 && same < one.len() - 4,
            "{same} of {} files are equal",
            one.len()
        );
    }

    #[test]
    fn every_asset_is_named_by_its_bytes_and_reachable_from_the_page() {
        let files = files(&plan(3));
        let mut seen = 0;
        for (name, content) in files
            .iter()
            .filter(|(name, _)| name.starts_with("public/assets/"))
        {
            seen += 1;
            let fingerprint = &blake3::hash(content.as_bytes()).to_hex()[..16];
            assert!(name.contains(fingerprint), "{name}");
            let url = name.strip_prefix("public").unwrap();
            assert!(
                files.values().any(|other| other.contains(url)),
                "nothing names {url}"
            );
        }
        assert_eq!(seen, 7);
    }

    #[test]
    fn a_tree_is_written_once_and_its_server_runs() {
        let folder = tempfile::tempdir().unwrap();
        write(&plan(1), folder.path()).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(folder.path().join("bin/server"))
                .unwrap()
                .permissions(),
        );
        assert_eq!(mode & 0o111, 0o111);
        assert!(matches!(
            write(&plan(1), folder.path()),
            Err(WriteTreeError::NotEmpty { .. })
        ));
        let quoted = Plan {
            listen: "tcp:\"".into(),
            ..plan(1)
        };
        assert!(matches!(
            write(&quoted, &folder.path().join("x")),
            Err(WriteTreeError::Listen { .. })
        ));
    }
}
