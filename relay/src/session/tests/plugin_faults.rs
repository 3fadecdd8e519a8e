//! Policy programs that fail: what clients are told, that the program comes back, and that it is gone when the relay is.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use nightjar_config::{OnFailure, Plugin};
use nostr::key::Keys;
use rustix::process::{Pid, test_kill_process};
use serde_json::json;

use super::harness::{Client, Relay, SOON, event};
use super::plugin_program::{ACCEPT, script, script_with, send_many, writing_under};

const FAILS_CLOSED: &str = "error: the write policy does not answer, try again later";

fn failures(reason: &str) -> String {
    format!("nj_plugin_failures_total{{plugin=\"write\",reason=\"{reason}\"}}")
}

const RESPAWNS: &str = "nj_plugin_respawns_total{plugin=\"write\"}";

async fn publish_one(client: &mut Client) -> serde_json::Value {
    client.publish(&event(&Keys::generate(), 1, "x", &[])).await
}

/// Publishes until it is accepted, as a client does that is told to try again.
async fn accepted_in_the_end(client: &mut Client) {
    let trying = async {
        loop {
            let answer = publish_one(client).await;
            if answer[2] == true {
                return;
            }
            assert_eq!(answer[3], FAILS_CLOSED);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, trying)
        .await
        .expect("the program comes back");
}

/// A script that does something strange the first time it runs, and accepts everything the second time.
async fn strange_once(dir: &Path, strange: &str) -> Relay {
    let text = format!("if mkdir \"$ONCE\" 2>/dev/null; then {strange}; fi; {ACCEPT}");
    writing_under(script_with(&text, "ONCE", &dir.join("once"))).await
}

#[tokio::test]
async fn a_program_that_is_too_slow_fails_closed_or_open_as_configured() {
    for (on_failure, ok) in [(OnFailure::Reject, false), (OnFailure::Accept, true)] {
        let relay = writing_under(Plugin {
            timeout_ms: 100,
            on_failure,
            ..script("next; sleep 60")
        })
        .await;
        let mut client = relay.client().await;
        let answer = publish_one(&mut client).await;
        assert_eq!(answer[2], ok);
        assert_eq!(answer[3], if ok { "" } else { FAILS_CLOSED });
        assert_eq!(relay.publisher.published(), u64::from(ok));
        assert_eq!(relay.series(&failures("timeout")), 1);
        let sli = if ok { "good" } else { "bad" };
        let sli = format!("nj_sli_send_total{{result=\"{sli}\"}}");
        relay.until_series(&sli, 1).await;
    }
}

#[tokio::test]
async fn a_program_that_hangs_is_started_anew() {
    let dir = tempfile::tempdir().expect("a folder");
    let text = format!("if mkdir \"$ONCE\" 2>/dev/null; then next; accept; sleep 60; fi; {ACCEPT}");
    let relay = writing_under(Plugin {
        timeout_ms: 1_000,
        ..script_with(&text, "ONCE", &dir.path().join("once"))
    })
    .await;
    let mut client = relay.client().await;
    accepted_in_the_end(&mut client).await;
    assert_eq!(publish_one(&mut client).await[3], FAILS_CLOSED);
    relay.until_series(RESPAWNS, 1).await;
    accepted_in_the_end(&mut client).await;
}

/// Others are answered meanwhile, so it does not hang; the late answer is no nonsense.
#[tokio::test]
async fn a_program_that_is_slow_with_one_event_stays() {
    let slow = r#"while next; do
  case $line in *'"content":"hard"'*) (sleep 2.5; accept; : > "$LATE") & ;; *) accept;; esac
