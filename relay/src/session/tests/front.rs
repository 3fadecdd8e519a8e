//! Who may come in, and as whom: origins, subprotocols, proxies in front; and what an idle connection costs.

use std::io::Write;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, http::HeaderName};

use super::harness::{Client, Relay};
use crate::socket::Timings;

/// A client whose upgrade has this header too; the status of the answer if it was refused.
async fn client_with(relay: &Relay, name: &'static str, value: &str) -> Result<Client, u16> {
    let mut request = relay.url().into_client_request().expect("a request");
    let value = value.parse().expect("a value");
    request
        .headers_mut()
        .insert(HeaderName::from_static(name), value);
    match tokio_tungstenite::connect_async(request).await {
        Ok((socket, _)) => Ok(Client::greeted(socket).await),
        Err(Error::Http(response)) => Err(response.status().as_u16()),
        Err(other) => panic!("{other}"),
    }
}

/// The head of the answer to an upgrade with these lines.
async fn upgraded(relay: &Relay, lines: &str) -> String {
    let mut stream = TcpStream::connect(relay.port.address()).await.expect("TCP");
    stream
        .write_all(upgrade(lines).as_bytes())
        .await
        .expect("a write");
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        head.push(char::from(stream.read_u8().await.expect("an answer")));
    }
    head
}

fn upgrade(lines: &str) -> String {
    format!(
        "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{lines}\r\n"
    )
}

#[tokio::test]
async fn the_subprotocol_nostr_is_taken_and_others_are_no_hindrance() {
    let relay = Relay::start().await;
    for (lines, taken) in [
        ("", false),
        ("Sec-WebSocket-Protocol: nostr\r\n", true),
        ("Sec-WebSocket-Protocol: chat, nostr\r\n", true),
        ("Sec-WebSocket-Protocol: chat\r\n", false),
        ("Sec-WebSocket-Protocol: \r\n", false),
    ] {
        let head = upgraded(&relay, lines).await;
        assert!(head.starts_with("HTTP/1.1 101"), "{lines}: {head}");
        assert_eq!(
            head.contains("sec-websocket-protocol: nostr\r\n"),
            taken,
            "{lines}: {head}"
        );
    }
}

#[tokio::test]
async fn with_a_list_of_origins_other_pages_are_refused_and_programs_are_not() {
    let page = "https://chat.example.org";
    let relay = Relay::start().await;
    let other = "https://other.example";
    let open = client_with(&relay, "origin", other).await;
    open.expect("without a list every page may")
        .check_alive()
        .await;

    let listed = |config: &mut nightjar_config::RelayConfig| {
        config.allowed_origins = vec![page.to_owned()];
    };
    let relay = Relay::start_with(listed, Timings::default()).await;
    client_with(&relay, "origin", page)
        .await
        .expect("it is listed")
        .check_alive()
        .await;
    relay.client().await.check_alive().await;
    let refused = upgraded(&relay, &format!("Origin: {other}\r\n")).await;
    assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
    assert_eq!(client_with(&relay, "origin", "null").await.err(), Some(403));
    assert!(relay.shows("nj_ws_handshakes_total{result=\"origin_refused\"} 2"));
}

/// Tests come from 127.0.0.1, which may have one connection here.
async fn narrow(trusted: &[&str]) -> Relay {
    let trusted = trusted
        .iter()
        .map(|network| network.parse().expect("a network"));
    let trusted: Vec<_> = trusted.collect();
    let adjust = |config: &mut nightjar_config::RelayConfig| {
        config.limits.connections_per_address = 1;
        config.trusted_proxies = trusted;
    };
    Relay::start_with(adjust, Timings::default()).await
}

#[tokio::test]
async fn behind_a_trusted_proxy_the_address_that_it_names_counts() {
    let relay = narrow(&["127.0.0.0/8"]).await;
    let name = "x-forwarded-for";
    let mut first = client_with(&relay, name, "192.0.2.1").await.expect("room");
    let mut second = client_with(&relay, name, "192.0.2.2").await.expect("room");
    let forged = client_with(&relay, name, "9.9.9.9, 192.0.2.2").await;
    assert_eq!(
        forged.err(),
        Some(429),
        "what the client wrote has no effect"
    );
    let other_form = client_with(&relay, "forwarded", "for=\"192.0.2.2:4711\"").await;
    assert_eq!(other_form.err(), Some(429));
    first.check_alive().await;
    second.check_alive().await;
    let _proxy = relay.client().await;
    let unclear = client_with(&relay, name, "somebody").await;
    assert_eq!(unclear.err(), Some(429), "it counts as the proxy");
}

#[tokio::test]
async fn who_is_no_trusted_proxy_is_not_believed() {
    for trusted in [[].as_slice(), &["10.0.0.0/8", "::1/128"]] {
        let relay = narrow(trusted).await;
        let name = "x-forwarded-for";
        let first = client_with(&relay, name, "192.0.2.1").await;
        let second = client_with(&relay, name, "192.0.2.2").await;
        assert!(first.is_ok());
        assert_eq!(second.err(), Some(429), "one connection per address");
    }
}

#[tokio::test]
async fn proxies_and_origins_change_live() {
    let relay = narrow(&[]).await;
    let mut first = relay.client().await;
    let name = "x-forwarded-for";
    assert_eq!(
        client_with(&relay, name, "192.0.2.1").await.err(),
        Some(429)
    );
    let mut config = nightjar_config::RelayConfig::clone(&relay.services.config.load());
    config.trusted_proxies = vec!["127.0.0.1/32".parse().expect("a network")];
    relay
        .services
        .config
        .store(std::sync::Arc::new(config.clone()));
    let mut second = client_with(&relay, name, "192.0.2.1").await.expect("room");
    config.allowed_origins = vec!["https://chat.example.org".to_owned()];
    relay.services.config.store(std::sync::Arc::new(config));
    let refused = client_with(&relay, "origin", "https://other.example").await;
    assert_eq!(refused.err(), Some(403));
    first.check_alive().await;
    second.check_alive().await;
}

/// What an idle connection costs: `cargo test -p nightjar-relay --lib idle_connections -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "a measurement"]
async fn idle_connections_cost_little_memory() {
    const CONNECTIONS: usize = 2_000;
    let adjust = |config: &mut nightjar_config::RelayConfig| {
        config.limits.connections_per_address = 2 * CONNECTIONS;
    };
    let relay = Relay::start_with(adjust, Timings::default()).await;
    let open = |count: usize| {
        let address = relay.port.address();
        let open = move || {
            let connect = |_| {
                let mut stream = std::net::TcpStream::connect(address).expect("TCP");
                stream.write_all(upgrade("").as_bytes()).expect("a write");
                stream
            };
            (0..count).map(connect).collect::<Vec<_>>()
        };
        tokio::task::spawn_blocking(open)
    };
    let settled = |count: usize| {
        let what = "all are open";
        relay.until(what, move |services| {
            services.metrics.connections.get() == i64::try_from(count).expect("few")
        })
    };
    // What is made once is made before the first look.
    let first = open(100).await.expect("connections");
    settled(100).await;
    let before = resident();
    let more = open(CONNECTIONS).await.expect("connections");
    settled(100 + CONNECTIONS).await;
    let after = resident();
    eprintln!(
        "{CONNECTIONS} idle connections: {} KiB before, {} KiB after, {} bytes each",
        before / 1024,
        after / 1024,
        (after - before) / CONNECTIONS
    );
    drop((first, more));
}

/// Bytes of this process in memory.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.trim().parse::<usize>().ok())
        .expect("a size")
        * 1024
}
