//! The program as a person types it, without a relay: exit codes, where words go, keys on disk.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use std::io::Write;

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("words"), "correct horse\n").unwrap();
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(home.path().join("words"), private).unwrap();
        Self(home)
    }

    fn run(&self, args: &[&str], stdin: &str) -> Output {
        let mut child = Command::new(env!("CARGO_BIN_EXE_nightjar"))
            .args(args)
            .env_clear()
            .env("HOME", self.0.path())
            .current_dir(self.0.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A program that does not read stdin may be gone already.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        child.wait_with_output().unwrap()
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

fn exit(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A port on which nobody listens.
fn nobody() -> String {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("ws://{}", free.local_addr().unwrap())
}

#[test]
fn failures_have_their_exit_code_and_leave_stdout_empty() {
    let home = Home::new();
    home.run(&["key", "make", "--passphrase-file", "words"], "");
    let nobody = nobody();
    let hex = "00".repeat(32);
    let bob = "npub10xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqpkge6d";
    let cases: &[(i32, &str, &[&str])] = &[
        (2, "NJ-2001", &["no-such-verb"]),
        (2, "NJ-2002", &["send", "nobody", "hi"]),
        (
            2,
            "NJ-2005",
            &["send", bob, "hi", "--passphrase-file", "words"],
        ),
        (
            2,
            "NJ-2002",
            &[
                "send",
                bob,
                "hi",
                "--passphrase-file",
                "words",
                "--via",
                "localhost:1",
            ],
        ),
        (2, "NJ-2004", &["send", bob, "--passphrase-file", "-"]),
        (2, "NJ-2006", &["inbox", "--via", &nobody]),
        (
            3,
            "NJ-3001",
            &["inbox", "--via", &nobody, "--passphrase-file", "words"],
        ),
        (
            3,
            "NJ-3001",
            &[
                "send",
                bob,
                "hi",
                "--via",
                &nobody,
                "--passphrase-file",
                "words",
            ],
        ),
        (3, "NJ-3001", &["export", "--via", &nobody]),
        (8, "NJ-8002", &["inbox", "--as", "nobody", "--via", &nobody]),
        (
            8,
            "NJ-8003",
            &["inbox", "--as", "alice@demo", "--via", &nobody],
        ),
        (8, "NJ-8003", &["status"]),
        (8, "NJ-8003", &["down"]),
        (8, "NJ-8004", &["explain", "NJ-0000"]),
        (9, "NJ-9003", &["key", "make", "--passphrase-file", "words"]),
    ];
    for (code, name, args) in cases {
        let output = home.run(args, "");
        let said = stderr(&output);
        assert_eq!(exit(&output), *code, "{args:?}: {said}");
        assert!(said.contains(name), "{args:?}: {said}");
        assert!(said.contains("nightjar explain"), "{args:?}: {said}");
        assert_eq!(stdout(&output), "", "{args:?}");
    }
    assert!(home.run(&["send", &hex, "hi"], "").status.code().is_some());
}

#[test]
fn watch_that_reached_nobody_fails_when_its_time_is_up() {
    let home = Home::new();
    home.run(&["key", "make", "--passphrase-file", "words"], "");
    let via = nobody();
    let args = ["watch", "--for", "1s", "--via", &via];
    let output = home.run(&[&args[..], &["--passphrase-file", "words"]].concat(), "");
    assert_eq!(exit(&output), 3, "{}", stderr(&output));
    assert!(stderr(&output).contains("NJ-3001"));
    assert!(stdout(&output).is_empty());
}

#[test]
fn error_is_one_json_line_where_data_would_be_json() {
    let home = Home::new();
    let output = home.run(&["status", "-o", "jsonl"], "");
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(
        (error["error"].as_str(), error["exit"].as_i64()),
        (Some("NJ-8003"), Some(8))
    );
}

#[test]
fn key_is_made_shown_exported_and_imported() {
    let home = Home::new();
    let made = home.run(
        &[
            "key",
            "make",
            "me",
            "--passphrase-file",
            "words",
            "-o",
            "json",
        ],
        "",
    );
    assert_eq!(exit(&made), 0, "{}", stderr(&made));
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    let file = home.path().join(".config/nightjar/keys/me.key");
    assert_eq!(
        std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(!std::fs::read_to_string(&file).unwrap().contains("nsec1"));

    let encrypted = stdout(&home.run(&["key", "show", "me", "--encrypted"], ""));
    assert!(encrypted.starts_with("ncryptsec1"));
    let again = home.run(
        &[
            "key",
            "import",
            "copy",
            "--passphrase-file",
            "words",
            "-o",
            "json",
        ],
        &encrypted,
    );
    assert_eq!(exit(&again), 0, "{}", stderr(&again));
    let again: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(again["npub"], made["npub"]);
    assert_eq!(
        stdout(&home.run(&["key", "show", "-o", "jsonl"], ""))
            .lines()
            .count(),
        2
    );
}

#[test]
fn key_file_is_imported_as_it_is_and_a_secret_is_no_name() {
    let home = Home::new();
    let args = ["key", "import", "old", "--passphrase-file", "words"];
    let nsec = "nsec1vl029mgpspedva04g90vltkh6fvh240zqtv9k0t9af8935ke9laqsnlfe5";
    let file = format!("# a comment\nnpub1anything\n{nsec}\n");
    let made = home.run(&args, &file);
    assert_eq!(exit(&made), 0, "{}", stderr(&made));

    let named = home.run(&["key", "import", nsec, "--passphrase-file", "words"], nsec);
    assert_eq!(exit(&named), 2);
    assert!(!stderr(&named).contains(&nsec[5..20]));
    let keys = std::fs::read_dir(home.path().join(".config/nightjar/keys")).unwrap();
    assert_eq!(keys.count(), 1, "no file is named after a secret");
}

#[test]
fn what_is_no_key_is_refused_and_not_repeated() {
    let home = Home::new();
    let output = home.run(
        &["key", "import", "--passphrase-file", "words"],
        "nsec1secretsecretsecret\n",
    );
    assert_eq!(exit(&output), 9);
    assert!(
        !stderr(&output).contains("secretsecret"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn wrong_passphrase_has_its_own_code() {
    let home = Home::new();
    home.run(&["key", "make", "--passphrase-file", "words"], "");
    let output = home.run(
        &["inbox", "--via", &nobody(), "--passphrase-file", "-"],
        "wrong\n",
    );
    assert_eq!(exit(&output), 9, "{}", stderr(&output));
    assert!(stderr(&output).contains("NJ-9001"));
}

#[test]
fn completions_and_man_pages_are_written() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let output = home.run(&["completion", shell], "");
        assert!(stdout(&output).contains("passphrase-file"), "{shell}");
    }
    assert!(stdout(&home.run(&["man"], "")).contains(".TH nightjar"));
    home.run(&["man", "pages"], "");
    assert!(home.path().join("pages/nightjar-send.1").exists());
}

#[test]
fn help_is_data_and_silence_is_not_colour() {
    let home = Home::new();
    let output = home.run(&["send", "--help"], "");
    assert_eq!((exit(&output), stderr(&output)), (0, String::new()));
    assert!(!stdout(&output).contains('\u{1b}'), "no colour in a pipe");
    let output = home.run(&["status", "--color", "always"], "");
    assert!(stderr(&output).contains('\u{1b}'));
    let output = home.run(&["status"], "");
    assert!(!stderr(&output).contains('\u{1b}'));
}
