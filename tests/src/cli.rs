//! Runs `nightjar` as a person does: arguments, an environment of its own, stdout for data.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::programs::program;

/// A person's account on this machine: a home folder of its own.
pub struct Home {
    dir: PathBuf,
}

impl Home {
    /// An empty home under `dir`.
    pub fn new(dir: &Path, name: &str) -> Home {
        let dir = dir.join(name);
        std::fs::create_dir_all(&dir).expect("a home folder");
        Home { dir }
    }

    /// `nightjar ARGS`, not yet started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program("nightjar"));
        command
            .args(args)
            .env("HOME", &self.dir)
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_DATA_HOME")
            .env_remove("XDG_STATE_HOME");
        command
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .current_dir(crate::programs::root());
        command
    }

    /// Runs to the end, whatever the exit code.
    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("nightjar starts")
    }

    /// Runs to the end, insists on exit code 0, and returns stdout.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "nightjar {}: {}\n{stderr}",
            args.join(" "),
            output.status
        );
        String::from_utf8(output.stdout).expect("stdout is UTF-8")
    }

    /// Like [`Home::ok`], with each line of stdout read as JSON.
    pub fn json_lines(&self, args: &[&str]) -> Vec<Value> {
        let stdout = self.ok(args);
        let parsed = stdout
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(serde_json::from_str);
        parsed
            .collect::<Result<_, _>>()
            .unwrap_or_else(|error| panic!("nightjar {}: {error} in {stdout}", args.join(" ")))
    }
}
