//! The functions of the language, and arithmetic.

use std::rc::Rc;

use tidegate_core::clock::Timestamp;

use super::{
    node::{Binary, Stop},
    run::{Run, untaken},
    value::Value,
};

/// A function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Size,
    Contains,
    StartsWith,
    EndsWith,
    Int,
    Uint,
    Double,
    Text,
    Bool,
    Type,
    Dyn,
    Timestamp,
    Duration,
    LowerAscii,
    UpperAscii,
    Trim,
    Split,
    Join,
    Replace,
    FullYear,
    Month,
    DayOfMonth,
    DayOfWeek,
    Hours,
    Minutes,
    Seconds,
}

/// Whether a function is called as `f(x)` or as `x.f()`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Plain,
    Member,
    Both,
}

/// Name, style, number of arguments with the one before the dot, and function.
pub(super) const ALL: [(&str, Style, usize, Function); 26] = [
    ("size", Style::Both, 1, Function::Size),
    ("contains", Style::Member, 2, Function::Contains),
    ("startsWith", Style::Member, 2, Function::StartsWith),
    ("endsWith", Style::Member, 2, Function::EndsWith),
    ("int", Style::Plain, 1, Function::Int),
    ("uint", Style::Plain, 1, Function::Uint),
    ("double", Style::Plain, 1, Function::Double),
    ("string", Style::Plain, 1, Function::Text),
    ("bool", Style::Plain, 1, Function::Bool),
    ("type", Style::Plain, 1, Function::Type),
    ("dyn", Style::Plain, 1, Function::Dyn),
    ("timestamp", Style::Plain, 1, Function::Timestamp),
    ("duration", Style::Plain, 1, Function::Duration),
    ("lowerAscii", Style::Member, 1, Function::LowerAscii),
    ("upperAscii", Style::Member, 1, Function::UpperAscii),
    ("trim", Style::Member, 1, Function::Trim),
    ("split", Style::Member, 2, Function::Split),
    ("join", Style::Member, 2, Function::Join),
    ("replace", Style::Member, 3, Function::Replace),
    ("getFullYear", Style::Member, 1, Function::FullYear),
    ("getMonth", Style::Member, 1, Function::Month),
    ("getDate", Style::Member, 1, Function::DayOfMonth),
    ("getDayOfWeek", Style::Member, 1, Function::DayOfWeek),
    ("getHours", Style::Member, 1, Function::Hours),
    ("getMinutes", Style::Member, 1, Function::Minutes),
    ("getSeconds", Style::Member, 1, Function::Seconds),
];

const MILLIS_PER_SECOND: i64 = 1000;

fn name(function: Function) -> &'static str {
    ALL.iter().find(|(_, _, _, other)| *other == function).map_or("", |(name, _, _, _)| name)
}

