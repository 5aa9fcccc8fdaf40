//! Names of streams, groups, targets and modules: short, printable, safe in paths, labels and URLs.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{fault::Fault, limits};

/// Ending of the stream that keeps the dead letters of another stream.
pub const DEAD_LETTER_SUFFIX: &str = ".dlq";

fn check(what: &'static str, text: &str) -> Result<(), Fault> {
    let fail = |why: &str| Err(Fault::invalid(format!("{what} name {text:?} {why}")));
    if text.is_empty() {
        return fail("is empty");
    }
    if text.len() > limits::NAME_BYTES_MAX {
        return fail(&format!("is longer than {} bytes", limits::NAME_BYTES_MAX));
    }
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return fail("must start with a letter or a digit");
    }
    if !text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')) {
        return fail("may hold only letters, digits, '.', '_' and '-'");
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and wraps a name.
            pub fn new(text: &str) -> Result<Self, Fault> {
                check($what, text)?;
                Ok(Self(Arc::from(text)))
            }

            /// Returns the name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl FromStr for $name {
            type Err = Fault;
            fn from_str(text: &str) -> Result<Self, Fault> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Fault;
            fn try_from(text: String) -> Result<Self, Fault> {
                Self::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "type": "string",
                    "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
                })
            }
        }
    };
}

name!(
    /// Name of a stream.
    StreamName, "stream"
);
name!(
    /// Name of a group.
    GroupName, "group"
);
name!(
    /// Name of a target.
    TargetName, "target"
);
name!(
    /// Name of an engine beside that of the node.
    EngineName, "engine"
);
name!(
    /// Name of a source, a sink or another module.
    ModuleName, "module"
);

impl StreamName {
    /// Tells whether this stream keeps dead letters.
    pub fn is_dead_letters(&self) -> bool {
        self.0.ends_with(DEAD_LETTER_SUFFIX)
    }

    /// Returns the stream that keeps the dead letters of this one; a dead-letter stream is its own.
    pub fn dead_letters(&self) -> Self {
        if self.is_dead_letters() { self.clone() } else { Self(Arc::from(format!("{}{DEAD_LETTER_SUFFIX}", self.0))) }
    }

    /// Returns the stream whose dead letters this one keeps; an ordinary stream is its own.
    pub fn origin(&self) -> Self {
        match self.0.strip_suffix(DEAD_LETTER_SUFFIX) {
            Some(origin) if !origin.is_empty() => Self(Arc::from(origin)),
            Some(_) | None => self.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["orders", "a", "0", "a.b-c_d", &"x".repeat(limits::NAME_BYTES_MAX)] {
            assert_eq!(StreamName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", ".a", "-a", "a b", "a/b", "ä", "a\n", &"x".repeat(limits::NAME_BYTES_MAX + 1)] {
            assert!(StreamName::new(bad).is_err(), "{bad:?} was accepted");
        }
    }

    #[test]
    fn dead_letter_streams_pair_with_their_origin() {
        let orders = StreamName::new("orders").unwrap();
        let dead = orders.dead_letters();
        assert_eq!(dead.as_str(), "orders.dlq");
        assert_eq!(dead.origin(), orders);
        assert_eq!(dead.dead_letters(), dead);
        assert!(!orders.is_dead_letters());
    }
}
