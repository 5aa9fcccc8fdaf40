//! Answers of the server, read piece by piece; every read is checked.
#![expect(clippy::wildcard_enum_match_arm, reason = "every other form is one that was not asked for")]

use bytes::Bytes;
use redis::Value;
use tidegate_core::{
    clock::Timestamp,
    delivery::Position,
    fault::{Fault, Result},
};

/// The pieces of an answer that are left to read.
#[derive(Debug)]
pub(crate) struct Reply(std::vec::IntoIter<Value>);

/// A stored entry: its position and its fields.
#[derive(Debug)]
pub(crate) struct RawEntry {
    pub(crate) position: Position,
    pub(crate) fields: Vec<(Bytes, Bytes)>,
    /// What is kept beside it; empty when nothing is.
    pub(crate) own: Bytes,
}

impl Reply {
    /// An answer that is no list is a list of one piece.
    pub(crate) fn new(value: Value) -> Self {
        Self(pieces(value).into_iter())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.len() == 0
    }

    fn next(&mut self) -> Result<Value> {
        self.0.next().ok_or_else(odd)
    }

    pub(crate) fn bytes(&mut self) -> Result<Bytes> {
        bytes(self.next()?)
    }

    pub(crate) fn text(&mut self) -> Result<String> {
        String::from_utf8(self.bytes()?.into()).map_err(|_| odd())
    }

    pub(crate) fn number<N: TryFrom<i64> + std::str::FromStr>(&mut self) -> Result<N> {
        match self.next()? {
            Value::Int(number) => N::try_from(number).map_err(|_| odd()),
            other => std::str::from_utf8(&bytes(other)?).ok().and_then(|text| text.parse().ok()).ok_or_else(odd),
        }
    }

    /// A number that may be absent, which is written as an empty text.
    pub(crate) fn maybe<N: std::str::FromStr>(&mut self) -> Result<Option<N>> {
        let text = self.text()?;
        if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(|_| odd()) }
    }

    pub(crate) fn flag(&mut self) -> Result<bool> {
        Ok(self.number::<i64>()? != 0)
    }

    pub(crate) fn time(&mut self) -> Result<Timestamp> {
        self.number().map(Timestamp::from_millis)
    }

    pub(crate) fn maybe_time(&mut self) -> Result<Option<Timestamp>> {
        Ok(self.maybe::<i64>()?.map(Timestamp::from_millis))
    }

    pub(crate) fn position(&mut self) -> Result<Position> {
        self.text()?.parse().map_err(|_| odd())
    }

    pub(crate) fn maybe_position(&mut self) -> Result<Option<Position>> {
        self.maybe()
    }

    pub(crate) fn list(&mut self) -> Result<Self> {
        match self.next()? {
            value @ (Value::Array(_) | Value::Set(_) | Value::Map(_)) => Ok(Self::new(value)),
            _ => Err(odd()),
        }
    }

    pub(crate) fn entry(&mut self) -> Result<RawEntry> {
        let mut parts = self.list()?;
        let position = parts.position()?;
        let mut flat = parts.list()?;
        let mut fields = Vec::with_capacity(flat.len() / 2);
        while !flat.is_empty() {
            fields.push((flat.bytes()?, flat.bytes()?));
        }
        let own = if parts.is_empty() { Bytes::new() } else { parts.bytes()? };
        Ok(RawEntry { position, fields, own })
    }

    /// Reads every piece that is left.
    pub(crate) fn each<T>(&mut self, mut read: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut all = Vec::with_capacity(self.len());
        while !self.is_empty() {
            all.push(read(self)?);
        }
        Ok(all)
    }
}

fn pieces(value: Value) -> Vec<Value> {
    match value {
        Value::Array(all) | Value::Set(all) => all,
        Value::Map(all) => all.into_iter().flat_map(|(key, value)| [key, value]).collect(),
        other => vec![other],
    }
}

fn bytes(value: Value) -> Result<Bytes> {
    match value {
        Value::BulkString(bytes) => Ok(bytes.into()),
        Value::SimpleString(text) => Ok(text.into_bytes().into()),
        Value::VerbatimString { text, .. } => Ok(text.into_bytes().into()),
        Value::Int(number) => Ok(number.to_string().into_bytes().into()),
        Value::Nil => Ok(Bytes::new()),
        Value::Okay => Ok(Bytes::from_static(b"OK")),
        _ => Err(odd()),
    }
}

/// An answer of a form that no script gives.
pub(crate) fn odd() -> Fault {
    Fault::corrupt("Redis answered in a form that was not asked for")
}

/// Writes a position as Redis does, with both parts.
pub(crate) fn id_text(position: Position) -> String {
    format!("{}-{}", position.high, position.low)
}

/// The position right behind another one.
pub(crate) fn behind(position: Position) -> Position {
    Position { low: position.low + 1, ..position }
}
