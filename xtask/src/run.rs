//! Runs other programs: says what it runs, and turns a missing program or a failure into a message to act on.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Arguments of cargo for all programs. Always the whole workspace: with a part of it, cargo picks other features for the
/// dependencies and builds many of them once more.
pub(crate) const BUILD_PROGRAMS: [&str; 3] = ["build", "--workspace", "--bins"];

/// Says on stderr what is about to happen.
pub(crate) fn say(what: &str) {
    eprintln!("xtask: {what}");
}

/// The root of the clone: cargo sets `CARGO_MANIFEST_DIR` to `xtask/` under it.
pub(crate) fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest
        .parent()
        .map_or(manifest.clone(), Path::to_path_buf)
}

/// The folder that holds `debug/` and `release/`: this program itself lies in `<target>/debug/`.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("cannot tell where xtask itself lies")?;
    let target = exe
        .parent()
        .and_then(Path::parent)
        .context("xtask does not lie in a cargo target folder")?;
    Ok(target.to_path_buf())
}

/// `cargo` as the caller's toolchain has it, in the root of the clone.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.args(args).current_dir(root());
    // Inherited by cargo's children from `cargo run`: they would point the inner cargo at this crate.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"] {
        command.env_remove(name);
    }
    command
}

/// Runs to the end with the caller's streams; an exit code other than 0 is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    let status = command
        .status()
        .with_context(|| format!("cannot run `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

/// Runs to the end and returns stdout; stderr goes to the caller.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let shown = shown(command);
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output();
    let output = output.with_context(|| format!("cannot run `{shown}`"))?;
    if !output.status.success() {
        bail!("`{shown}` failed ({})", output.status);
    }
    Ok(output.stdout)
}

/// Runs to the end and hands each line of stdout to `on_line` as it comes; returns whether it succeeded.
pub(crate) fn stream(command: &mut Command, mut on_line: impl FnMut(&str)) -> Result<bool> {
    let shown = shown(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{shown}`"))?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            on_line(&String::from_utf8_lossy(&line?));
        }
    }
    Ok(child.wait()?.success())
}

/// The path of `program` if it is on PATH.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| is_executable(file))
}

/// Whether `file` is a file that may be executed.
pub(crate) fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or(command.get_program())
        .to_string_lossy()
        .into_owned();
    let args = command
        .get_args()
        .map(|arg| arg.to_string_lossy().into_owned());
    std::iter::once(program)
        .chain(args)
        .collect::<Vec<_>>()
        .join(" ")
}