done"#;
    let dir = tempfile::tempdir().expect("a folder");
    let late = dir.path().join("late");
    let relay = writing_under(Plugin {
        timeout_ms: 1_500,
        ..script_with(slow, "LATE", &late)
    })
    .await;
    let keys = Keys::generate();
    let mut client = relay.client().await;
    accepted_in_the_end(&mut client).await;
    let hard = event(&keys, 1, "hard", &[]);
    client.send(json!(["EVENT", hard])).await;
    // Answered within its own time, while the hard one waits.
    let easy = event(&keys, 1, "easy", &[]);
    assert_eq!(client.publish(&easy).await[2], true);
    let answer = client.receive().await;
    assert_eq!(
        (&answer[1], &answer[3]),
        (&json!(hard.id.to_hex()), &json!(FAILS_CLOSED))
    );
    relay.until("the late answer", |_| late.exists()).await;
    assert_eq!(publish_one(&mut client).await[2], true);
    assert_eq!(relay.series(RESPAWNS), 0);
}

#[tokio::test]
async fn a_program_that_exits_comes_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let relay = strange_once(dir.path(), "next; echo bye >&2; exit 3").await;
    let mut client = relay.client().await;
    assert_eq!(publish_one(&mut client).await[3], FAILS_CLOSED);
    assert_eq!(relay.series(&failures("exit")), 1);
    accepted_in_the_end(&mut client).await;
    assert_eq!(relay.series(RESPAWNS), 1);
}

#[tokio::test]
async fn a_program_that_is_not_there_fails_its_questions_and_nothing_else() {
    let relay = writing_under(Plugin::new(vec!["/nonexistent/policy".to_owned()])).await;
    let mut client = relay.client().await;
    assert_eq!(publish_one(&mut client).await[3], FAILS_CLOSED);
    relay.until_series(&failures("down"), 1).await;
    client.check_alive().await;
    assert_eq!(relay.services.readiness.refuses_reads(), None);
}

#[tokio::test]
async fn notes_on_stdout_are_ignored_and_a_program_that_says_nothing_else_is_started_anew() {
    let relay = writing_under(script(
        "while next; do echo a note; echo; echo '{\"id\":7}'; printf '\\377\\376\\n'; accept; done",
    ))
    .await;
    let mut client = relay.client().await;
    for _ in 0..40 {
        assert_eq!(publish_one(&mut client).await[2], true);
    }
    assert_eq!(relay.series(RESPAWNS), 0);

    let dir = tempfile::tempdir().expect("a folder");
    let relay = strange_once(dir.path(), "next; yes garbage").await;
    let mut client = relay.client().await;
    assert_eq!(publish_one(&mut client).await[3], FAILS_CLOSED);
    relay.until_series(RESPAWNS, 1).await;
    accepted_in_the_end(&mut client).await;
}

#[tokio::test]
async fn an_answer_to_no_question_is_ignored_and_one_without_decision_fails() {
    let relay = writing_under(script(
        r#"while next; do
  real=$id; id=unknown; reject no; id=$real
  case $line in *'"content":"x"'*) accept;; *) printf '{"id":"%s","action":"perhaps"}\n' "$id";; esac
done"#,
    ))
    .await;
    let mut client = relay.client().await;
    assert_eq!(publish_one(&mut client).await[2], true);
    let other = event(&Keys::generate(), 1, "other", &[]);
    assert_eq!(client.publish(&other).await[3], FAILS_CLOSED);
    assert_eq!(relay.series(&failures("nonsense")), 1);
    assert_eq!(publish_one(&mut client).await[2], true);
    assert_eq!(relay.series(RESPAWNS), 0);
}

#[tokio::test]
async fn a_line_of_ten_megabytes_ends_the_program() {
    let dir = tempfile::tempdir().expect("a folder");
    let long = "next; head -c 10000000 /dev/zero | tr '\\0' x; echo; accept";
    let relay = strange_once(dir.path(), long).await;
    let mut client = relay.client().await;
    assert_eq!(publish_one(&mut client).await[3], FAILS_CLOSED);
    relay.until_series(RESPAWNS, 1).await;
    accepted_in_the_end(&mut client).await;
}

