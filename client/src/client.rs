//! Sending: looks up where people read, groups relays by fleet, wraps, publishes with failover. Connections and answers are
//! kept for the next message.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use nostr::event::{Event, EventBuilder, EventId, Kind};
use nostr::key::PublicKey;
use nostr::types::RelayUrl;

use crate::connection::{Accepted, Connection, ConnectionError, Observer};
use crate::delivery::{self, Delivery, Door, Group, Taken};
use crate::directory;
use crate::frame::Prefix;
use crate::identity::{Identity, IdentityError, npub};
use crate::info::{self, RelayInfo};
use crate::wrap::{Rumor, WrapError};

/// How long a relay may take to describe itself before it counts as a lone relay.
const INFO_WITHIN: Duration = Duration::from_secs(4);
/// Pauses before an event is offered again to a relay that asked to slow down; 3.1 s in all.
const SLOWER: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_millis(1600),
];

/// What a client is told at the start.
#[derive(Clone, Default)]
pub struct Options {
    /// Relays to ask for lists and profiles, and to prefer within their fleet when sending.
    pub via: Vec<RelayUrl>,
    /// Refuse relays that are not on this machine.
    pub loopback_only: bool,
    /// Told of each step on each connection.
    pub observer: Option<Observer>,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("via", &self.via)
            .finish_non_exhaustive()
    }
}

/// Why something was not sent or not found.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No relay was named, so nobody can be asked.
    #[error("no relay is known")]
    NoRelay,
    /// The recipient publishes no relays for private messages, so nothing may be sent (NIP-17).
    #[error("{} publishes no relays for private messages (kind 10050)", npub(.recipient))]
    NoInbox {
        /// Who.
        recipient: Box<PublicKey>,
    },
    /// None of the relays answered.
    #[error("none of {} relays could be asked", .0.len())]
    NobodyAnswered(Vec<(RelayUrl, ConnectionError)>),
    /// No relay of the recipient took the message.
    #[error("no relay took it")]
    NotTaken(Vec<(RelayUrl, ConnectionError)>),
    /// The message could not be made.
    #[error(transparent)]
    Wrap(#[from] WrapError),
    /// An event could not be signed.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// A message that at least one relay of a recipient took.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Computed id of the rumor.
    pub id: EventId,
    /// Copies for the recipients.
    pub copies: Vec<(PublicKey, Vec<Delivery>)>,
    /// Copies to our own relays, so that our other devices have it; empty without a list of our own.
    pub own: Vec<Delivery>,
    /// From the call to the last OK.
    pub took: Duration,
}

impl Sent {
    /// Recipients none of whose relays took the message, and why not. The others have it already.
    pub fn not_taken(&self) -> Vec<(PublicKey, Vec<(RelayUrl, ConnectionError)>)> {
        self.copies
            .iter()
            .filter(|(_, deliveries)| !taken(deliveries))
            .map(|(recipient, deliveries)| {
                let failed = deliveries.iter().flat_map(|one| one.failed.clone());
                (*recipient, failed.collect())
            })
            .collect()
    }
}

fn taken(deliveries: &[Delivery]) -> bool {
    deliveries.iter().any(|delivery| delivery.taken.is_some())
}

fn not_taken(deliveries: impl IntoIterator<Item = Delivery>) -> ClientError {
    let failed = deliveries.into_iter().flat_map(|delivery| delivery.failed);
    ClientError::NotTaken(failed.collect())
}

/// One identity and its connections.
#[derive(Debug)]
pub struct Client {
    identity: Identity,
    options: Options,
    connections: HashMap<RelayUrl, Connection>,
    infos: HashMap<RelayUrl, Option<RelayInfo>>,
    inboxes: HashMap<PublicKey, Vec<RelayUrl>>,
}

impl Client {
    /// A client that has done nothing yet.
    pub fn new(identity: Identity, options: Options) -> Self {
        Self {
            identity,
            options,
            connections: HashMap::new(),
            infos: HashMap::new(),
            inboxes: HashMap::new(),
        }
    }

