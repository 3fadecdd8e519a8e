//! Whether an object in the cluster is as it should be, and what a write would mean. Pure.

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::names::APPLIED_HASH;
use crate::crd::parse_quantity;

/// Whether everything that `wanted` says is so in `live`. What the API server or others added is not ours to judge.
pub(super) fn holds(live: &Value, wanted: &Value) -> bool {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => wanted.iter().all(|(key, wanted)| {
            match live.get(key) {
                Some(live) => holds(live, wanted),
                // Servers drop empty maps and lists.
                None => is_empty(wanted),
            }
        }),
        (Value::Array(wanted), Value::Array(live)) => {
            wanted.len() == live.len()
                && wanted
                    .iter()
                    .zip(live)
                    .all(|(wanted, live)| holds(live, wanted))
        }
        (Value::String(wanted), Value::String(live)) => {
            wanted == live || same_quantity(wanted, live)
        }
        _ => wanted == live,
    }
}

/// Whether both are the same amount: the API server writes `1000m` as `1`, and `10240Mi` as `10Gi`.
fn same_quantity(one: &str, other: &str) -> bool {
    matches!((thousandths(one), thousandths(other)), (Some(one), Some(other)) if one == other)
}

fn thousandths(text: &str) -> Option<u128> {
    if let Some(number) = text.strip_suffix('m') {
        return number.parse().ok();
    }
    parse_quantity(text)
        .ok()
        .map(|amount| u128::from(amount) * 1_000)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// The first path at which `live` is not as `wanted`, for messages.
pub(super) fn first_difference(live: &Value, wanted: &Value) -> Option<String> {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => wanted.iter().find_map(|(key, wanted)| {
            let below = match live.get(key) {
                Some(live) => first_difference(live, wanted)?,
                None if is_empty(wanted) => return None,
                None => String::new(),
            };
            Some(format!(".{key}{below}"))
        }),
        (Value::Array(wanted), Value::Array(live)) if wanted.len() == live.len() => wanted
            .iter()
            .zip(live)
            .enumerate()
            .find_map(|(index, (wanted, live))| {
                first_difference(live, wanted).map(|below| format!("[{index}]{below}"))
            }),
        _ => (!holds(live, wanted)).then(String::new),
    }
}

/// The object with the hash of itself as an annotation.
pub(super) fn stamped(mut object: Value) -> Value {
    let hash = hex::encode(&Sha256::digest(object.to_string())[..12]);
    object["metadata"]["annotations"][APPLIED_HASH] = Value::String(hash);
    object
}

/// The stamp of an object, if it has one.
pub(super) fn stamp(object: &Value) -> Option<&str> {
    object["metadata"]["annotations"][APPLIED_HASH].as_str()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_others_add_is_no_difference_and_what_they_change_is() {
        let wanted = json!({"a": 1, "list": [{"name": "x"}], "none": {}});
        let live = json!({"a": 1, "list": [{"name": "x", "default": true}], "more": 2});
        assert!(holds(&live, &wanted));
        assert_eq!(first_difference(&live, &wanted), None);
        for (changed, path) in [
            (json!({"a": 2, "list": [{"name": "x"}]}), ".a"),
            (json!({"a": 1, "list": [{"name": "y"}]}), ".list[0].name"),
            (json!({"a": 1, "list": []}), ".list"),
            (json!({"list": [{"name": "x"}]}), ".a"),
        ] {
            assert!(!holds(&changed, &wanted), "{changed}");
            assert_eq!(first_difference(&changed, &wanted).as_deref(), Some(path));
        }
    }

    #[test]
    fn an_amount_is_the_same_however_it_is_written() {
        for (wanted, live) in [
            ("1000m", "1"),
            ("10240Mi", "10Gi"),
            ("1000M", "1G"),
            ("100m", "100m"),
        ] {
            assert!(holds(&json!(live), &json!(wanted)), "{wanted} {live}");
        }
        for (wanted, live) in [("1", "2"), ("1Gi", "1G"), ("a", "b"), ("1", "1x")] {
            assert!(!holds(&json!(live), &json!(wanted)), "{wanted} {live}");
        }
    }

    #[test]
    fn a_stamp_tells_one_object_from_another_and_is_stable() {
        let one = stamped(json!({"metadata": {"name": "x"}, "spec": 1}));
        assert_eq!(one, stamped(json!({"metadata": {"name": "x"}, "spec": 1})));
        assert_ne!(
            stamp(&one),
            stamp(&stamped(json!({"metadata": {"name": "x"}, "spec": 2})))
        );
    }
}
