//! A YAML document as a tree in which every key and value knows its place.

use std::collections::HashMap;

use granit_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span};

use super::error::{Place, Step};
use crate::limits;

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
    /// It was found wrong and reported; reading goes on without it.
    pub(super) dropped: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    Scalar { text: String, plain: bool },
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key, its place and its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) node: Node,
}

/// A mistake in the form of the text itself.
#[derive(Debug)]
pub(super) struct FormError {
    pub(super) place: Place,
    pub(super) path: Vec<Step>,
    pub(super) message: String,
}

impl Node {
    /// Tells whether nothing is written here.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// Returns the node at a path, or else the last one on the way to it, and the place of its key.
    pub(super) fn nearest(&self, path: &[Step]) -> Place {
        let mut node = self;
        let mut place = self.place;
        for step in path {
            match (&node.value, step) {
                (Value::Map(entries), Step::Key(key)) => {
                    let Some(entry) = entries.iter().find(|entry| entry.key == *key) else { break };
                    // A short value stands beside its key; of a long one, the key says more than its first line.
                    let is_scalar = matches!(entry.node.value, Value::Scalar { .. });
                    place = if is_scalar { entry.node.place } else { entry.place };
                    node = &entry.node;
                }
                (Value::List(items), Step::Item(item)) => {
                    let Some(next) = items.get(*item) else { break };
                    place = next.place;
                    node = next;
                }
                (Value::Scalar { .. } | Value::List(_) | Value::Map(_), Step::Key(_) | Step::Item(_)) => break,
            }
        }
        place
    }

    /// Takes out what stands at a path; false when nothing is there or it was taken out before.
    pub(super) fn drop_at(&mut self, path: &[Step]) -> bool {
        let Some((step, rest)) = path.split_first() else {
            return !std::mem::replace(&mut self.dropped, true);
        };
        let next = match (&mut self.value, step) {
            (Value::Map(entries), Step::Key(key)) => {
                entries.iter_mut().find(|entry| entry.key == *key).map(|entry| &mut entry.node)
            }
            (Value::List(items), Step::Item(item)) => items.get_mut(*item),
            (Value::Scalar { .. } | Value::List(_) | Value::Map(_), Step::Key(_) | Step::Item(_)) => None,
        };
        next.is_some_and(|node| node.drop_at(rest))
    }

    /// Returns the number of nodes and of levels.
    fn extent(&self) -> (usize, usize) {
        let below: Vec<(usize, usize)> = match &self.value {
            Value::Scalar { .. } => Vec::new(),
            Value::List(items) => items.iter().map(Self::extent).collect(),
            Value::Map(entries) => entries.iter().map(|entry| entry.node.extent()).collect(),
        };
        let depth = below.iter().map(|(_, depth)| *depth).max().unwrap_or(0);
        (1 + below.iter().map(|(count, _)| count).sum::<usize>(), 1 + depth)
    }
}

/// Reads the one document of a text; the errors are all duplicate keys, or the first mistake of another kind.
pub(super) fn parse(text: &str) -> Result<Node, Vec<FormError>> {
    if text.len() > limits::CONFIG_BYTES_MAX {
        let message =
            format!("document of {} bytes is larger than the limit of {}", text.len(), limits::CONFIG_BYTES_MAX);
        return Err(vec![FormError { place: START, path: Vec::new(), message }]);
    }
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: limits::CONFIG_DEPTH_MAX,
        block_nesting_limit: limits::CONFIG_DEPTH_MAX,
    };
    let events = Parser::new_from_str_with_options(text, options);
    let mut builder =
        Builder { events, at: START, anchors: HashMap::new(), nodes: 0, path: Vec::new(), duplicates: Vec::new() };
    match builder.document() {
        Ok(root) if builder.duplicates.is_empty() => Ok(root),
        Ok(_) => Err(builder.duplicates),
        Err(error) => {
            builder.duplicates.push(error);
            Err(builder.duplicates)
        }
    }
}

