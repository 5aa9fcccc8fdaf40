//! What expressions give, what they refuse, what they cost, and a second opinion.

use proptest::prelude::*;
use serde_json::json;
use tidegate_core::{
    event::{Attribute, Data, Event},
    limits,
};

use super::{EventExpr, Expr};
use crate::scope::Scope;

fn event() -> Event {
    let data = json!({
        "total": 250, "price": 1.5, "note": null, "name": "Ada", "tags": ["a", "b"], "huge": 18_446_744_073_709_551_615_u64,
        "items": [{"sku": "x", "count": 2}, {"sku": "y", "count": 3}],
    });
    let mut event = Event::new("1", "/shop", "order.placed")
        .with_subject("customer-9")
        .with_extension("partitionkey", "k")
        .with_data(Data::Json(data.to_string().into()));
    event.extensions.push(("priority".into(), Attribute::Integer(7)));
    event
}

fn value(source: &str) -> Result<serde_json::Value, String> {
    let expr: Expr = source.parse().map_err(|fault: tidegate_core::fault::Fault| fault.note().to_owned())?;
    let event = event();
    expr.value(&Scope::event(&event)).map_err(|fault| fault.note().to_owned())
}

#[test]
fn expressions_give_values() {
    let cases = [
        ("1 + 2 * 3 - 4 / 2 % 3", json!(5)),
        ("data.total * 1.1 > 270.0", json!(true)),
        ("data.total + data.price", json!(251.5)),
        ("data.huge > 1", json!(true)),
        ("type.startsWith('order.') && subject == \"customer-9\"", json!(true)),
        ("source in ['/shop', '/bar'] && !(id in ['2'])", json!(true)),
        ("has(data.name) && !has(data.nothing)", json!(true)),
        ("has(ext.partitionkey) ? ext.partitionkey : 'none'", json!("k")),
        ("ext.priority >= 5", json!(true)),
        ("data.note == null", json!(true)),
        ("time == '' && datacontenttype == ''", json!(true)),
        ("data.tags[1] + data['name']", json!("bAda")),
        ("size(data.tags) == data.tags.size()", json!(true)),
        ("data.items.filter(i, i.count > 2).map(i, i.sku)", json!(["y"])),
        ("data.items.map(i, i.count > 2, i.sku)", json!(["y"])),
        ("data.items.exists(i, i.sku == 'x') && data.items.all(i, i.count > 1)", json!(true)),
        ("data.items.exists_one(i, i.count == 3)", json!(true)),
        ("data.items.map(i, data.tags.map(t, i.sku + t))", json!([["xa", "xb"], ["ya", "yb"]])),
        ("{'a': 1, 'b': [data.total]}", json!({"a": 1, "b": [250]})),
        ("{200: 'ok', true: 'yes'}[200]", json!("ok")),
        ("{'a': 1}.map(k, k) + ['c']", json!(["a", "c"])),
        ("event.type + event.ext2", json!(null)),
        ("event.data.total == data.total && event.priority == 7", json!(true)),
        ("type(data.total) == int && string(type(1.5)) == 'x' || true", json!(true)),
        ("timestamp('2026-01-31T08:00:00Z') - duration('1h30m') < timestamp('2026-01-31T08:00:00Z')", json!(true)),
        ("timestamp('2026-01-31T08:00:00Z').getDayOfWeek()", json!(6)),
        ("duration('90s')", json!("90s")),
        ("int('42') + int(3.9) + int(2u)", json!(47)),
        ("double('1.5') + double(1)", json!(2.5)),
        ("string(1) + string(true) + string(1.5)", json!("1true1.5")),
        ("'A,b'.lowerAscii().split(',').join('-')", json!("a-b")),
        ("' x '.trim().upperAscii().replace('X', 'yy')", json!("yy")),
        ("data.name.matches('^A.*a$')", json!(true)),
        ("data == event.data && {'a': 1, 'b': 2} == {'b': 2, 'a': 1}", json!(true)),
        ("b'ab'", json!("YWI=")),
        ("-data.total", json!(-250)),
        ("1 == 1.0 && 1u == 1 && 1 != '1'", json!(true)),
    ];
    for (source, expect) in cases {
        match value(source) {
            Ok(got) => assert_eq!(got, expect, "{source}"),
            Err(error) => assert!(expect.is_null(), "{source}: {error}"),
        }
    }
}