impl<'a> Run<'a> {
    /// Calls a function; the compiler has counted the arguments.
    pub(super) fn call(&mut self, function: Function, arguments: &[Value<'a>]) -> Result<Value<'a>, Stop> {
        let untaken = || {
            let kinds: Vec<&str> = arguments.iter().map(Value::kind).collect();
            Stop::failed(format!("{} does not take {}", name(function), kinds.join(", ")))
        };
        for argument in arguments {
            if let Value::Text(text) = argument {
                self.spend_bytes(text.len())?;
            }
        }
        let [first, rest @ ..] = arguments else { return Err(untaken()) };
        match (function, first, rest) {
            (Function::Dyn, value, []) => Ok(value.clone()),
            (Function::Type, value, []) => Ok(Value::Type(value.kind())),
            (Function::Size, value, []) => size(value).ok_or_else(untaken),
            (Function::Int | Function::Uint | Function::Double | Function::Text | Function::Bool, value, []) => {
                self.convert(function, value)
            }
            (Function::Timestamp, Value::Time(at), []) => Ok(Value::Time(*at)),
            (Function::Timestamp, Value::Text(text), []) => {
                Timestamp::parse(text).map(Value::Time).map_err(|fault| Stop::failed(fault.note()))
            }
            (Function::Timestamp, Value::Int(seconds), []) => seconds
                .checked_mul(MILLIS_PER_SECOND)
                .map(|millis| Value::Time(Timestamp::from_millis(millis)))
                .ok_or_else(|| Stop::failed("timestamp leaves the range of time")),
            (Function::Duration, Value::Span(millis), []) => Ok(Value::Span(*millis)),
            (Function::Duration, Value::Text(text), []) => span(text).map(Value::Span).ok_or_else(|| {
                Stop::failed(format!("{:?} is not a duration such as \"1h30m\"", &text[..text.len().min(40)]))
            }),
            (Function::Contains, Value::Text(text), [Value::Text(part)]) => Ok(Value::Bool(text.contains(&**part))),
            (Function::StartsWith, Value::Text(text), [Value::Text(part)]) => {
                Ok(Value::Bool(text.starts_with(&**part)))
            }
            (Function::EndsWith, Value::Text(text), [Value::Text(part)]) => Ok(Value::Bool(text.ends_with(&**part))),
            (Function::LowerAscii, Value::Text(text), []) => Ok(Value::shared(text.to_ascii_lowercase())),
            (Function::UpperAscii, Value::Text(text), []) => Ok(Value::shared(text.to_ascii_uppercase())),
            (Function::Trim, Value::Text(text), []) => Ok(Value::shared(text.trim())),
            (Function::Split, Value::Text(text), [Value::Text(by)]) => {
                let parts = text.split(&**by).map(|part| {
                    self.spend(2)?;
                    Ok(Value::shared(part))
                });
                parts.collect::<Result<_, _>>().map(|parts| Value::List(Rc::new(parts)))
            }
            (Function::Join, list, [Value::Text(between)]) => self.join(list, between),
            (Function::Replace, Value::Text(text), [Value::Text(from), Value::Text(to)]) => {
                let places = text.matches(&**from).count();
                self.spend_bytes(text.len().saturating_add(places.saturating_mul(to.len())))?;
                Ok(Value::shared(text.replace(&**from, to)))
            }
            (_, Value::Time(at), []) => part_of_time(function, *at).map(Value::Int).ok_or_else(untaken),
            _ => Err(untaken()),
        }
    }

    fn convert(&mut self, to: Function, value: &Value<'a>) -> Result<Value<'a>, Stop> {
        let converted = match (to, value) {
            (Function::Int, Value::Text(text)) => text.parse().ok().map(Value::Int),
            (Function::Int, Value::Time(at)) => Some(Value::Int(at.as_millis().div_euclid(MILLIS_PER_SECOND))),
            (Function::Int, Value::Double(number)) => {
                whole(*number).and_then(|n| i64::try_from(n).ok()).map(Value::Int)
            }
            (Function::Int, value) => value.as_whole().and_then(|n| i64::try_from(n).ok()).map(Value::Int),
            (Function::Uint, Value::Text(text)) => text.parse().ok().map(Value::Uint),
            (Function::Uint, Value::Double(number)) => {
                whole(*number).and_then(|n| u64::try_from(n).ok()).map(Value::Uint)
            }
            (Function::Uint, value) => value.as_whole().and_then(|n| u64::try_from(n).ok()).map(Value::Uint),
            (Function::Double, Value::Text(text)) => text.parse().ok().map(Value::Double),
            (Function::Double, value) => value.as_double().map(Value::Double),
            (Function::Bool, Value::Bool(truth)) => Some(Value::Bool(*truth)),
            (Function::Bool, Value::Text(text)) => match &**text {
                "true" => Some(Value::Bool(true)),
                "false" => Some(Value::Bool(false)),
                _ => None,
            },
            (Function::Text, Value::Text(_)) => Some(value.clone()),
            (Function::Text, Value::Bool(truth)) => Some(Value::shared(truth.to_string())),
            (Function::Text, Value::Int(number)) => Some(Value::shared(number.to_string())),
            (Function::Text, Value::Uint(number)) => Some(Value::shared(number.to_string())),
            (Function::Text, Value::Double(number)) => Some(Value::shared(number.to_string())),
            (Function::Text, Value::Bytes(bytes)) => {
                self.spend_bytes(bytes.len())?;
                std::str::from_utf8(bytes).ok().map(Value::shared)
            }
            (Function::Text, Value::Time(at)) => Some(Value::shared(at.to_string())),
            (Function::Text, Value::Span(millis)) => Some(Value::shared(span_text(*millis))),
            _ => None,
        };
        converted.ok_or_else(|| Stop::failed(format!("{} cannot read this {}", name(to), value.kind())))
    }

    fn join(&mut self, list: &Value<'a>, between: &str) -> Result<Value<'a>, Stop> {
        let mut joined = String::new();
        let mut index = 0;
        while let Some(element) = list.nth(index) {
            let Value::Text(text) = &element else {
                return Err(Stop::failed(format!("join does not take a list with {}", element.kind())));
            };
            self.spend(1)?;
            self.spend_bytes(text.len() + between.len())?;
            if index > 0 {
                joined.push_str(between);
            }
            joined.push_str(text);
            index += 1;
        }
        Ok(Value::shared(joined))
    }
}

fn size(of: &Value<'_>) -> Option<Value<'static>> {
    let count = match of {
        Value::Text(text) => text.chars().count(),
        Value::Bytes(bytes) => bytes.len(),
        Value::Object(map) => map.len(),
        Value::Map(entries) => entries.len(),
        other => other.list_len()?,
    };
    i64::try_from(count).ok().map(Value::Int)
}

/// Cuts a number to the whole number towards zero.
fn whole(number: f64) -> Option<i128> {
    // Beyond this a double has no place for the last digits of any 64-bit number.
    const FAR: f64 = 1.9e19;
    (number.is_finite() && number.abs() < FAR).then(|| number.trunc() as i128)
}

/// `+`, `-`, `*`, `/` and `%` on numbers, instants and durations.
pub(super) fn arithmetic<'a>(sign: Binary, left: &Value<'a>, right: &Value<'a>) -> Result<Value<'a>, Stop> {
    let out = || Stop::failed(format!("{} leaves the range of numbers", sign.sign()));
    if let (Some(one), Some(two)) = (left.as_whole(), right.as_whole()) {
        if two == 0 && matches!(sign, Binary::Divide | Binary::Remainder) {
            return Err(Stop::failed(format!("{} by zero", sign.sign())));
        }
        let number = match sign {
            Binary::Add => one.checked_add(two),
            Binary::Subtract => one.checked_sub(two),
            Binary::Multiply => one.checked_mul(two),
            Binary::Divide => one.checked_div(two),
            Binary::Remainder => one.checked_rem(two),
            _ => None,
        };
        let unsigned = matches!((left, right), (Value::Uint(_), Value::Uint(_)));
        let number = number.ok_or_else(out)?;
        return match unsigned {
            true => u64::try_from(number).map(Value::Uint).map_err(|_| out()),
            false => i64::try_from(number).map(Value::Int).map_err(|_| out()),
        };
    }
    if let (Some(one), Some(two)) = (left.as_double(), right.as_double()) {
        return match sign {
            Binary::Add => Ok(Value::Double(one + two)),
            Binary::Subtract => Ok(Value::Double(one - two)),
            Binary::Multiply => Ok(Value::Double(one * two)),
            Binary::Divide => Ok(Value::Double(one / two)),
            _ => Err(untaken(sign, left, right)),
        };
    }
    let time = |at: &Timestamp, millis: Option<i64>| {
        millis.and_then(|millis| at.as_millis().checked_add(millis)).map(|at| Value::Time(Timestamp::from_millis(at)))
    };
    let result = match (sign, left, right) {
        (Binary::Add, Value::Time(at), Value::Span(span)) | (Binary::Add, Value::Span(span), Value::Time(at)) => {
            time(at, Some(*span))
        }
        (Binary::Subtract, Value::Time(at), Value::Span(span)) => time(at, span.checked_neg()),
        (Binary::Subtract, Value::Time(one), Value::Time(two)) => {
            one.as_millis().checked_sub(two.as_millis()).map(Value::Span)
        }
        (Binary::Add, Value::Span(one), Value::Span(two)) => one.checked_add(*two).map(Value::Span),
        (Binary::Subtract, Value::Span(one), Value::Span(two)) => one.checked_sub(*two).map(Value::Span),
        _ => return Err(untaken(sign, left, right)),
    };
    result.ok_or_else(out)
}

/// Reads a duration such as `1h30m`, `1.5s` or `-200ms`.
fn span(text: &str) -> Option<i64> {
    const UNITS: [(&str, f64); 4] = [("ms", 1.0), ("h", 3_600_000.0), ("m", 60_000.0), ("s", 1000.0)];
    const MILLIS_MAX: f64 = 9.0e15;
    let (sign, mut rest) = text.strip_prefix('-').map_or((1.0, text), |rest| (-1.0, rest));
    if rest.is_empty() {
        return None;
    }
    let mut millis = 0.0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, behind) = rest.split_at(end);
        let (unit, factor) = UNITS.iter().find(|(unit, _)| behind.starts_with(unit))?;
        millis += number.parse::<f64>().ok()? * factor;
        rest = behind.strip_prefix(unit)?;
    }
    (millis < MILLIS_MAX).then(|| (sign * millis).round() as i64)
}

/// Writes a duration in seconds, as the language does.
pub(super) fn span_text(millis: i64) -> String {
    let sign = if millis < 0 { "-" } else { "" };
    let (seconds, rest) = (millis.unsigned_abs() / 1000, millis.unsigned_abs() % 1000);
    match rest {
        0 => format!("{sign}{seconds}s"),
        rest => format!("{sign}{seconds}.{rest:03}s"),
    }
}

fn part_of_time(function: Function, at: Timestamp) -> Option<i64> {
    let at = jiff::Timestamp::from_millisecond(at.as_millis()).ok()?.to_zoned(jiff::tz::TimeZone::UTC);
    Some(match function {
        Function::FullYear => i64::from(at.year()),
        Function::Month => i64::from(at.month()) - 1,
        Function::DayOfMonth => i64::from(at.day()),
        Function::DayOfWeek => i64::from(at.weekday().to_sunday_zero_offset()),
        Function::Hours => i64::from(at.hour()),
        Function::Minutes => i64::from(at.minute()),
        Function::Seconds => i64::from(at.second()),
        _ => return None,
    })
}
