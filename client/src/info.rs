//! What a relay says of itself over HTTP (NIP-11), and which fleet and region it belongs to.

use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use nostr::types::RelayUrl;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::tls;

/// Documents larger than this are refused, in bytes.
const MAX_DOCUMENT: usize = 256 * 1024;

/// The part of a NIP-11 document that a client needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayInfo {
    /// Name for people.
    #[serde(default)]
    pub name: Option<String>,
    /// Present when the relay belongs to a Nightjar fleet.
    #[serde(default)]
    pub nightjar: Option<FleetInfo>,
    /// Present when the relay gives arrival cursors (`docs/proposals/0001-arrival-cursor.md`).
    #[serde(default)]
    pub cursor: Option<CursorInfo>,
}

/// The arrival cursors that a relay gives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CursorInfo {
    /// Version of the proposal.
    pub version: u64,
}

/// Which fleet a relay belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetInfo {
    /// Fleet id, the same on each relay of the fleet.
    pub fleet: String,
    /// Name of the fleet.
    #[serde(default)]
    pub fleet_name: Option<String>,
    /// Region this relay runs in.
    #[serde(default)]
    pub region: Option<String>,
    /// The relay's own name.
    #[serde(default)]
    pub relay: Option<String>,
    /// `replicated`, or `development` when one copy is all there is.
    #[serde(default)]
    pub durability: Option<String>,
}

impl RelayInfo {
    /// Whether it gives cursors as this client asks for them.
    pub fn offers_cursor(&self) -> bool {
        self.cursor
            .as_ref()
            .is_some_and(|cursor| cursor.version == 1)
    }

    /// The fleet id, if any.
    pub fn fleet(&self) -> Option<&str> {
        self.nightjar
            .as_ref()
            .map(|nightjar| nightjar.fleet.as_str())
    }

    /// The region, if any.
    pub fn region(&self) -> Option<&str> {
        self.nightjar
            .as_ref()
            .and_then(|nightjar| nightjar.region.as_deref())
    }
}

/// Why a document was not read.
#[derive(Debug, thiserror::Error)]
pub enum InfoError {
    /// No connection, or it broke.
    #[error("{0}")]
    Unreachable(String),
    /// No answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    TooLate(Duration),
    /// HTTP status other than 200.
    #[error("HTTP status {0}")]
    Status(u16),
    /// Not a NIP-11 document.
    #[error("not a NIP-11 document: {0}")]
    Malformed(String),
}

/// Asks `url` for its NIP-11 document.
pub async fn fetch(url: &RelayUrl, within: Duration) -> Result<RelayInfo, InfoError> {
    tokio::time::timeout(within, fetch_now(url))
        .await
        .unwrap_or(Err(InfoError::TooLate(within)))
}

async fn fetch_now(url: &RelayUrl) -> Result<RelayInfo, InfoError> {
    let secure = url.scheme().is_secure();
    let target: &nostr::types::url::Url = url.into();
    let host = target
        .host_str()
        .ok_or_else(|| InfoError::Unreachable("the URL has no host".into()))?;
    let port = target.port().unwrap_or(if secure { 443 } else { 80 });
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((bare, port))
        .await
        .map_err(unreachable)?;
    let request = Request::get(target.path())
        .header("host", format!("{host}:{port}"))
        .header("accept", "application/nostr+json")
        .body(Empty::<Bytes>::new())
        .map_err(unreachable)?;
    if secure {
        let name = rustls::pki_types::ServerName::try_from(bare.to_owned()).map_err(unreachable)?;
        let connector = tokio_rustls::TlsConnector::from(tls::client_config());
        ask(
            connector.connect(name, stream).await.map_err(unreachable)?,
            request,
        )
        .await
    } else {
        ask(stream, request).await
    }
}

async fn ask<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<RelayInfo, InfoError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(unreachable)?;
    let driver = tokio::spawn(connection);
    let answer = async {
        let response = sender.send_request(request).await.map_err(unreachable)?;
        let status = response.status().as_u16();
        if status != 200 {
            return Err(InfoError::Status(status));
        }
        let body = Limited::new(response.into_body(), MAX_DOCUMENT)
            .collect()
            .await;
        let body = body
            .map_err(|error| InfoError::Malformed(error.to_string()))?
            .to_bytes();
        serde_json::from_slice(&body).map_err(|error| InfoError::Malformed(error.to_string()))
    }
    .await;
    driver.abort();
    answer
}

fn unreachable(error: impl std::fmt::Display) -> InfoError {
    InfoError::Unreachable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn document_of_any_relay_is_read_and_a_fleet_recognised() {
        let plain: RelayInfo =
            serde_json::from_str(r#"{"name":"x","supported_nips":[1]}"#).unwrap();
        assert_eq!(plain.fleet(), None);
        let ours: RelayInfo = serde_json::from_str(
            r#"{"nightjar":{"fleet":"00","fleet_name":"f","region":"a","relay":"a-relay-0","durability":"replicated"}}"#,
        )
        .unwrap();
        assert_eq!((ours.fleet(), ours.region()), (Some("00"), Some("a")));
    }
}
