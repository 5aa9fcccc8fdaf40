//! Source `http`: a path on the node's listeners that takes events in any of the four HTTP forms.
//!
//! It is data and no server: the control crate mounts the path.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate_core::{
    config::{Spot, Time},
    fault::Fault,
    limits,
    names::{GroupName, StreamName},
};

use crate::registry::{ModuleKind, ModuleSpec, OpenSource, SourceParts, SourceSettings};

/// The line in the list of modules.
pub const SPEC: ModuleSpec = ModuleSpec {
    name: "http",
    kind: ModuleKind::Source,
    summary: "takes CloudEvents (one, batch, binary) and plain bodies on a path of its own",
    schema: || schemars::schema_for!(HttpConfig),
};

/// First parts of paths that belong to the node itself.
const RESERVED: [&str; 11] =
    ["v1", "metrics", "health", "livez", "readyz", "live", "ready", "openapi.json", "version", "ui", "dashboard"];

/// Takes events on a path of the node's listeners.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// Path that takes `POST`, such as `/orders`.
    pub path: String,
    /// Stream into which events go.
    pub to: StreamName,
    /// Attributes given to a plain body, which has none of its own.
    #[serde(default)]
    pub defaults: HttpDefaults,
    /// Answers each request with the result of its event, as soon as there is one: 200 with what the group's handler
    /// answered. When the wait is over before that, 202 says where the result will be. The event is durable either way, and
    /// a repeat with the same id gets the same result. Absent = the answer says that the event is accepted.
    #[serde(default)]
    pub reply: Option<HttpReply>,
}

/// Whose results are waited for, and how long.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpReply {
    /// Longest wait, at most 30s.
    pub wait: Time,
    /// The group whose results they are; it reads the stream and has `results`. Not needed when there is only one such group.
    #[serde(default)]
    pub group: Option<GroupName>,
}

/// Attributes given to plain bodies.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpDefaults {
    /// CloudEvents `source`; default: the path.
    pub source: Option<String>,
    /// CloudEvents `type`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// CloudEvents `subject`.
    pub subject: Option<String>,
}

impl SourceSettings for HttpConfig {
    fn to(&self) -> &StreamName {
        &self.to
    }

    fn open(&self, _: SourceParts) -> Result<OpenSource, Fault> {
        Ok(OpenSource::Path(self.clone()))
    }

    fn check(&self, here: &Spot<'_>) {
        if let Err(why) = check_path(&self.path) {
            here.at("path").error(why);
        }
        let given =
            [("source", &self.defaults.source), ("type", &self.defaults.kind), ("subject", &self.defaults.subject)];
        for (name, value) in given {
            let is_given = value.as_ref().is_none_or(|text| !text.is_empty());
            here.at("defaults").at(name).require(is_given, || "must not be empty".to_owned());
        }
        if let Some(reply) = &self.reply {
            let (least, most) = (Time::from_millis(1), Time::from_secs(limits::CLAIM_WAIT_SECONDS_MAX));
            here.at("reply")
                .at("wait")
                .require((least..=most).contains(&reply.wait), || format!("must be more than zero and at most {most}"));
        }
    }
}

fn check_path(path: &str) -> Result<(), String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '_' | '.' | '~');
    let Some(parts) = path.strip_prefix('/').filter(|parts| !parts.is_empty()) else {
        return Err(format!("path {path:?} must start with '/' and name something"));
    };
    if !path.chars().all(is_plain) {
        return Err(format!("path {path:?} may hold only letters, digits, '/', '-', '_', '.' and '~'"));
    }
    if parts.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(format!("path {path:?} must not hold an empty part, '.' or '..'"));
    }
    if parts.split('/').next().is_some_and(|part| RESERVED.contains(&part)) {
        return Err(format!("path {path:?} belongs to the node itself"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tidegate_core::config::{NoReferences, load};

    use super::*;
    use crate::registry::SourceConfig;

    #[test]
    fn paths_are_checked() {
        for good in ["/orders", "/hooks/shop-1/paid", "/a.b", "/v1x"] {
            assert_eq!(check_path(good), Ok(()));
        }
        for bad in ["", "/", "orders", "/a b", "/{id}", "/a/", "/a//b", "/a/../b", "/v1", "/v1/x", "/metrics", "/a?b"] {
            assert!(check_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_are_those_of_the_document() {
        let text = "{ path: /o, to: orders, defaults: { source: /shop, type: order } }";
        let text = text.replacen("{ ", "{ type: http, ", 1);
        let SourceConfig::Http(config) = load(&text, "t.yaml", &NoReferences).unwrap() else { panic!("{text}") };
        assert_eq!(config.defaults.kind.as_deref(), Some("order"));
        for bad in ["{ path: /v1, to: orders }", "{ path: /o, to: orders, defaults: { type: '' } }", "{ path: /o }"] {
            let bad = bad.replacen("{ ", "{ type: http, ", 1);
            assert!(load::<SourceConfig>(&bad, "t.yaml", &NoReferences).is_err(), "{bad}");
        }
    }
}