#[test]
fn one_side_that_decides_makes_up_for_a_fault_on_the_other() {
    for source in ["data.none > 1 || true", "true || data.none > 1", "!(data.none && false)"] {
        assert_eq!(value(source), Ok(json!(true)), "{source}");
    }
    assert_eq!(value("[1, 0].exists(x, 1 / x == 1)"), Ok(json!(true)));
    assert_eq!(value("[0, 1].exists(x, 1 / x == 1)"), Ok(json!(true)));
    assert_eq!(value("[0, 1].all(x, 1 / x == 2)"), Ok(json!(false)));
    assert!(value("[0, 1].all(x, 1 / x == 1)").unwrap_err().contains("/ by zero"));
}

#[test]
fn faults_name_expression_and_reason() {
    let cases = [
        ("data.nothing > 1", "expression `data.nothing > 1`: there is no key \"nothing\""),
        ("subject > 1", "> does not take string and int"),
        ("1 / 0", "/ by zero"),
        ("9223372036854775807 + 1", "leaves the range"),
        ("data.tags[2]", "there is no place 2 in a list of 2"),
        ("1.5 % 2.0", "% does not take double and double"),
        ("{1: 2}", "key of kind int"),
        ("int('x')", "int cannot read this string"),
    ];
    for (source, expect) in cases {
        let error = value(source).unwrap_err();
        assert!(error.contains(expect), "{source}: {error}");
    }
    let event = event();
    let error = "data.total".parse::<Expr>().unwrap().test(&Scope::event(&event)).unwrap_err();
    assert_eq!(error.note(), "expression `data.total`: gives int, not true or false");
}

#[test]
fn mistakes_are_found_when_it_is_read_and_have_a_place() {
    let cases = [
        ("", "is empty"),
        ("type ==", "column 8"),
        ("type == 'a' &&\n typ == 'b'", "line 2, column 2: there is no \"typ\""),
        ("'typ' == typ", "column 10"),
        ("data.name.beginsWith('A')", "column 11: there is no function x.beginsWith()"),
        ("startsWith(type, 'a')", "there is no function startsWith()"),
        ("size(1, 2)", "size takes 1 arguments, not 2"),
        ("data.name.matches('(')", "column 11: the pattern is not right"),
        ("data.name.matches(data.pattern)", "must stand in the expression"),
        ("x.exists(1, true)", "column"),
        ("Foo{a: 1}", "there is no type \"Foo\""),
    ];
    for (source, expect) in cases {
        let error = source.parse::<EventExpr>().unwrap_err();
        assert!(error.note().contains(expect), "{source}: {}", error.note());
    }
}

#[test]
fn long_deep_and_endless_expressions_are_refused() {
    let too_long = format!("'{}'", "a".repeat(limits::EXPRESSION_BYTES_MAX));
    assert!(too_long.parse::<Expr>().unwrap_err().note().contains("longer than"));
    let deep = [
        format!("{}1{}", "[".repeat(1500), "]".repeat(1500)),
        "!".repeat(4001),
        format!("{}1", "-!".repeat(2000)),
        "a.b".repeat(1300),
        format!("a{}", ".b".repeat(2000)),
        format!("1{}", "+1".repeat(2000)),
        format!("1{}", "?1:1".repeat(1000)),
        format!("a{}", "[0]".repeat(1300)),
        "a(".repeat(2000),
        "{1:".repeat(1300),
        "'".repeat(4000),
        format!("a{}", ".map(x,x)".repeat(400)),
    ];
    // Redundant brackets cost nothing.
    assert_eq!(value(&format!("{}1{}", "(".repeat(1500), ")".repeat(1500))), Ok(json!(1)));
    for source in deep {
        let head: String = source.chars().take(20).collect();
        assert!(source.parse::<Expr>().is_err(), "{head}");
    }
}

