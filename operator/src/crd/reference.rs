//! The reference page of the `RelayCluster`, made from the schema, so that it says what `kubectl explain` says.

use std::fmt::Write as _;

use serde_json::Value;

use super::generate::GENERATED;
use super::schema;

/// `docs/reference/relaycluster.md`.
pub fn reference_markdown() -> String {
    let mut page = format!(
        "<!-- {GENERATED} -->\n\n# RelayCluster\n\n`apiVersion: nightjar.dev/v1alpha1`, `kind: RelayCluster`, namespaced, short name `njc`, \
         category `nightjar`.\n\nOne `RelayCluster` describes a whole fleet. The same file runs on one machine (`nightjar up FILE`) and, \
         later, in a Kubernetes cluster; in this version all regions of a fleet are in one cluster or on one machine. `metadata.name` names \
         the fleet: 1 to 40 of a-z, 0-9 and '-'.\n\n```yaml\napiVersion: nightjar.dev/v1alpha1\nkind: RelayCluster\nmetadata:\n  name: example\n\
         spec:\n  regions:\n    - name: eu\n    - name: us\n```\n\nSizes are whole numbers of bytes with an optional suffix `Ki`, `Mi`, `Gi`, \
         `Ti`, `k`, `M`, `G` or `T`. Spans of time are whole numbers with a unit `s`, `m`, `h`, `d` or `w`.\n"
    );
    section(&mut page, "spec", schema::spec());
    page
}

/// One section a map of fields, deeper maps after it.
fn section(page: &mut String, path: &str, map: &Value) {
    // Writing into a String cannot fail.
    let _ = write!(page, "\n## `{path}`\n\n{}\n", text(map));
    if let Some(rules) = map["x-kubernetes-validations"].as_array() {
        page.push_str("\nRules:\n\n");
        for rule in rules {
            let _ = writeln!(page, "* {}", rule["message"].as_str().unwrap_or_default());
        }
    }
    let empty = serde_json::Map::new();
    let fields = map["properties"].as_object().unwrap_or(&empty);
    let required: Vec<&str> = map["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for (name, field) in fields {
        let _ = write!(
            page,
            "\n### `{path}.{name}`\n\n*{}*\n\n{}\n",
            facts(field, required.contains(&name.as_str())),
            text(field)
        );
    }
    for (name, field) in fields {
        match field["type"].as_str() {
            Some("object") => section(page, &format!("{path}.{name}"), field),
            Some("array") if field["items"]["type"] == "object" => {
                section(page, &format!("{path}.{name}[]"), &field["items"]);
            }
            _ => {}
        }
    }
}

/// Type, bounds and default of a field in one line.
fn facts(field: &Value, required: bool) -> String {
    let mut facts = vec![field["type"].as_str().unwrap_or("object").to_owned()];
    let range = |least: &str, most: &str, unit: &str| {
        let (least, most) = (field[least].as_f64()?, field[most].as_f64()?);
        Some(format!("{least} to {most}{unit}"))
    };
    facts.extend(range("minimum", "maximum", ""));
    facts.extend(range("minItems", "maxItems", " entries"));
    facts.extend(range("minLength", "maxLength", " characters"));
    if field["type"] == "array" && field["items"]["type"] != "object" {
        facts.push(format!("each {}", self::facts(&field["items"], false)));
    }
    if let Some(choices) = field["enum"].as_array() {
        facts.push(
            choices
                .iter()
                .map(Value::to_string)
                .collect::<Vec<_>>()
                .join(" or "),
        );
    }
    if let Some(pattern) = field["pattern"].as_str() {
        facts.push(format!("`{pattern}`"));
    }
    if required {
        facts.push("required".to_owned());
    }
    if let Some(default) = field
        .get("default")
        .filter(|default| !default.is_object() && !default.is_null())
    {
        facts.push(format!(
            "default `{}`",
            default
                .as_str()
                .map_or_else(|| default.to_string(), str::to_owned)
        ));
    }
    facts.join(", ")
}

fn text(schema: &Value) -> &str {
    schema["description"].as_str().unwrap_or_default()
}
