//! Installs the Nostr clients that the interop tests drive, pinned by their lock files in `tests/interop/`, into the cache.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cache;
use crate::nats::{pip_install, python_with_pip};
use crate::run::{on_path, root, run, say};

/// Folder that holds `node_modules/` with nostr-tools, ws, schemata and ajv.
pub(crate) fn node() -> Result<PathBuf> {
    let from = root().join("tests/interop/node");
    let files = ["package.json", "package-lock.json"];
    let mut pins = version_of("node")?;
    for file in files {
        pins.extend(
            fs::read(from.join(file))
                .with_context(|| format!("cannot read tests/interop/node/{file}"))?,
        );
    }
    cache::filled("node", &pins, |dir| {
        if on_path("npm").is_none() {
            bail!("`npm` is not on PATH");
        }
        for file in files {
            fs::copy(from.join(file), dir.join(file))?;
        }
        say(&format!(
            "installing nostr-tools into {} (once)",
            dir.display()
        ));
        run(Command::new("npm")
            .args([
                "ci",
                "--ignore-scripts",
                "--no-audit",
                "--no-fund",
                "--loglevel=error",
            ])
            .current_dir(dir)
            .stdin(Stdio::null()))
    })
}

/// Folder for `PYTHONPATH` that holds monstr and what it needs.
pub(crate) fn python() -> Result<PathBuf> {
    let requirements = root().join("tests/interop/python/requirements.txt");
    let mut pins = version_of("python3")?;
    pins.extend(
        fs::read(&requirements).context("cannot read tests/interop/python/requirements.txt")?,
    );
    cache::filled("python", &pins, |dir| {
        let python = python_with_pip()?;
        say(&format!("installing monstr into {} (once)", dir.display()));
        pip_install(&python, &requirements, dir, &[])
    })
}

/// Compiled parts fit one version of the interpreter, so it belongs to what is pinned.
fn version_of(program: &str) -> Result<Vec<u8>> {
    let Some(path) = on_path(program) else {
        bail!("`{program}` is not on PATH")
    };
    let output = Command::new(path)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run `{program} --version`"))?;
    Ok(output.stdout)
}
