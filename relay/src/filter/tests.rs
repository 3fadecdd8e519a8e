//! Tests of filters.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn parse(value: &Value) -> Result<Filter, FilterError> {
    Filter::from_json(value.to_string().as_bytes())
}

fn event(value: &Value) -> Event {
    let mut event = json!({
        "id": "01".repeat(32), "pubkey": "ab".repeat(32), "created_at": 100, "kind": 1,
        "tags": [["e", "02".repeat(32), "hint"], ["t", "x"], ["t", "y"], ["T", "z"], ["alt", "x"]],
        "content": "", "sig": "03".repeat(64),
    });
    for (field, value) in value.as_object().unwrap() {
        event[field] = value.clone();
    }
    Event::parse(event.to_string().as_bytes()).unwrap()
}

#[test]
fn every_condition_must_hold_and_one_value_of_a_list_is_enough() {
    let subject = event(&json!({}));
    let (id, author, other) = ("01".repeat(32), "ab".repeat(32), "cd".repeat(32));
    let cases = [
        (json!({}), true),
        (json!({"ids": [id]}), true),
        (json!({"ids": [other]}), false),
        (json!({"ids": []}), false),
        (json!({"authors": [other, author]}), true),
        (json!({"authors": [other]}), false),
        (json!({"kinds": [0, 1]}), true),
        (json!({"kinds": [0]}), false),
        (json!({"since": 100, "until": 100}), true),
        (json!({"since": 101}), false),
        (json!({"until": 99}), false),
        (json!({"#t": ["y"]}), true),
        (json!({"#t": ["z"]}), false),
        (json!({"#T": ["z"]}), true),
        (json!({"#t": ["x"], "#T": ["x"]}), false),
        (json!({"#e": ["02".repeat(32)]}), true),
        (json!({"#p": [author]}), false),
        (json!({"#a": [""]}), false),
        (json!({"kinds": [1], "authors": [other]}), false),
        (json!({"limit": 0, "search": "x"}), true),
    ];
    for (filter, expected) in cases {
        assert_eq!(
            parse(&filter).unwrap().matches(&subject),
            expected,
            "{filter}"
        );
    }
}

#[test]
fn wrong_fields_are_named() {
    let cases = [
        (json!({"ids": ["ab"]}), "ids"),
        (json!({"authors": ["AB".repeat(32)]}), "authors"),
        (json!({"authors": "ab"}), "authors"),
        (json!({"kinds": [65_536]}), "kinds"),
        (json!({"kinds": ["1"]}), "kinds"),
        (json!({"since": -1}), "since"),
        (json!({"until": "1"}), "until"),
        (json!({"limit": 1.5}), "limit"),
        (json!({"#p": ["npub1"]}), "#p"),
        (json!({"#t": [1]}), "#t"),
        (json!({"#t": ["x".repeat(1_025)]}), "#t"),
    ];
    for (filter, field) in cases {
        let message = parse(&filter).unwrap_err().to_string();
        assert!(
            message.starts_with(&format!("invalid: filter field {field} must be ")),
            "{message}"
        );
    }
    assert!(matches!(
        parse(&json!({"#tt": ["x"]})),
        Err(FilterError::TagName { len: 2 })
    ));
    assert!(matches!(
        parse(&json!({"#": ["x"]})),
        Err(FilterError::TagName { len: 0 })
    ));
    assert!(matches!(parse(&json!([])), Err(FilterError::NotAnObject)));
    let many = json!({"kinds": vec![1; MAX_FILTER_VALUES + 1]});
    assert!(
        matches!(parse(&many), Err(FilterError::TooMany { count, .. }) if count == MAX_FILTER_VALUES + 1)
    );
}

#[test]
fn limits_are_capped() {
    let cap = |filter: Value| {
        let mut filter = parse(&filter).unwrap();
        filter.cap_limit(500, 5_000);
        filter.limit.unwrap()
    };
    assert_eq!(cap(json!({})), 500);
    assert_eq!(cap(json!({"limit": 0})), 0);
    assert_eq!(cap(json!({"limit": 9_007_199_254_740_993u64})), 5_000);
}

#[test]
fn filters_that_can_match_nothing_are_known() {
    for nothing in [
        json!({"ids": []}),
        json!({"#t": []}),
        json!({"limit": 0}),
        json!({"since": 2, "until": 1}),
    ] {
        assert!(parse(&nothing).unwrap().matches_nothing(), "{nothing}");
    }
    assert!(
        !parse(&json!({"since": 1, "until": 1}))
            .unwrap()
            .matches_nothing()
    );
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
        let _ = Filter::from_json(&bytes);
    }

    #[test]
    fn arbitrary_fields_never_panic(name in "(ids|authors|kinds|since|until|limit|#[a-zA-Z]{0,2}|.{0,3})", value in "(-?[0-9.e]{0,9}|\\[[0-9,\"a-f]{0,9}\\]|null|\"[a-f]{0,3}\")") {
        let _ = Filter::from_json(format!("{{\"{name}\":{value}}}").as_bytes());
    }
}
