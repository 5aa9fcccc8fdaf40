//! Content types: which form a body has.

use bytes::Bytes;
use bytestring::ByteString;

use crate::{
    event::Data,
    fault::{Fault, Result},
};

/// Content type of one CloudEvent as JSON.
pub const STRUCTURED: &str = "application/cloudevents+json";

/// What is known of a content type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Media {
    /// One CloudEvent as JSON.
    Structured,
    /// Several CloudEvents as a JSON list.
    Batch,
    /// JSON.
    Json,
    /// Text.
    Text,
    /// Anything else.
    Binary,
}

impl Media {
    /// Reads a content type; one that this program cannot read is refused.
    pub(super) fn of(content_type: &str) -> Result<Self> {
        let (kind, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
        let kind = kind.trim().to_ascii_lowercase();
        let media = match kind.as_str() {
            STRUCTURED => Self::Structured,
            "application/cloudevents-batch+json" => Self::Batch,
            other if other.starts_with("application/cloudevents") => return Err(unsupported(content_type)),
            other if other.ends_with("/json") || other.ends_with("+json") => Self::Json,
            "application/x-www-form-urlencoded" | "application/xml" | "application/javascript" | "application/yaml" => {
                Self::Text
            }
            other if other.starts_with("text/") || other.ends_with("+xml") || other.ends_with("+yaml") => Self::Text,
            _ => Self::Binary,
        };
        let charset = parameters.split(';').find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"'))
        });
        let is_utf8 = charset.is_none_or(|charset| {
            charset.eq_ignore_ascii_case("utf-8")
                || charset.eq_ignore_ascii_case("utf8")
                || charset.eq_ignore_ascii_case("us-ascii")
        });
        match media {
            media if is_utf8 => Ok(media),
            Self::Structured | Self::Batch | Self::Json => Err(unsupported(content_type)),
            // Text in another encoding is kept as it came: only its sender knows what it says.
            Self::Text | Self::Binary => Ok(Self::Binary),
        }
    }

    /// Tells whether data of this content type is JSON; an unreadable one is not.
    pub(super) fn is_json(content_type: &str) -> bool {
        matches!(Self::of(content_type), Ok(Self::Json | Self::Structured | Self::Batch))
    }
}

fn unsupported(content_type: &str) -> Fault {
    Fault::invalid(format!("unsupported content type {content_type:?}"))
}

/// Takes a body as data: JSON is checked, text is recognised.
pub fn data_of(content_type: Option<&str>, body: Bytes) -> Result<Data> {
    if body.is_empty() {
        return Ok(Data::None);
    }
    let Some(content_type) = content_type else { return Ok(Data::Binary(body)) };
    // Structured forms are told apart before; inside a binary event they are JSON like any other.
    match Media::of(content_type)? {
        Media::Json | Media::Structured | Media::Batch => {
            super::json::check(&body).map_err(|fault| fault.within("body"))?;
            Ok(Data::Json(body))
        }
        Media::Text => match ByteString::try_from(body.clone()) {
            Ok(text) => Ok(Data::Text(text)),
            Err(_) => Ok(Data::Binary(body)),
        },
        Media::Binary => Ok(Data::Binary(body)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_are_told_apart() {
        let check = |text: &str, expect: Media| assert_eq!(Media::of(text).unwrap(), expect, "{text}");
        check("application/cloudevents+json", Media::Structured);
        check("Application/CloudEvents+JSON; charset=UTF-8", Media::Structured);
        check("application/cloudevents-batch+json;charset=\"utf-8\"", Media::Batch);
        check("application/json", Media::Json);
        check("application/vnd.order+json", Media::Json);
        check("text/plain", Media::Text);
        check("text/plain; charset=latin1", Media::Binary);
        check("application/x-www-form-urlencoded", Media::Text);
        check("image/svg+xml", Media::Text);
        check("application/octet-stream", Media::Binary);
        check("", Media::Binary);
        for bad in ["application/cloudevents+avro", "application/cloudevents", "application/json; charset=utf-16"] {
            let note = Media::of(bad).unwrap_err().note().to_owned();
            assert!(note.starts_with("unsupported content type"), "{note}");
        }
    }
}
