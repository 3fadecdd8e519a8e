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

    /// Makes a key, encrypted as for a person, publishes where its owner reads, and returns the public key (lowercase hex).
    pub fn make_key(&self, name: &str, relay: &str) -> String {
        let passphrase = self.passphrase();
        let made = self.json_lines(&[
            "key",
            "make",
            name,
            "--passphrase-file",
            &passphrase,
            "-o",
            "jsonl",
        ]);
        let npub = made[0]["npub"]
            .as_str()
            .expect("key make shows the npub")
            .to_owned();
        self.ok(&[
            "relays",
            "set",
            relay,
            "--as",
            name,
            "--passphrase-file",
            &passphrase,
            "--via",
            relay,
        ]);
        nostr::key::PublicKey::parse(&npub)
            .expect("an npub")
            .to_hex()
    }

    /// Sends as `name` and insists on success.
    pub fn send(&self, name: &str, to: &str, relay: &str, text: &str) {
        self.ok(&[
            "send",
            to,
            text,
            "--as",
            name,
            "--passphrase-file",
            &self.passphrase(),
            "--via",
            relay,
        ]);
    }

    /// The stored messages of `name`: sender (lowercase hex) and text.
    pub fn inbox(&self, name: &str) -> Vec<(String, String)> {
        let messages = self.json_lines(&[
            "inbox",
            "--as",
            name,
            "--passphrase-file",
            &self.passphrase(),
            "-o",
            "jsonl",
        ]);
        let one = |message: Value| {
            let from = message["from"].as_str().unwrap_or_default();
            let from = nostr::key::PublicKey::parse(from)
                .expect("a sender")
                .to_hex();
            (
                from,
                message["text"].as_str().unwrap_or_default().to_owned(),
            )
        };
        messages.into_iter().map(one).collect()
    }

    /// A file with the passphrase of this home's keys.
    fn passphrase(&self) -> String {
        let path = self.dir.join("passphrase");
        if !path.exists() {
            std::fs::write(&path, "correct horse\n").expect("a passphrase file");
            let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(&path, private).expect("mode 0600");
        }
        path.display().to_string()
    }

    /// `nightjar ARGS`, not yet started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program("nightjar"));
        command
            .args(args)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .current_dir(crate::programs::root());
        self.apply(&mut command);
        command
    }

    /// Has a command see this home and no other.
    pub fn apply(&self, command: &mut Command) {
        command.env("HOME", &self.dir);
        for name in ["XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"] {
            command.env_remove(name);
        }
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
