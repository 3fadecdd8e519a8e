//! `cargo xtask generate [--check]`: files made from the code. `--check` writes nothing and fails when one is stale.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::run::{BUILD_PROGRAMS, cargo, output, root, run, say, target_dir};

/// A file, and the command whose stdout it holds.
struct Generated {
    file: &'static str,
    program: &'static str,
    args: &'static [&'static str],
}

const GENERATED: [Generated; 5] = [
    Generated {
        file: "crds/relayclusters.nightjar.dev.yaml",
        program: "nightjar-operator",
        args: &["crd"],
    },
    Generated {
        file: "docs/reference/relaycluster.md",
        program: "nightjar-operator",
        args: &["crd", "--docs"],
    },
    Generated {
        file: "docs/reference/cli.md",
        program: "nightjar",
        args: &["man", "--markdown"],
    },
    Generated {
        file: "docs/reference/errors.md",
        program: "nightjar",
        args: &["explain", "--book"],
    },
    Generated {
        file: "docs/reference/metrics-relay.md",
        program: "nightjar-relay",
        args: &["--metrics-docs"],
    },
];

pub(crate) fn generate(args: &[String]) -> Result<ExitCode> {
    let check = match args {
        [] => false,
        [only] if only == "--check" => true,
        _ => bail!("`cargo xtask generate [--check]`"),
    };
    run(&mut cargo(&BUILD_PROGRAMS))?;
    let programs = target_dir()?.join("debug");
    let mut stale = Vec::new();
    for generated in &GENERATED {
        let text = output(
            Command::new(programs.join(generated.program))
                .args(generated.args)
                .current_dir(root()),
        )?;
        let path = root().join(generated.file);
        if fs::read(&path).ok().as_ref() == Some(&text) {
            continue;
        }
        if check {
            stale.push(generated.file);
        } else {
            write(&path, &text)?;
            say(&format!("wrote {}", generated.file));
        }
    }
    if !stale.is_empty() {
        bail!(
            "stale: {}. Run `cargo xtask generate` and commit",
            stale.join(", ")
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn write(path: &Path, text: &[u8]) -> Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