#[tokio::test]
async fn a_program_that_closes_its_stdin_is_started_anew() {
    let dir = tempfile::tempdir().expect("a folder");
    let relay = strange_once(dir.path(), "exec <&-; sleep 60").await;
    let mut client = relay.client().await;
    // The first write finds the pipe closed, the next question finds nobody who writes.
    let fails = async {
        loop {
            let sent = event(&Keys::generate(), 1, "x", &[]);
            client.send(json!(["EVENT", sent])).await;
            if relay.series(RESPAWNS) > 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, fails).await.expect("noticed");
    accepted_in_the_end(&mut relay.client().await).await;
}

/// What neither the program nor its queue has room for fails at once, and takes no memory.
#[tokio::test]
async fn the_queue_before_a_program_is_bounded() {
    let relay = writing_under(Plugin {
        max_in_flight: 1,
        ..script("sleep 60")
    })
    .await;
    let keys = Keys::generate();
    let mut client = relay.client().await;
    for number in 0..12 {
        let sent = event(&keys, 1, &number.to_string(), &[]);
        client.send(json!(["EVENT", sent])).await;
    }
    assert_eq!(client.receive().await[3], FAILS_CLOSED);
    assert_eq!(relay.series(&failures("full")), 1);
    relay
        .until_series("nj_plugin_in_flight{plugin=\"write\"}", 1)
        .await;
}

/// Silence would be a defect: whatever the program does, each event gets one answer, and what was accepted is there.
#[tokio::test]
async fn every_event_gets_one_answer_from_a_program_that_does_everything_wrong() {
    let wild = r#"n=0; while next; do
  n=$((n+1))
  case $((n % 23)) in
    3) ;;
    5) reject "rate-limited: five";;
    7) accept; accept;;
    9) printf 'half a line'; accept;;
    11) id=nobody; accept;;
    13) printf '{"id":"%s"}\n' "$id";;
    *) accept;;
  esac
  if [ $n -ge 70 ]; then exit 1; fi
done"#;
    let relay = writing_under(Plugin {
        timeout_ms: 700,
        ..script(wild)
    })
    .await;
    let mut client = relay.client().await;
    let expected = send_many(&mut client, 200).await;
    let (mut answered, mut accepted) = (BTreeSet::new(), 0);
    for _ in 0..200 {
        let answer = client.receive().await;
        accepted += u64::from(answer[2] == true);
        let is_new = answered.insert(answer[1].as_str().expect("an id").to_owned());
        assert!(is_new, "answered twice: {answer}");
    }
    assert_eq!(answered, expected);
    assert!(accepted > 0);
    assert_eq!(relay.publisher.published(), accepted);
    client.check_alive().await;
    relay
        .until("nothing is in flight", |_| {
            relay.series("nj_plugin_in_flight{plugin=\"write\"}") == 0
        })
        .await;
}

/// Whether a process is there and not merely unreaped.
fn is_running(pid: i32) -> bool {
    let Some(id) = Pid::from_raw(pid) else {
        return false;
    };
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let is_zombie = stat
        .rsplit_once(')')
        .is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'));
    test_kill_process(id).is_ok() && !is_zombie
}

/// One that ends with its stdin, and one that does not, with a child of its own.
#[tokio::test]
async fn programs_and_what_they_started_are_gone_when_the_relay_is() {
    for text in [
        format!("echo $$ > \"$PIDS\"; {ACCEPT}"),
        "trap '' TERM; sleep 600 & echo \"$$ $!\" > \"$PIDS\"; next; accept; wait".to_owned(),
    ] {
        let dir = tempfile::tempdir().expect("a folder");
        let pids = dir.path().join("pids");
        let relay = writing_under(script_with(&text, "PIDS", &pids)).await;
        assert_eq!(publish_one(&mut relay.client().await).await[2], true);
        let written = std::fs::read_to_string(&pids).expect("ids of processes");
        let pids: Vec<i32> = written
            .split_whitespace()
            .map(|pid| pid.parse().expect("a number"))
            .collect();
        assert!(pids.iter().all(|pid| is_running(*pid)), "{pids:?}");
        relay.services.plugins.stop().await;
        relay
            .until("the processes are gone", |_| {
                !pids.iter().any(|pid| is_running(*pid))
            })
            .await;
    }
}
