//! Runs both Helms on the chart, in folders of their own, and reads what they render. Judges nothing.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nightjar_tests::programs::root;
use nightjar_tests::report::skipped;
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

const NAMESPACE: &str = "nightjar";

/// What a variable of `cargo xtask test` names, or a line in the report.
pub(crate) fn tool(variable: &str, test: &str) -> Option<OsString> {
    let tool = std::env::var_os(variable);
    if tool.is_none() {
        let why = std::env::var(format!("{variable}_MISSING"))
            .unwrap_or_else(|_| format!("{variable} is not set; run `cargo xtask test`"));
        skipped(test, &why);
    }
    tool
}

pub(crate) fn chart() -> PathBuf {
    root().join("charts/nightjar")
}

pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Files of a folder of the chart, without their ending, in order.
pub(crate) fn names_in(folder: &Path, ending: &str) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.strip_suffix(ending).map(ToOwned::to_owned)
        })
        .collect();
    names.sort();
    assert!(!names.is_empty(), "{} is empty", folder.display());
    names
}

pub(crate) fn value_sets() -> Vec<String> {
    names_in(&chart().join("ci"), "-values.yaml")
}

pub(crate) fn values_file(set: &str) -> PathBuf {
    chart().join("ci").join(format!("{set}-values.yaml"))
}

/// Runs helm with folders of its own.
pub(crate) fn helm(helm: &OsString, args: &[&str]) -> Output {
    let home = TempDir::new().expect("a folder");
    let mut command = Command::new(helm);
    command.args(args).env_remove("KUBECONFIG");
    for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        command.env(name, home.path());
    }
    command.output().expect("helm starts")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The manifests that helm renders with a set of values and more arguments.
pub(crate) fn rendered(program: &OsString, set: &str, more: &[&str]) -> String {
    let (chart, values) = (chart(), values_file(set));
    let mut args = vec!["template", "nightjar"];
    let (chart, values) = (chart.display().to_string(), values.display().to_string());
    args.extend([
        chart.as_str(),
        "--namespace",
        NAMESPACE,
        "--values",
        &values,
    ]);
    args.extend(more);
    let output = helm(program, &args);
    assert!(output.status.success(), "{set}: {}", text(&output.stderr));
    text(&output.stdout)
}

pub(crate) fn objects(manifests: &str) -> Vec<Value> {
    serde_yaml::Deserializer::from_str(manifests)
        .map(|document| Value::deserialize(document).expect("a manifest"))
        .filter(|object| !object.is_null())
        .collect()
}

pub(crate) fn kind(object: &Value) -> &str {
    object["kind"].as_str().expect("a kind")
}

pub(crate) fn id(object: &Value) -> String {
    let metadata = &object["metadata"];
    format!(
        "{} {}/{}",
        kind(object),
        metadata["namespace"],
        metadata["name"]
    )
}
