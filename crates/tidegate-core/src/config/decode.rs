//! Reads a type from the tree; every error carries the path and the place of the value that caused it.

use std::{cell::RefCell, collections::BTreeSet, fmt, mem};

use serde::{
    Deserializer,
    de::{self, DeserializeSeed, Expected, IntoDeserializer, Unexpected, Visitor, value::StrDeserializer},
    forward_to_deserialize_any,
};

use super::{
    by_type::BY_TYPE,
    error::{Place, Step},
    file_text::FILE_TEXT,
    reference::{Environment, Resolved, resolve},
    secret::SECRET,
    tree::{Entry, Node, Value},
};

/// The key that chooses between several forms of a setting.
const TYPE: &str = "type";

/// What one reading of a tree needs to know and remembers.
pub(super) struct Session<'e> {
    pub(super) environment: &'e dyn Environment,
    /// Values of references, so that no error repeats them.
    pub(super) values: RefCell<BTreeSet<String>>,
}

/// Why a type could not be read.
#[derive(Debug)]
pub(super) struct DecodeError {
    pub(super) what: What,
    /// From the inside out.
    steps: Vec<Step>,
    pub(super) place: Option<Place>,
}

#[derive(Debug)]
pub(super) enum What {
    /// A key is none of those that are known.
    UnknownKey { key: String, known: &'static [&'static str] },
    /// A required key is not there.
    Missing(&'static str),
    /// A word is none of those that are known.
    UnknownWord { word: String, known: &'static [&'static str] },
    /// Anything else.
    Wrong(String),
}

impl DecodeError {
    fn new(what: What) -> Self {
        Self { what, steps: Vec::new(), place: None }
    }

    fn at(mut self, step: impl Into<Step>, place: Place) -> Self {
        self.steps.push(step.into());
        self.place.get_or_insert(place);
        self
    }

    /// Returns the path from the top of the document.
    pub(super) fn path(&mut self) -> Vec<Step> {
        let mut path = mem::take(&mut self.steps);
        path.reverse();
        path
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::UnknownKey { key, .. } => write!(f, "unknown key {key:?}"),
            What::Missing(key) => write!(f, "key {key:?} is missing"),
            What::UnknownWord { word, .. } => write!(f, "unknown word {word:?}"),
            What::Wrong(message) => f.write_str(message),
        }
    }
}

impl std::error::Error for DecodeError {}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(What::Wrong(message.to_string()))
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Self {
        Self::new(What::UnknownKey { key: field.to_owned(), known })
    }

    fn unknown_variant(word: &str, known: &'static [&'static str]) -> Self {
        Self::new(What::UnknownWord { word: word.to_owned(), known })
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(What::Missing(field))
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("expected {}, found {}", plain_words(&expected.to_string()), found_words(found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }
}

/// Says in the words of a configuration file what a Rust type expects.
fn plain_words(expected: &str) -> String {
    let words = match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number that is not negative",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a string" | "a character" => "text",
        "a sequence" | "sequence" => "a list",
        "a map" | "map" => "a mapping",
        other if other.starts_with("struct ") || other.starts_with("enum ") => "a mapping",
        other => other,
    };
    words.to_owned()
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the rest are kinds that no document holds; serde names them")]
fn found_words(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Str(text) => format!("{text:?}"),
        Unexpected::Unit | Unexpected::Option => "nothing".to_owned(),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "a mapping".to_owned(),
        Unexpected::Bool(truth) => truth.to_string(),
        Unexpected::Unsigned(number) => number.to_string(),
        Unexpected::Signed(number) => number.to_string(),
        other => other.to_string(),
    }
}

/// Reads one value.
#[derive(Clone, Copy)]
pub(super) struct Decoder<'n> {
    pub(super) node: &'n Node,
    pub(super) session: &'n Session<'n>,
    /// A key that was read before: the `type` that chose the form.
    skip: Option<&'static str>,
}

/// A scalar ready to be read.
struct Scalar<'n> {
    resolved: Resolved<'n>,
    /// Whether it may stand for a number, a truth value or nothing: not quoted, or the whole of it a reference.
    loose: bool,
}

impl<'n> Decoder<'n> {
    pub(super) fn new(node: &'n Node, session: &'n Session<'n>) -> Self {
        Self { node, session, skip: None }
    }

    fn wrong(&self, expected: &str) -> DecodeError {
        let found = match &self.node.value {
            Value::Scalar { .. } if self.node.is_null() => "nothing".to_owned(),
            Value::Scalar { text, .. } => format!("{text:?}"),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
        };
        DecodeError::new(What::Wrong(format!("expected {expected}, found {found}")))
    }

