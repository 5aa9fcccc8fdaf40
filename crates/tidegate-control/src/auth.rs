//! Who asks, and what they may do: bearer tokens with roles, or the machine itself when there are no tokens.

use std::{fmt, net::IpAddr};

use bytestring::ByteString;
use http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use tidegate_core::fault::{Fault, Result};

use crate::problem::Problem;

/// What a token may do. A higher role may do all that a lower one may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look.
    Viewer,
    /// Publish, work on groups and targets, move dead letters.
    Operator,
    /// Everything.
    Admin,
}

impl Role {
    /// Returns the word used in configuration and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl std::str::FromStr for Role {
    type Err = Fault;
    fn from_str(text: &str) -> Result<Self> {
        [Self::Viewer, Self::Operator, Self::Admin]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| Fault::invalid(format!("role {text:?} is none of viewer, operator and admin")))
    }
}

/// A bearer token as the node knows it: never the token, only its hash.
#[derive(Clone)]
pub struct Token {
    name: ByteString,
    role: Role,
    hash: [u8; 32],
}

impl Token {
    /// Makes a token from the SHA-256 hash of its text.
    pub fn from_hash(name: impl Into<ByteString>, role: Role, hash: [u8; 32]) -> Self {
        Self { name: name.into(), role, hash }
    }

    /// Makes a token from its text, which is not kept.
    pub fn from_text(name: impl Into<ByteString>, role: Role, text: &str) -> Self {
        Self::from_hash(name, role, Sha256::digest(text.as_bytes()).into())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({} {})", self.name, self.role.as_str())
    }
}

/// The tokens of a node. Without any, only the machine itself can ask and may do everything.
#[derive(Debug, Clone, Default)]
pub struct Tokens(Vec<Token>);

impl Tokens {
    /// Takes the tokens of the configuration.
    pub fn new(tokens: Vec<Token>) -> Self {
        Self(tokens)
    }

    /// Tells whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Finds who asks and checks that they may.
    pub(crate) fn admit(&self, needed: Role, headers: &HeaderMap) -> Result<Actor, Problem> {
        if self.is_empty() {
            refuse_strange_browser(headers)?;
            return Ok(Actor::local());
        }
        let token = bearer(headers).and_then(|text| self.find(text)).ok_or_else(Problem::unauthenticated)?;
        if token.role < needed {
            return Err(Fault::denied(format!(
                "token {:?} has the role {}, this needs {}",
                &*token.name,
                token.role.as_str(),
                needed.as_str()
            ))
            .into());
        }
        Ok(Actor { name: token.name.clone() })
    }

    /// Finds who has a token, and what that may do.
    pub(crate) fn known(&self, text: &str) -> Option<(ByteString, Role)> {
        self.find(text).map(|token| (token.name.clone(), token.role))
    }

    /// Compares with every token to the end, so that the time tells nothing about any of them.
    fn find(&self, text: &str) -> Option<&Token> {
        let given: [u8; 32] = Sha256::digest(text.as_bytes()).into();
        let mut found = None;
        for token in &self.0 {
            let difference = token.hash.iter().zip(given).fold(0, |seen, (left, right)| seen | (left ^ right));
            if std::hint::black_box(difference) == 0 {
                found = Some(token);
            }
        }
        found
    }
}

/// Who asks: the name for notices and audit.
#[derive(Debug, Clone)]
pub(crate) struct Actor {
    pub(crate) name: ByteString,
}

impl Actor {
    fn local() -> Self {
        Self { name: ByteString::from_static("local") }
    }

