//! Runs an expression. Every step is counted, and what is copied or compared counts by its size, so that neither a
//! hostile event nor a careless expression can take long or much memory.

use std::{mem, rc::Rc};

use base64::Engine as _;
use serde_json::Value as Json;
use tidegate_core::{
    event::{Attribute, Data, Event},
    limits,
};

use super::{
    node::{Binary, Loop, Node, Stop},
    value::Value,
};
use crate::scope::Scope;

/// Bytes of text that are read, copied or compared for one step.
const BYTES_PER_STEP: usize = 16;

type Answer<'a> = Result<Value<'a>, Stop>;

/// One run of an expression.
pub(super) struct Run<'a> {
    scope: &'a Scope<'a>,
    left: usize,
    stack: Vec<Value<'a>>,
}

impl<'a> Run<'a> {
    pub(super) fn new(scope: &'a Scope<'a>) -> Self {
        Self { scope, left: limits::EXPRESSION_STEPS_MAX, stack: Vec::new() }
    }

    /// Counts steps.
    pub(super) fn spend(&mut self, steps: usize) -> Result<(), Stop> {
        self.left = self.left.checked_sub(steps).ok_or(Stop::Exhausted)?;
        Ok(())
    }

    /// Counts the reading or copying of text.
    pub(super) fn spend_bytes(&mut self, bytes: usize) -> Result<(), Stop> {
        self.spend(bytes / BYTES_PER_STEP)
    }