    fn scalar(&self, expected: &str, secret: bool) -> Result<Scalar<'n>, DecodeError> {
        let Value::Scalar { text, plain } = &self.node.value else { return Err(self.wrong(expected)) };
        let resolved =
            resolve(text, secret, self.session.environment).map_err(|why| DecodeError::new(What::Wrong(why)))?;
        let mut values = self.session.values.borrow_mut();
        values.extend(resolved.values.iter().filter(|value| !value.is_empty()).cloned());
        Ok(Scalar { loose: *plain || resolved.whole, resolved })
    }

    /// Hands a text to a visitor; the value of a reference is taken out of the error.
    fn visit_text<'de, V: Visitor<'de>>(&self, visitor: V) -> Result<V::Value, DecodeError> {
        if self.node.is_null() {
            return Err(self.wrong("text"));
        }
        let scalar = self.scalar("text", false)?;
        visitor.visit_str(&scalar.resolved.text).map_err(|error| veiled(error, &scalar.resolved.values))
    }

    fn parse<T: std::str::FromStr>(&self, expected: &str) -> Result<T, DecodeError> {
        let scalar = self.scalar(expected, false)?;
        let parsed = scalar.loose.then(|| scalar.resolved.text.parse().ok()).flatten();
        parsed.ok_or_else(|| self.wrong(expected))
    }

    fn entries(&self) -> Result<Entries<'n>, DecodeError> {
        match &self.node.value {
            Value::Map(entries) => {
                Ok(Entries { rest: entries.iter(), current: None, session: self.session, skip: self.skip })
            }
            Value::Scalar { .. } if self.node.is_null() => {
                Ok(Entries { rest: [].iter(), current: None, session: self.session, skip: None })
            }
            Value::Scalar { .. } | Value::List(_) => Err(self.wrong("a mapping")),
        }
    }

    fn items(&self) -> Result<Items<'n>, DecodeError> {
        match &self.node.value {
            Value::List(items) => Ok(Items { rest: items.iter().enumerate(), session: self.session }),
            Value::Scalar { .. } if self.node.is_null() => {
                Ok(Items { rest: [].iter().enumerate(), session: self.session })
            }
            Value::Scalar { .. } | Value::Map(_) => Err(self.wrong("a list")),
        }
    }
}

/// Takes the values of references out of an error.
fn veiled(mut error: DecodeError, values: &[String]) -> DecodeError {
    let texts = match &mut error.what {
        What::UnknownKey { key: text, .. } | What::UnknownWord { word: text, .. } | What::Wrong(text) => text,
        What::Missing(_) => return error,
    };
    for value in values.iter().filter(|value| !value.is_empty()) {
        *texts = texts.replace(value.as_str(), "***");
        let escaped = format!("{value:?}");
        *texts = texts.replace(escaped.trim_matches('"'), "***");
    }
    error
}

macro_rules! numbers {
    ($($method:ident, $visit:ident, $ty:ty, $expected:literal;)+) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            visitor.$visit(self.parse::<$ty>($expected)?)
        })+
    };
}

