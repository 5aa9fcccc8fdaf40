//! Loads whole configurations: the sample, and everything that can be wrong with one.

use super::*;

#[test]
fn defaults_make_a_node() {
    let config = Config::read("version: 1", "t.yaml", &config::NoReferences).unwrap();
    assert_eq!(config.listeners, ListenerConfig::usual());
    assert_eq!(config.engine, Engine::Embedded);
}
