//! A RelayCluster file or a machine that will not do: one clear line that names the field, and nothing half-started.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nightjar_tests::programs::{fresh_dir, nats_server, program};
use nightjar_tests::yaml;

/// A refusal needs no server to start, so it comes at once.
const REFUSAL_LIMIT: Duration = Duration::from_secs(30);

/// What the operator said before it gave up.
struct Refusal {
    code: Option<i32>,
    /// stdout and stderr together.
    said: String,
}

/// Runs the operator on `text` and waits for it to end by itself.
fn run(dir: &Path, text: &str, state: &Path, change: impl FnOnce(&mut Command)) -> Refusal {
    let file = dir.join("fleet.yaml");
    std::fs::write(&file, text).expect("the file");
    let mut command = Command::new(program("nightjar-operator"));
    command
        .arg("local")
        .arg(&file)
        .arg("--state")
        .arg(state)
        .arg("--json");
    command
        .env("NATS_SERVER", nats_server())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    change(&mut command);
    let mut child = command.spawn().expect("nightjar-operator starts");
    let started = Instant::now();
    while child.try_wait().expect("a child").is_none() {
        if started.elapsed() > REFUSAL_LIMIT {
            child.kill().ok();
            let output = child.wait_with_output().expect("output");
            panic!(
                "the operator did not refuse but went on: {}",
                String::from_utf8_lossy(&output.stdout)
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().expect("output");
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Refusal {
        code: output.status.code(),
        said,
    }
}

/// Insists on a refusal whose message has every word, and on no process having been started.
fn check(what: &str, text: &str, words: &[&str]) {
    let dir = fresh_dir("bad-file");
    let state = dir.join("state");
    let refusal = run(&dir, text, &state, |_| {});
    assert!(
        refusal.code.is_some_and(|code| code != 0),
        "{what}: exit code {:?}; {}",
        refusal.code,
        refusal.said
    );
    for word in words {
        assert!(
            refusal.said.contains(word),
            "{what}: no `{word}` in: {}",
            refusal.said
        );
    }
    assert!(
        !refusal.said.contains(r#""event":"process""#),
        "{what}: something was started: {}",
        refusal.said
    );
    assert!(
        !state.join("regions").exists(),
        "{what}: the state folder was begun"
    );
    std::fs::remove_dir_all(dir).ok();
}

#[test]
fn files_that_will_not_do_name_the_field() {
    let good = yaml::fleet(&["a", "b"], 3);
    check("not YAML", "regions: [a", &["YAML"]);
    check("empty", "", &["fleet.yaml"]);
    check(
        "another kind",
        &good.replace("RelayCluster", "Deployment"),
        &["kind"],
    );
    check(
        "another version",
        &good.replace("v1alpha1", "v9"),
        &["apiVersion"],
    );
    check(
        "an unknown field",
        &good.replace("replicas: 1}", "replicas: 1, colour: red}"),
        &["colour", "relays"],
    );
    check(
        "a region twice",
        &yaml::fleet(&["a", "a"], 3),
        &["spec.regions[1].name"],
    );
    check(
        "a bad name",
        &yaml::fleet(&["a", "North_1"], 3),
        &["spec.regions[1].name"],
    );
    check(
        "no regions",
        &yaml::fleet(&[], 3).replace("regions:\n", "regions: []\n"),
        &["spec.regions"],
    );
    for replicas in [0, 2] {
        check(
            "NATS replicas",
            &yaml::fleet(&["a"], replicas),
            &["spec.regions[0].nats.replicas"],
        );
    }
    check(
        "storage too small for the log",
        &good.replace("storage: 2Gi", "storage: 300Mi"),
        &["spec.regions[0].nats.storage"],
    );
    check(
        "a size that is none",
        &good.replace("storage: 2Gi", "storage: plenty"),
        &["storage"],
    );
    check(
        "a limit out of range",
        &good.replace("limits:\n", "limits:\n      maxSubscriptions: 0\n"),
        &["maxSubscriptions"],
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let dir = fresh_dir("bad-file");
    let missing = dir.join("missing.yaml");
    let output = Command::new(program("nightjar-operator"))
        .arg("local")
        .arg(&missing)
        .arg("--state")
        .arg(dir.join("state"))
        .output()
        .expect("runs");
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("missing.yaml"));
}

#[test]
fn a_state_folder_that_cannot_be_written_is_named() {
    let dir = fresh_dir("bad-file");
    // A file where the folder should be: also root cannot write into that.
    let state = dir.join("state");
    std::fs::write(&state, "a file").expect("a file");
    let refusal = run(&dir, &yaml::fleet(&["a"], 1), &state, |_| {});
    assert!(refusal.code.is_some_and(|code| code != 0));
    assert!(
        refusal.said.contains(&state.display().to_string()),
        "{}",
        refusal.said
    );
}

#[test]
fn a_nats_server_that_is_missing_or_too_old_is_named() {
    let dir = fresh_dir("bad-file");
    let refusal = run(
        &dir,
        &yaml::fleet(&["a"], 1),
        &dir.join("state"),
        |command| {
            command.env("NATS_SERVER", "/nowhere/nats-server");
        },
    );
    assert!(refusal.code.is_some_and(|code| code != 0));
    assert!(
        refusal.said.contains("/nowhere/nats-server"),
        "{}",
        refusal.said
    );
    assert!(
        !refusal.said.contains(r#""event":"process""#),
        "{}",
        refusal.said
    );

    let old = dir.join("nats-server");
    std::fs::write(&old, "#!/bin/sh\necho 'nats-server: v2.9.25'\n").expect("a script");
    std::fs::set_permissions(&old, std::fs::Permissions::from_mode(0o755)).expect("executable");
    let refusal = run(
        &dir,
        &yaml::fleet(&["a"], 1),
        &dir.join("state"),
        |command| {
            command.env("NATS_SERVER", &old);
        },
    );
    assert!(refusal.code.is_some_and(|code| code != 0));
    assert!(
        refusal.said.contains("2.9.25") && refusal.said.contains("2.15.1"),
        "{}",
        refusal.said
    );
}
