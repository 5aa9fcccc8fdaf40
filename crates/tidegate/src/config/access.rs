//! Where the node listens, and who may use what it offers there.

use std::{collections::HashSet, fmt, net::SocketAddr, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_control::{PROFILES, Profile};
use tidegate_core::{config::Spot, fault::Fault};

/// An address on which the API, health and metrics listen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerConfig {
    /// Address and port, such as `127.0.0.1:7300`; port 0 takes a free one. An address that other machines can reach needs at least one token.
    #[schemars(schema_with = "address")]
    pub bind: SocketAddr,
    /// Profile: paths and metric names by which an older system was operated, beside those of the node. `profiles.md` lists
    /// them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
}

impl ListenerConfig {
    /// Port on which a node listens unless it is told otherwise.
    pub const PORT: u16 = 7300;

    /// Returns the listeners of a configuration that names none.
    pub fn usual() -> Vec<Self> {
        vec![Self { bind: SocketAddr::from(([127, 0, 0, 1], Self::PORT)), profile: None }]
    }

    /// Tells whether other machines can reach it.
    pub fn is_open_to_others(&self) -> bool {
        !self.bind.ip().to_canonical().is_loopback()
    }

    pub(super) fn refusal(&self) -> String {
        format!(
            "refusing to bind {} without a token: other machines could reach it; add one under tokens, or bind 127.0.0.1",
            self.bind
        )
    }
}

fn address(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "title": "address and port", "examples": ["127.0.0.1:7300", "[::1]:7300"] })
}

/// A token that lets its bearer use the API. Only its hash is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// Name under which its bearer appears in the audit.
    pub name: String,
    /// What its bearer may do.
    pub role: Role,
    /// SHA-256 hash of the token: `sha256:` and 64 hexadecimal digits.
    pub hash: TokenHash,
}

/// What the bearer of a token may do. A higher role may do all that a lower one may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look.
    Viewer,
    /// Publish, work on groups and targets, move dead letters.
    Operator,
    /// Everything.
    Admin,
}

/// SHA-256 hash of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenHash(pub [u8; 32]);

const SCHEME: &str = "sha256:";

/// The hash of the word `test`.
const EXAMPLE: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

impl FromStr for TokenHash {
    type Err = Fault;
    fn from_str(text: &str) -> Result<Self, Fault> {
        let parse = || {
            let digits = text.strip_prefix(SCHEME).filter(|digits| digits.len() == 64 && digits.is_ascii())?;
            let mut hash = [0; 32];
            for (byte, pair) in hash.iter_mut().zip(digits.as_bytes().chunks(2)) {
                let pair = std::str::from_utf8(pair).ok().filter(|pair| !pair.starts_with('+'))?;
                *byte = u8::from_str_radix(pair, 16).ok()?;
            }
            Some(Self(hash))
        };
        // What was written may be the token itself: it is not repeated.
        parse().ok_or_else(|| Fault::invalid("expected the hash of a token: \"sha256:\" and 64 hexadecimal digits"))
    }
}

impl TryFrom<String> for TokenHash {
    type Error = Fault;
    fn try_from(text: String) -> Result<Self, Fault> {
        text.parse()
    }
}

impl From<TokenHash> for String {
    fn from(hash: TokenHash) -> Self {
        hash.to_string()
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SCHEME)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl JsonSchema for TokenHash {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "hash".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "title": "hash", "pattern": "^sha256:[0-9a-fA-F]{64}$", "examples": [EXAMPLE] })
    }
}

/// Checks listeners and tokens together.
pub(super) fn check(listeners: &[ListenerConfig], tokens: &[TokenConfig], here: &Spot<'_>) {
    here.at("listeners").require(!listeners.is_empty(), || "a node needs at least one listener".to_owned());
    let mut bound = HashSet::new();
    for (index, listener) in listeners.iter().enumerate() {
        let here = here.at("listeners").at(index);
        if let Some(profile) = &listener.profile
            && Profile::find(profile).is_none()
        {
            here.at("profile").unknown("profile", profile, PROFILES.iter().map(|profile| profile.name));
        }
        let here = here.at("bind");
        here.require(!listener.is_open_to_others() || !tokens.is_empty(), || listener.refusal());
        let fresh = listener.bind.port() == 0 || bound.insert(listener.bind);
        here.require(fresh, || format!("another listener has {} already", listener.bind));
    }
    let (mut names, mut hashes) = (HashSet::new(), HashSet::new());
    for (index, token) in tokens.iter().enumerate() {
        let here = here.at("tokens").at(index);
        here.at("name").require(!token.name.is_empty(), || "a token needs a name".to_owned());
        here.at("name").require(names.insert(&token.name), || format!("another token is called {:?}", token.name));
        here.at("hash").require(hashes.insert(token.hash), || "another token has this hash".to_owned());
    }
}
