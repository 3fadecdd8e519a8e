//! Policy programs of a relay as a process: they decide before the log, and never outlive it.

use std::path::{Path, PathBuf};

use nightjar_config::Plugin;
use nostr::key::Keys;
use rustix::process::{Pid, test_kill_process};

use crate::client::{Read, event, note, now};
use crate::keys;
use crate::nats::Nats;
use crate::relay::Relay;
use crate::wait::until;

/// Refuses kind 7 and every read of it, and says on stderr that it is there.
const POLICY: &str = r#"
echo "$$" > "$PID"; echo 'policy is there' >&2
while IFS= read -r line; do
  rest=${line#*\"id\":\"}; id=${rest%%\"*}
  case $line in
    *'"kind":7,'*|*'"kinds":[7]'*) action=reject;;
    *) action=accept;;
  esac
  printf '{"id":"%s","action":"%s","msg":"no sevens"}\n' "$id" "$action"
done"#;

fn policy(pid: &Path) -> Plugin {
    Plugin {
        environment: [("PID".to_owned(), pid.to_str().expect("UTF-8").to_owned())].into(),
        timeout_ms: 10_000,
        ..Plugin::new(["/bin/sh", "-c", POLICY].map(str::to_owned).into())
    }
}

/// A relay with both policies, and where their ids are.
async fn relay_under_policies(dir: &Path, nats: &Nats) -> (Relay, [PathBuf; 2]) {
    let pids = ["write.pid", "read.pid"].map(|name| dir.join(name));
    let mut relay = Relay::prepare(dir, "a-relay-0", nats, Some(&keys::keyring()));
    relay.config.plugins.write = Some(policy(&pids[0]));
    relay.config.plugins.read = Some(policy(&pids[1]));
    relay.write_config();
    relay.spawn();
    relay.wait_ready().await;
    (relay, pids)
}

async fn ids(files: &[PathBuf]) -> Vec<Pid> {
    let mut found = Vec::new();
    for file in files {
        let id = until("the id of a program", async || {
            let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
            text.trim()
                .parse::<i32>()
                .map_err(|error| error.to_string())
        });
        found.push(Pid::from_raw(id.await).expect("an id"));
    }
    found
}

async fn gone(programs: &[Pid]) {
    until("the programs are gone", async || {
        let left = programs.iter().filter(|pid| is_running(**pid)).count();
        if left == 0 { Ok(()) } else { Err(left) }
    })
    .await;
}

/// Dead and not reaped counts as gone: that is for whoever inherited it.
fn is_running(pid: Pid) -> bool {
    let stat = format!("/proc/{}/stat", pid.as_raw_nonzero());
    let stat = std::fs::read_to_string(stat).unwrap_or_default();
    let is_zombie = stat
        .rsplit_once(')')
        .is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'));
    test_kill_process(pid).is_ok() && !is_zombie
}

#[tokio::test]
async fn policies_decide_before_the_log_and_end_with_the_relay() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(nats) = Nats::start(dir.path()).await else {
        return;
    };
    let (mut relay, pids) = relay_under_policies(dir.path(), &nats).await;
    let programs = ids(&pids).await;
    let mut client = relay.client().await;
    assert_eq!(client.publish(&note("taken")).await, (true, String::new()));
    let seven = event(&Keys::generate(), 7, now(), &[], "+");
    let refused = (false, "blocked: no sevens".to_owned());
    assert_eq!(client.publish(&seven).await, refused);
    assert_eq!(relay.metric("nj_index_public_events").await, 1.0);
    match client.read(serde_json::json!({"kinds": [7]})).await {
        Read::Closed(reason) => assert_eq!(reason, "blocked: no sevens"),
        answered @ Read::Events(_) => panic!("{answered:?}"),
    }
    assert_eq!(client.ids(serde_json::json!({"kinds": [1]})).await.len(), 1);
    assert!(relay.log().contains("policy is there"), "{}", relay.log());
    assert_eq!(relay.stop(), Some(0));
    gone(&programs).await;
}

/// Nothing of the relay runs any more that could end them: they see the end of their stdin.
#[tokio::test]
async fn policies_end_when_the_relay_is_killed() {
    let dir = tempfile::tempdir().expect("a folder");
    let Some(nats) = Nats::start(dir.path()).await else {
        return;
    };
    let (relay, pids) = relay_under_policies(dir.path(), &nats).await;
    let programs = ids(&pids).await;
    // Kills it.
    drop(relay);
    gone(&programs).await;
}
