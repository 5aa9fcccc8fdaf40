//! What an event waits for: the events that its attribute `after` names.
//!
//! The attribute is a list of ids with commas between them. An id stands for the event of that id and of the same source;
//! one of another source is written `SOURCE|ID`. Where an id or a source holds a comma, a bar or a percent sign, that is
//! written `%2C`, `%7C` or `%25`.

use bytestring::ByteString;

use crate::{
    event::{Attribute, Event},
    fault::{Fault, Result},
    limits,
};

/// Extension attribute that names the events that must be done before this one runs.
pub const AFTER: &str = "after";

/// What names an event everywhere.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct EventName {
    /// CloudEvents `source`.
    pub source: ByteString,
    /// CloudEvents `id`.
    pub id: ByteString,
}

impl From<&Event> for EventName {
    fn from(event: &Event) -> Self {
        Self { source: event.source.clone(), id: event.id.clone() }
    }
}

/// Returns the events that an event waits for; none when it names none.
pub fn names(event: &Event) -> Result<Vec<EventName>> {
    let Some((_, value)) = event.extensions.iter().find(|(name, _)| &**name == AFTER) else { return Ok(Vec::new()) };
    read(event, value).map_err(|why| Fault::invalid(format!("attribute {AFTER:?}: {why}")))
}

fn read(event: &Event, value: &Attribute) -> Result<Vec<EventName>, String> {
    let list = match value {
        Attribute::Text(text) => text.clone(),
        // An id that is a number is one all the same.
        Attribute::Integer(number) => number.to_string().into(),
        Attribute::Boolean(_) => return Err("it is a list of ids, with commas between them".to_owned()),
    };
    let mut names = Vec::new();
    for part in list.split(',') {
        let part = part.trim();
        let (source, id) = match part.split_once('|') {
            None => (event.source.clone(), plain(part)?),
            Some((source, id)) if !id.contains('|') => (plain(source.trim())?, plain(id.trim())?),
            Some(_) => return Err(format!("{part:?} has more than one bar; one that belongs to an id is written %7C")),
        };
        if source.is_empty() || id.is_empty() {
            return Err(format!("{part:?} names no event"));
        }
        let name = EventName { source, id };
        if name == EventName::from(event) {
            return Err("the event waits for itself".to_owned());
        }
        if !names.contains(&name) {
            names.push(name);
        }
        if names.len() > limits::AFTER_MAX {
            return Err(format!("it names more than {} events", limits::AFTER_MAX));
        }
    }
    Ok(names)
}

/// Takes the percent signs out: two digits behind one stand for a byte.
fn plain(part: &str) -> Result<ByteString, String> {
    let mut out = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digits = after.split_at_checked(2).filter(|(digits, _)| digits.iter().all(u8::is_ascii_hexdigit));
        let read = digits.and_then(|(digits, tail)| {
            let digits = std::str::from_utf8(digits).ok()?;
            Some((u8::from_str_radix(digits, 16).ok()?, tail))
        });
        let Some((byte, tail)) = read else {
            return Err(format!("{part:?} has a percent sign without two digits; one of an id is written %25"));
        };
        out.push(byte);
        rest = tail;
    }
    ByteString::try_from(out).map_err(|_| format!("{part:?} is not UTF-8 behind its percent signs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(after: &str) -> Event {
        Event::new("me", "/jobs", "t").with_extension(AFTER, after.to_owned())
    }

    fn check(after: &str, expected: &[(&str, &str)]) {
        let names = names(&event(after)).unwrap();
        let names: Vec<(&str, &str)> = names.iter().map(|name| (&*name.source, &*name.id)).collect();
        assert_eq!(names, expected, "{after:?}");
        assert!(event(after).check().is_ok());
    }

    #[test]
    fn lists_name_events_of_the_same_source_and_of_others() {
        check("a", &[("/jobs", "a")]);
        check(" a , b,a ", &[("/jobs", "a"), ("/jobs", "b")]);
        check("/shop|7, b", &[("/shop", "7"), ("/jobs", "b")]);
        check("/shop|me", &[("/shop", "me")]);
        check("a%2Cb%7C%25, urn:x y|c d", &[("/jobs", "a,b|%"), ("urn:x y", "c d")]);
        let mut number = Event::new("me", "/jobs", "t");
        number.extensions.push((AFTER.into(), Attribute::Integer(17)));
        assert_eq!(names(&number).unwrap(), [EventName { source: "/jobs".into(), id: "17".into() }]);
        assert_eq!(names(&Event::new("me", "/jobs", "t")).unwrap(), []);
    }

    #[test]
    fn what_names_no_event_is_refused_by_name() {
        let many: Vec<String> = (0..=limits::AFTER_MAX).map(|number| number.to_string()).collect();
        let wrong = [
            ("", "names no event"),
            ("a,,b", "names no event"),
            ("a,", "names no event"),
            ("|a", "names no event"),
            ("/s|", "names no event"),
            ("/s|a|b", "more than one bar"),
            ("50%", "written %25"),
            ("%zz", "written %25"),
            ("%e4", "not UTF-8"),
            ("a, me", "waits for itself"),
            ("/jobs|me", "waits for itself"),
            (&many.join(","), "more than 64"),
        ];
        for (after, word) in wrong {
            let note = event(after).check().unwrap_err().note().to_owned();
            assert!(note.starts_with("attribute \"after\": ") && note.contains(word), "{after:?}: {note}");
        }
        let mut truth = Event::new("me", "/jobs", "t");
        truth.extensions.push((AFTER.into(), Attribute::Boolean(true)));
        assert!(truth.check().is_err());
    }
}
