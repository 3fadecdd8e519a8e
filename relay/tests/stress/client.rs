//! Clients of the worst sort, made of one seed each.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use nostr::event::{EventBuilder, FinalizeEvent, Kind, Tag};
use nostr::key::Keys;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{Barrier, Semaphore};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// Signing costs more than all else here, so the clients share what they publish.
const EVENTS: usize = 200;
/// Connections that are made at the same time.
const HANDSHAKES: usize = 64;

/// What all clients of one round share.
struct Shared {
    address: SocketAddr,
    events: Vec<String>,
    handshakes: Semaphore,
    /// All have connected before the first goes on.
    together: Barrier,
    connected: AtomicUsize,
}

/// Runs so many clients to their end, and says how many were connected at the same time.
pub(crate) async fn storm(address: SocketAddr, clients: usize, round: u64) -> usize {
    let shared = Arc::new(Shared {
        address,
        events: events(round),
        handshakes: Semaphore::new(HANDSHAKES),
        together: Barrier::new(clients),
        connected: AtomicUsize::new(0),
    });
    let tasks: Vec<_> = (0..clients as u64)
        .map(|number| {
            let seed = round * clients as u64 + number;
            tokio::spawn(run(shared.clone(), StdRng::seed_from_u64(seed)))
        })
        .collect();
    for task in tasks {
        task.await.expect("a client does not panic");
    }
    shared.connected.load(Ordering::Relaxed)
}

fn events(round: u64) -> Vec<String> {
    let keys = Keys::generate();
    let author = keys.public_key().to_hex();
    (0..EVENTS)
        .map(|number| {
            let kind = [1, 7, 0, 1059, 20_001, 30_000][number % 6];
            let tags = [vec!["t", "x"], vec!["p", author.as_str()]];
            let tags = tags.map(|tag| Tag::parse(tag).expect("a tag"));
            let event = EventBuilder::new(Kind::from_u16(kind), format!("{round} {number}"))
                .tags(tags)
                .finalize(&keys)
                .expect("a signature");
            serde_json::to_string(&event).expect("JSON")
        })
        .collect()
}

async fn run(shared: Arc<Shared>, mut random: StdRng) {
    let socket = connect(&shared, &mut random).await;
    shared.connected.fetch_add(1, Ordering::Relaxed);
    shared.together.wait().await;
    let mut socket = match socket {
        Connected::WebSocket(socket) => *socket,
        // A handshake that nobody ends.
        Connected::Tcp(stream) => return leave(stream, &mut random).await,
    };
    let reads = random.random_bool(0.5);
    for _ in 0..random.random_range(1..8) {
        let message = message(&mut random, &shared.events);
        // Who was thrown out is done.
        if socket.send(message).await.is_err() {
            return;
        }
        if reads {
            let _ = tokio::time::timeout(Duration::from_millis(20), socket.next()).await;
        }
    }
    match random.random_range(0..6) {
        0 => drop(socket.close(None).await),
        1 => drop(socket.flush().await),
        _ => {
            let stream = socket.into_inner();
            leave(stream, &mut random).await;
        }
    }
}

enum Connected {
    WebSocket(Box<WebSocketStream<TcpStream>>),
    Tcp(TcpStream),
}

async fn connect(shared: &Shared, random: &mut StdRng) -> Connected {
    let _turn = shared.handshakes.acquire().await.expect("never closed");
    let mut stream = TcpStream::connect(shared.address).await.expect("TCP");
    if random.random_bool(0.05) {
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: webso")
            .await
            .expect("a write");
        return Connected::Tcp(stream);
    }
    let url = format!("ws://{}/", shared.address);
    let (socket, _) = tokio_tungstenite::client_async(url, stream)
        .await
        .expect("a handshake");
    Connected::WebSocket(Box::new(socket))
}

/// In the middle of a frame or between two, with a FIN or a RST.
async fn leave(mut stream: TcpStream, random: &mut StdRng) {
    if random.random_bool(0.5) {
        let half: [&[u8]; 3] = [
            &[0x81],
            &[0x81, 0xfe, 0x10],
            &[0x81, 0x85, 1, 2, 3, 4, b'['],
        ];
        let half = half.choose(random).copied().unwrap_or_default();
        let _ = stream.write_all(half).await;
    }
    if random.random_bool(0.6) {
        let _ = stream.set_zero_linger();
    }
}

fn message(random: &mut StdRng, events: &[String]) -> Message {
    let id = random.random_range(0..4).to_string();
    let text = match random.random_range(0..16) {
        0..=3 => question(random, "REQ", &id),
        4 => question(random, "COUNT", &id),
        5 => json!(["NEG-OPEN", id, filter(random), "6100000200"]).to_string(),
        6 => json!(["NEG-MSG", id, "6100000200"]).to_string(),
        7 => json!(["CLOSE", id]).to_string(),
        8..=10 => {
            let event = events.choose(random).map_or("{}", String::as_str);
            format!("[\"EVENT\",{event}]")
        }
        11 => json!(["EVENT", {"id": "ab".repeat(32), "kind": 1}]).to_string(),
        12 => json!(["AUTH", {"kind": 22_242}]).to_string(),
        13 => "[\"REQ\",".to_owned(),
        14 => return Message::binary(vec![0; 100]),
        // Longer than a message may be.
        _ => {
            return Message::text(" ".repeat(if random.random_bool(0.05) {
                700_000
            } else {
                10
            }));
        }
    };
    Message::text(text)
}

fn question(random: &mut StdRng, verb: &str, id: &str) -> String {
    let mut parts = vec![json!(verb), json!(id)];
    for _ in 0..random.random_range(0..4) {
        parts.push(filter(random));
    }
    Value::Array(parts).to_string()
}

/// Most are filters.
fn filter(random: &mut StdRng) -> Value {
    let mut filter = json!({});
    for _ in 0..random.random_range(0..4) {
        let (field, value) = match random.random_range(0..9) {
            0 => ("kinds", json!([1, 7, 30_000])),
            1 => ("kinds", json!([1059])),
            2 => ("authors", json!(["ab".repeat(32)])),
            3 => ("#t", json!(["x", "y"])),
            4 => ("#p", json!(["cd".repeat(32)])),
            5 => ("since", json!(random.random_range(0..2_000_000_000))),
            6 => ("limit", json!(random.random_range(0..600))),
            7 => ("ids", json!(["ef".repeat(32), "01".repeat(32)])),
            _ => ("limit", json!("many")),
        };
        filter[field] = value;
    }
    filter
}
