//! The example plugins of `examples/plugins/`, run as a relay runs them.

use std::io::Write;
use std::path::{Path, PathBuf};

use nightjar_config::Plugin;
use nostr::key::Keys;
use serde_json::json;

use super::harness::{Relay, event, wrap};
use super::plugin_program::writing_under;
use crate::socket::Timings;

fn command(words: &[&Path]) -> Plugin {
    let words = words
        .iter()
        .map(|word| word.to_str().expect("UTF-8").to_owned());
    Plugin {
        timeout_ms: 10_000,
        ..Plugin::new(words.collect())
    }
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../examples/plugins")
        .join(name)
}

/// The line that the report of `cargo xtask test` shows.
fn skipped(test: &str, why: &str) {
    let report = std::env::var_os("NIGHTJAR_TEST_REPORT")
        .and_then(|path| std::fs::OpenOptions::new().append(true).open(path).ok());
    let line = format!("skipped {test}: {why}\n");
    let written = report.map(|mut file| file.write_all(line.as_bytes()));
    if written.is_none() {
        std::io::stderr().write_all(line.as_bytes()).ok();
    }
}

/// `python3` of this machine, if it runs.
fn python() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut programs = std::env::split_paths(&path).map(|folder| folder.join("python3"));
    programs.find(|program| {
        // In the environment that a relay gives it.
        let version = std::process::Command::new(program)
            .arg("--version")
            .env_clear()
            .env("PATH", &path)
            .output();
        version.is_ok_and(|output| output.status.success())
    })
}

#[tokio::test]
async fn the_python_example_takes_its_kinds_and_hides_its_words() {
    let Some(python) = python() else {
        return skipped("the Python example plugin", "no python3 on PATH");
    };
    let dir = tempfile::tempdir().expect("a folder");
    let words = dir.path().join("words");
    std::fs::write(&words, "casino\n\nLottery\n").expect("written");
    let mut plugin = command(&[&python, &example("allow_kinds.py")]);
    plugin.command.extend(["1", "5", "1059"].map(str::to_owned));
    let value = words.to_str().expect("UTF-8").to_owned();
    plugin.environment = [("WORDS".to_owned(), value)].into();
    let relay = writing_under(plugin).await;
    let keys = Keys::generate();
    let mut client = relay.client().await;
    for (sent, ok, reason, published) in [
        (event(&keys, 1, "hello", &[]), true, "", 1),
        (
            event(&keys, 7, "+", &[]),
            false,
            "blocked: kind 7 is not taken here",
            1,
        ),
        (event(&keys, 1, "Win the LOTTERY", &[]), true, "", 1),
        (wrap(1059, &keys), true, "", 2),
    ] {
        let answer = client.publish(&sent).await;
        assert_eq!((&answer[2], &answer[3]), (&json!(ok), &json!(reason)));
        assert_eq!(relay.publisher.published(), published);
    }
}

/// `<target>/<profile>/examples`, beside the folder of this program.
fn built_example(name: &str) -> Option<PathBuf> {
    let this = std::env::current_exe().ok()?;
    let program = this.parent()?.parent()?.join("examples").join(name);
    program.is_file().then_some(program)
}

#[tokio::test]
async fn the_rust_example_serves_members_alone_and_follows_its_file() {
    let Some(program) = built_example("members") else {
        return skipped(
            "the Rust example plugin",
            "it is not built; `cargo build --workspace --examples` does it",
        );
    };
    let dir = tempfile::tempdir().expect("a folder");
    let list = dir.path().join("members");
    let (ann, bob) = (Keys::generate(), Keys::generate());
    std::fs::write(&list, format!("{}\n", ann.public_key().to_hex())).expect("written");
    let mut plugin = command(&[&program, &list]);
    plugin.watch = vec![list.to_str().expect("UTF-8").to_owned()];
    let relay = Relay::start_with(
        |config| {
            config.plugins.write = Some(plugin.clone());
            config.plugins.read = Some(plugin);
        },
        Timings::default(),
    )
    .await;
    let everything = [json!({"kinds": [1]})];
    let mut client = relay.client().await;
    let first = "auth-required: this relay is for its members";
    let note = event(&ann, 1, "x", &[]);
    assert_eq!(client.publish(&note).await[3], first);
    assert_eq!(client.read("s", &everything).await, Err(first.to_owned()));
    assert_eq!(client.authenticate(&ann).await[2], true);
    assert_eq!(client.publish(&note).await[2], true);
    assert_eq!(
        client.read("s", &everything).await,
        Ok(vec![note.id.to_hex()])
    );

    let mut other = relay.authenticated(&[&bob]).await;
    let never = "restricted: this relay is for its members";
    assert_eq!(other.publish(&wrap(1059, &ann)).await[3], never);
    assert_eq!(other.count("s", &everything).await, Err(never.to_owned()));
    let both = format!(
        "{}\n{}\n",
        ann.public_key().to_hex(),
        bob.public_key().to_hex()
    );
    std::fs::write(dir.path().join("new"), both).expect("written");
    std::fs::rename(dir.path().join("new"), &list).expect("replaced");
    for plugin in ["write", "read"] {
        let respawns = format!("nj_plugin_respawns_total{{plugin=\"{plugin}\"}}");
        relay.until_series(&respawns, 1).await;
    }
    assert_eq!(other.publish(&wrap(1059, &ann)).await[2], true);
    assert_eq!(other.count("s", &everything).await, Ok(1));
}
