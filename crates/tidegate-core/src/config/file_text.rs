//! The text of a file that the configuration names by its path, relative to the directory of the configuration.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, SeqAccess, Visitor},
};

/// Name under which the loader recognises that a file is wanted.
pub(super) const FILE_TEXT: &str = "$tidegate::file_text";

/// A file that the configuration names: its path, and its text as it was when the configuration was read.
///
/// It is written with its text, so that a configuration has another fingerprint when the file has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileText {
    /// The path as it was written.
    pub path: String,
    /// What the file held.
    pub text: String,
}

impl<'de> Deserialize<'de> for FileText {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_newtype_struct(FILE_TEXT, Pair)
    }
}

struct Pair;

impl<'de> Visitor<'de> for Pair {
    type Value = FileText;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the path of a file")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<FileText, A::Error> {
        let mut next =
            || parts.next_element::<String>()?.ok_or_else(|| A::Error::custom("expected the path of a file"));
        Ok(FileText { path: next()?, text: next()? })
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, _: D) -> Result<FileText, D::Error> {
        Err(D::Error::custom("expected the path of a file"))
    }
}

impl schemars::JsonSchema for FileText {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "path".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "title": "path" })
    }
}
