//! The follower against a small site: what is there, gone, changed, or served as something else.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread;

use ship_load::follow::{Fault, FollowPlan, FollowReport, follow};

type Files = HashMap<String, (&'static str, String)>;

/// A site whose files can change between two requests.
#[derive(Clone)]
struct Site {
    url: String,
    files: Arc<Mutex<Files>>,
}

impl Site {
    fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let site = Self {
            url: format!("http://{}/", listener.local_addr().unwrap()),
            files: Arc::default(),
        };
        let files = Arc::clone(&site.files);
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut request = [0; 1024];
                let count = stream.read(&mut request).unwrap_or(0);
                let line = String::from_utf8_lossy(&request[..count]).into_owned();
                let path = line.split(' ').nth(1).unwrap_or_default();
                let found = files.lock().unwrap().get(path).cloned();
                let (status, (kind, body)) = match found {
                    Some(file) => ("200 OK", file),
                    None => ("404 Not Found", ("text/html", "gone".to_owned())),
                };
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all((head + &body).as_bytes());
            }
        });
        site
    }

    fn put(&self, path: &str, kind: &'static str, body: &str) {
        self.files
            .lock()
            .unwrap()
            .insert(path.to_owned(), (kind, body.to_owned()));
    }

    fn remove(&self, path: &str) {
        self.files.lock().unwrap().remove(path);
    }

    fn plan(&self) -> FollowPlan {
        FollowPlan::new(vec![self.url.parse().unwrap()])
    }
}

fn named(name: &str, extension: &str, body: &str) -> String {
    format!(
        "/assets/{name}-{}.{extension}",
        &blake3::hash(body.as_bytes()).to_hex()[..16]
    )
}

/// A page → a style sheet → a picture, and a page → a script → a chunk. Returns the picture's and the chunk's paths.
fn put_release(site: &Site, version: u32) -> (String, String) {
    let picture = format!("<svg>{version}</svg>");
    let picture_path = named("p", "svg", &picture);
    let style = format!("a {{ b: url('{picture_path}') }}");
    let chunk = format!("export default {version};");
    let chunk_path = named("chunk", "js", &chunk);
    let script = format!("import(\"{chunk_path}\")");
    let (style_path, script_path) = (named("app", "css", &style), named("app", "js", &script));
    site.put(&picture_path, "image/svg+xml", &picture);
    site.put(&style_path, "text/css", &style);
    site.put(&chunk_path, "text/javascript", &chunk);
    site.put(&script_path, "text/javascript", &script);
    let page = format!("<link rel=stylesheet href=\"{style_path}\"><script src=\"{script_path}\"></script>");
    site.put("/", "text/html", &page);
    (picture_path, chunk_path)
}

fn faults(report: &FollowReport) -> Vec<Fault> {
    report.failed.iter().map(|failed| failed.fault).collect()
}

#[test]
fn everything_a_page_leads_to_is_asked_everywhere() {
    let (site, base) = (Site::new(), Site::new());
    let (picture, _) = put_release(&site, 1);
    put_release(&base, 1);
    let plan = FollowPlan {
        asset_bases: vec![base.url.parse().unwrap()],
        ..site.plan()
    };
    let report = follow(&plan).unwrap();
    assert_eq!((report.pages, report.assets, report.assets_asked), (1, 4, 8));
    assert!(report.sound(), "{report:?}");
    base.remove(&picture);
    let report = follow(&plan).unwrap();
    assert_eq!((report.missing, faults(&report)), (1, vec![Fault::Missing]));
    assert!(
        report.failed[0].url.starts_with(base.url.trim_end_matches('/'))
            && report.failed[0].from.ends_with("css")
    );
}

#[test]
fn the_history_keeps_asking_for_the_assets_of_old_pages() {
    let (site, folder) = (Site::new(), tempfile::tempdir().unwrap());
    let plan = FollowPlan {
        history: Some(folder.path().join("history")),
        ..site.plan()
    };
    let (_, old_chunk) = put_release(&site, 1);
    assert!(follow(&plan).unwrap().sound());
    put_release(&site, 2);
    let report = follow(&plan).unwrap();
    assert!(report.sound(), "{report:?}");
    assert_eq!(report.assets, 8);
    site.put(&old_chunk, "text/javascript", "export default 'other';");
    assert_eq!(faults(&follow(&plan).unwrap()), [Fault::Changed]);
    site.remove(&old_chunk);
    let report = follow(&plan).unwrap();
    assert_eq!((report.missing, report.failed[0].from.as_str()), (1, "history"));
}

#[test]
fn an_asset_that_is_not_what_its_name_says_is_told() {
    let site = Site::new();
    let (picture, chunk) = put_release(&site, 1);
    site.put(&picture, "text/html", "<svg>1</svg>");
    site.put(&chunk, "text/javascript", "export default 9;");
    let report = follow(&site.plan()).unwrap();
    assert_eq!(faults(&report), [Fault::ContentType, Fault::Fingerprint]);
    assert_eq!(report.bad, 2);
    site.put(&chunk, "text/javascript", "");
    assert!(faults(&follow(&site.plan()).unwrap()).contains(&Fault::Empty));
    let lenient = FollowPlan {
        check_fingerprints: false,
        ..site.plan()
    };
    site.put(&chunk, "text/javascript", "export default 9;");
    assert_eq!(faults(&follow(&lenient).unwrap()), [Fault::ContentType]);
}

#[test]
fn a_page_that_is_gone_is_a_failure() {
    let site = Site::new();
    let report = follow(&site.plan()).unwrap();
    assert_eq!((report.pages, faults(&report)), (0, vec![Fault::Page]));
    assert!(!report.sound());
}
