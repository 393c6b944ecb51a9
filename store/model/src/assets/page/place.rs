//! Where a name leads, seen from where it stands.

/// Where a text stands that names others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// `https://example.com:8443`; none where it is not known, as in a release.
    pub origin: Option<String>,
    /// `/docs/index.html`
    pub path: String,
}

/// Where a name leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On the same origin; no `.` and `..` are left in the path. With its `?` if there is a query.
    Here { path: String, query: String },
    /// Another origin, or one that is written out.
    There {
        origin: String,
        path: String,
        query: String,
    },
    /// Nothing that is fetched: `#icon`, `data:…`, `mailto:…`.
    Nowhere,
}

impl Base {
    /// Resolves `name` as browsers do (WHATWG URL), as far as paths and origins go.
    pub fn resolve(&self, name: &str) -> Place {
        let name: String = name
            .trim_ascii()
            .chars()
            .filter(|c| !matches!(c, '\t' | '\n' | '\r'))
            .collect();
        let name = name.split('#').next().unwrap_or_default();
        if let Some((scheme, rest)) = scheme(name) {
            let rest = rest
                .strip_prefix("//")
                .filter(|_| matches!(&*scheme, "http" | "https"));
            return rest.map_or(Place::Nowhere, |rest| self.there(&scheme, rest));
        }
        if let Some(rest) = name.strip_prefix("//") {
            let own = self.origin.as_deref().and_then(|origin| origin.split_once("://"));
            return self.there(own.map_or("https", |(scheme, _)| scheme), rest);
        }
        let (path, query) = split_query(name);
        if path.is_empty() {
            return Place::Nowhere;
        }
        let path = path.replace('\\', "/");
        let whole = if path.starts_with('/') {
            path
        } else {
            let folder = self.path.rfind('/').and_then(|at| self.path.get(..at));
            format!("{}/{path}", folder.unwrap_or_default())
        };
        Place::Here {
            path: without_dots(&whole),
            query: query.to_owned(),
        }
    }

    fn there(&self, scheme: &str, rest: &str) -> Place {
        let end = rest.find(['/', '?', '\\']).unwrap_or(rest.len());
        let (host, rest) = rest.split_at(end);
        if host.is_empty() {
            return Place::Nowhere;
        }
        let origin = format!("{scheme}://{}", host.to_ascii_lowercase());
        let (path, query) = split_query(rest);
        let (path, query) = (without_dots(&path.replace('\\', "/")), query.to_owned());
        if self.origin.as_ref() == Some(&origin) {
            return Place::Here { path, query };
        }
        Place::There { origin, path, query }
    }
}

/// Whether a name is still to be filled in by the server: `{{ url }}`, `<%= path %>`, `${x}`.
pub fn is_template(name: &str) -> bool {
    ["{", "<%", "%>", "<?", "[["]
        .iter()
        .any(|mark| name.contains(mark))
}

/// The scheme in lower case, and what follows its colon.
fn scheme(name: &str) -> Option<(String, &str)> {
    let (scheme, rest) = name.split_once(':')?;
    let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.bytes().all(letter);
    is_scheme.then(|| (scheme.to_ascii_lowercase(), rest))
}

fn split_query(name: &str) -> (&str, &str) {
    name.split_at(name.find('?').unwrap_or(name.len()))
}

/// An absolute path without `.` and `..`; a slash at its end stays.
fn without_dots(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    let mut open = true;
    for part in path.strip_prefix('/').unwrap_or(path).split('/') {
        open = matches!(part, "" | "." | "..");
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            // Two slashes in a row stay two: that is another path for a server.
            part => parts.push(part),
        }
    }
    if open && parts.last().is_none_or(|last| !last.is_empty()) {
        parts.push("");
    }
    format!("/{}", parts.join("/"))
}
