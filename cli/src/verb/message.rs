//! Messages as rows, and who reads them; shared by `inbox` and `watch`.

use nightjar_client::identity::npub;
use nightjar_client::inbox::{Inbox, InboxOptions, Received};
use nightjar_client::{
    Client, Connection, ConnectionError, Identity, PublicKey, RelayUrl, Timestamp,
};
use serde::Serialize;

use crate::args::{As, Via, WhoArgs};
use crate::context::{Context, npubs};
use crate::error::{CliError, from_relays};
use crate::output::Record;
use crate::person::{self, Actor};
use crate::when;

/// A private message and how it came.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct MessageRecord {
    /// When the sender says it was written.
    time: String,
    from: String,
    to: Vec<String>,
    /// Region of the relay that gave it.
    region: Option<String>,
    relay: String,
    /// From the sender's clock to ours; of a stored message nobody knows.
    took_ms: Option<u64>,
    kind: u16,
    id: String,
    text: String,
}
impl Record for MessageRecord {
    const COLUMNS: &'static [&'static str] = &[
        "time", "from", "to", "region", "relay", "took_ms", "kind", "id", "text",
    ];
}

/// Widths of the columns when rows are shown as they come.
pub(crate) const WIDTHS: &[usize] = &[24, 16, 16, 8, 20, 7, 4, 16];

impl MessageRecord {
    pub(crate) fn new(received: &Received) -> Self {
        let message = &received.message;
        Self {
            time: when::shown(message.written_ms),
            from: npub(&message.from),
            to: npubs(&message.to),
            region: received.region.clone(),
            relay: received.relay.to_string(),
            took_ms: received.took().map(when::millis),
            kind: message.kind,
            id: message.id.to_hex(),
            text: message.content.clone(),
        }
    }
}

/// Opens the inbox of `actor`: at the relays of `--via`, or else at those of their own kind 10050.
pub(crate) async fn open_inbox(
    context: &Context,
    actor: &Actor,
    via: &Via,
    since: Option<Timestamp>,
    live: bool,
) -> Result<(Inbox, usize), CliError> {
    let asked = context.relays(via, Some(&actor.identity.public_key()))?;
    let mut client = context.client(actor, asked.clone());
    let relays = if via.via.is_empty() {
        own_relays(context, &mut client, asked).await?
    } else {
        asked
    };
    let groups = client.groups(&relays).await;
    client.close().await;
    let options = InboxOptions {
        since,
        live,
        loopback_only: actor.demo,
        observer: context.console.observer(),
    };
    let count = groups.len();
    Ok((Inbox::open(&actor.identity, groups, &options), count))
}

async fn own_relays(
    context: &Context,
    client: &mut Client,
    asked: Vec<RelayUrl>,
) -> Result<Vec<RelayUrl>, CliError> {
    let me = client.identity().public_key();
    let list = client.inbox_relays(&me).await?;
    if list.is_empty() {
        context.console.warn("you have published no relays (kind 10050), so nobody knows where to send to; see `nightjar relays set --help`");
        return Ok(asked);
    }
    Ok(list)
}

/// The identity that acts, opened when named and made up otherwise: reading what is public needs none.
pub(crate) fn actor_for(identity: &As, via: &Via) -> Result<Actor, CliError> {
    if identity.is_given() {
        return identity.named(via).open();
    }
    Ok(Actor {
        identity: Identity::generate(),
        demo: false,
    })
}

/// Who is asked about, and who asks.
pub(crate) fn who(args: &WhoArgs) -> Result<(Actor, PublicKey), CliError> {
    match &args.who {
        Some(who) => {
            let key = person::public_key(who, args.via.state.as_deref())?;
            Ok((actor_for(&args.identity, &args.via)?, key))
        }
        None => {
            let actor = args.identity.named(&args.via).open()?;
            let key = actor.identity.public_key();
            Ok((actor, key))
        }
    }
}

/// A connection to the first of `relays` that can be reached.
pub(crate) async fn first_open(
    context: &Context,
    actor: &Actor,
    relays: &[RelayUrl],
) -> Result<Connection, CliError> {
    let mut failed = Vec::new();
    for url in relays {
        if actor.demo && !url.is_localhost() {
            failed.push((url.clone(), ConnectionError::NotLoopback));
            continue;
        }
        match Connection::open(url, context.console.observer()).await {
            Ok(connection) => return Ok(connection),
            Err(error) => failed.push((url.clone(), error)),
        }
    }
    Err(from_relays("no relay could be reached", &failed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::assert_same_fields;

    #[test]
    fn table_and_json_have_the_same_fields() {
        let (alice, bob) = (Identity::generate(), Identity::generate());
        let rumor =
            nightjar_client::wrap::Rumor::text(&alice, &[bob.public_key()], "hi", 0).unwrap();
        let wrap = rumor.wrap_for(&alice, &bob.public_key()).unwrap();
        let message = nightjar_client::unwrap::unwrap(&bob, &wrap).unwrap();
        let relay = RelayUrl::parse("ws://127.0.0.1:1").unwrap();
        let received = Received {
            message,
            relay,
            region: None,
            group: 0,
            live: true,
            received_ms: 437,
        };
        let record = MessageRecord::new(&received);
        assert_eq!(
            (record.took_ms, record.time.as_str()),
            (Some(437), "1970-01-01T00:00:00.000Z")
        );
        assert_same_fields(&record);
    }
}
