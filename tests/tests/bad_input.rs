//! Whatever a client sends, the answer is the one the NIPs name, and neither the process nor anybody's connection is harmed.

use std::time::Duration;

use nightjar_tests::event::{Person, Signed, now};
use nightjar_tests::fleet::{Fleet, Shared};
use nightjar_tests::socket::{Frame, Socket};
use nightjar_tests::wait::until_true;
use nightjar_tests::yaml;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::Message;

static FLEET: Shared = Shared::new();

/// One region with one NATS server: the relay is what is under test.
async fn fleet() -> &'static Fleet {
    FLEET.get("bad-input", &yaml::fleet(&["a"], 1)).await
}

/// What the relay must answer.
enum Answer {
    Notice,
    Closed(&'static str),
    Refused(&'static str),
}

/// Sends one frame on a connection of its own and insists on the answer, on the connection going on, and on the same relay process.
async fn check(what: &str, frame: &str, answer: &Answer) {
    let fleet = fleet().await;
    let pid = fleet.pid("a-relay-0");
    let socket = Socket::open(&fleet.relay("a")).await;
    socket.send(frame).await.expect("the connection is open");
    let got = socket
        .take(|frame| {
            if matches!(frame, Frame::Auth(_)) {
                None
            } else {
                Some(frame.clone())
            }
        })
        .await;
    let fits = match (answer, &got) {
        (Answer::Notice, Ok(Frame::Notice(message))) => !message.is_empty(),
        (Answer::Closed(prefix), Ok(Frame::Closed(_, message)))
        | (Answer::Refused(prefix), Ok(Frame::Ok(_, false, message))) => {
            message.starts_with(prefix)
        }
        _ => false,
    };
    assert!(fits, "{what}: {got:?}");
    socket.settle().await;
    assert_eq!(
        fleet.pid("a-relay-0"),
        pid,
        "{what}: the relay was restarted"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_are_no_message_get_a_notice() {
    for (what, frame) in [
        ("not JSON", "hello"),
        ("half of JSON", r#"["REQ","a""#),
        ("an object", r#"{"REQ":"a"}"#),
        ("an empty array", "[]"),
        ("a verb that is a number", r#"[1,"a",{}]"#),
        ("an unknown verb", r#"["FETCH","a",{}]"#),
        ("a server's verb", r#"["EOSE","a"]"#),
        ("EVENT without an event", r#"["EVENT"]"#),
        ("EVENT with an array", r#"["EVENT",[]]"#),
        ("EVENT with an empty object", r#"["EVENT",{}]"#),
        ("CLOSE with a number", r#"["CLOSE",1]"#),
        ("REQ with a number for its id", r#"["REQ",1,{}]"#),
        ("an empty frame", ""),
    ] {
        check(what, frame, &Answer::Notice).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_wrong_are_closed() {
    let many_filters = (0..200).map(|_| "{}").collect::<Vec<_>>().join(",");
    for (what, frame) in [
        ("a filter that is an array", r#"["REQ","a",[]]"#.to_owned()),
        (
            "ids of the wrong length",
            r#"["REQ","a",{"ids":["abc"]}]"#.to_owned(),
        ),
        (
            "ids in upper case",
            format!(r#"["REQ","a",{{"ids":["{}"]}}]"#, "A".repeat(64)),
        ),
        ("kinds as text", r#"["REQ","a",{"kinds":["1"]}]"#.to_owned()),
        (
            "a kind above 65535",
            r#"["REQ","a",{"kinds":[65536]}]"#.to_owned(),
        ),
        (
            "since as text",
            r#"["REQ","a",{"since":"yesterday"}]"#.to_owned(),
        ),
        ("a negative limit", r#"["REQ","a",{"limit":-1}]"#.to_owned()),
        (
            "authors as text",
            r#"["REQ","a",{"authors":"all"}]"#.to_owned(),
        ),
        ("too many filters", format!(r#"["REQ","a",{many_filters}]"#)),
    ] {
        check(what, &frame, &Answer::Closed("")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_are_wrong_are_refused() {
    let alice = Person::new();
    let good = alice.note("good").value();
    let changed = |field: &str, value: Value| {
        let mut event = good.clone();
        event[field] = value;
        json!(["EVENT", event]).to_string()
    };
    let other = alice.note("another");
    for (what, frame) in [
        ("an id of another event", changed("id", json!(other.id))),
        ("content that was changed", changed("content", json!("bad"))),
        (
            "a signature of another event",
            changed("sig", other.value()["sig"].clone()),
        ),
        (
            "a signature of zeros",
            changed("sig", json!("0".repeat(128))),
        ),
        (
            "an author who did not sign",
            changed("pubkey", json!(Person::new().pubkey())),
        ),
        ("a kind as text", changed("kind", json!("1"))),
        ("a kind above 65535", changed("kind", json!(65_536))),
        ("tags that are no arrays", changed("tags", json!(["t"]))),
        ("a negative time", changed("created_at", json!(-1))),
        ("a time with a fraction", changed("created_at", json!(1.5))),
        ("content that is a number", changed("content", json!(1))),
    ] {
        check(what, &frame, &Answer::Refused("invalid:")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_too_far_ahead_are_refused_and_old_ones_are_not() {
    let alice = Person::new();
    let ahead = alice.event(1, now() + 3_600, &[], "from the future");
    check(
        "an hour ahead",
        &format!("[\"EVENT\",{}]", ahead.json),
        &Answer::Refused("invalid:"),
    )
    .await;
    let socket = Socket::open(&fleet().await.relay("a")).await;
    socket
        .publish_ok(&alice.event(
            1,
            now() - 400 * 86_400,
            &[],
            "an outbox that was long offline",
        ))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_larger_than_an_envelope_name_the_limit() {
    let alice = Person::new();
    let socket = Socket::open(&fleet().await.relay("a")).await;
    // Fits a frame and no envelope.
    let large = alice.note(&"x".repeat(560_000));
    let (accepted, message) = socket.publish(&large).await.expect("an answer");
    assert!(
        !accepted && message.starts_with("invalid:") && message.chars().any(|c| c.is_ascii_digit()),
        "{message}"
    );
    socket.settle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_over_the_limit_cost_their_sender_alone() {
    let fleet = fleet().await;
    let neighbour = Socket::open(&fleet.relay("a")).await;
    let socket = Socket::open(&fleet.relay("a")).await;
    socket
        .send(&format!(r#"["EVENT","{}"]"#, "x".repeat(4 << 20)))
        .await
        .ok();
    let answer = socket
        .take(|frame| {
            if matches!(frame, Frame::Auth(_)) {
                None
            } else {
                Some(frame.clone())
            }
        })
        .await;
    let told = match &answer {
        Ok(Frame::Notice(message)) => message.chars().any(|c| c.is_ascii_digit()),
        // 1009: message too big. A reset is what a client sees that is still writing when the relay has closed.
        Ok(Frame::End(code, _)) => [1009, 1006].contains(code),
        Err(_) => true,
        _ => false,
    };
    assert!(told, "{answer:?}");
    neighbour.settle().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_subscriptions_are_closed_one_by_one() {
    let socket = Socket::open(&fleet().await.relay("a")).await;
    for n in 0..60 {
        socket
            .subscribe(
                &format!("s{n}"),
                &[json!({"kinds": [1], "limit": 1, "authors": [Person::new().pubkey()]})],
            )
            .await;
    }
    let closed = |frame: &Frame| {
        if let Frame::Closed(sub, message) = frame {
            Some((sub.clone(), message.clone()))
        } else {
            None
        }
    };
    let (sub, message) = socket.take(closed).await.expect("a CLOSED");
    assert!(!message.is_empty());
    assert_eq!(sub, "s50", "max_subscriptions is 50 by default: {message}");
    // The same id again replaces its own subscription and is not one more; a closed one makes room.
    socket
        .stored("s0", &[json!({"kinds": [1], "limit": 1})])
        .await
        .expect("replacing is allowed");
    socket.send(r#"["CLOSE","s1"]"#).await.expect("open");
    socket
        .stored("late", &[json!({"kinds": [1], "limit": 1})])
        .await
        .expect("there is room again");
}

#[tokio::test(flavor = "multi_thread")]
async fn subscription_ids_have_a_length() {
    for id in [String::new(), "x".repeat(65)] {
        let socket = Socket::open(&fleet().await.relay("a")).await;
        socket
            .send(&json!(["REQ", id, {}]).to_string())
            .await
            .expect("open");
        let answered =
            |frame: &Frame| matches!(frame, Frame::Closed(..) | Frame::Notice(_)).then_some(());
        socket.take(answered).await.expect("CLOSED or NOTICE");
        socket.settle().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn binary_frames_do_no_harm() {
    let fleet = fleet().await;
    let pid = fleet.pid("a-relay-0");
    let socket = Socket::open(&fleet.relay("a")).await;
    socket
        .send_message(Message::binary(vec![0_u8, 159, 146, 150]))
        .await
        .expect("open");
    let answer = socket
        .take(|frame| matches!(frame, Frame::Notice(_) | Frame::End(..)).then(|| frame.clone()))
        .await
        .expect("an answer");
    if let Frame::End(code, _) = answer {
        assert_eq!(code, 1003, "1003: unacceptable data");
    } else {
        socket.settle().await;
    }
    assert_eq!(fleet.pid("a-relay-0"), pid);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_frames_and_silent_upgrades_do_no_harm() {
    let fleet = fleet().await;
    let pid = fleet.pid("a-relay-0");
    let address = fleet
        .relay("a")
        .trim_start_matches("ws://")
        .trim_end_matches('/')
        .to_owned();
    let upgrade = "GET / HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut held = Vec::new();
    for rest in [
        &b""[..],
        // A masked text frame that promises 100 bytes and brings 3.
        &[0x81, 0xe4, 1, 2, 3, 4, b'a', b'b', b'c'][..],
        // An unmasked frame, which no client may send.
        &[0x81, 0x02, b'h', b'i'][..],
        // A reserved opcode.
        &[0x83, 0x80, 1, 2, 3, 4][..],
        // A continuation of nothing.
        &[0x80, 0x80, 1, 2, 3, 4][..],
        // A length of 2^62.
        &[0x81, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4][..],
        // Text that is not UTF-8.
        &[0x81, 0x82, 0, 0, 0, 0, 0xc3, 0x28][..],
    ] {
        let mut stream = tokio::net::TcpStream::connect(&address)
            .await
            .expect("the relay listens");
        stream.write_all(upgrade.as_bytes()).await.expect("sent");
        let mut head = [0; 12];
        stream
            .read_exact(&mut head)
            .await
            .expect("an answer to the upgrade");
        assert_eq!(&head, b"HTTP/1.1 101");
        stream.write_all(rest).await.expect("sent");
        held.push(stream);
    }
    // And an upgrade that never ends.
    let mut slow = tokio::net::TcpStream::connect(&address)
        .await
        .expect("the relay listens");
    slow.write_all(b"GET / HTTP/1.1\r\nHost:")
        .await
        .expect("sent");
    Socket::open(&fleet.relay("a")).await.settle().await;
    drop(held);
    Socket::open(&fleet.relay("a")).await.settle().await;
    assert_eq!(fleet.pid("a-relay-0"), pid);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_loses_its_own_connection_only() {
    let fleet = fleet().await;
    let alice = Person::new();
    let address = fleet
        .relay("a")
        .trim_start_matches("ws://")
        .trim_end_matches('/')
        .to_owned();
    let publisher = Socket::open(&fleet.relay("a")).await;
    let neighbour = Socket::open(&fleet.relay("a")).await;
    let filter = json!({"authors": [alice.pubkey()]});
    neighbour
        .stored("live", std::slice::from_ref(&filter))
        .await
        .expect("a subscription");

    // Subscribes and then never reads.
    let stream = tokio::net::TcpStream::connect(&address)
        .await
        .expect("the relay listens");
    let (mut slow, _) = tokio_tungstenite::client_async(fleet.relay("a"), stream)
        .await
        .expect("an upgrade");
    futures_util::SinkExt::send(
        &mut slow,
        Message::text(json!(["REQ", "slow", filter]).to_string()),
    )
    .await
    .expect("sent");

    // More than the out-queue and the socket buffers hold.
    let filler = "x".repeat(100_000);
    let events: Vec<Signed> = (0..120)
        .map(|n| alice.event(1, now(), &[&["n", &n.to_string()]], &filler))
        .collect();
    for event in &events {
        publisher.publish_ok(event).await;
        neighbour
            .next_event("live")
            .await
            .expect("the neighbour gets each");
    }
    let closed = || {
        let text = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
        let local = slow.get_ref().local_addr().expect("an address").port();
        // 01 is ESTABLISHED, seen from the relay's side.
        !text.lines().any(|line| {
            let mut words = line.split_whitespace().skip(1);
            let (_, remote, state) = (
                words.next(),
                words.next().unwrap_or_default(),
                words.next().unwrap_or_default(),
            );
            remote.ends_with(&format!(":{local:04X}")) && state == "01"
        })
    };
    until_true(
        "the relay closed the slow reader's connection",
        Duration::from_secs(30),
        closed,
    )
    .await;
    publisher.settle().await;
    neighbour.settle().await;
}
