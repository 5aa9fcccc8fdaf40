//! The description of the API, made from the handlers themselves.

use utoipa::{
    Modify, OpenApi,
    openapi::{
        self, ContentBuilder, Ref, RefOr, ResponseBuilder,
        security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
    },
};

use crate::{
    api::{
        ROUTES, Verb, audit, blocked, dlq, events, follow, groups, ledger, look, modules, node, pull, replay, results,
        schemas, steer, streams, targets, upstreams,
    },
    problem::{PROBLEM_JSON, ProblemDocument},
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Tidegate",
        description = "The API of a node. Durations and sizes are strings such as \"30s\" and \"64MiB\", instants are \
            RFC 3339 in UTC, and every error is a problem document of RFC 9457.",
    ),
    paths(
        streams::list, streams::show, streams::read, streams::publish, schemas::show, schemas::check,
        groups::list, groups::show, blocked::list, blocked::unblock, groups::pause, groups::resume, groups::scale,
        steer::seek, replay::replay, steer::drain, steer::remove, steer::drain_node, steer::pause_intake, steer::resume_intake,
        pull::claim, pull::settle, pull::extend,
        targets::list, targets::show, targets::trip, targets::reset, targets::limit,
        modules::list, modules::show, modules::pause, modules::resume, modules::enable, modules::disable,
        dlq::list, dlq::report, dlq::show, dlq::work::reprocess, dlq::work::resolve, dlq::work::discard, dlq::work::purge,
        dlq::import::import, dlq::jobs::list, dlq::jobs::show, dlq::jobs::cancel,
        ledger::stats, ledger::show, ledger::entry, ledger::forget, ledger::cleanup,
        events::trace, events::explain, results::result,
        audit::messages,
        look::status, look::top, look::performance,
        upstreams::list, upstreams::probe,
        follow::subscribe, follow::logs,
        node::livez, node::readyz, node::health, node::health_detailed, node::metrics, node::openapi, node::version,
    ),
    components(schemas(ProblemDocument<'_>)),
    tags(
        (name = "streams", description = "Streams, their events, and the way in."),
        (name = "groups", description = "Groups: where they stand, and what an operator wants of them."),
        (name = "pull", description = "Workers in any language."),
        (name = "targets", description = "Outside destinations and their guards."),
        (name = "modules", description = "Sources and sinks: what runs, and what an operator wants of them."),
        (name = "dlq", description = "Dead letters."),
        (name = "ledger", description = "What groups remember of what they have done."),
        (name = "events", description = "One event: its life, and why it is where it is."),
        (name = "audit", description = "The accounting."),
        (name = "look", description = "The whole node at a glance: its parts, its rates, its figures, what happens, its log."),
        (name = "upstreams", description = "What the node needs outside, and whether it is there."),
        (name = "node", description = "Health, metrics and this document."),
    ),
    modifiers(&Everywhere),
)]
struct Document;

/// What holds for every route: problems and roles.
struct Everywhere;

impl Modify for Everywhere {
    fn modify(&self, document: &mut openapi::OpenApi) {
        let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_default().add_security_scheme("token", bearer);
        for route in ROUTES {
            let Some(item) = document.paths.paths.get_mut(route.path) else { continue };
            let operation = match route.verb {
                Verb::Get => item.get.as_mut(),
                Verb::Post => item.post.as_mut(),
            };
            let Some(operation) = operation else { continue };
            let problem = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
            let response = ResponseBuilder::new().description("A problem.").content(PROBLEM_JSON, problem).build();
            operation.responses.responses.insert("default".to_owned(), RefOr::T(response));
            match route.role {
                Some(role) => {
                    let needed = SecurityRequirement::new("token", [role.as_str()]);
                    operation.security = Some(vec![needed]);
                }
                None => operation.security = Some(Vec::new()),
            }
        }
    }
}

/// Returns the description of the API as JSON.
pub fn openapi() -> String {
    let mut document = Document::openapi();
    // The version is of the API, not of the program: it changes when a shape does.
    document.info.version = "1".to_owned();
    document.info.license = None;
    document.info.contact = None;
    let text = document.to_pretty_json().unwrap_or_else(|error| error.to_string());
    text + "\n"
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_route_is_described_and_nothing_else() {
        let document: serde_json::Value = serde_json::from_str(&openapi()).unwrap();
        let mut described = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let verb = if method == "get" { Verb::Get } else { Verb::Post };
                described.insert(format!("{verb:?} {path}"));
                assert!(operation["summary"].is_string(), "{method} {path} has no summary");
                assert!(operation["responses"]["default"].is_object(), "{method} {path} hides its problems");
            }
        }
        let routed = ROUTES.iter().map(|route| format!("{:?} {}", route.verb, route.path)).collect();
        assert_eq!(described, routed);
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document: serde_json::Value = serde_json::from_str(&openapi()).unwrap();
        fn walk(value: &serde_json::Value, check: &mut impl FnMut(&str)) {
            match value {
                serde_json::Value::Object(members) => {
                    for (key, value) in members {
                        match value.as_str() {
                            Some(target) if key == "$ref" => check(target),
                            Some(_) | None => walk(value, check),
                        }
                    }
                }
                serde_json::Value::Array(items) => items.iter().for_each(|item| walk(item, check)),
                serde_json::Value::Null
                | serde_json::Value::Bool(_)
                | serde_json::Value::Number(_)
                | serde_json::Value::String(_) => {}
            }
        }
        let mut seen = 0;
        walk(&document, &mut |target| {
            seen += 1;
            assert!(document.pointer(target.trim_start_matches('#')).is_some(), "{target} leads nowhere");
        });
        assert!(seen > 20, "only {seen} references");
    }

    #[test]
    fn the_committed_description_is_fresh() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../openapi/tidegate.json");
        // The door to the environment is for settings of the product; this asks how the test is run.
        #[expect(clippy::disallowed_methods, reason = "a switch of the test itself")]
        let bless = std::env::var("TIDEGATE_BLESS").is_ok();
        if bless {
            std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/../../openapi")).unwrap();
            std::fs::write(path, openapi()).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == openapi(), "openapi/tidegate.json is stale; run the tests with TIDEGATE_BLESS=1");
    }
}