    /// Who we are.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Sends a text to `to` (NIP-17): one rumor, a wrap for each reader, a copy to each fleet or relay of each reader's kind
    /// 10050, and one for ourselves. Fails before anything is sent when a recipient has no list, and when nobody's relay
    /// took it; when only some recipients' relays did, [`Sent::not_taken`] names the others.
    pub async fn send(&mut self, to: &[PublicKey], text: &str) -> Result<Sent, ClientError> {
        let started = tokio::time::Instant::now();
        let rumor = Rumor::text(&self.identity, to, text, unix_ms())?;
        let mut inboxes = Vec::new();
        for recipient in to {
            let relays = self.inbox_relays(recipient).await?;
            if relays.is_empty() {
                return Err(ClientError::NoInbox {
                    recipient: Box::new(*recipient),
                });
            }
            inboxes.push((*recipient, relays));
        }
        let mut copies = Vec::new();
        for (recipient, relays) in inboxes {
            let wrap = rumor.wrap_for(&self.identity, &recipient)?;
            copies.push((recipient, self.deliver(&wrap, &relays).await));
        }
        if !copies.iter().any(|(_, deliveries)| taken(deliveries)) {
            let deliveries = copies.into_iter().flat_map(|(_, deliveries)| deliveries);
            return Err(not_taken(deliveries));
        }
        let own = self.send_own_copy(&rumor).await?;
        Ok(Sent {
            id: rumor.id(),
            copies,
            own,
            took: started.elapsed(),
        })
    }

    /// A copy for ourselves. That it fails does not undo the message, so only `own` tells.
    async fn send_own_copy(&mut self, rumor: &Rumor) -> Result<Vec<Delivery>, ClientError> {
        let me = self.identity.public_key();
        let relays = self.inbox_relays(&me).await.unwrap_or_default();
        if relays.is_empty() {
            return Ok(Vec::new());
        }
        let wrap = rumor.wrap_for(&self.identity, &me)?;
        Ok(self.deliver(&wrap, &relays).await)
    }

    /// Signs and publishes an event to `relays`, one copy for each fleet or lone relay.
    pub async fn publish(
        &mut self,
        event: EventBuilder,
        relays: &[RelayUrl],
    ) -> Result<(Event, Vec<Delivery>), ClientError> {
        let event = self.identity.sign(event)?;
        let deliveries = self.deliver_taken(&event, relays).await?;
        Ok((event, deliveries))
    }

    async fn deliver_taken(
        &mut self,
        event: &Event,
        relays: &[RelayUrl],
    ) -> Result<Vec<Delivery>, ClientError> {
        if relays.is_empty() {
            return Err(ClientError::NoRelay);
        }
        let deliveries = self.deliver(event, relays).await;
        if taken(&deliveries) {
            return Ok(deliveries);
        }
        Err(not_taken(deliveries))
    }

