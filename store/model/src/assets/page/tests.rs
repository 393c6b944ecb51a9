//! What pages of real tools name, and what no page can do to a scanner.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use super::*;

fn urls(named: &[Named]) -> Vec<&str> {
    named.iter().map(|named| named.url.as_str()).collect()
}

#[test]
fn a_page_names_what_a_browser_fetches() {
    let html = br##"<!doctype html><!-- <img src="/no.png"> --><LINK rel="stylesheet" href="/a.css?x=1&amp;y=2">
        <link rel=canonical href="/page"><link href='./b.js' rel=modulepreload><script src=c.js defer></script>
        <img data-src="/no.png" src="/d.svg" srcset="/e.png 1x, /f,g.png 2x,/h.png" alt="a > b"><a href="/about">x</a>
        <style>p { background: url(/i.png) } /* <img src=/no2.png> */</style>
        <link rel="preload" as="style" href="/j.css"><link rel="icon" href="/k.ico"><link rel=preload as=font href=l.woff2>
        <video poster=/m.jpg><source src=/n.mp4></video><svg><use xlink:href="/o.svg#id"/></svg>
        <div style="background:url(&quot;/p.png&quot;)"></div><picture><source srcset="q.avif 2x"></picture>
        <img src="data:image/png;base64,AAAA"><img src=""><script>"<img src=/no3.png>"</script><title><img src=/no4></title>
        <script type="importmap">{"imports": {"r": "/r.js", "s/": "/s/"}, "scopes": {"/x/": {"t": "./t.js"}}}</script>
        <script type=module>import "/u.js"; import(`./v.js`); import { a } from './w.js'; a.import("/no5.js")</script>
        <script type="application/json">{"a": "import '/no6.js'"}</script><link rel=manifest href=x.webmanifest>"##;
    let read = in_page(html);
    let wanted = [
        "/a.css?x=1&y=2",
        "./b.js",
        "c.js",
        "/d.svg",
        "/e.png",
        "/f,g.png",
        "/h.png",
        "/i.png",
        "/j.css",
        "/k.ico",
        "l.woff2",
        "/m.jpg",
        "/n.mp4",
        "/o.svg#id",
        "/p.png",
        "q.avif",
        "/r.js",
        "./t.js",
        "/u.js",
        "./v.js",
        "./w.js",
        "x.webmanifest",
    ];
    assert_eq!(urls(&read.named), wanted);
    assert_eq!(read.base, None);
    let kinds: Vec<Kind> = read.named.iter().take(3).map(|named| named.kind).collect();
    assert_eq!(kinds, [Kind::Style, Kind::Script, Kind::Script]);
    assert_eq!(line_of(html, read.named[0].at), 1);
    assert_eq!(line_of(html, read.named[4].at), 3);
    let based = in_page(b"<base href='/sub/'><base href=/other/><script src=a.js>");
    assert_eq!(
        (based.base.as_deref(), urls(&based.named)),
        (Some("/sub/"), vec!["a.js"])
    );
}

