//! Reads a `RelayCluster` from YAML text: one document, of the right kind, with known fields only. Every refusal names its field.

use serde::Deserialize;
use serde_json::Value;

use super::RelayCluster;
use super::schema::{check_spec, quote};
use crate::validate::FieldError;

/// Largest file, in bytes; a fleet of 16 regions needs a few thousand.
pub const MAX_FILE_BYTES: usize = 1 << 20;

const API_VERSION: &str = "nightjar.dev/v1alpha1";
const KIND: &str = "RelayCluster";

/// Reads a `RelayCluster`.
///
/// # Errors
/// Everything that is wrong with the text, at least one entry. What takes more than the schema to see is found by
/// [`validate`](crate::validate::validate).
pub fn load(text: &str) -> Result<RelayCluster, Vec<FieldError>> {
    let document = parse(text).map_err(|error| vec![error])?;
    let errors = check_document(&document);
    if !errors.is_empty() {
        return Err(errors);
    }
    // Spec and names are checked; what is left to fail is the rest of metadata.
    serde_json::from_value(document)
        .map_err(|error| vec![FieldError::new("metadata", error.to_string())])
}

fn parse(text: &str) -> Result<Value, FieldError> {
    let whole = |message: String| FieldError::new("", message);
    if text.len() > MAX_FILE_BYTES {
        return Err(whole(format!(
            "the file has {} bytes, more than the {MAX_FILE_BYTES} that are read",
            text.len()
        )));
    }
    let mut found = None;
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = serde_yaml::Value::deserialize(document)
            .map_err(|error| whole(format!("not YAML: {error}")))?;
        // A file may begin or end with `---`.
        if value.is_null() {
            continue;
        }
        if found.replace(value).is_some() {
            return Err(whole(format!(
                "the file has several documents; give each {KIND} a file of its own"
            )));
        }
    }
    let value =
        found.ok_or_else(|| whole(format!("the file is empty; it must hold one {KIND}")))?;
    if !value.is_mapping() {
        return Err(whole(format!(
            "the file is YAML, but not a {KIND}: it must begin with apiVersion and kind"
        )));
    }
    serde_json::to_value(value).map_err(|error| whole(format!("not a {KIND}: {error}")))
}

fn check_document(document: &Value) -> Vec<FieldError> {
    let mut errors: Vec<FieldError> = [("apiVersion", API_VERSION), ("kind", KIND)]
        .into_iter()
        .filter_map(|(field, wanted)| must_be(document, field, wanted))
        .collect();
    // Of another kind, its other fields mean something else.
    if !errors.is_empty() {
        return errors;
    }
    for name in document
        .as_object()
        .into_iter()
        .flat_map(serde_json::Map::keys)
    {
        if !["apiVersion", "kind", "metadata", "spec", "status"].contains(&name.as_str()) {
            errors.push(FieldError::new(
                name,
                "no such field; there are apiVersion, kind, metadata and spec",
            ));
        }
    }
    match &document["metadata"] {
        Value::Object(metadata) => match metadata.get("name") {
            Some(Value::String(_)) => {}
            None => errors.push(FieldError::new("metadata.name", "is missing")),
            Some(_) => errors.push(FieldError::new("metadata.name", "must be a text")),
        },
        Value::Null => errors.push(FieldError::new("metadata.name", "is missing")),
        _ => errors.push(FieldError::new("metadata", "must be a map of fields")),
    }
    match &document["spec"] {
        Value::Null => errors.push(FieldError::new("spec", "is missing")),
        spec => errors.extend(check_spec(spec)),
    }
    errors
}

fn must_be(document: &Value, field: &str, wanted: &str) -> Option<FieldError> {
    match &document[field] {
        Value::String(text) if text == wanted => None,
        Value::String(text) => Some(FieldError::new(
            field,
            format!("must be {wanted}, is {}", quote(text)),
        )),
        Value::Null => Some(FieldError::new(
            field,
            format!("is missing; it must be {wanted}"),
        )),
        _ => Some(FieldError::new(field, format!("must be the text {wanted}"))),
    }
}
