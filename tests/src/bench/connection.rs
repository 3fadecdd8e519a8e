//! A lean WebSocket connection for load: text in and out, frames looked at only as far as a figure needs.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::event::Person;

/// A relay that does not answer for so long is broken.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// How long a relay may take to send the NIP-42 challenge; one that sends none asks for none.
const CHALLENGE_LIMIT: Duration = Duration::from_millis(500);
/// Small, so that thousands of connections of one load generator fit into memory.
const BUFFER_BYTES: usize = 16 << 10;

/// The sending half.
pub struct Sender(SplitSink<WebSocketStream<TcpStream>, Message>);

/// The receiving half.
pub struct Receiver(SplitStream<WebSocketStream<TcpStream>>);

/// What a relay said, as far as load needs to know.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// OK true for an event: its id.
    Ok(String),
    /// An event: its id.
    Event(String),
    /// End of stored events of a subscription.
    Eose(String),
    /// A challenge.
    Auth(String),
    /// OK false, CLOSED or NOTICE: the frame.
    Refusal(String),
}

/// Opens a connection from one of this machine's loopback addresses (`127.0.1.<source>`): each has ports of its own.
pub async fn open_from(url: &str, source: u8) -> Result<(Sender, Receiver)> {
    let address: std::net::SocketAddr = address_of(url)
        .parse()
        .with_context(|| format!("{url}: no address and port"))?;
    let connect = async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(std::net::SocketAddr::from(([127, 0, 1, source], 0)))?;
        socket.connect(address).await
    };
    upgrade(url, connect).await
}

/// Opens a connection; with a person, answers the relay's challenge if it sends one.
pub async fn open(url: &str, person: Option<&Person>) -> Result<(Sender, Receiver)> {
    let (mut sender, mut receiver) = upgrade(url, TcpStream::connect(address_of(url))).await?;
    if let Some(person) = person {
        authenticate(url, person, &mut sender, &mut receiver).await?;
    }
    Ok((sender, receiver))
}

fn address_of(url: &str) -> &str {
    url.trim_start_matches("ws://").trim_end_matches('/')
}

async fn upgrade(
    url: &str,
    connect: impl Future<Output = std::io::Result<TcpStream>>,
) -> Result<(Sender, Receiver)> {
    let connect = async {
        let stream = connect.await?;
        stream.set_nodelay(true)?;
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER_BYTES)
            .write_buffer_size(0);
        let (stream, _) =
            tokio_tungstenite::client_async_with_config(url, stream, Some(config)).await?;
        anyhow::Ok(stream)
    };
    let stream = tokio::time::timeout(ANSWER_LIMIT, connect)
        .await
        .with_context(|| format!("{url}: no answer to the upgrade"))?
        .with_context(|| format!("{url}: cannot connect"))?;
    let (sink, stream) = stream.split();
    Ok((Sender(sink), Receiver(stream)))
}

async fn authenticate(
    url: &str,
    person: &Person,
    sender: &mut Sender,
    receiver: &mut Receiver,
) -> Result<()> {
    let challenge = match tokio::time::timeout(CHALLENGE_LIMIT, receiver.next()).await {
        Err(_) => return Ok(()),
        Ok(heard) => match heard? {
            Heard::Auth(challenge) => challenge,
            other => bail!("{url}: said {other:?} before anything was asked"),
        },
    };
    let auth = person.auth(url, &challenge);
    sender.send(&format!("[\"AUTH\",{}]", auth.json)).await?;
    match receiver.next().await? {
        Heard::Ok(_) => Ok(()),
        other => bail!("{url}: AUTH was answered with {other:?}"),
    }
}

impl Sender {
    /// Sends one text frame at once.
    pub async fn send(&mut self, text: &str) -> Result<()> {
        self.0
            .send(Message::Text(Utf8Bytes::from(text)))
            .await
            .context("the connection broke while sending")
    }
}

impl Receiver {
    /// The next frame that means something here; an error when the connection ends or stays silent.
    pub async fn next(&mut self) -> Result<Heard> {
        tokio::time::timeout(ANSWER_LIMIT, self.next_without_limit())
            .await
            .with_context(|| format!("the relay said nothing for {ANSWER_LIMIT:?}"))?
    }

    /// As [`Receiver::next`], for who waits for what may not come soon.
    pub async fn next_without_limit(&mut self) -> Result<Heard> {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Text(text))) => {
                    if let Some(heard) = hear(&text) {
                        return Ok(heard);
                    }
                }
                Some(Ok(Message::Close(frame))) => bail!(
                    "the relay closed the connection: {}",
                    frame.map_or_else(|| "no reason".to_owned(), |frame| frame.to_string())
                ),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error).context("the connection broke"),
                None => bail!("the connection ended"),
            }
        }
    }
}

impl Receiver {
    /// Reads and throws away until the connection ends, so that pings are answered.
    pub async fn idle(mut self) {
        while self.0.next().await.is_some_and(|message| message.is_ok()) {}
    }
}

/// Looks at the frame's beginning; an event's id is the first `"id"` in it, which holds for the events that load sends.
fn hear(frame: &str) -> Option<Heard> {
    let body = frame.trim_start().strip_prefix('[')?.trim_start();
    let (verb, rest) = quoted(body)?;
    match verb {
        "OK" => {
            let (id, rest) = quoted(rest)?;
            let accepted = rest.trim_start_matches([',', ' ']).starts_with("true");
            Some(if accepted {
                Heard::Ok(id.to_owned())
            } else {
                Heard::Refusal(frame.to_owned())
            })
        }
        "EVENT" => {
            let at = rest.find("\"id\"")?;
            let value = rest[at + 4..].trim_start().strip_prefix(':')?;
            quoted(value).map(|(id, _)| Heard::Event(id.to_owned()))
        }
        "EOSE" => quoted(rest).map(|(subscription, _)| Heard::Eose(subscription.to_owned())),
        "AUTH" => quoted(rest).map(|(challenge, _)| Heard::Auth(challenge.to_owned())),
        "CLOSED" | "NOTICE" => Some(Heard::Refusal(frame.to_owned())),
        _ => None,
    }
}

/// The next string, and what follows it. Strings here hold no escapes.
fn quoted(text: &str) -> Option<(&str, &str)> {
    text.trim_start_matches([',', ' ', '\t'])
        .strip_prefix('"')?
        .split_once('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_far_as_needed() {
        let heard = |frame| hear(frame).unwrap();
        assert_eq!(heard(r#"["OK","ab",true,""]"#), Heard::Ok("ab".into()));
        assert_eq!(heard(r#"[ "OK", "ab", true, "x"]"#), Heard::Ok("ab".into()));
        assert!(matches!(
            heard(r#"["OK","ab",false,"rate-limited: slow down"]"#),
            Heard::Refusal(_)
        ));
        assert_eq!(
            heard(r#"["EVENT","s",{"kind":1,"id" : "cd","content":"\"id\""}]"#),
            Heard::Event("cd".into())
        );
        assert_eq!(heard(r#"["EOSE","s"]"#), Heard::Eose("s".into()));
        assert_eq!(heard(r#"["AUTH","c"]"#), Heard::Auth("c".into()));
        assert!(matches!(heard(r#"["CLOSED","s","x"]"#), Heard::Refusal(_)));
        assert_eq!(hear("hello"), None);
        assert_eq!(hear(r#"["COUNT","s",{}]"#), None);
    }
}
