//! A value that is never printed and never stands in a configuration file itself, only a reference to it.

use std::{fmt, sync::Arc};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{SeqAccess, Visitor},
};

/// Name under which the loader recognises that a secret is wanted, and proves that the value came by reference.
pub(super) const SECRET: &str = "$tidegate::secret";

const HIDDEN: &str = "***";

/// A secret: written as `${env:NAME}` or `${file:PATH}`. Prints as `***`; serialises as the reference.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    value: Arc<str>,
    reference: Option<Arc<str>>,
}

impl Secret {
    /// Wraps a value that did not come from a configuration file.
    pub fn new(value: &str) -> Self {
        Self { value: value.into(), reference: None }
    }

    /// Returns the value. Never print it and never put it into an error.
    pub fn expose(&self) -> &str {
        &self.value
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.reference.as_deref().unwrap_or(HIDDEN))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_newtype_struct(SECRET, Proof)
    }
}

/// Takes a secret only in the form in which the loader hands over a resolved reference.
struct Proof;

impl<'de> Visitor<'de> for Proof {
    type Value = Secret;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a reference such as ${env:NAME} or ${file:PATH}; a secret never stands in the file itself")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Secret, A::Error> {
        let mut next =
            || parts.next_element::<String>()?.ok_or_else(|| serde::de::Error::custom("expected a reference"));
        let (reference, value) = (next()?, next()?);
        Ok(Secret { value: value.into(), reference: Some(reference.into()) })
    }

    // Whatever else comes is a literal. Its text must not get into the error, as the default answers would put it there.
    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Secret, E> {
        Err(E::custom(format_args!("expected {}", &self as &dyn serde::de::Expected)))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, _: D) -> Result<Secret, D::Error> {
        Err(serde::de::Error::custom(format_args!("expected {}", &self as &dyn serde::de::Expected)))
    }
}

impl schemars::JsonSchema for Secret {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "secret".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "title": "secret",
            "pattern": r"^\$\{(env|file):[^}]+\}$",
            "examples": ["${env:PARTNER_SECRET}", "${file:/run/secrets/partner}"]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_never_printed() {
        let secret = Secret::new("whsec_abc");
        assert_eq!(secret.expose(), "whsec_abc");
        for shown in [format!("{secret}"), format!("{secret:?}"), serde_json::to_string(&secret).unwrap()] {
            assert!(shown.contains(HIDDEN) && !shown.contains("abc"), "{shown}");
        }
    }

    #[test]
    fn a_literal_is_refused_without_being_repeated() {
        for literal in ["\"hunter2\"", "12345", "true", "[\"a\"]"] {
            let refused = serde_json::from_str::<Secret>(literal).unwrap_err().to_string();
            assert!(
                refused.contains("reference") && !refused.contains("hunter2") && !refused.contains("12345"),
                "{refused}"
            );
        }
    }
}
