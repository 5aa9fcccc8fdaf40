//! Who may do what.

use http::{Method, StatusCode};
use serde_json::Value;
use tidegate_control::{Role, Token};
use tidegate_core::notice::Notice;

use crate::{client::request, node::Node};

fn tokens() -> Vec<Token> {
    vec![
        Token::from_text("eve", Role::Viewer, "see"),
        Token::from_text("oscar", Role::Operator, "work"),
        Token::from_text("ada", Role::Admin, "all"),
    ]
}

async fn status(node: &Node, method: &str, path: &str, token: Option<&str>) -> u16 {
    let header = token.map(|token| format!("Bearer {token}"));
    let headers: Vec<(&str, &str)> = header.iter().map(|value| ("authorization", value.as_str())).collect();
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    node.send(request(method, path, &headers, "")).await.status.as_u16()
}

/// Every route of the description, with every role: below the role that it asks for it is refused, from there on it
/// is not.
#[tokio::test]
async fn every_route_asks_for_its_role() {
    let node = Node::with_tokens(tokens()).await;
    let document: Value = serde_json::from_str(&tidegate_control::openapi()).unwrap();
    let mut checked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path.replace("{stream}", "orders").replace("{group}", "deliver");
        let path = path.replace("{target}", "partner").replace("{id}", "1");
        // An answer that goes on would not end here.
        let path = path.replace("/v1/subscribe", "/v1/subscribe?pattern=nothing");
        for (method, operation) in item.as_object().unwrap() {
            let method = method.to_uppercase();
            let role = operation["security"][0]["token"][0].as_str();
            let refused = async |token: Option<&str>| {
                let status = status(&node, &method, &path, token).await;
                [401, 403].contains(&status).then_some(status)
            };
            let (viewer, operator) = match role {
                None => (None, None),
                Some("viewer") => (None, None),
                Some("operator") => (Some(403), None),
                Some(other) => panic!("{method} {path} asks for {other}"),
            };
            let nobody = role.map(|_| 401);
            assert_eq!(refused(None).await, nobody, "{method} {path} without a token");
            assert_eq!(refused(Some("guess")).await, nobody, "{method} {path} with a wrong token");
            assert_eq!(refused(Some("see")).await, viewer, "{method} {path} as viewer");
            assert_eq!(refused(Some("work")).await, operator, "{method} {path} as operator");
            assert_eq!(refused(Some("all")).await, None, "{method} {path} as admin");
            if method == "POST" {
                assert_eq!(role, Some("operator"), "{method} {path} changes something");
            }
            checked += 1;
        }
    }
    assert!(checked >= 30, "only {checked} routes");
    assert_eq!(status(&node, "POST", "/shop/orders", Some("see")).await, 403, "a source's own path is guarded too");
    assert_eq!(status(&node, "POST", "/shop/orders", Some("work")).await, 200);
}

#[tokio::test]
async fn a_refusal_says_what_is_missing() {
    let node = Node::with_tokens(tokens()).await;
    let answer = node.get("/v1/streams").await;
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    answer.problem(401, "unauthenticated");
    let headers = [("authorization", "Bearer see")];
    let answer = node.send(request(Method::POST, "/v1/groups/deliver/pause", &headers, "")).await;
    let problem = answer.problem(403, "denied");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("viewer") && detail.contains("operator") && !detail.contains("see"), "{detail}");
}

#[tokio::test]
async fn actions_carry_the_name_of_the_token() {
    let mut node = Node::with_tokens(tokens()).await;
    let headers = [("authorization", "Bearer work"), ("content-type", "application/json")];
    let answer = node.send(request(Method::POST, "/v1/groups/deliver/pause", &headers, "{\"reason\":\"x\"}")).await;
    assert_eq!(answer.good()["group"]["paused"]["by"], "oscar");
    let told = node.tap.wait_for(|notice| matches!(notice, Notice::GroupPaused { .. })).await.unwrap();
    assert!(matches!(told, Notice::GroupPaused { by, .. } if by == "oscar"));
}

#[tokio::test]
async fn without_tokens_no_strange_page_may_ask() {
    let node = Node::start().await;
    let strange = request(Method::POST, "/v1/streams/orders/events", &[("origin", "https://evil.example")], "x");
    node.send(strange).await.problem(403, "denied");
    let mut rebound = request(Method::GET, "/v1/streams", &[], "");
    rebound.headers_mut().insert("host", "evil.example:7300".parse().unwrap());
    node.send(rebound).await.problem(403, "denied");
    let own = request(Method::GET, "/v1/streams", &[("origin", "http://localhost:7300")], "");
    assert_eq!(node.send(own).await.status, StatusCode::OK);
}
