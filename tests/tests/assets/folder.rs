//! The union as a plain folder: behind nginx, and as the static folder of an app.

use std::process::{Child, Command, Stdio};

use ship_tests::{Nginx, http, skipped, wait};

use super::{Host, NEW, OLD, recipe, replaced};

const IMMUTABLE: &str = "public, max-age=31536000, immutable";

#[test]
fn nginx_serves_every_version_and_keeps_no_error() {
    let host = Host::new();
    host.switch(
        1,
        &[(OLD, b"one"), ("index.html", b"page 1"), ("gone.txt", b"old")],
    );
    let text = |front: std::net::SocketAddr| {
        let text = replaced(&recipe("nginx.conf"), "listen 80;", &format!("listen {front};"));
        replaced(&text, "/srv/ship/web", &host.dir.path().display().to_string())
    };
    let Some(nginx) = Nginx::with(text) else {
        return skipped("nginx_serves_every_version_and_keeps_no_error", "no nginx");
    };
    let get = |path: &str| http::get(nginx.front(), path).unwrap();
    let answer = get(&format!("/static/{OLD}"));
    assert_eq!((answer.status, &answer.body[..]), (200, &b"one"[..]));
    assert_eq!(answer.header("cache-control"), Some(IMMUTABLE));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
    assert_eq!(get("/static/index.html").body, b"page 1");
    assert_eq!(get(&format!("/static/{NEW}")).status, 404);

    // Files come in while nginx runs, and the link moves; nobody tells it.
    host.switch(2, &[(NEW, b"two"), ("index.html", b"page 2")]);
    for (name, body) in [(OLD, b"one"), (NEW, b"two")] {
        let answer = get(&format!("/static/{name}"));
        assert_eq!((answer.status, &answer.body[..]), (200, &body[..]), "{name}");
        assert_eq!(answer.header("cache-control"), Some(IMMUTABLE));
    }
    for path in ["/static/index.html", "/static/"] {
        let page = get(path);
        assert_eq!(
            (page.status, &page.body[..]),
            (200, &b"page 2"[..]),
            "{path}: {}",
            page.head
        );
        assert_eq!(
            page.header("cache-control"),
            Some("public, max-age=5, must-revalidate")
        );
        assert_eq!((page.header("etag"), page.header("last-modified")), (None, None));
    }
    for path in [
        "/static/gone.txt",
        "/static/none.0123456789abcdef.js",
        "/none",
        "/",
        "/ship.toml",
        "/public/index.html",
    ] {
        let answer = get(path);
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
    }
    // A link that somebody plants leads nowhere.
    std::fs::write(host.path("secret"), b"secret").unwrap();
    std::os::unix::fs::symlink(host.path("secret"), host.path("assets/static/link.js")).unwrap();
    let planted = get("/static/link.js");
    assert!([403, 404].contains(&planted.status), "{}", planted.head);
    assert_eq!(planted.header("cache-control"), Some("no-store"));
}

#[test]
fn nginx_sends_the_coding_that_a_release_brings() {
    let host = Host::new();
    let text = "var a = 1;\n".repeat(1_000);
    let plain = host.path("plain.js");
    std::fs::write(&plain, &text).unwrap();
    let zipped = Command::new("gzip")
        .arg("-9nc")
        .arg(&plain)
        .output()
        .unwrap()
        .stdout;
    let name = format!("{OLD}.gz");
    host.switch(1, &[(OLD, text.as_bytes()), (&name, &zipped)]);
    let config = |front: std::net::SocketAddr| {
        let text = replaced(&recipe("nginx.conf"), "listen 80;", &format!("listen {front};"));
        replaced(&text, "/srv/ship/web", &host.dir.path().display().to_string())
    };
    let Some(nginx) = Nginx::with(config) else {
        return skipped("nginx_sends_the_coding_that_a_release_brings", "no nginx");
    };
    let curl = |accept: &str| {
        let url = format!("http://{}/static/{OLD}", nginx.front());
        let words = [
            "-sS",
            "-D",
            "-",
            "-H",
            &format!("Accept-Encoding: {accept}"),
            &url,
        ]
        .map(str::to_owned);
        Command::new("curl").args(words).output().unwrap().stdout
    };
    let coded = curl("gzip");
    assert!(coded.ends_with(&zipped));
    let head = String::from_utf8_lossy(&coded[..coded.len() - zipped.len()]).to_lowercase();
    assert!(
        head.contains("content-encoding: gzip") && head.contains("vary: accept-encoding"),
        "{head}"
    );
    assert!(head.contains(IMMUTABLE), "{head}");
    assert!(curl("identity").ends_with(text.as_bytes()));
}

/// Python's own server, ended when dropped.
struct Python(Child);

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_app_serves_the_folder_as_its_own() {
    let host = Host::new();
    host.switch(1, &[(OLD, b"one")]);
    let server = "import functools, http.server as h, os, sys\n\
        handler = functools.partial(h.SimpleHTTPRequestHandler, directory=os.environ['SHIP_ASSETS_DIR'])\n\
        server = h.ThreadingHTTPServer(('127.0.0.1', 0), handler)\n\
        open(sys.argv[1], 'x').write(str(server.server_port) + '\\n')\n\
        server.serve_forever()\n";
    let told = host.path("port");
    let child = Command::new("python3")
        .args(["-c", server])
        .arg(&told)
        .env("SHIP_ASSETS_DIR", host.path("assets"))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _python = Python(child);
    let port: u16 = wait::until("Python to listen", || {
        let text = std::fs::read_to_string(&told).ok()?;
        text.strip_suffix('\n')?.parse().ok()
    });
    let get = |name: &str| http::get(([127, 0, 0, 1], port).into(), &format!("/static/{name}")).unwrap();
    assert_eq!(get(OLD).body, b"one");
    assert_eq!(get(NEW).status, 404);
    host.switch(2, &[(NEW, b"two")]);
    assert_eq!((get(OLD).body, get(NEW).body), (b"one".to_vec(), b"two".to_vec()));
}
