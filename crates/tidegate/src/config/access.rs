//! Where the node listens, and who may use what it offers there.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    net::SocketAddr,
    path::PathBuf,
    str::FromStr,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_control::{Mounted, PROFILES, Profile};
use tidegate_core::{config::Spot, fault::Fault, names::GroupName};

use super::GroupConfig;

/// An address on which the API, health and metrics listen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerConfig {
    /// Address and port, such as `127.0.0.1:7300`; port 0 takes a free one. An address that other machines can reach needs
    /// at least one token. May be left out where the profile has a port of its own: 127.0.0.1 and that port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "address")]
    pub bind: Option<SocketAddr>,
    /// What is spoken there.
    #[serde(default, skip_serializing_if = "Protocol::is_usual")]
    pub protocol: Protocol,
    /// Profile: paths and metric names by which an older system was operated, beside those of the node. `profiles.md` lists
    /// them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// The group that the documents of the profile are about; without it, all groups. Some profiles have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    /// File for the lines of the log that the older system wrote, in its words; beside the node's own log. It is begun anew
    /// at 8 MiB, and the one before is kept with the ending `.1`. Needs a profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<PathBuf>,
}

impl ListenerConfig {
    /// Port on which a node listens unless it is told otherwise.
    pub const PORT: u16 = 7300;

    /// Returns the listeners of a configuration that names none.
    pub fn usual() -> Vec<Self> {
        vec![Self { bind: Some(Self::here(Self::PORT)), ..Self::default() }]
    }

    fn here(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// Returns its profile.
    pub fn mounted(&self) -> Option<Mounted> {
        let profile = Profile::find(self.profile.as_deref()?)?;
        Some(Mounted { profile, group: self.group.clone() })
    }

    /// Returns the address: its own, or that of its profile.
    pub fn address(&self) -> SocketAddr {
        let usual = || self.mounted().and_then(|mounted| mounted.profile.port).unwrap_or(Self::PORT);
        self.bind.unwrap_or_else(|| Self::here(usual()))
    }

    /// Tells whether other machines can reach it.
    pub fn is_open_to_others(&self) -> bool {
        !self.address().ip().to_canonical().is_loopback()
    }

    pub(super) fn refusal(&self) -> String {
        format!(
            "refusing to bind {} without a token: other machines could reach it; add one under tokens, or bind 127.0.0.1",
            self.address()
        )
    }
}

/// What is spoken at a listener.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP: the API, health, metrics, and the sources of type `http`.
    #[default]
    Http,
    /// The part of the Redis protocol that programs on Redis Streams use, described in `docs/redis-protocol.md`.
    Redis,
}

impl Protocol {
    fn is_usual(&self) -> bool {
        *self == Self::Http
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
pub(super) fn check(
    listeners: &[ListenerConfig],
    tokens: &[TokenConfig],
    groups: &BTreeMap<GroupName, GroupConfig>,
    here: &Spot<'_>,
) {
    here.at("listeners").require(!listeners.is_empty(), || "a node needs at least one listener".to_owned());
    let mut bound = HashSet::new();
    for (index, listener) in listeners.iter().enumerate() {
        let here = here.at("listeners").at(index);
        if let Some(profile) = &listener.profile
            && Profile::find(profile).is_none()
        {
            here.at("profile").unknown("profile", profile, PROFILES.iter().map(|profile| profile.name));
        }
        if listener.protocol == Protocol::Redis {
            let is_plain = listener.profile.is_none() && listener.group.is_none() && listener.log.is_none();
            here.require(is_plain, || "profile, group and log are for protocol: http".to_owned());
            here.at("protocol")
                .require(index > 0, || "the first listener speaks http: health and the API are there".to_owned());
        }
        let profile = listener.mounted().map(|mounted| mounted.profile);
        if listener.bind.is_none()
            && profile.is_none_or(|profile| profile.port.is_none())
            && (listener.profile.is_none() || profile.is_some())
        {
            here.at("bind").error("is missing, and there is no profile with a port of its own".to_owned());
            continue;
        }
        if let Some(group) = &listener.group {
            let fits = profile.is_some_and(|profile| profile.of_group);
            here.at("group").require(fits, || "only the profiles of a consumer are about one group".to_owned());
            if !groups.contains_key(group) {
                here.at("group").unknown("group", group.as_str(), groups.keys().map(GroupName::as_str));
            }
        }
        let speaks = listener.log.is_none() || listener.profile.is_some();
        here.at("log").require(speaks, || "needs a profile, whose words it has".to_owned());
        let (here, address) = (here.at("bind"), listener.address());
        here.require(!listener.is_open_to_others() || !tokens.is_empty(), || listener.refusal());
        let fresh = address.port() == 0 || bound.insert(address);
        here.require(fresh, || format!("another listener has {address} already"));
    }
    let (mut names, mut hashes) = (HashSet::new(), HashSet::new());
    for (index, token) in tokens.iter().enumerate() {
        let here = here.at("tokens").at(index);
        here.at("name").require(!token.name.is_empty(), || "a token needs a name".to_owned());
        here.at("name").require(names.insert(&token.name), || format!("another token is called {:?}", token.name));
        here.at("hash").require(hashes.insert(token.hash), || "another token has this hash".to_owned());
    }
}
