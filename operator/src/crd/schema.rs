//! Checks a document against the schema in the CustomResourceDefinition, as the API server would, and says everything that is wrong.

use std::sync::LazyLock;

use kube::CustomResourceExt;
use regex::Regex;
use serde_json::{Map, Value};

use super::RelayCluster;
use crate::validate::FieldError;

/// The schema of a whole document: `apiVersion` and `kind` are checked before, `metadata` is any object.
static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let definition = RelayCluster::crd();
    let schema = definition
        .spec
        .versions
        .into_iter()
        .next()
        .and_then(|version| version.schema);
    serde_json::to_value(schema.and_then(|schema| schema.open_api_v3_schema))
        .expect("a schema is plain JSON")
});

/// The schema of `spec`.
pub(super) fn spec() -> &'static Value {
    &SCHEMA["properties"]["spec"]
}

/// Everything in `value` that the schema of `spec` does not allow.
pub(crate) fn check_spec(value: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check("spec", spec(), value, &mut errors);
    errors
}

fn check(path: &str, schema: &Value, value: &Value, errors: &mut Vec<FieldError>) {
    if value.is_null() && schema["nullable"] == true {
        return;
    }
    let wanted = schema["type"].as_str().unwrap_or("object");
    let right = match value {
        Value::Object(fields) if wanted == "object" => {
            check_object(path, schema, fields, errors);
            true
        }
        Value::Array(items) if wanted == "array" => {
            check_length(path, schema, "Items", items.len(), "entries", errors);
            for (index, item) in items.iter().enumerate() {
                check(&format!("{path}[{index}]"), &schema["items"], item, errors);
            }
            true
        }
        Value::String(text) if wanted == "string" => {
            check_text(path, schema, text, errors);
            true
        }
        Value::Number(number) if wanted == "integer" => number.as_i64().is_some_and(|number| {
            check_range(path, schema, number, errors);
            true
        }),
        Value::Bool(_) => wanted == "boolean",
        _ => false,
    };
    if !right {
        errors.push(FieldError::new(
            path,
            format!("must be {}, is {}", kind_name(wanted), describe(value)),
        ));
    }
}

fn check_object(
    path: &str,
    schema: &Value,
    fields: &Map<String, Value>,
    errors: &mut Vec<FieldError>,
) {
    let empty = Map::new();
    let known = schema["properties"].as_object().unwrap_or(&empty);
    check_length(path, schema, "Properties", fields.len(), "entries", errors);
    for (name, value) in fields {
        let field = format!("{path}.{name}");
        match known.get(name) {
            Some(schema) => check(&field, schema, value, errors),
            // A map of the user's own names, such as labels.
            None if schema["additionalProperties"].is_object() => {
                check(&field, &schema["additionalProperties"], value, errors);
            }
            None => errors.push(FieldError::new(field, unknown(name, known))),
        }
    }
    for name in schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        if !fields.contains_key(name) {
            errors.push(FieldError::new(format!("{path}.{name}"), "is missing"));
        }
    }
}

/// Names the field that was meant, or all there are.
fn unknown(name: &str, known: &Map<String, Value>) -> String {
    let meant = known
        .keys()
        .find(|candidate| candidate.eq_ignore_ascii_case(&name.replace(['_', '-'], "")));
    match meant {
        Some(meant) => format!("no such field; did you mean {meant}?"),
        None => format!(
            "no such field; there are {}",
            known
                .keys()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(", ")
        ),
    }
}

fn check_text(path: &str, schema: &Value, text: &str, errors: &mut Vec<FieldError>) {
    let before = errors.len();
    check_length(
        path,
        schema,
        "Length",
        text.chars().count(),
        "characters",
        errors,
    );
    if let Some(choices) = schema["enum"]
        .as_array()
        .filter(|choices| !choices.contains(&text.into()))
    {
        let choices: Vec<&str> = choices.iter().filter_map(Value::as_str).collect();
        errors.push(FieldError::new(
            path,
            format!("must be {}, is {}", choices.join(" or "), quote(text)),
        ));
    }
    let Some(pattern) = schema["pattern"]
        .as_str()
        .filter(|_| errors.len() == before)
    else {
        return;
    };
    // Patterns are our own, and a test compiles each.
    if Regex::new(pattern).is_ok_and(|pattern| !pattern.is_match(text)) {
        let rule = first_sentence(schema["description"].as_str().unwrap_or_default());
        errors.push(FieldError::new(
            path,
            format!("{} does not match {pattern} ({rule})", quote(text)),
        ));
    }
}

fn check_range(path: &str, schema: &Value, number: i64, errors: &mut Vec<FieldError>) {
    if let Some(choices) = schema["enum"]
        .as_array()
        .filter(|choices| !choices.contains(&number.into()))
    {
        let choices: Vec<String> = choices.iter().map(Value::to_string).collect();
        errors.push(FieldError::new(
            path,
            format!("must be {}, is {number}", choices.join(" or ")),
        ));
    }
    let bound = |name: &str| schema[name].as_f64();
    #[expect(clippy::cast_precision_loss, reason = "bounds are 32 bits")]
    let value = number as f64;
    let (least, most) = (bound("minimum"), bound("maximum"));
    if least.is_some_and(|least| value < least) || most.is_some_and(|most| value > most) {
        let (least, most) = (least.unwrap_or(f64::MIN), most.unwrap_or(f64::MAX));
        errors.push(FieldError::new(
            path,
            format!("must be from {least} to {most}, is {number}"),
        ));
    }
}

fn check_length(
    path: &str,
    schema: &Value,
    of: &str,
    length: usize,
    unit: &str,
    errors: &mut Vec<FieldError>,
) {
    let bound = |name: String| schema[name].as_u64();
    let (least, most) = (
        bound(format!("min{of}")).unwrap_or(0),
        bound(format!("max{of}")).unwrap_or(u64::MAX),
    );
    if !(least..=most).contains(&(length as u64)) {
        let range = if least == most {
            least.to_string()
        } else {
            format!("{least} to {most}")
        };
        errors.push(FieldError::new(
            path,
            format!("must have {range} {unit}, has {length}"),
        ));
    }
}

fn kind_name(kind: &str) -> &'static str {
    match kind {
        "object" => "a map of fields",
        "array" => "a list",
        "string" => "a text",
        "integer" => "a whole number",
        _ => "true or false",
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "empty".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("the text {}", quote(text)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a map of fields".to_owned(),
    }
}

/// The text in quotes, cut to what a message can hold.
pub(crate) fn quote(text: &str) -> String {
    let short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        format!("{short:?}...")
    } else {
        format!("{short:?}")
    }
}

/// The first sentence of a description, without its full stop.
fn first_sentence(text: &str) -> &str {
    let end = text
        .find(". ")
        .or_else(|| text.find(".\n"))
        .unwrap_or(text.len());
    text[..end].trim_end_matches('.')
}
