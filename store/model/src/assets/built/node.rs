//! JSON of somebody else's making, within bounds: what is too deep, too long or known to be of no use is passed over while
//! it is read.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// What lies deeper is passed over.
const DEPTH: u8 = 4;
/// Most values that are kept of one file.
const MAX_NODES: usize = 500_000;
/// Longest text that can be a name.
const MAX_TEXT: usize = 4096;

/// Keys of what tools write at length about their sources.
const SKIPPED: &[&str] = &[
    "assetsByChunkName",
    "children",
    "chunks",
    "dynamicImports",
    "exports",
    "entrypoints",
    "errors",
    "imports",
    "integrity",
    "modules",
    "namedChunkGroups",
    "reasons",
    "warnings",
];

/// A value of which only names matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    Text(String),
    True,
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
    Other,
}

impl Node {
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value of a map's key.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        let Self::Map(entries) = self else { return None };
        entries
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value)
    }

    pub(super) fn text_of(&self, key: &str) -> Option<&str> {
        self.get(key)?.text()
    }
}

/// Reads a whole file; tells why it cannot.
pub(super) fn parse(bytes: &[u8]) -> Result<Node, String> {
    let left = Cell::new(MAX_NODES);
    let seed = Seed {
        depth: DEPTH,
        left: &left,
    };
    // A byte order mark is how some editors begin a file.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let read = seed.deserialize(&mut reader).and_then(|node| {
        reader.end()?;
        Ok(node)
    });
    read.map_err(|error| error.to_string())
}

#[derive(Clone, Copy)]
struct Seed<'c> {
    depth: u8,
    left: &'c Cell<usize>,
}

impl Seed<'_> {
    fn count<E: serde::de::Error>(self) -> Result<(), E> {
        let left = self.left.get().checked_sub(1);
        self.left.set(left.unwrap_or_default());
        left.map(drop)
            .ok_or_else(|| E::custom(format_args!("more than {MAX_NODES} values")))
    }

    fn deeper(self) -> Option<Self> {
        let depth = self.depth.checked_sub(1)?;
        Some(Self { depth, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Node, D::Error> {
        self.count::<D::Error>()?;
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(if value { Node::True } else { Node::Other })
    }

    fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Other)
    }

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(if text.len() > MAX_TEXT {
            Node::Other
        } else {
            Node::Text(text.to_owned())
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let Some(deeper) = self.deeper() else {
            while items.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(Node::Other);
        };
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(deeper)? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = entries.next_key::<String>()? {
            let deeper = self.deeper().filter(|_| !SKIPPED.contains(&key.as_str()));
            let Some(deeper) = deeper.filter(|_| key.len() <= MAX_TEXT) else {
                entries.next_value::<IgnoredAny>()?;
                continue;
            };
            map.push((key, entries.next_value_seed(deeper)?));
        }
        Ok(Node::Map(map))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

    use super::*;

    #[test]
    fn hostile_json_is_an_error_or_nothing() {
        for bad in ["", "{", "[1,", "{\"a\":}", "\"\\ud800\"", "{} {}", "nul", "\u{1}"] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(parse(b"\xff").is_err());
        // Neither the stack nor the memory is what gives in.
        let deep = [b"[".repeat(1_000_000), b"]".repeat(1_000_000)].concat();
        let _ = parse(&deep);
        let many = format!("[{}1]", "1,".repeat(MAX_NODES));
        assert!(
            parse(many.as_bytes())
                .unwrap_err()
                .contains("more than 500000 values")
        );
        let long = format!("{{\"a\":\"{0}\",\"{0}\":\"b\"}}", "x".repeat(MAX_TEXT + 1));
        assert_eq!(
            parse(long.as_bytes()).unwrap(),
            Node::Map(vec![("a".to_owned(), Node::Other)])
        );
    }

    #[test]
    fn only_so_deep() {
        let read =
            parse(br#"{"a":{"b":{"c":{"d":{"e":1}}}},"modules":{"x":"y"},"t":[true,false,null,1,-1,1.5]}"#);
        let read = read.unwrap();
        let inner = read.get("a").and_then(|a| a.get("b")).and_then(|b| b.get("c"));
        assert_eq!(
            inner,
            Some(&Node::Map(vec![("d".to_owned(), Node::Map(Vec::new()))]))
        );
        assert_eq!(read.get("modules"), None);
        let Some(Node::List(list)) = read.get("t") else {
            panic!("{read:?}")
        };
        assert_eq!((list.len(), &list[0], &list[1]), (6, &Node::True, &Node::Other));
    }
}
