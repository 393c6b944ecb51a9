//! The shapes that tools write: what they call a file, and what they named it.

use super::node::Node;

/// One file that a tool emitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pair {
    /// Its name in the sources, where the tool tells.
    pub logical: Option<String>,
    /// As written: a path, or a URL.
    pub emitted: String,
    /// The tool says itself that the name is made of the content.
    pub sure: bool,
}

impl Pair {
    fn of(logical: Option<&str>, emitted: &str) -> Self {
        Self {
            logical: logical.map(str::to_owned),
            emitted: emitted.to_owned(),
            sure: false,
        }
    }

    fn sure(self) -> Self {
        Self { sure: true, ..self }
    }
}

/// Every file that a manifest tells of, whichever tool wrote it.
pub(super) fn pairs(top: Node) -> Vec<Pair> {
    let mut found = Vec::new();
    let Node::Map(entries) = top else {
        return found;
    };
    for (key, value) in &entries {
        match (key.as_str(), value) {
            // Sprockets: digested name → what it is. Create React App: name → URL.
            ("files", Node::Map(files)) => {
                files
                    .iter()
                    .for_each(|(name, file)| digested(name, file, &mut found));
            }
            // Phoenix.
            ("digests", Node::Map(files)) => {
                files
                    .iter()
                    .for_each(|(name, file)| digested(name, file, &mut found));
            }
            // Phoenix, Django, Sprockets: name → digested name.
            ("latest" | "paths" | "assets", Node::Map(names)) => {
                let text = |(name, file): &(String, Node)| Some(Pair::of(Some(name), file.text()?));
                found.extend(names.iter().filter_map(text));
            }
            // webpack's statistics.
            ("assets", Node::List(assets)) => found.extend(assets.iter().filter_map(webpack)),
            // esbuild, Angular.
            ("outputs", Node::Map(outputs)) => {
                found.extend(outputs.iter().map(|(name, output)| esbuild(name, output)));
            }
            (_, Node::Text(emitted)) => found.push(Pair::of(Some(key), emitted)),
            (_, Node::Map(_)) => chunk(key, value, &mut found),
            _ => {}
        }
    }
    found
}

fn digested(name: &str, file: &Node, found: &mut Vec<Pair>) {
    if let Some(emitted) = file.text() {
        found.push(Pair::of(Some(name), emitted));
    } else if let Some(logical) = file.text_of("logical_path") {
        found.push(Pair::of(Some(logical), name).sure());
    }
}

/// `{"name": "main.3f9a12bc.js", "info": {"immutable": true, "sourceFilename": "logo.png"}}`
fn webpack(asset: &Node) -> Option<Pair> {
    let name = asset.text_of("name")?;
    let info = asset.get("info");
    let logical = info.and_then(|info| info.text_of("sourceFilename"));
    let pair = Pair::of(logical, name);
    let immutable = info.and_then(|info| info.get("immutable")) == Some(&Node::True);
    Some(if immutable { pair.sure() } else { pair })
}

/// `"dist/main-5KXR4B4T.js": {"entryPoint": "src/main.ts", "inputs": {…}}`
fn esbuild(name: &str, output: &Node) -> Pair {
    let only = match output.get("inputs") {
        Some(Node::Map(inputs)) if inputs.len() == 1 => inputs.first().map(|(input, _)| input.as_str()),
        _ => None,
    };
    let file = name.rsplit('/').next().unwrap_or_default();
    let shared = file.starts_with("chunk-").then_some("chunk");
    Pair::of(output.text_of("entryPoint").or(shared).or(only), name)
}

/// Vite: `"src/main.js": {"file": "assets/main-BxY3k_9Q.js", "name": "main", "css": […], "assets": […]}`; Propshaft:
/// `"app.js": {"digested_path": "app-7d8f2a1b.js"}`; webpack-assets-manifest: `"main.js": {"src": "main.3f9a12bc.js"}`.
fn chunk(key: &str, value: &Node, found: &mut Vec<Pair>) {
    let source = value.text_of("src");
    if let Some(file) = value.text_of("file") {
        let named = value.text_of("name").or(source);
        // A shared chunk without a name has its own for a key.
        let named = named.or_else(|| Some(key).filter(|key| !key.starts_with('_')));
        found.push(Pair::of(named, file));
    } else if let Some(emitted) = value.text_of("digested_path").or(source) {
        found.push(Pair::of(Some(key), emitted));
    }
    for list in ["css", "assets"] {
        if let Some(Node::List(items)) = value.get(list) {
            found.extend(items.iter().filter_map(|item| Some(Pair::of(None, item.text()?))));
        }
    }
}
