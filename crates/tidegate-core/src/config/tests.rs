//! The loader as its users see it: a document with every kind of value, everything wrong with it, and any text at all.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::*;
use crate::names::StreamName;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ship {
    name: String,
    #[serde(default)]
    crew: Vec<Sailor>,
    #[serde(default)]
    holds: BTreeMap<StreamName, Hold>,
    #[serde(default)]
    alarm: Switch<Alarm>,
    #[serde(default)]
    engine: Option<Engine>,
    #[serde(default)]
    key: Option<Secret>,
    #[serde(default)]
    level: i32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sailor {
    name: String,
    rank: Rank,
    #[serde(default)]
    watch: Option<Time>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Rank {
    Mate,
    Captain,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Hold {
    size: Bytes,
    is_dry: bool,
    share: f64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Alarm {
    every: Time,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Diesel {
    power: u8,
    #[serde(default)]
    key: Option<Secret>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Sail {}

crate::config_by_type! {
    /// What drives a ship.
    #[derive(Debug, Clone, PartialEq)]
    enum Engine {
        "diesel" => Diesel(Diesel),
        "sail" => Sail(Sail),
    }
}

impl Check for Ship {
    fn check(&self, here: &Spot<'_>) {
        for (index, sailor) in self.crew.iter().enumerate() {
            here.at("crew").at(index).at("name").require(sailor.name != self.name, || "is the ship's own".to_owned());
        }
        here.at("level").require(self.level < 100, || "is too high".to_owned());
    }
}

const SHIP: &str = "\
name: Otter # a comment
crew:
  - { name: Ann, rank: captain, watch: 4h }
  - name: Bob
    rank: mate
holds:
  fore: { size: 64KiB, is_dry: true, share: 0.5 }
  aft:
alarm: off
engine:
  type: diesel
  power: 9
  key: ${env:KEY}
key: \"${env:KEY}\"
level: -3
";

const VALUE: &str = "s3cr3t-value";

struct Fixed;

impl Environment for Fixed {
    fn variable(&self, name: &str) -> Result<String, String> {
        match name {
            "KEY" => Ok(VALUE.to_owned()),
            "EMPTY" => Ok(String::new()),
            "LEVEL" => Ok("7".to_owned()),
            _ => Err(format!("environment variable {name} is not set")),
        }
    }

    fn file(&self, path: &str, _: bool) -> Result<String, String> {
        Err(format!("file {path}: does not exist"))
    }
}

fn ship(text: &str) -> Result<Ship, Errors> {
    load(text, "ship.yaml", &Fixed)
}

fn refused(text: &str) -> Vec<String> {
    ship(text).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn a_document_becomes_its_type() {
    let read = ship(SHIP).unwrap();
    assert_eq!(read.crew.len(), 2);
    assert_eq!((read.crew[0].watch, read.crew[1].rank), (Some(Time::from_secs(4 * 3600)), Rank::Mate));
    let fore = &read.holds["fore"];
    assert_eq!((fore.size.get(), fore.is_dry, fore.share), (64 << 10, true, 0.5));
    assert_eq!((&read.holds["aft"], read.alarm.on(), read.level), (&Hold::default(), None, -3));
    assert_eq!(read.key.as_ref().unwrap().expose(), VALUE);
    let Some(Engine::Diesel(diesel)) = &read.engine else { panic!("{:?}", read.engine) };
    assert_eq!((read.engine.as_ref().map(Engine::kind), Engine::TYPES), (Some("diesel"), &["diesel", "sail"][..]));
    assert_eq!((diesel.power, diesel.key.as_ref().unwrap().expose()), (9, VALUE));
    let shown = serde_json::to_string(&read).unwrap();
    assert!(shown.contains("${env:KEY}") && shown.contains(r#""type":"diesel""#) && !shown.contains(VALUE), "{shown}");
    assert_eq!(ship(&shown).unwrap(), read, "what is written, JSON included, reads the same");
}

#[test]
fn scalars_are_read_as_they_are_meant() {
    let level = |text: &str| ship(&format!("name: x\nlevel: {text}")).map(|ship| ship.level).ok();
    assert_eq!(
        (level("7"), level("-7"), level("${env:LEVEL}"), level("\"${env:LEVEL}\"")),
        (Some(7), Some(-7), Some(7), Some(7))
    );
    assert_eq!(
        (level("\"7\""), level("7.0"), level("2147483648"), level("x${env:LEVEL}"), level("~")),
        (None, None, None, None, None)
    );
    let name = |text: &str| ship(&format!("name: {text}")).map(|ship| ship.name).ok();
    assert_eq!(
        (name("7").as_deref(), name("true").as_deref(), name("'a b'").as_deref()),
        (Some("7"), Some("true"), Some("a b"))
    );
    assert_eq!((name("~"), name(""), name("[a]")), (None, None, None));
    assert_eq!(name("|-\n  two\n  lines").as_deref(), Some("two\nlines"));
    assert_eq!(name("$${env:KEY}").as_deref(), Some("${env:KEY}"));
}

#[test]
fn every_kind_of_mistake_is_told() {
    let check = |from: &str, to: &str, expect: &[&str]| {
        assert!(SHIP.contains(from), "{from}");
        let errors = refused(&SHIP.replacen(from, to, 1));
        assert_eq!(errors.len(), expect.len(), "{errors:#?}");
        for (error, expect) in errors.iter().zip(expect) {
            assert!(error.starts_with(&format!("ship.yaml:{expect}")), "{error} is not {expect}");
        }
    };
    check("name: Otter", "names: Otter", &["1:1: names: unknown key; did you mean \"name\"? (known: name, crew,"]);
    check("name: Otter", "x: Otter", &["1:1: x: unknown key (known:", "1:1: name: this key is missing"]);
    check(
        "rank: captain",
        "rank: captn",
        &["3:24: crew[0].rank: unknown word \"captn\"; did you mean \"captain\"? (known: mate, captain)"],
    );
    check("rank: captain", "rank: [captain]", &["3:18: crew[0].rank: expected a word or a mapping, found a list"]);
    check("    rank: mate\n", "", &["4:5: crew[1].rank: this key is missing"]);
    check("4h", "4 h", &["3:40: crew[0].watch: \"4 h\" is not a duration"]);
    check("fore:", "f/re:", &["7:3: holds.f/re: stream name \"f/re\" may hold only"]);
    check("0.5", "half", &["7:45: holds.fore.share: expected a number, found \"half\""]);
    check("is_dry: true", "is_dry: yes", &["7:32: holds.fore.is_dry: expected true or false, found \"yes\""]);
    check("aft:", "aft: 5", &["8:8: holds.aft: expected a mapping, found \"5\""]);
    check("alarm: off", "alarm: no", &["9:8: alarm: expected a mapping, found \"no\"; the word off is allowed too"]);
    check("alarm: off", "alarm: { every: x }", &["9:17: alarm.every: \"x\" is not a duration"]);
    check(
        "alarm: off",
        "alarm: { evry: 1s }",
        &["9:10: alarm.evry: unknown key; did you mean \"every\"? (known: every)"],
    );
    check(
        "type: diesel",
        "type: desel",
        &["11:9: engine.type: unknown word \"desel\"; did you mean \"diesel\"? (known: diesel, sail)"],
    );
    check("  type: diesel\n", "", &["10:1: engine.type: this key is missing"]);
    check("power: 9", "power: 900", &["12:10: engine.power: expected a whole number that is not negative, found 900"]);
    check("power: 9", "pwr: 9", &["12:3: engine.pwr: unknown key; did you mean \"power\"? (known: power, key)"]);
    check("${env:KEY}", "hunter2", &["13:8: engine.key: expected a reference such as"]);
    check("\"${env:KEY}\"", "[1]", &["14:1: key: expected a reference"]);
    check("\"${env:KEY}\"", "${env:EMPTY}", &["14:6: key: the secret is empty"]);
    check("\"${env:KEY}\"", "${env:NONE}", &["14:6: key: environment variable NONE is not set"]);
    check("\"${env:KEY}\"", "${vault:x}", &["14:6: key: ${vault:x} is no reference"]);
    check("level: -3", "level: 200", &["15:8: level: is too high"]);
    check("level: -3", "level: -3\nlevel: 4", &["16:1: level: this key is written twice, first in line 15"]);
    check("crew:\n", "crew: {}\nx:\n", &["2:1: crew: expected a list, found a mapping", "3:1: x: unknown key"]);
    check("name: Ann", "name: Otter", &["3:13: crew[0].name: is the ship's own"]);
}

#[test]
fn what_is_no_mapping_is_refused() {
    for (text, word) in
        [("", "empty"), ("# only\n", "empty"), ("5", "expected a mapping"), ("- a", "found a list"), ("name: [", "")]
    {
        let errors = refused(text);
        assert!(errors.len() == 1 && errors[0].contains(word), "{text:?}: {errors:?}");
    }
    assert_eq!(refused("~"), ["ship.yaml:1:1: name: this key is missing"]);
}

#[test]
fn values_of_references_are_never_repeated() {
    for wrong in [
        "level: \"${env:KEY}\"",
        "crew: [{ name: x, rank: \"${env:KEY}\" }]",
        "holds: { fore: { size: \"a ${env:KEY}\" } }",
        "alarm: \"${env:KEY}\"",
    ] {
        let errors = refused(&format!("name: x\n{wrong}"));
        assert!(errors.len() == 1 && !errors[0].contains(VALUE) && !errors[0].contains("s3cr3t"), "{errors:?}");
    }
}

#[test]
fn mistakes_are_told_up_to_a_number() {
    let many: String = (0..200).map(|number| format!("x{number}: 1\n")).collect();
    assert_eq!(refused(&format!("name: x\n{many}")).len(), crate::limits::CONFIG_ERRORS_MAX);
}

#[test]
fn long_values_are_not_repeated_whole() {
    for text in [format!("name: x\nlevel: {}", "é".repeat(100_000)), format!("'{}': 1", "k".repeat(900))] {
        for error in refused(&text) {
            assert!(error.len() < 2000, "{} bytes", error.len());
        }
    }
}

#[test]
fn documents_from_the_network_have_no_references() {
    let errors = load::<Ship>("name: ${env:PATH}", "request", &NoReferences).unwrap_err().to_string();
    assert!(errors.contains("references are not allowed"), "{errors}");
}

/// Loads a text and checks what must hold of any answer.
fn probe(text: &str) {
    if let Err(errors) = ship(text) {
        assert!(errors.iter().count() > 0);
        for error in &errors {
            assert!(error.place.line >= 1 && error.place.line <= text.lines().count() + 2, "{error} in\n{text}");
            assert!(error.place.column >= 1, "{error}");
            assert!(!error.to_string().contains(VALUE), "{error}");
        }
    }
}

/// One change of the document.
fn change() -> impl Strategy<Value = (usize, usize, String)> {
    let piece = prop_oneof![
        Just(String::new()),
        Just("\n".to_owned()),
        Just("  ".to_owned()),
        Just("\t".to_owned()),
        "[\\[\\]{}:,#&*!|>'\"%@`?-]",
        Just("&a ".to_owned()),
        Just("*a".to_owned()),
        Just("<<: ".to_owned()),
        Just("---\n".to_owned()),
        Just("${env:KEY}".to_owned()),
        Just("${".to_owned()),
        ".{0,6}",
    ];
    (0..SHIP.len(), 0..12_usize, piece)
}

proptest! {
    #[test]
    fn any_text_is_answered(text in any::<String>()) {
        probe(&text);
    }

    #[test]
    fn any_yaml_like_text_is_answered(text in "[a-c:\\-\\[\\]{},&*!|>'\" \n\t#?%~$]{0,80}") {
        probe(&text);
    }

    #[test]
    fn any_change_of_a_document_is_answered(changes in proptest::collection::vec(change(), 1..5)) {
        let mut text = SHIP.to_owned();
        for (at, length, piece) in changes {
            let at = at.min(text.len());
            let end = (at + length).min(text.len());
            if text.is_char_boundary(at) && text.is_char_boundary(end) {
                text.replace_range(at..end, &piece);
            }
        }
        probe(&text);
    }

    #[test]
    fn any_value_of_a_reference_is_taken_whole(value in "[^\\p{Cc}]{1,20}") {
        struct One(String);
        impl Environment for One {
            fn variable(&self, _: &str) -> Result<String, String> {
                Ok(self.0.clone())
            }
            fn file(&self, _: &str, _: bool) -> Result<String, String> {
                Ok(format!("{}\n", self.0))
            }
        }
        let text = "name: \"<${env:A}>\"\nkey: ${file:b}";
        let ship: Ship = load(text, "ship.yaml", &One(value.clone())).unwrap();
        prop_assert_eq!(ship.name, format!("<{value}>"));
        let key = ship.key.unwrap();
        prop_assert_eq!(key.expose(), value);
    }
}
