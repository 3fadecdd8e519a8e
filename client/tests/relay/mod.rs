//! A relay of a few lines, for what a real one does only in trouble: refusing, closing in the middle, vanishing. It keeps
//! events in memory, asks for AUTH before wraps, and describes itself (NIP-11). The real relay is tested elsewhere.

use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::{SinkExt, StreamExt};
use nightjar_client::{Event, RelayUrl};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio_tungstenite::tungstenite::Message;

/// What a test can read and change while the relay runs.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) events: Vec<Event>,
    /// Answer to every event instead of storing it.
    pub(crate) refuse: Option<String>,
    /// How many more events are answered with "rate-limited:" first.
    pub(crate) slow_down: usize,
    /// How often somebody authenticated.
    pub(crate) auths: usize,
    /// Refuse AUTH with this message.
    pub(crate) refuse_auth: Option<String>,
    /// How many connections were opened.
    pub(crate) connections: usize,
    /// Events a REQ gets at most.
    pub(crate) page: usize,
}

#[derive(Clone)]
pub(crate) struct Relay {
    pub(crate) url: RelayUrl,
    state: Arc<Mutex<State>>,
    live: broadcast::Sender<Option<Event>>,
}

impl Relay {
    /// Starts a relay that says it belongs to `fleet` and `region`.
    pub(crate) async fn start(fleet: Option<&str>, region: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let nightjar = fleet.map(|fleet| json!({"fleet": fleet, "region": region}));
        let document = json!({"name": "test", "nightjar": nightjar}).to_string();
        let relay = Self {
            url: RelayUrl::parse(&url).unwrap(),
            state: Arc::new(Mutex::new(State {
                page: 500,
                ..State::default()
            })),
            live: broadcast::channel(64).0,
        };
        let serving = relay.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serving.clone().serve(stream, document.clone()));
            }
        });
        relay
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Breaks every open connection.
    pub(crate) fn disconnect_all(&self) {
        let _ = self.live.send(None);
    }

    /// Puts an event in as if somebody had published it elsewhere.
    pub(crate) fn store(&self, event: Event) {
        self.state().events.push(event.clone());
        let _ = self.live.send(Some(event));
    }

    async fn serve(self, mut stream: TcpStream, document: String) {
        let mut head = [0u8; 1024];
        let len = stream.peek(&mut head).await.unwrap_or(0);
        if !String::from_utf8_lossy(&head[..len])
            .to_lowercase()
            .contains("upgrade: websocket")
        {
            let _ = stream.read(&mut head).await;
            let answer = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{document}",
                document.len()
            );
            let _ = stream.write_all(answer.as_bytes()).await;
            return;
        }
        self.state().connections += 1;
        let mut live = self.live.subscribe();
        let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else {
            return;
        };
        let mut session = Session {
            relay: self,
            reader: None,
            open: Vec::new(),
        };
        let _ = socket.send(Message::text(r#"["AUTH","challenge"]"#)).await;
        loop {
            let answers = tokio::select! {
                message = socket.next() => match message {
                    Some(Ok(Message::Text(text))) => session.answer(&text),
                    Some(Ok(_)) => Vec::new(),
                    _ => return,
                },
                event = live.recv() => match event {
                    Ok(Some(event)) => session.live(&event),
                    _ => return,
                },
            };
            for answer in answers {
                if socket
                    .send(Message::text(answer.to_string()))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        }
    }
}

struct Session {
    relay: Relay,
    reader: Option<String>,
    open: Vec<(String, Value)>,
}

impl Session {
    fn answer(&mut self, text: &str) -> Vec<Value> {
        let frame: Vec<Value> = serde_json::from_str(text).unwrap();
        match frame[0].as_str().unwrap() {
            "EVENT" => vec![self.on_event(&frame[1])],
            "AUTH" => vec![self.on_auth(&frame[1])],
            "REQ" => self.on_req(frame[1].as_str().unwrap(), &frame[2]),
            _ => Vec::new(),
        }
    }

    fn on_event(&mut self, json: &Value) -> Value {
        let event = Event::from_json(json.to_string()).unwrap();
        event.verify().unwrap();
        {
            let mut state = self.relay.state();
            if state.slow_down > 0 {
                state.slow_down -= 1;
                return json!(["OK", event.id.to_hex(), false, "rate-limited: slow down"]);
            }
        }
        if let Some(message) = &self.relay.state().refuse {
            return json!(["OK", event.id.to_hex(), false, message]);
        }
        let known = self
            .relay
            .state()
            .events
            .iter()
            .any(|known| known.id == event.id);
        if !known {
            self.relay.store(event.clone());
        }
        json!([
            "OK",
            event.id.to_hex(),
            true,
            if known { "duplicate: known" } else { "" }
        ])
    }

    fn on_auth(&mut self, json: &Value) -> Value {
        let event = Event::from_json(json.to_string()).unwrap();
        event.verify().unwrap();
        let mut state = self.relay.state();
        if let Some(message) = &state.refuse_auth {
            return json!(["OK", event.id.to_hex(), false, message]);
        }
        state.auths += 1;
        drop(state);
        self.reader = Some(event.pubkey.to_hex());
        json!(["OK", event.id.to_hex(), true, ""])
    }

    fn on_req(&mut self, subscription: &str, filter: &Value) -> Vec<Value> {
        let wraps = filter["kinds"]
            .as_array()
            .is_some_and(|kinds| kinds.contains(&json!(1059)));
        if wraps && self.reader.is_none() {
            return vec![json!([
                "CLOSED",
                subscription,
                "auth-required: who are you?"
            ])];
        }
        let state = self.relay.state();
        let mut found: Vec<_> = state
            .events
            .iter()
            .filter(|event| self.matches(event, filter))
            .collect();
        found.sort();
        found.truncate(state.page);
        let mut answers: Vec<_> = found
            .into_iter()
            .map(|event| json!(["EVENT", subscription, event]))
            .collect();
        answers.push(json!(["EOSE", subscription]));
        drop(state);
        self.open.push((subscription.to_owned(), filter.clone()));
        answers
    }

    fn live(&self, event: &Event) -> Vec<Value> {
        let open = self
            .open
            .iter()
            .filter(|(_, filter)| self.matches(event, filter));
        open.map(|(subscription, _)| json!(["EVENT", subscription, event]))
            .collect()
    }

    fn matches(&self, event: &Event, filter: &Value) -> bool {
        let filter: nightjar_client::Filter = serde_json::from_value(filter.clone()).unwrap();
        let readable = event.kind.as_u16() != 1059
            || event
                .tags
                .public_keys()
                .any(|key| Some(key.to_hex()) == self.reader);
        readable && filter.match_event(event, nostr::filter::MatchEventOptions::default())
    }
}