    /// Somebody who asks for what everyone may see.
    pub(crate) fn nobody() -> Self {
        Self { name: ByteString::new() }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Without tokens, being on this machine is the only proof, and a browser on it would lend that proof to every page
/// it shows. So the name under which the node was called must be one that only this machine answers to, and a page
/// that calls must itself come from it.
fn refuse_strange_browser(headers: &HeaderMap) -> Result<(), Problem> {
    let refuse = |what: &str, value: &str| {
        Err(Fault::denied(format!(
            "{what} {value:?} is not this machine; without tokens the node answers only calls that come from it"
        ))
        .into())
    };
    if let Some(host) = headers.get(header::HOST) {
        let host = host.to_str().unwrap_or("");
        if !names_this_machine(host) {
            return refuse("host", host);
        }
    }
    if let Some(origin) = headers.get(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or("");
        let host = origin.split_once("://").map_or("", |(_, host)| host);
        if !names_this_machine(host) {
            return refuse("origin", origin);
        }
    }
    Ok(())
}

/// Tells whether a host, with or without port, is an address or a name that no one else's DNS can give out.
fn names_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.parse::<IpAddr>().is_ok() || name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use http::HeaderValue;

    use super::*;

    fn tokens() -> Tokens {
        Tokens::new(vec![
            Token::from_text("eve", Role::Viewer, "see"),
            Token::from_text("oscar", Role::Operator, "work"),
            Token::from_text("ada", Role::Admin, "all"),
        ])
    }

    fn ask(tokens: &Tokens, needed: Role, headers: &[(header::HeaderName, &str)]) -> Result<String, u16> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(name, HeaderValue::from_str(value).unwrap());
        }
        tokens
            .admit(needed, &map)
            .map(|actor| actor.name.to_string())
            .map_err(|problem| problem.into_response().status().as_u16())
    }

    #[test]
    fn roles_are_a_ladder() {
        let check = |text: &str, needed, expect: Result<&str, u16>| {
            let value = format!("Bearer {text}");
            let got = ask(&tokens(), needed, &[(header::AUTHORIZATION, &value)]);
            assert_eq!(got.as_deref().map_err(|status| *status), expect, "{text} asks for {needed:?}");
        };
        check("see", Role::Viewer, Ok("eve"));
        check("see", Role::Operator, Err(403));
        check("work", Role::Operator, Ok("oscar"));
        check("work", Role::Admin, Err(403));
        check("all", Role::Admin, Ok("ada"));
        check("", Role::Viewer, Err(401));
        check("wrong", Role::Viewer, Err(401));
    }

    #[test]
    fn other_schemes_are_no_proof() {
        assert_eq!(ask(&tokens(), Role::Viewer, &[]), Err(401));
        assert_eq!(ask(&tokens(), Role::Viewer, &[(header::AUTHORIZATION, "Basic see")]), Err(401));
        assert_eq!(ask(&tokens(), Role::Viewer, &[(header::AUTHORIZATION, "bearer see")]), Ok("eve".into()));
    }

    #[test]
    fn without_tokens_only_this_machine_is_served() {
        let check = |headers: &[(header::HeaderName, &str)], expect: Result<&str, u16>| {
            let got = ask(&Tokens::default(), Role::Admin, headers);
            assert_eq!(got.as_deref().map_err(|status| *status), expect, "{headers:?}");
        };
        check(&[], Ok("local"));
        for host in ["127.0.0.1:7300", "localhost", "localhost:1", "[::1]:7300", "10.0.0.7", "a.localhost:80"] {
            check(&[(header::HOST, host)], Ok("local"));
        }
        for host in ["evil.example:7300", "localhost.evil.example", "", "[x]:1"] {
            check(&[(header::HOST, host)], Err(403));
        }
        check(&[(header::HOST, "localhost:1"), (header::ORIGIN, "http://localhost:1")], Ok("local"));
        check(&[(header::HOST, "localhost:1"), (header::ORIGIN, "https://evil.example")], Err(403));
        check(&[(header::HOST, "localhost:1"), (header::ORIGIN, "null")], Err(403));
    }

    #[test]
    fn tokens_never_print_their_hash() {
        assert_eq!(format!("{:?}", Token::from_text("eve", Role::Viewer, "see")), "Token(eve viewer)");
    }
}
