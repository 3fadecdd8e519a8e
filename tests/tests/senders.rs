//! Who may send, on a fleet of two regions: a budget that both share, and a web of trust that comes and goes while the fleet runs.

use std::time::Duration;

use nightjar_tests::event::Person;
use nightjar_tests::fleet::Fleet;
use nightjar_tests::socket::Socket;
use nightjar_tests::wait::until;
use nightjar_tests::yaml;

const BURST: usize = 6;
const LIMIT: Duration = Duration::from_secs(30);

fn file(admission: &str) -> String {
    format!(
        "{}    admission: {admission}\n",
        yaml::fleet(&["a", "b"], 1)
    )
}

/// How many notes of this person are taken, and the refusal of the next.
async fn spend(socket: &Socket, person: &Person) -> (usize, String) {
    for taken in 0..10 * BURST {
        let note = person.note(&format!("{taken}, {}", person.pubkey()));
        let (is_taken, text) = socket.publish(&note).await.expect("an answer");
        if !is_taken {
            return (taken, text);
        }
    }
    panic!("no refusal");
}

#[tokio::test(flavor = "multi_thread")]
async fn regions_share_budgets_and_take_over_a_web_of_trust() {
    let budget = format!("{{keyBudget: {{eventsPerMinute: 1, burst: {BURST}}}}}");
    let fleet = Fleet::start("senders", &file(&budget)).await;
    let [here, there] = ["a", "b"].map(|region| fleet.relay(region));
    let (here, there) = (Socket::open(&here).await, Socket::open(&there).await);
    let (alice, bob) = (Person::new(), Person::new());

    let (taken, refusal) = spend(&here, &alice).await;
    assert_eq!(taken, BURST);
    assert!(refusal.starts_with("rate-limited: "), "{refusal}");
    until("the other region has heard", LIMIT, async || {
        let (_, text) = fleet.admin("b-relay-0", "/metrics").await?;
        let line = "nj_log_spending_total{result=\"delivered\"} ";
        let heard = text.lines().find_map(|found| found.strip_prefix(line));
        match heard {
            Some("0") | None => Err(format!("{heard:?}")),
            Some(_) => Ok(()),
        }
    })
    .await;
    // It may have heard of a part of them so far.
    let (taken, refusal) = spend(&there, &alice).await;
    assert!(taken < BURST, "{taken}: as if nothing was heard");
    assert!(refusal.starts_with("rate-limited: "), "{refusal}");
    assert_eq!(spend(&there, &bob).await.0, BURST, "another key");

    // A web of trust takes force in both regions, and no relay restarts for it.
    let relays = ["a-relay-0", "b-relay-0"].map(|relay| fleet.pid(relay));
    let root = Person::new();
    let trust = format!("{{trust: {{roots: [{}]}}}}", root.pubkey());
    std::fs::write(fleet.file(), file(&trust)).expect("written");
    for socket in [&here, &there] {
        let mut number = 0;
        until("strangers are refused", LIMIT, async || {
            number += 1;
            let note = Person::new().note(&number.to_string());
            match socket.publish(&note).await? {
                (false, text) if text.starts_with("restricted: ") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        socket.publish_ok(&root.note("a member")).await;
    }
    std::fs::write(fleet.file(), file("{}")).expect("written");
    for socket in [&here, &there] {
        until("everyone is welcome again", LIMIT, async || {
            match socket.publish(&Person::new().note("hello")).await? {
                (true, _) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
    assert_eq!(
        ["a-relay-0", "b-relay-0"].map(|relay| fleet.pid(relay)),
        relays
    );
}