#[test]
fn a_run_has_bounded_cost() {
    let items: Vec<u32> = (0..2000).collect();
    let big = "x".repeat(500_000);
    let data = json!({"items": items, "big": big}).to_string();
    let event = Event::new("1", "/", "t").with_data(Data::Json(data.into()));
    let run = |source: &str| source.parse::<Expr>().unwrap().value(&Scope::event(&event));
    for source in [
        "data.items.all(a, data.items.all(b, a + b >= 0))",
        "data.items.map(a, data.items.map(b, data.items))",
        "data.items.map(x, data.big + data.big)",
        "data.items.map(x, data.big.contains('y'))",
        "data.items.exists(x, data.big == data.big + 'x')",
        "data.items.map(x, data.big.replace('x', data.big))",
        "data.items.map(x, data.big)",
        "data.items.map(x, data.items + data.items)",
        "data.items.all(x, data.items == data.items)",
        "data.items.exists(x, -1 in data.items) || true",
        "data.items.map(x, data.big.split(''))",
    ] {
        let error = run(source).unwrap_err();
        assert!(error.note().contains("steps"), "{source}: {}", error.note());
    }
    assert_eq!(run("data.items.filter(i, i >= 1998)").unwrap(), json!([1998, 1999]));
}

#[test]
fn data_is_read_only_when_it_is_looked_at() {
    let broken = Event::new("1", "/", "t").with_data(Data::Json("{".into()));
    assert!("id == '1'".parse::<Expr>().unwrap().test(&Scope::event(&broken)).unwrap());
    let error = "data.a == 1".parse::<Expr>().unwrap().test(&Scope::event(&broken)).unwrap_err();
    assert!(error.note().contains("not readable"), "{}", error.note());
    let text = Event::new("1", "/", "t").with_data(Data::Text("hello".into()));
    assert!("data == 'hello'".parse::<Expr>().unwrap().test(&Scope::event(&text)).unwrap());
    let none = Event::new("1", "/", "t");
    assert!("data == null".parse::<Expr>().unwrap().test(&Scope::event(&none)).unwrap());
}

#[test]
fn names_are_added_and_hide() {
    let event = event();
    let scope = Scope::event(&event).with("fault", json!({"class": "timeout"})).with("id", json!("other"));
    let expr: Expr = "fault.class == 'timeout' && id == 'other' && type == 'order.placed'".parse().unwrap();
    assert!(expr.test(&scope).unwrap());
    assert!(expr.require(&["id", "type"]).unwrap_err().note().contains("column 1: there is no \"fault\""));
    let text = serde_json::to_string(&expr).unwrap();
    assert_eq!(serde_json::from_str::<Expr>(&text).unwrap(), expr);
}

/// The runtime of the `cel` crate as a second opinion on what both understand.
fn second_opinion(source: &str) -> Option<serde_json::Value> {
    let parsed = cel::parser::PrattParser::new().parse(source).ok()?;
    let context = cel::Context::default();
    match cel::Value::resolve(&parsed, &context).ok()? {
        cel::Value::Bool(truth) => Some(json!(truth)),
        cel::Value::Int(number) => Some(json!(number)),
        cel::Value::UInt(number) => Some(json!(number)),
        cel::Value::Float(number) => number.is_finite().then(|| json!(number)),
        cel::Value::String(text) => Some(json!(*text)),
        _ => None,
    }
}

fn literal() -> impl Strategy<Value = String> {
    prop_oneof![
        (-3_i64..4).prop_map(|number| number.to_string()),
        (0_u64..4).prop_map(|number| format!("{number}u")),
        (-2_i32..3).prop_map(|number| format!("{number}.5")),
        prop::sample::select(vec!["''", "'a'", "'ab'", "true", "false", "null", "[1, 2]", "['a']", "[]", "{'a': 1}"])
            .prop_map(str::to_owned),
    ]
}