    /// Offers `event` to each group of `relays`; in each, one door after the other until one takes it.
    pub async fn deliver(&mut self, event: &Event, relays: &[RelayUrl]) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        for group in self.groups(relays).await {
            deliveries.push(self.deliver_to(event, group).await);
        }
        deliveries
    }

    async fn deliver_to(&mut self, event: &Event, group: Group) -> Delivery {
        let mut failed = Vec::new();
        let mut taken = None;
        for door in &group.doors {
            match self.publish_patiently(&door.url, event).await {
                Ok(Accepted { duplicate, took }) => {
                    let region = door
                        .info
                        .as_ref()
                        .and_then(RelayInfo::region)
                        .map(str::to_owned);
                    taken = Some(Taken {
                        url: door.url.clone(),
                        region,
                        took,
                        duplicate,
                    });
                    break;
                }
                Err(error) => {
                    let stop = !delivery::worth_another_door(&error);
                    failed.push((door.url.clone(), error));
                    if stop {
                        break;
                    }
                }
            }
        }
        Delivery {
            group,
            taken,
            failed,
        }
    }

    /// Groups relays by the fleet they show, relays of `via` first within their own fleet.
    pub async fn groups(&mut self, relays: &[RelayUrl]) -> Vec<Group> {
        let preferred = self.doors(&self.options.via.clone()).await;
        delivery::group(self.doors(relays).await, &preferred)
    }

    /// The relays with what they say of themselves; asked once, all at the same time.
    pub async fn doors(&mut self, relays: &[RelayUrl]) -> Vec<Door> {
        let unknown: Vec<_> = relays
            .iter()
            .filter(|url| !self.infos.contains_key(*url))
            .filter(|url| url.is_localhost() || !self.options.loopback_only)
            .collect();
        let answers = join_all(unknown.iter().map(|url| info::fetch(url, INFO_WITHIN))).await;
        for (url, answer) in unknown.into_iter().zip(answers) {
            self.infos.insert(url.clone(), answer.ok());
        }
        let door = |url: &RelayUrl| Door {
            url: url.clone(),
            info: self.infos.get(url).cloned().flatten(),
        };
        relays.iter().map(door).collect()
    }

    /// Where `who` wants private messages, as the relays of `via` know it; empty when they have no list.
    pub async fn inbox_relays(&mut self, who: &PublicKey) -> Result<Vec<RelayUrl>, ClientError> {
        if let Some(known) = self.inboxes.get(who) {
            return Ok(known.clone());
        }
        let list = self.latest(who, Kind::InboxRelays).await?;
        let relays = list
            .map(|list| directory::inbox_relays(&list))
            .unwrap_or_default();
        if !relays.is_empty() {
            self.inboxes.insert(*who, relays.clone());
        }
        Ok(relays)
    }

    /// The newest valid replaceable event of `kind` by `who` that the relays of `via` have. An answer of one relay of a
    /// fleet counts for its fleet. Fails only when no relay could be asked.
    pub async fn latest(
        &mut self,
        who: &PublicKey,
        kind: Kind,
    ) -> Result<Option<Event>, ClientError> {
        let via = self.options.via.clone();
        if via.is_empty() {
            return Err(ClientError::NoRelay);
        }
        let filter = directory::latest(*who, kind);
        let (mut found, mut failed, mut answered) = (Vec::new(), Vec::new(), false);
        for group in self.groups(&via).await {
            for door in group.doors {
                match self.fetch_through(&door.url, &filter).await {
                    Ok(events) => {
                        answered = true;
                        found.extend(events);
                        break;
                    }
                    Err(error) => failed.push((door.url, error)),
                }
            }
        }
        if !answered {
            return Err(ClientError::NobodyAnswered(failed));
        }
        Ok(directory::newest(found, who, kind))
    }

    async fn fetch_through(
        &mut self,
        url: &RelayUrl,
        filter: &nostr::filter::Filter,
    ) -> Result<Vec<Event>, ConnectionError> {
        let identity = self.identity.clone();
        let filters = std::slice::from_ref(filter);
        let reused = self.connections.contains_key(url);
        let mut answer = self
            .connection(url)
            .await?
            .fetch(filters, Some(&identity))
            .await;
        if reused && matches!(answer, Err(ConnectionError::Ended(_))) {
            self.connections.remove(url);
            answer = self
                .connection(url)
                .await?
                .fetch(filters, Some(&identity))
                .await;
        }
        self.keep_if_sound(url, &answer);
        Ok(answer?
            .iter()
            .filter_map(|raw| Event::from_json(raw.get()).ok())
            .collect())
    }

    /// Publishes, and slows down when the relay asks for it. The event stays the same, so it is never there twice.
    async fn publish_patiently(
        &mut self,
        url: &RelayUrl,
        event: &Event,
    ) -> Result<Accepted, ConnectionError> {
        for pause in SLOWER {
            match self.publish_through(url, event).await {
                Err(ConnectionError::Refused {
                    prefix: Prefix::RateLimited,
                    ..
                }) => tokio::time::sleep(pause).await,
                answer => return answer,
            }
        }
        self.publish_through(url, event).await
    }

    async fn publish_through(
        &mut self,
        url: &RelayUrl,
        event: &Event,
    ) -> Result<Accepted, ConnectionError> {
        let identity = self.identity.clone();
        let reused = self.connections.contains_key(url);
        let mut answer = self
            .connection(url)
            .await?
            .publish(event, Some(&identity))
            .await;
        // A connection kept from before may have died unseen. Publishing again is safe: the id is the same.
        if reused && matches!(answer, Err(ConnectionError::Ended(_))) {
            self.connections.remove(url);
            answer = self
                .connection(url)
                .await?
                .publish(event, Some(&identity))
                .await;
        }
        self.keep_if_sound(url, &answer);
        answer
    }

    async fn connection(&mut self, url: &RelayUrl) -> Result<&mut Connection, ConnectionError> {
        if self.options.loopback_only && !url.is_localhost() {
            return Err(ConnectionError::NotLoopback);
        }
        if !self.connections.contains_key(url) {
            let connection = Connection::open(url, self.options.observer.clone()).await?;
            self.connections.insert(url.clone(), connection);
        }
        self.connections
            .get_mut(url)
            .ok_or_else(|| ConnectionError::Ended("not open".into()))
    }

    /// After anything but a plain refusal the connection's state is unknown, so it is not used again.
    fn keep_if_sound<T>(&mut self, url: &RelayUrl, answer: &Result<T, ConnectionError>) {
        if !matches!(answer, Ok(_) | Err(ConnectionError::Refused { .. })) {
            self.connections.remove(url);
        }
    }

    /// Closes all connections politely.
    pub async fn close(mut self) {
        join_all(
            self.connections
                .drain()
                .map(|(_, connection)| connection.close()),
        )
        .await;
    }
}

/// Milliseconds since 1970 by this machine's clock.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
