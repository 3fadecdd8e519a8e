//! `admission.key_budget`: each key has one, whoever sends its events and however; and what is known or forged costs nobody anything.

use nightjar_config::KeyBudget;
use nostr::key::Keys;
use serde_json::json;

use super::harness::{Client, Relay, event, verdict, wrap};
use crate::metrics::LimitRule;
use crate::socket::Timings;

const BURST: u32 = 3;

fn budget() -> KeyBudget {
    KeyBudget {
        // One in a minute: none comes back while a test runs.
        events_per_minute: 1,
        burst: BURST,
    }
}

async fn relay() -> Relay {
    Relay::start_with(
        |config| config.admission.key_budget = budget(),
        Timings::default(),
    )
    .await
}

impl Client {
    /// Whether a note of this key that nobody has seen is taken.
    async fn takes_note(&mut self, keys: &Keys) -> bool {
        let unique = rand::random::<u64>().to_string();
        let answer = self.publish(&event(keys, 1, &unique, &[])).await;
        let (taken, text) = verdict(&answer);
        let limited = "rate-limited: too many events of this key on this fleet, try again in ";
        assert!(taken || text.starts_with(limited), "{text}");
        taken
    }
}

#[tokio::test]
async fn a_key_has_one_budget_on_all_its_connections() {
    let relay = relay().await;
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let mut clients = [relay.client().await, relay.authenticated(&[&alice]).await];
    for number in 0..BURST as usize {
        assert!(clients[number % 2].takes_note(&alice).await);
    }
    for client in &mut clients {
        assert!(!client.takes_note(&alice).await);
    }
    assert!(clients[0].takes_note(&bob).await, "another key");
    let text = relay.services.metrics.encode().expect("text");
    let line = "nj_limit_refusals_total{rule=\"events_key\"} 2";
    assert!(text.contains(line), "{:?}\n{text}", LimitRule::events_key);
}

#[tokio::test]
async fn what_is_known_or_forged_spends_nothing() {
    let relay = relay().await;
    let alice = Keys::generate();
    let mut client = relay.client().await;
    let note = event(&alice, 1, "once", &[]);
    assert_eq!(verdict(&client.publish(&note).await), (true, ""));
    let mut forged = serde_json::to_value(event(&alice, 1, "forged", &[])).expect("JSON");
    forged["sig"] = json!("0".repeat(128));
    for _ in 0..2 * BURST {
        assert!(verdict(&client.publish(&note).await).0);
        client.send(json!(["EVENT", forged])).await;
        assert!(!verdict(&client.receive().await).0);
    }
    for _ in 1..BURST {
        assert!(client.takes_note(&alice).await);
    }
    assert!(!client.takes_note(&alice).await);
    // Empty budgets do not hide what is known.
    let answer = client.publish(&note).await;
    assert!(verdict(&answer).1.starts_with("duplicate: "), "{answer}");
}

#[tokio::test]
async fn a_gift_wrap_is_paid_by_everyone_who_authenticated() {
    let relay = relay().await;
    let (alice, bob) = (Keys::generate(), Keys::generate());
    let mut both = relay.authenticated(&[&alice, &bob]).await;
    for _ in 0..BURST {
        let answer = both.publish(&wrap(1059, &bob)).await;
        assert_eq!(verdict(&answer), (true, ""));
    }
    for keys in [&alice, &bob] {
        let mut one = relay.authenticated(&[keys]).await;
        for kind in [1059, 21_059] {
            let answer = one.publish(&wrap(kind, &alice)).await;
            let (taken, text) = verdict(&answer);
            assert!(!taken && text.starts_with("rate-limited: "), "{text}");
        }
    }
    // Nobody is there to pay for it; other limits hold.
    let answer = relay.client().await.publish(&wrap(1059, &bob)).await;
    assert_eq!(verdict(&answer), (true, ""));
}

#[tokio::test]
async fn what_was_spent_elsewhere_counts_here() {
    let relay = relay().await;
    let alice = Keys::generate();
    let budgets = relay.services.admission.budgets();
    let key = alice.public_key().to_bytes();
    budgets.spent_elsewhere(&[(key, BURST - 1)], std::time::Instant::now());
    let mut client = relay.client().await;
    assert!(client.takes_note(&alice).await);
    assert!(!client.takes_note(&alice).await);
    assert_eq!(budgets.take_spent(), [(key, 1)]);
}

/// Other settings change again and again meanwhile: nobody gets a new budget by it.
#[tokio::test]
async fn no_change_of_the_configuration_fills_a_budget() {
    let relay = relay().await;
    let alice = Keys::generate();
    let mut client = relay.client().await;
    let mut taken = 0;
    for turn in 0..60 {
        relay.reconfigure(|config| {
            config.limits.max_subscriptions = 10 + turn;
            config.admission.key_budget.events_per_minute = 1 + turn as u32 % 2;
        });
        taken += u32::from(client.takes_note(&alice).await);
    }
    assert_eq!(taken, BURST);
}