const START: Place = Place { line: 1, column: 1 };

struct Builder<P> {
    events: P,
    /// Where the last event stood.
    at: Place,
    /// Finished nodes that have an anchor.
    anchors: HashMap<usize, Node>,
    /// Nodes so far, those that aliases repeat included.
    nodes: usize,
    path: Vec<Step>,
    duplicates: Vec<FormError>,
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "an event that does not belong where it stands is refused, whatever it is"
)]
impl<'t, P: Iterator<Item = Result<(Event<'t>, Span), ScanError>>> Builder<P> {
    fn document(&mut self) -> Result<Node, FormError> {
        let mut root = None;
        loop {
            match self.next()? {
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
                Event::StreamEnd => return root.ok_or_else(|| self.error("document is empty")),
                _ if root.is_some() => return Err(self.error("a second document follows; one file holds one document")),
                event => root = Some(self.node(event)?),
            }
        }
    }

    fn next(&mut self) -> Result<Event<'t>, FormError> {
        match self.events.next() {
            Some(Ok((event, span))) => {
                self.at = place(span.start);
                Ok(event)
            }
            Some(Err(error)) => {
                self.at = place(*error.marker());
                Err(self.error(error.info()))
            }
            None => Err(self.error("the text ends in the middle of the document")),
        }
    }

    fn error(&self, message: impl Into<String>) -> FormError {
        FormError { place: self.at, path: self.path.clone(), message: message.into() }
    }

    /// Counts new nodes at the current depth against the limits.
    fn admit(&mut self, count: usize, depth: usize) -> Result<(), FormError> {
        self.nodes += count;
        if self.nodes > limits::CONFIG_NODES_MAX {
            return Err(self.error(format!("document holds more than {} values", limits::CONFIG_NODES_MAX)));
        }
        if self.path.len() + depth > limits::CONFIG_DEPTH_MAX {
            return Err(self.error(format!("document is nested deeper than {} levels", limits::CONFIG_DEPTH_MAX)));
        }
        Ok(())
    }

    fn node(&mut self, event: Event<'t>) -> Result<Node, FormError> {
        let at = self.at;
        self.admit(1, 1)?;
        let (value, anchor) = match event {
            Event::Alias(anchor) => return self.alias(anchor),
            Event::Scalar(.., Some(_)) | Event::SequenceStart(.., Some(_)) | Event::MappingStart(.., Some(_)) => {
                return Err(self.error("tags such as !name are not part of this document's language"));
            }
            Event::Scalar(text, style, anchor, None) => {
                (Value::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain }, anchor)
            }
            Event::SequenceStart(_, anchor, None) => (self.list()?, anchor),
            Event::MappingStart(_, anchor, None) => (self.map()?, anchor),
            _ => return Err(self.error("expected a value")),
        };
        let node = Node { place: at, value, dropped: false };
        if anchor != 0 {
            // The copy that aliases repeat counts too: anchors inside anchors would multiply what is held.
            self.admit(node.extent().0, 0)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn alias(&mut self, anchor: usize) -> Result<Node, FormError> {
        let Some(node) = self.anchors.get(&anchor).cloned() else {
            return Err(self.error("an alias stands inside what it repeats"));
        };
        let (count, depth) = node.extent();
        self.admit(count, depth)?;
        Ok(node)
    }

    fn list(&mut self) -> Result<Value, FormError> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                Event::SequenceEnd => return Ok(Value::List(items)),
                event => {
                    self.path.push(Step::Item(items.len()));
                    items.push(self.node(event)?);
                    self.path.pop();
                }
            }
        }
    }

    fn map(&mut self) -> Result<Value, FormError> {
        let mut entries = Vec::new();
        let mut lines = HashMap::new();
        loop {
            let key = match self.next()? {
                Event::MappingEnd => return Ok(Value::Map(entries)),
                Event::Scalar(key, _, _, None) => key.into_owned(),
                _ => return Err(self.error("a key must be plain text")),
            };
            let place = self.at;
            self.path.push(Step::Key(key.clone()));
            if let Some(first) = lines.get(&key) {
                let duplicate = self.error(format!("this key is written twice, first in line {first}"));
                self.duplicates.push(duplicate);
            }
            let event = self.next()?;
            let node = self.node(event)?;
            self.path.pop();
            if lines.insert(key.clone(), place.line).is_none() {
                entries.push(Entry { key, place, node });
            }
        }
    }
}