impl<'de> Deserializer<'de> for Decoder<'_> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.node.value {
            Value::List(_) => visitor.visit_seq(self.items()?),
            Value::Map(_) => visitor.visit_map(self.entries()?),
            Value::Scalar { .. } if self.node.is_null() => visitor.visit_unit(),
            Value::Scalar { text, plain: true } if !text.contains('$') => match text.as_str() {
                "true" | "True" | "TRUE" => visitor.visit_bool(true),
                "false" | "False" | "FALSE" => visitor.visit_bool(false),
                _ => match (text.parse::<u64>(), text.parse::<i64>()) {
                    (Ok(number), _) => visitor.visit_u64(number),
                    (_, Ok(number)) => visitor.visit_i64(number),
                    (Err(_), Err(_)) => match text.parse::<f64>() {
                        Ok(number) if text.contains(|c: char| c.is_ascii_digit()) => visitor.visit_f64(number),
                        Ok(_) | Err(_) => visitor.visit_str(text),
                    },
                },
            },
            Value::Scalar { .. } => self.visit_text(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_bool(self.parse::<bool>("true or false")?)
    }

    numbers! {
        deserialize_u8, visit_u64, u64, "a whole number that is not negative";
        deserialize_u16, visit_u64, u64, "a whole number that is not negative";
        deserialize_u32, visit_u64, u64, "a whole number that is not negative";
        deserialize_u64, visit_u64, u64, "a whole number that is not negative";
        deserialize_i8, visit_i64, i64, "a whole number";
        deserialize_i16, visit_i64, i64, "a whole number";
        deserialize_i32, visit_i64, i64, "a whole number";
        deserialize_i64, visit_i64, i64, "a whole number";
        deserialize_f32, visit_f64, f64, "a number";
        deserialize_f64, visit_f64, f64, "a number";
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.visit_text(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.visit_text(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.visit_text(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        if self.node.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        if name == BY_TYPE {
            return visitor.visit_enum(Choice(self));
        }
        if name == FILE_TEXT {
            let path = self.scalar("the path of a file", false)?.resolved.text.into_owned();
            let wrong = |why| DecodeError::new(What::Wrong(why));
            let text = self.session.environment.file(&path, false).map_err(wrong)?;
            return visitor.visit_seq(de::value::SeqDeserializer::new([path, text].into_iter()));
        }
        if name != SECRET {
            return visitor.visit_newtype_struct(self);
        }
        let refused = |why: &str| Err(DecodeError::new(What::Wrong(why.to_owned())));
        let Value::Scalar { text, .. } = &self.node.value else { return visitor.visit_newtype_struct(self) };
        let scalar = self.scalar("a reference", true)?;
        if !scalar.resolved.whole {
            // Takes the visitor's own words for what it expects, and none of what stands in the file.
            return visitor.visit_newtype_struct(self);
        }
        if scalar.resolved.text.is_empty() {
            return refused("the secret is empty");
        }
        let pair = [text.as_str(), &scalar.resolved.text];
        visitor.visit_seq(de::value::SeqDeserializer::new(pair.into_iter()))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_seq(self.items()?)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_seq(self.items()?)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_map(self.entries()?)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_map(self.entries()?)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_enum(Choice(self))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! { i128 u128 bytes byte_buf unit unit_struct tuple_struct identifier }
}

/// The entries of a mapping.
struct Entries<'n> {
    rest: std::slice::Iter<'n, Entry>,
    current: Option<&'n Entry>,
    session: &'n Session<'n>,
    skip: Option<&'static str>,
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        let skip = self.skip;
        let Some(entry) = self.rest.find(|entry| !entry.node.dropped && Some(entry.key.as_str()) != skip) else {
            return Ok(None);
        };
        self.current = Some(entry);
        let key: StrDeserializer<'_, DecodeError> = entry.key.as_str().into_deserializer();
        seed.deserialize(key).map(Some).map_err(|error| error.at(entry.key.as_str(), entry.place))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DecodeError> {
        let Some(entry) = self.current.take() else { return Err(de::Error::custom("a value without a key")) };
        seed.deserialize(Decoder::new(&entry.node, self.session)).map_err(|error| {
            // A scalar stands beside its key; of a mapping that lacks something, the key says more than its first line.
            let is_scalar = matches!(entry.node.value, Value::Scalar { .. }) && !entry.node.is_null();
            error.at(entry.key.as_str(), if is_scalar { entry.node.place } else { entry.place })
        })
    }
}

/// The items of a list.
struct Items<'n> {
    rest: std::iter::Enumerate<std::slice::Iter<'n, Node>>,
    session: &'n Session<'n>,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, DecodeError> {
        let Some((index, node)) = self.rest.find(|(_, node)| !node.dropped) else { return Ok(None) };
        seed.deserialize(Decoder::new(node, self.session)).map(Some).map_err(|error| error.at(index, node.place))
    }
}

/// One of several forms: a word, or a mapping whose key `type` names the form.
struct Choice<'n>(Decoder<'n>);

impl<'n, 'de> de::EnumAccess<'de> for Choice<'n> {
    type Error = DecodeError;
    type Variant = Form<'n>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Form<'n>), DecodeError> {
        let decoder = self.0;
        let Value::Map(entries) = &decoder.node.value else {
            if !matches!(decoder.node.value, Value::Scalar { .. }) || decoder.node.is_null() {
                return Err(decoder.wrong("a word or a mapping"));
            }
            let word = decoder.scalar("a word", false)?;
            let text: StrDeserializer<'_, DecodeError> = (&*word.resolved.text).into_deserializer();
            let value = seed.deserialize(text).map_err(|error| veiled(error, &word.resolved.values))?;
            return Ok((value, Form(None)));
        };
        let Some(entry) = entries.iter().find(|entry| entry.key == TYPE && !entry.node.dropped) else {
            return Err(DecodeError::new(What::Missing(TYPE)));
        };
        let chooser = Decoder::new(&entry.node, decoder.session);
        let value = chooser
            .scalar("a word", false)
            .and_then(|word| {
                let text: StrDeserializer<'_, DecodeError> = (&*word.resolved.text).into_deserializer();
                seed.deserialize(text).map_err(|error| veiled(error, &word.resolved.values))
            })
            .map_err(|error| error.at(TYPE, entry.node.place))?;
        Ok((value, Form(Some(Decoder { skip: Some(TYPE), ..decoder }))))
    }
}

/// The settings of a chosen form; none when it was chosen by a word alone.
struct Form<'n>(Option<Decoder<'n>>);

impl<'n> Form<'n> {
    fn settings(self) -> Result<Decoder<'n>, DecodeError> {
        self.0.ok_or_else(|| DecodeError::new(What::Wrong("expected a mapping with the key \"type\"".to_owned())))
    }
}

impl<'de> de::VariantAccess<'de> for Form<'_> {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<(), DecodeError> {
        let Some(decoder) = self.0 else { return Ok(()) };
        let Value::Map(entries) = &decoder.node.value else { return Ok(()) };
        match entries.iter().find(|entry| entry.key != TYPE && !entry.node.dropped) {
            None => Ok(()),
            Some(entry) => {
                let what = What::UnknownKey { key: entry.key.clone(), known: &[TYPE] };
                Err(DecodeError::new(what).at(entry.key.as_str(), entry.place))
            }
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, DecodeError> {
        seed.deserialize(self.settings()?)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, DecodeError> {
        Err(de::Error::custom("a list is no form of a setting"))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_map(self.settings()?.entries()?)
    }
}