#[test]
fn a_style_sheet_names_pictures_fonts_and_other_sheets() {
    let css = br#"@charset "utf-8"; @import "a.css" screen; @IMPORT url('b.css'); @import/**/url(c.css);
        /* url(no.png) */ a { b: url( "d.svg" ) } c { d: url(data:image/png;base64,AA) ; e: URL(e\ e\2f f.png) }
        f { content: "url(no2.png)"; g: -webkit-image-set("g.png" 1x, url(h.png) 2x, "i.png" type("image/png") 3x) }
        j { k: "no3.png"; m: url(m.woff2?#iefix) format("woff2"), url(n.woff); l: url("cut
        off.png }"#;
    let named = in_style(css);
    let wanted = [
        "a.css",
        "b.css",
        "c.css",
        "d.svg",
        "e e/f.png",
        "g.png",
        "h.png",
        "i.png",
        "m.woff2?#iefix",
        "n.woff",
    ];
    assert_eq!(urls(&named), wanted);
    let sheets = named.iter().filter(|named| named.kind == Kind::Style);
    assert_eq!(sheets.count(), 3);
}

#[test]
fn a_module_names_what_it_imports() {
    let js = br#"import{a as b}from"./v.js";import './w.css';import("/x.js");export*from'../y.js';import"react";
        // import "./no.js"
        /* a comment
         * import "./no2.js" */
        const u=new URL("./z.png",import.meta.url),v=new URL("/no3",location),w=import.meta.url,x=fromage("./no4");
        import(/* webpackChunkName: "q" */ "./q.js");import("./no5" + name);import(`./no6/${x}.js`)"#;
    let wanted = ["./v.js", "./w.css", "/x.js", "../y.js", "./z.png", "./q.js"];
    assert_eq!(urls(&in_script(js)), wanted);
}

#[test]
fn names_lead_where_browsers_go() {
    let base = |origin: Option<&str>, path: &str| Base {
        origin: origin.map(str::to_owned),
        path: path.to_owned(),
    };
    let here = |path: &str, query: &str| Place::Here {
        path: path.to_owned(),
        query: query.to_owned(),
    };
    let page = base(Some("https://example.com"), "/docs/a/index.html");
    for (name, wanted) in [
        ("x.js", here("/docs/a/x.js", "")),
        ("./x.js?v=1#z", here("/docs/a/x.js", "?v=1")),
        ("../x.js", here("/docs/x.js", "")),
        ("../../../../x.js", here("/x.js", "")),
        ("/x/./y/../z.js", here("/x/z.js", "")),
        (" /x\n.js ", here("/x.js", "")),
        ("\\x\\y.js", here("/x/y.js", "")),
        ("/x/", here("/x/", "")),
        ("..", here("/docs/", "")),
        ("//example.com/x.js", here("/x.js", "")),
        ("HTTPS://EXAMPLE.com/x.js", here("/x.js", "")),
        ("#top", Place::Nowhere),
        ("", Place::Nowhere),
        ("?x", Place::Nowhere),
        ("mailto:a@b", Place::Nowhere),
        ("javascript:alert(1)", Place::Nowhere),
        ("https:///x", Place::Nowhere),
    ] {
        assert_eq!(page.resolve(name), wanted, "{name:?}");
    }
    let there = |origin: &str, path: &str| Place::There {
        origin: origin.to_owned(),
        path: path.to_owned(),
        query: String::new(),
    };
    assert_eq!(
        page.resolve("//cdn.example.com/x.js"),
        there("https://cdn.example.com", "/x.js")
    );
    assert_eq!(
        page.resolve("http://example.com"),
        there("http://example.com", "/")
    );
    let unknown = base(None, "/index.html");
    assert_eq!(unknown.resolve("x.js"), here("/x.js", ""));
    assert_eq!(unknown.resolve("//a/x.js"), there("https://a", "/x.js"));
    assert!(is_template("{{ url }}") && is_template("<%= x %>") && !is_template("/a-b_c.d~e@2x.png"));
}

/// Cut anywhere and with any byte changed, every text is read to its end.
#[test]
fn broken_texts_end_nothing_but_themselves() {
    let html = br#"<base href=/><link rel=stylesheet href='a.css'><img srcset="b 1x,c 2x" style="d:url(e\66 )">&#x41;&amp
        <script type=importmap>{"imports":{"a":"./a"}}</script><style>@import"f";</style><script>import("./g")</script>"#;
    let all = |text: &[u8]| (in_page(text), in_style(text), in_script(text));
    for at in 0..html.len() {
        let _ = all(&html[..at]);
        for byte in [
            0, b'<', b'>', b'"', b'\'', b'(', b')', b'\\', b'/', b'*', b'&', b'=', 0xff,
        ] {
            let mut changed = html.to_vec();
            changed[at] = byte;
            let _ = all(&changed);
        }
    }
}

/// What would take a careless scanner a time that grows with the square of the length takes these about as long as their
/// length: a million bytes of each, or this test never ends.
#[test]
fn no_text_takes_long() {
    for part in [
        "<",
        "<a ",
        "<!--",
        "<a b=\"",
        "<a b='",
        "<style>",
        "<script>",
        "<a =",
        "&",
        "&#",
        "url(",
        "url(\"",
        "/*",
        "@import",
        "image-set(",
        "\\",
        "import",
        "import(",
        "import/*",
        "import\"",
        "import`",
        "new URL(",
        "from'",
        "\n//",
        "\n*",
        "<img srcset=\"a,",
        "(",
        ")",
        "<title",
        "<link rel=icon href=a>",
    ] {
        let text = part.repeat(1_000_000 / part.len());
        let named = in_page(text.as_bytes()).named.len();
        let styled = in_style(text.as_bytes()).len();
        let scripted = in_script(text.as_bytes()).len();
        assert!(named.max(styled).max(scripted) <= MAX_NAMED, "{part}");
    }
    let content = format!("a{{b:url(data:{})}}", "A".repeat(1_000_000));
    assert_eq!(in_style(content.as_bytes()), []);
}
