//! The smallest client: JSON messages in and out over one WebSocket, every frame as it came.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::event::Person;
use crate::socket::ANSWER_LIMIT;

/// One connection.
pub struct Wire {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    relay: String,
    challenge: String,
}

impl Wire {
    /// Connects and takes the relay's challenge.
    pub async fn open(relay: &str) -> Result<Wire, String> {
        let connected = tokio_tungstenite::connect_async_with_config(relay, None, true).await;
        let (socket, _) = connected.map_err(|error| error.to_string())?;
        let mut wire = Wire {
            socket,
            relay: relay.to_owned(),
            challenge: String::new(),
        };
        let frame = wire.receive().await?;
        frame[1]
            .as_str()
            .ok_or("no challenge")?
            .clone_into(&mut wire.challenge);
        Ok(wire)
    }

    /// Connects as somebody.
    pub async fn open_as(relay: &str, person: &Person) -> Result<Wire, String> {
        let mut wire = Wire::open(relay).await?;
        let auth = person.auth(&wire.relay, &wire.challenge);
        wire.send(&json!(["AUTH", auth.value()])).await?;
        let answer = wire.receive().await?;
        if answer[2] == true {
            Ok(wire)
        } else {
            Err(answer.to_string())
        }
    }

    /// Sends one message.
    pub async fn send(&mut self, message: &Value) -> Result<(), String> {
        self.send_text(message.to_string()).await
    }

    /// Sends one message that is JSON already.
    pub async fn send_text(&mut self, text: String) -> Result<(), String> {
        let sent = self.socket.send(Message::text(text)).await;
        sent.map_err(|error| error.to_string())
    }

    /// The next text frame.
    pub async fn receive(&mut self) -> Result<Value, String> {
        loop {
            let next = tokio::time::timeout(ANSWER_LIMIT, self.socket.next()).await;
            let message = next
                .map_err(|_| format!("no frame within {ANSWER_LIMIT:?}"))?
                .ok_or("the connection ended")?
                .map_err(|error| error.to_string())?;
            if let Message::Text(text) = message {
                return serde_json::from_str(&text).map_err(|error| error.to_string());
            }
        }
    }
}
