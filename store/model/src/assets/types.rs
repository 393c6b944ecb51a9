//! Content types by extension.

/// Sorted by extension.
const TYPES: &[(&str, &str)] = &[
    ("apng", "image/apng"),
    ("avif", "image/avif"),
    ("bmp", "image/bmp"),
    ("cjs", "text/javascript; charset=utf-8"),
    ("css", "text/css; charset=utf-8"),
    ("csv", "text/csv; charset=utf-8"),
    ("eot", "application/vnd.ms-fontobject"),
    ("gif", "image/gif"),
    ("glb", "model/gltf-binary"),
    ("gltf", "model/gltf+json"),
    ("gz", "application/gzip"),
    ("htm", "text/html; charset=utf-8"),
    ("html", "text/html; charset=utf-8"),
    ("ico", "image/x-icon"),
    ("ics", "text/calendar; charset=utf-8"),
    ("jpeg", "image/jpeg"),
    ("jpg", "image/jpeg"),
    ("js", "text/javascript; charset=utf-8"),
    ("json", "application/json"),
    ("jsonld", "application/ld+json"),
    ("jxl", "image/jxl"),
    ("m4a", "audio/mp4"),
    ("map", "application/json"),
    ("md", "text/markdown; charset=utf-8"),
    ("mjs", "text/javascript; charset=utf-8"),
    ("mov", "video/quicktime"),
    ("mp3", "audio/mpeg"),
    ("mp4", "video/mp4"),
    ("mpeg", "video/mpeg"),
    ("oga", "audio/ogg"),
    ("ogg", "audio/ogg"),
    ("ogv", "video/ogg"),
    ("opus", "audio/ogg"),
    ("otf", "font/otf"),
    ("pdf", "application/pdf"),
    ("png", "image/png"),
    ("rss", "application/rss+xml"),
    ("svg", "image/svg+xml"),
    ("tar", "application/x-tar"),
    ("tif", "image/tiff"),
    ("tiff", "image/tiff"),
    ("ttc", "font/collection"),
    ("ttf", "font/ttf"),
    ("txt", "text/plain; charset=utf-8"),
    ("wasm", "application/wasm"),
    ("wav", "audio/wav"),
    ("weba", "audio/webm"),
    ("webm", "video/webm"),
    ("webmanifest", "application/manifest+json"),
    ("webp", "image/webp"),
    ("woff", "font/woff"),
    ("woff2", "font/woff2"),
    ("xhtml", "application/xhtml+xml"),
    ("xml", "application/xml"),
    ("zip", "application/zip"),
    ("zst", "application/zstd"),
];

/// The type of a file by its name; bytes of an unknown kind are never called text, so that no browser
/// runs them as a page.
pub fn content_type(name: &[u8]) -> &'static str {
    const UNKNOWN: &str = "application/octet-stream";
    let file = name.rsplit(|b| *b == b'/').next().unwrap_or(name);
    let Some(dot) = file.iter().rposition(|b| *b == b'.') else {
        return UNKNOWN;
    };
    let extension = file[dot + 1..].to_ascii_lowercase();
    let found = TYPES.binary_search_by(|(known, _)| known.as_bytes().cmp(&extension));
    found
        .ok()
        .and_then(|at| TYPES.get(at))
        .map_or(UNKNOWN, |(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_found() {
        assert!(TYPES.is_sorted_by(|a, b| a.0 < b.0), "binary search needs order");
        for (name, kind) in [
            (&b"static/main.3f9a12bc.JS"[..], "text/javascript; charset=utf-8"),
            (b"a.js.map", "application/json"),
            (b"font.woff2", "font/woff2"),
            (b"x.wasm", "application/wasm"),
            (b"js", "application/octet-stream"),
            (b"a.b/js", "application/octet-stream"),
            (b"a.exe", "application/octet-stream"),
            (b"a.\xff", "application/octet-stream"),
        ] {
            assert_eq!(content_type(name), kind);
        }
    }
}