fn place(marker: Marker) -> Place {
    Place { line: marker.line().max(1), column: marker.col() + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(text: &str) -> Vec<String> {
        let show = |error: FormError| format!("{}:{} {}", error.place.line, error.place.column, error.message);
        parse(text).unwrap_err().into_iter().map(show).collect()
    }

    fn key<'n>(node: &'n Node, name: &str) -> &'n Node {
        let Value::Map(entries) = &node.value else { panic!("{node:?} is no mapping") };
        &entries.iter().find(|entry| entry.key == name).unwrap().node
    }

    #[test]
    fn values_know_their_place() {
        let root = parse("a: 1\nb:\n  c: [x, 'y']\n").unwrap();
        assert_eq!(key(&root, "a").place, Place { line: 1, column: 4 });
        let path: Vec<Step> = vec!["b".into(), "c".into(), 1.into()];
        assert_eq!(root.nearest(&path), Place { line: 3, column: 10 });
        assert_eq!(root.nearest(&path[..2]), Place { line: 3, column: 3 });
        assert_eq!(root.nearest(&["b".into(), "missing".into()]), Place { line: 2, column: 1 });
        assert!(matches!(&key(key(&root, "b"), "c").value, Value::List(items) if items.len() == 2));
    }

    #[test]
    fn aliases_repeat_what_they_name() {
        let root = parse("a: &one { x: 1 }\nb: *one\n").unwrap();
        assert!(matches!(&key(key(&root, "b"), "x").value, Value::Scalar { text, .. } if text == "1"));
        assert!(errors("a: &one [ *one ]")[0].contains("inside"));
        assert!(!errors("a: *none").is_empty());
    }

    #[test]
    fn forms_that_are_no_configuration_are_refused() {
        assert_eq!(errors("a: 1\nb: 2\na: 3\n"), ["3:1 this key is written twice, first in line 1"]);
        assert_eq!(errors("a: 1\na: 2\nb: 1\nb: 2\n").len(), 2);
        assert!(errors("a: !!str 5")[0].contains("tags"));
        assert!(errors("? [a]\n: 1")[0].contains("key"));
        assert!(errors("a: 1\n---\nb: 2\n")[0].contains("second document"));
        assert!(errors("")[0].contains("empty"));
        assert!(errors("a: [1, 2\n").len() == 1);
        assert!(errors(&"x".repeat(limits::CONFIG_BYTES_MAX + 1))[0].contains("larger"));
    }

    #[test]
    fn neither_depth_nor_aliases_can_grow_without_bound() {
        assert!(parse(&format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000))).is_err());
        let mut laughs = "a0: &a0 [x, x]\n".to_owned();
        for level in 1..40 {
            laughs.push_str(&format!("a{level}: &a{level} [*a{0}, *a{0}]\n", level - 1));
        }
        assert!(errors(&laughs)[0].contains("more than"));
        let mut chain = "a0: &a0 [x]\n".to_owned();
        for level in 1..100 {
            chain.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
        }
        assert!(errors(&chain)[0].contains("nested deeper"));
    }

    #[test]
    fn what_is_dropped_is_dropped_once() {
        let mut root = parse("a: { b: [1, 2] }").unwrap();
        let path: Vec<Step> = vec!["a".into(), "b".into(), 1.into()];
        assert!(root.drop_at(&path));
        assert!(!root.drop_at(&path));
        assert!(!root.drop_at(&["x".into()]));
    }
}