fn sentence() -> impl Strategy<Value = String> {
    let signs = vec!["+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">=", "&&", "||", "in"];
    literal().prop_recursive(5, 24, 3, move |inner| {
        prop_oneof![
            (inner.clone(), prop::sample::select(signs.clone()), inner.clone())
                .prop_map(|(one, sign, two)| format!("({one} {sign} {two})")),
            (inner.clone(), inner.clone(), inner.clone())
                .prop_map(|(one, two, three)| format!("({one} ? {two} : {three})")),
            inner.clone().prop_map(|one| format!("!({one})")),
            inner.clone().prop_map(|one| format!("size({one})")),
            inner.clone().prop_map(|one| format!("string({one})")),
            inner.clone().prop_map(|one| format!("({one}).contains('a')")),
            (inner.clone(), inner.clone()).prop_map(|(one, two)| format!("[{one}, {two}].all(x, x == {two})")),
            (inner.clone(), inner.clone()).prop_map(|(one, two)| format!("[{one}, {two}].exists(x, x > {two})")),
            (inner.clone(), inner).prop_map(|(one, two)| format!("size([{one}, {two}].map(x, [x]))")),
        ]
    })
}

proptest! {
    #[test]
    fn rubbish_never_panics(source in ".{0,200}") {
        drop(source.parse::<Expr>());
    }

    #[test]
    fn nearly_right_never_panics(source in r#"[a-c0-9 .,:?!+*/%<>=&|()\[\]{}'"-]{0,200}"#) {
        if let Ok(expr) = source.parse::<Expr>() {
            let event = event();
            drop(expr.value(&Scope::event(&event)));
        }
    }

    #[test]
    fn what_both_understand_is_the_same(source in sentence()) {
        if let Some(expect) = second_opinion(&source) {
            prop_assert_eq!(value(&source), Ok(expect), "{}", source);
        }
    }
}

/// An expression that runs on an event reads only the data that it looks at, and gives the same.
#[test]
fn what_is_not_looked_at_makes_no_difference() {
    let documents = [
        r#"{"a":1,"b":{"c":"x","d":[1,{"e":2}]},"a":2,"long":"text","list":["x"]}"#,
        r#"{"b":{"c":null}}"#,
        r#"{"a":"1","b":[{"c":"x"}],"list":{}}"#,
        r#"{"a":1.5,"b":"text","list":7}"#,
        r#"{"a":18446744073709551615,"b":true}"#,
        r#"[{"a":1}]"#,
        "\"text\"",
        "7",
        "-7",
        "7.5",
        "null",
        "true",
        "{}",
        r#"{"a":1,"b":{"c":"x"},"rest":[}"#,
        r#"{"a":1} more"#,
    ];
    let expressions = [
        "data.a == 1",
        "data.a > 0 && data.b.c == 'x'",
        "data['b']['c'] == 'x' || has(data.b.d)",
        "has(data.b) && has(data.b.c)",
        "size(data.b.d) == 2 && data.b.d[1].e == 2",
        "data.b.d.exists(item, type(item) == int)",
        "data.b == {'c': null}",
        "data == null || data == 7",
        "'a' in data && !('z' in data)",
        "event.data.a == 2 && data.a == 2",
        "data.map(key, data[key]).size() == 2",
        "data[type] == 1 || data.list[0] == 'x'",
        "(data.a == 1 ? data.b : data.list).c == 'x'",
        "[data.a, data.b.c] == [2, 'x']",
        "data.a.matches('1') || string(data.a) == '7'",
        "data.list.all(x, x == 'x')",
        "id == '1'",
    ];
    for source in expressions {
        let expr: Expr = source.parse().unwrap();
        for document in documents {
            let event = Event::new("1", "/", "a").with_data(Data::Json(document.to_owned().into()));
            let told =
                |answer: Result<bool, tidegate_core::fault::Fault>| answer.map_err(|fault| fault.note().to_owned());
            let (some, all) = (told(expr.test_event(&event)), told(expr.test(&Scope::event(&event))));
            // Where the text is not JSON, where it stops being so is told alike.
            assert_eq!(some, all, "{source} on {document}");
        }
    }
}