    /// Runs a node.
    pub(super) fn value(&mut self, node: &'a Node) -> Answer<'a> {
        self.spend(1)?;
        match node {
            Node::Null => Ok(Value::Null),
            Node::Bool(truth) => Ok(Value::Bool(*truth)),
            Node::Int(number) => Ok(Value::Int(*number)),
            Node::Uint(number) => Ok(Value::Uint(*number)),
            Node::Double(number) => Ok(Value::Double(*number)),
            Node::Text(text) => Ok(Value::borrowed(text)),
            Node::Bytes(bytes) => Ok(Value::Bytes(bytes)),
            Node::Type(name) => Ok(Value::Type(name)),
            Node::Name(name) => self.name(name),
            Node::Local(place) => Ok(self.stack.get(*place).cloned().unwrap_or(Value::Null)),
            Node::Field(of, name) => {
                let of = self.value(of)?;
                self.field(&of, name)?.ok_or_else(|| Stop::failed(format!("there is no key {name:?}")))
            }
            Node::Has(of, name) => {
                let of = self.value(of)?;
                Ok(Value::Bool(self.field(&of, name)?.is_some()))
            }
            Node::Index(both) => self.index(both),
            Node::And(both) => self.either(both, false),
            Node::Or(both) => self.either(both, true),
            Node::Not(of) => Ok(Value::Bool(!self.truth(of, "!")?)),
            Node::Negate(of) => self.negate(of),
            Node::If(three) => {
                let [condition, yes, no] = &**three;
                if self.truth(condition, "?:")? { self.value(yes) } else { self.value(no) }
            }
            Node::Binary(sign, both) => self.binary(*sign, both),
            Node::List(nodes) => self.values(nodes).map(|values| Value::List(Rc::new(values))),
            Node::Map(entries) => self.map(entries),
            Node::Call(function, arguments) => {
                let arguments = self.values(arguments)?;
                self.call(*function, &arguments)
            }
            Node::Matches(of, pattern) => {
                let of = self.value(of)?;
                let Value::Text(text) = &of else {
                    return Err(Stop::failed(format!("matches does not take {}", of.kind())));
                };
                self.spend_bytes(text.len().saturating_mul(4))?;
                Ok(Value::Bool(pattern.is_match(text)))
            }
            Node::Gather(place, more) => {
                // Taken out of its place, so that a list grows where it is instead of being copied in each round.
                let gathered = self.stack.get_mut(*place).map_or(Value::Null, |slot| mem::replace(slot, Value::Null));
                let more = self.value(more)?;
                self.add(gathered, &more)
            }
            Node::NotFalse(of) => match self.value(of) {
                Ok(Value::Bool(truth)) => Ok(Value::Bool(truth)),
                Ok(_) | Err(Stop::Failed(_)) => Ok(Value::Bool(true)),
                Err(Stop::Exhausted) => Err(Stop::Exhausted),
            },
            Node::Loop(looped) => self.looped(looped),
        }
    }

    fn values(&mut self, nodes: &'a [Node]) -> Result<Vec<Value<'a>>, Stop> {
        nodes.iter().map(|node| self.value(node)).collect()
    }

    fn truth(&mut self, node: &'a Node, sign: &str) -> Result<bool, Stop> {
        match self.value(node)? {
            Value::Bool(truth) => Ok(truth),
            other => Err(Stop::failed(format!("{sign} does not take {}", other.kind()))),
        }
    }

    /// `&&` and `||`: `decisive` on one side decides, whatever becomes of the other.
    fn either(&mut self, both: &'a [Node; 2], decisive: bool) -> Answer<'a> {
        let sign = if decisive { "||" } else { "&&" };
        let [left, right] = both;
        let first = match self.truth(left, sign) {
            Ok(truth) if truth == decisive => return Ok(Value::Bool(decisive)),
            Err(Stop::Exhausted) => return Err(Stop::Exhausted),
            first => first,
        };
        match (first, self.truth(right, sign)?) {
            (Ok(_), second) => Ok(Value::Bool(second)),
            (Err(_), second) if second == decisive => Ok(Value::Bool(decisive)),
            (Err(stop), _) => Err(stop),
        }
    }

    fn name(&mut self, name: &str) -> Answer<'a> {
        let scope = self.scope;
        if let Some((_, value)) = scope.added.iter().find(|(added, _)| *added == name) {
            return Ok(Value::of_json(value));
        }
        let unknown = || Stop::failed(format!("there is no {name:?} here"));
        let event = scope.event.ok_or_else(unknown)?;
        let optional = |text: &'a Option<bytestring::ByteString>| Value::borrowed(text.as_deref().unwrap_or_default());
        match name {
            "id" => Ok(Value::borrowed(&event.id)),
            "source" => Ok(Value::borrowed(&event.source)),
            "type" => Ok(Value::borrowed(&event.kind)),
            "subject" => Ok(optional(&event.subject)),
            "time" => Ok(optional(&event.time)),
            "datacontenttype" => Ok(optional(&event.content_type)),
            "data" => self.data(event),
            "ext" => Ok(Value::Map(Rc::new(extensions(event)))),
            "event" => self.whole(event),
            _ => Err(unknown()),
        }
    }

    fn data(&mut self, event: &'a Event) -> Answer<'a> {
        match &event.data {
            Data::None => Ok(Value::Null),
            Data::Text(text) => Ok(Value::borrowed(text)),
            Data::Binary(bytes) => Ok(Value::Bytes(bytes)),
            Data::Json(_) => match self.scope.json() {
                Some(Ok(json)) => Ok(Value::of_json(json)),
                Some(Err(error)) => Err(Stop::failed(error)),
                None => Ok(Value::Null),
            },
        }
    }

    fn whole(&mut self, event: &'a Event) -> Answer<'a> {
        let text = |name, value: &'a str| (Value::borrowed(name), Value::borrowed(value));
        let mut map = vec![
            text("specversion", "1.0"),
            text("id", &event.id),
            text("source", &event.source),
            text("type", &event.kind),
        ];
        let optional = [
            ("subject", &event.subject),
            ("time", &event.time),
            ("datacontenttype", &event.content_type),
            ("dataschema", &event.schema),
        ];
        map.extend(optional.into_iter().filter_map(|(name, value)| Some(text(name, value.as_deref()?))));
        map.extend(extensions(event));
        if event.data != Data::None {
            map.push((Value::borrowed("data"), self.data(event)?));
        }
        Ok(Value::Map(Rc::new(map)))
    }

    /// Looks into a map; none when it has no such key.
    fn field(&mut self, of: &Value<'a>, name: &str) -> Result<Option<Value<'a>>, Stop> {
        match of {
            Value::Object(map) => Ok(map.get(name).map(Value::of_json)),
            Value::Map(entries) => {
                self.spend(entries.len())?;
                let found = entries.iter().find(|(key, _)| matches!(key, Value::Text(text) if **text == *name));
                Ok(found.map(|(_, value)| value.clone()))
            }
            other => Err(Stop::failed(format!("{} has no key {name:?}", other.kind()))),
        }
    }

    fn index(&mut self, both: &'a [Node; 2]) -> Answer<'a> {
        let [of, at] = both;
        let (of, at) = (self.value(of)?, self.value(at)?);
        if let Some(len) = of.list_len() {
            let index = at.as_whole().ok_or_else(|| Stop::failed(format!("a list has no place {}", at.kind())))?;
            return usize::try_from(index)
                .ok()
                .and_then(|index| of.nth(index))
                .ok_or_else(|| Stop::failed(format!("there is no place {index} in a list of {len}")));
        }
        if map_len(&of).is_none() {
            return Err(Stop::failed(format!("{} has no places", of.kind())));
        }
        self.looked_up(&of, &at)?.ok_or_else(|| match &at {
            Value::Text(name) => Stop::failed(format!("there is no key {:?}", &**name)),
            other => Stop::failed(format!("there is no such key of kind {}", other.kind())),
        })
    }

    fn map(&mut self, entries: &'a [(Node, Node)]) -> Answer<'a> {
        let mut map: Vec<(Value<'a>, Value<'a>)> = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let key = self.value(key)?;
            for (other, _) in &map {
                if self.equal(other, &key)? {
                    return Err(Stop::failed("a map has one key twice"));
                }
            }
            map.push((key, self.value(value)?));
        }
        Ok(Value::Map(Rc::new(map)))
    }

    fn negate(&mut self, of: &'a Node) -> Answer<'a> {
        let of = self.value(of)?;
        let negated = match &of {
            Value::Int(number) => number.checked_neg().map(Value::Int),
            Value::Double(number) => Some(Value::Double(-number)),
            Value::Span(millis) => millis.checked_neg().map(Value::Span),
            other => return Err(Stop::failed(format!("- does not take {}", other.kind()))),
        };
        negated.ok_or_else(|| Stop::failed("- leaves the range of numbers"))
    }

    fn binary(&mut self, sign: Binary, both: &'a [Node; 2]) -> Answer<'a> {
        let [left, right] = both;
        let (left, right) = (self.value(left)?, self.value(right)?);
        let ordered = |this: &mut Self, fits: fn(std::cmp::Ordering) -> bool| {
            if let Value::Text(text) = &left {
                this.spend_bytes(text.len())?;
            }
            match left.order(&right) {
                Some(order) => Ok(Value::Bool(fits(order))),
                // A double that is no number is not less, not greater and not the same.
                None if left.as_double().is_some() && right.as_double().is_some() => Ok(Value::Bool(false)),
                None => Err(untaken(sign, &left, &right)),
            }
        };
        match sign {
            Binary::Add => self.add(left, &right),
            Binary::Subtract | Binary::Multiply | Binary::Divide | Binary::Remainder => {
                super::calls::arithmetic(sign, &left, &right)
            }
            Binary::Equal => self.equal(&left, &right).map(Value::Bool),
            Binary::Unequal => self.equal(&left, &right).map(|same| Value::Bool(!same)),
            Binary::Less => ordered(self, std::cmp::Ordering::is_lt),
            Binary::LessOrEqual => ordered(self, std::cmp::Ordering::is_le),
            Binary::Greater => ordered(self, std::cmp::Ordering::is_gt),
            Binary::GreaterOrEqual => ordered(self, std::cmp::Ordering::is_ge),
            Binary::In => self.contained(&left, &right).map(Value::Bool),
        }
    }

    fn contained(&mut self, what: &Value<'a>, of: &Value<'a>) -> Result<bool, Stop> {
        if let (Value::Object(map), Value::Text(name)) = (of, what) {
            return Ok(map.contains_key(&**name));
        }
        if matches!(of, Value::Object(_)) {
            return Ok(false);
        }
        if of.list_len().is_none() && !matches!(of, Value::Map(_)) {
            return Err(untaken(Binary::In, what, of));
        }
        let mut index = 0;
        while let Some(element) = of.nth(index) {
            if self.equal(&element, what)? {
                return Ok(true);
            }
            index += 1;
        }
        Ok(false)
    }

    fn add(&mut self, left: Value<'a>, right: &Value<'a>) -> Answer<'a> {
        if let (Value::Text(one), Value::Text(two)) = (&left, right) {
            let len = one.len() + two.len();
            self.spend_bytes(len)?;
            return Ok(Value::shared(format!("{}{}", &**one, &**two)));
        }
        let Some(more) = right.list_len().filter(|_| left.list_len().is_some()) else {
            return super::calls::arithmetic(Binary::Add, &left, right);
        };
        let mut list = match left {
            Value::List(list) => match Rc::try_unwrap(list) {
                Ok(list) => list,
                Err(shared) => {
                    self.spend(shared.len())?;
                    shared.to_vec()
                }
            },
            other => {
                let len = other.list_len().unwrap_or(0);
                self.spend(len)?;
                (0..len).filter_map(|index| other.nth(index)).collect()
            }
        };
        self.spend(more)?;
        list.extend((0..more).filter_map(|index| right.nth(index)));
        Ok(Value::List(Rc::new(list)))
    }

    /// Compares two values; those of kinds that have nothing in common differ.
    pub(super) fn equal(&mut self, one: &Value<'a>, two: &Value<'a>) -> Result<bool, Stop> {
        self.spend(1)?;
        if let (Value::Text(one), Value::Text(two)) = (one, two) {
            self.spend_bytes(one.len().min(two.len()))?;
            return Ok(**one == **two);
        }
        if let (Some(len), Some(other)) = (one.list_len(), two.list_len()) {
            if len != other {
                return Ok(false);
            }
            for index in 0..len {
                if let (Some(one), Some(two)) = (one.nth(index), two.nth(index))
                    && !self.equal(&one, &two)?
                {
                    return Ok(false);
                }
            }
            return Ok(true);
        }
        if map_len(one).is_some() && map_len(two).is_some() {
            return self.equal_maps(one, two);
        }
        if matches!((one, two), (Value::Null, Value::Null)) {
            return Ok(true);
        }
        if let (Value::Type(one), Value::Type(two)) = (one, two) {
            return Ok(one == two);
        }
        if let (Value::Bytes(one), Value::Bytes(two)) = (one, two) {
            self.spend_bytes(one.len().min(two.len()))?;
        }
        Ok(one.order(two) == Some(std::cmp::Ordering::Equal))
    }

    fn equal_maps(&mut self, one: &Value<'a>, two: &Value<'a>) -> Result<bool, Stop> {
        if map_len(one) != map_len(two) {
            return Ok(false);
        }
        self.spend(map_len(one).unwrap_or(0))?;
        for (key, value) in entries(one).unwrap_or_default() {
            let Some(other) = self.looked_up(two, &key)? else { return Ok(false) };
            if !self.equal(&value, &other)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Returns the value behind a key of any kind.
    fn looked_up(&mut self, map: &Value<'a>, key: &Value<'a>) -> Result<Option<Value<'a>>, Stop> {
        if let Value::Object(map) = map {
            let Value::Text(name) = key else { return Ok(None) };
            return Ok(map.get(&**name).map(Value::of_json));
        }
        let Value::Map(entries) = map else { return Ok(None) };
        for (other, value) in entries.iter() {
            if self.equal(other, key)? {
                return Ok(Some(value.clone()));
            }
        }
        Ok(None)
    }

    fn looped(&mut self, looped: &'a Loop) -> Answer<'a> {
        let range = self.value(&looped.range)?;
        let range = match range {
            Value::Object(map) => {
                self.spend(map.len())?;
                Value::List(Rc::new(map.keys().map(|key| Value::borrowed(key)).collect()))
            }
            other if other.list_len().is_some() || matches!(other, Value::Map(_)) => other,
            other => return Err(Stop::failed(format!("{} has no elements to go through", other.kind()))),
        };
        let start = self.value(&looped.start)?;
        self.stack.truncate(looped.place);
        self.stack.push(start);
        self.stack.push(Value::Null);
        // What decides `all` and `exists` even when the test of another element failed.
        let decisive = match &looped.step {
            Node::And(_) => Some(false),
            Node::Or(_) => Some(true),
            _ => None,
        };
        let mut pending = None;
        let mut index = 0;
        while let Some(element) = range.nth(index) {
            index += 1;
            self.stack.truncate(looped.place + 2);
            if !matches!(self.value(&looped.go_on)?, Value::Bool(true)) {
                break;
            }
            self.put(looped.place + 1, element);
            match self.value(&looped.step) {
                Ok(value) => {
                    let decides = decisive.is_some_and(|decisive| matches!(value, Value::Bool(it) if it == decisive));
                    if decides {
                        pending = None;
                    }
                    if pending.is_none() {
                        self.put(looped.place, value);
                    }
                }
                Err(Stop::Failed(what)) if decisive.is_some() => pending = Some(Stop::Failed(what)),
                Err(stop) => return Err(stop),
            }
        }
        if let Some(stop) = pending {
            return Err(stop);
        }
        let result = self.value(&looped.result);
        self.stack.truncate(looped.place);
        result
    }

    fn put(&mut self, place: usize, value: Value<'a>) {
        if let Some(slot) = self.stack.get_mut(place) {
            *slot = value;
        }
    }

    /// Turns a value into JSON.
    pub(super) fn json(&mut self, value: &Value<'a>) -> Result<Json, Stop> {
        self.spend(1)?;
        Ok(match value {
            Value::Null => Json::Null,
            Value::Bool(truth) => Json::Bool(*truth),
            Value::Int(number) => Json::from(*number),
            Value::Uint(number) => Json::from(*number),
            Value::Double(number) => serde_json::Number::from_f64(*number)
                .map(Json::Number)
                .ok_or_else(|| Stop::failed("gives a number that JSON cannot write"))?,
            Value::Text(text) => {
                self.spend_bytes(text.len())?;
                Json::from(&**text)
            }
            Value::Bytes(bytes) => {
                self.spend_bytes(bytes.len())?;
                Json::from(base64::engine::general_purpose::STANDARD.encode(bytes))
            }
            Value::Array(_) | Value::List(_) => {
                let mut list = Vec::new();
                let mut index = 0;
                while let Some(element) = value.nth(index) {
                    list.push(self.json(&element)?);
                    index += 1;
                }
                Json::Array(list)
            }
            Value::Object(_) | Value::Map(_) => {
                let mut map = serde_json::Map::new();
                for (key, value) in entries(value).unwrap_or_default() {
                    let Value::Text(key) = &key else {
                        return Err(Stop::failed(format!("gives a map with a key of kind {}", key.kind())));
                    };
                    self.spend_bytes(key.len())?;
                    map.insert((**key).to_owned(), self.json(&value)?);
                }
                Json::Object(map)
            }
            Value::Time(at) => Json::from(at.to_string()),
            Value::Span(millis) => Json::from(super::calls::span_text(*millis)),
            Value::Type(name) => Json::from(*name),
        })
    }
}

/// Returns the number of entries of either kind of map.
fn map_len(of: &Value<'_>) -> Option<usize> {
    match of {
        Value::Object(map) => Some(map.len()),
        Value::Map(entries) => Some(entries.len()),
        _ => None,
    }
}

/// Returns the entries of either kind of map.
fn entries<'a>(of: &Value<'a>) -> Option<Vec<(Value<'a>, Value<'a>)>> {
    match of {
        Value::Object(map) => {
            Some(map.iter().map(|(key, value)| (Value::borrowed(key), Value::of_json(value))).collect())
        }
        Value::Map(entries) => Some(entries.to_vec()),
        _ => None,
    }
}

fn extensions(event: &Event) -> Vec<(Value<'_>, Value<'_>)> {
    event.extensions.iter().map(|(name, given)| (Value::borrowed(name), attribute(given))).collect()
}

fn attribute(given: &Attribute) -> Value<'_> {
    match given {
        Attribute::Text(text) => Value::borrowed(text),
        Attribute::Integer(number) => Value::Int(i64::from(*number)),
        Attribute::Boolean(truth) => Value::Bool(*truth),
    }
}

/// The fault of an operator between two kinds that it does not take.
pub(super) fn untaken(sign: Binary, left: &Value<'_>, right: &Value<'_>) -> Stop {
    Stop::failed(format!("{} does not take {} and {}", sign.sign(), left.kind(), right.kind()))
}
