//! Finds or installs what the tests of the chart run: both Helms, promtool, kubernetes-validate. Starts none of them.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::cache;
use crate::cluster::{helm, promtool};
use crate::nats::{pip_install, python_with_pip};
use crate::run::{output, root, say};

/// Environment variables of `tests/tests/chart.rs`, each with its tool, or why there is none.
pub(crate) fn of_the_chart() -> [(&'static str, Result<PathBuf>); 4] {
    [
        ("NIGHTJAR_HELM", helm(4)),
        ("NIGHTJAR_HELM3", helm(3)),
        ("NIGHTJAR_PROMTOOL", promtool()),
        ("NIGHTJAR_KUBERNETES_VALIDATE", kubernetes_validate()),
    ]
}

/// Folder for `PYTHONPATH` that holds the module `kubernetes_validate` and what it needs, pinned by hashes.
fn kubernetes_validate() -> Result<PathBuf> {
    const PINS: &str = "tests/chart/requirements.txt";
    let requirements = root().join(PINS);
    let python = python_with_pip()?;
    // Compiled parts fit one version of the interpreter, so it belongs to what is pinned.
    let mut pins = output(std::process::Command::new(&python).arg("--version"))?;
    pins.extend(fs::read(&requirements).with_context(|| format!("cannot read {PINS}"))?);
    cache::filled("kubernetes-validate", &pins, |dir| {
        say(&format!(
            "installing kubernetes-validate into {} (once)",
            dir.display()
        ));
        pip_install(&python, &requirements, dir, &["--only-binary=:all:"])
    })
}
