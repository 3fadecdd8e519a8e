//! Reading messages: stored ones page by page, live ones as they come, each once, over reconnects and failover.

use std::time::Duration;

use nostr::event::{Event, EventId};
use nostr::filter::Filter;
use nostr::key::PublicKey;
use nostr::types::{RelayUrl, Timestamp};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use crate::client::unix_ms;
use crate::connection::{Connection, ConnectionError, Observer};
use crate::delivery::{Door, Group};
use crate::frame::{Prefix, RelayFrame};
use crate::identity::Identity;
use crate::info::RelayInfo;
use crate::pager::Pager;
use crate::seen::Seen;
use crate::unwrap::{EPHEMERAL_WRAP, Message, UnwrapError, WRAP, unwrap};

/// Wraps carry times of up to two days before they were sent (NIP-59); a quarter of an hour more for clocks that differ.
pub const BACKDATED: Duration = Duration::from_secs(2 * 24 * 3600 + 15 * 60);
/// Quiet time after which the other side is asked for a sign of life, and the time it has to give one.
const QUIET: Duration = Duration::from_secs(30);
/// How many messages and wraps are remembered, so that none shows twice.
const REMEMBERED: usize = 100_000;
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_LAST: Duration = Duration::from_secs(15);

/// What to read.
#[derive(Clone)]
pub struct InboxOptions {
    /// Relays are asked for wraps that can hold a message sent at or after this time, so from [`BACKDATED`] before it.
    /// Older messages come too: who shows them decides by their own time.
    pub since: Option<Timestamp>,
    /// Go on after the stored ones.
    pub live: bool,
    /// Refuse relays that are not on this machine.
    pub loopback_only: bool,
    /// Told of each step on each connection.
    pub observer: Option<Observer>,
}

/// A message and how it came.
#[derive(Debug, Clone)]
pub struct Received {
    /// The message.
    pub message: Message,
    /// The relay that gave it.
    pub relay: RelayUrl,
    /// The relay's region, if it names one.
    pub region: Option<String>,
    /// Index of the group it came from, in the order given to [`Inbox::open`].
    pub group: usize,
    /// Whether it came live, after the stored ones.
    pub live: bool,
    /// When it was here: milliseconds since 1970.
    pub received_ms: u64,
}

impl Received {
    /// From the sender's clock to ours, for a live message only: of a stored one nobody knows when it arrived. Clocks of two
    /// machines may differ; a negative difference counts as 0.
    pub fn took(&self) -> Option<Duration> {
        self.live.then(|| {
            Duration::from_millis(self.received_ms.saturating_sub(self.message.written_ms))
        })
    }
}

/// What an inbox tells.
#[derive(Debug)]
pub enum InboxEvent {
    /// A message, for the first time.
    Message(Box<Received>),
    /// A wrap that did not pass a check.
    Refused {
        /// Who gave it.
        relay: RelayUrl,
        /// Id of the wrap, when it was readable at all.
        wrap: Option<EventId>,
        /// The check.
        reason: RefusedReason,
    },
    /// A relay serves us: stored messages are read, live ones will come.
    CaughtUp {
        /// Which.
        relay: RelayUrl,
        /// Its region.
        region: Option<String>,
        /// Index of its group.
        group: usize,
    },
    /// A relay is lost for now; another door, or the same one, is tried after `retry`.
    Lost {
        /// Which.
        relay: RelayUrl,
        /// Why.
        error: ConnectionError,
        /// When the next attempt comes; `None` when there is none.
        retry: Option<Duration>,
    },
}

/// Why something a relay sent was not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RefusedReason {
    /// Not even an event.
    #[error("the relay sent something that is not a Nostr event")]
    NotAnEvent,
    /// A check of the wrap, the seal or the message.
    #[error(transparent)]
    Unwrap(#[from] UnwrapError),
}

/// The filter for all wraps to `reader` that can hold a message written at or after `since`.
pub fn wraps_filter(reader: PublicKey, since: Option<Timestamp>) -> Filter {
    let filter = Filter::new()
        .kinds([WRAP.into(), EPHEMERAL_WRAP.into()])
        .pubkey(reader);
    match since {
        Some(since) => filter.since(Timestamp::from_secs(
            since.as_secs().saturating_sub(BACKDATED.as_secs()),
        )),
        None => filter,
    }
}

/// Messages from one or more groups of relays.
#[derive(Debug)]
pub struct Inbox {
    events: mpsc::Receiver<InboxEvent>,
    seen: Seen<(PublicKey, EventId)>,
    readers: Vec<tokio::task::JoinHandle<()>>,
}

impl Inbox {
    /// Starts reading as `identity`, one door of each group at a time.
    pub fn open(identity: &Identity, groups: Vec<Group>, options: &InboxOptions) -> Self {
        let (tell, events) = mpsc::channel(256);
        let readers = groups
            .into_iter()
            .enumerate()
            .map(|(number, group)| {
                let reader = Reader {
                    identity: identity.clone(),
                    options: options.clone(),
                    group,
                    number,
                    tell: tell.clone(),
                    wraps: Seen::new(REMEMBERED),
                    cursor: None,
                };
                tokio::spawn(reader.run())
            })
            .collect();
        Self {
            events,
            seen: Seen::new(REMEMBERED),
            readers,
        }
    }

    /// The next thing to tell; `None` when everything stored was read and nothing live is wanted, or no door is left.
    /// A message comes once, however many relays and wraps brought it: by (sender, computed id).
    pub async fn next(&mut self) -> Option<InboxEvent> {
        loop {
            let event = self.events.recv().await?;
            match &event {
                InboxEvent::Message(received) => {
                    if self
                        .seen
                        .insert((received.message.from, received.message.id))
                    {
                        return Some(event);
                    }
                }
                _ => return Some(event),
            }
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        for reader in &self.readers {
            reader.abort();
        }
    }
}

/// Reads one group; one task each.
struct Reader {
    identity: Identity,
    options: InboxOptions,
    group: Group,
    number: usize,
    tell: mpsc::Sender<InboxEvent>,
    wraps: Seen<EventId>,
    /// Where to go on at any door of the group that gives cursors: everything before it was taken.
    cursor: Option<String>,
}

/// One connection to a door, from AUTH to its end.
struct Visit {
    connection: Connection,
    url: RelayUrl,
    region: Option<String>,
    offers_cursor: bool,
    filter: Filter,
    subscription: String,
    pager: Pager,
    asked_again: bool,
    caught_up: bool,
}

impl Reader {
    async fn run(mut self) {
        let mut door = 0;
        let mut failures = 0;
        loop {
            let url = self.group.doors[door].url.clone();
            let caught_up_at = Instant::now();
            let error = match self.read(door).await {
                Ok(()) => return,
                Err(error) => error,
            };
            // A door that served a while was sound: begin with short waits again.
            failures = if caught_up_at.elapsed() > QUIET {
                1
            } else {
                failures + 1
            };
            door = (door + 1) % self.group.doors.len();
            let retry = self.retry_after(failures, &error);
            let over = retry.is_none();
            if self
                .tell
                .send(InboxEvent::Lost {
                    relay: url,
                    error,
                    retry,
                })
                .await
                .is_err()
                || over
            {
                return;
            }
            sleep(retry.unwrap_or_default()).await;
        }
    }

    /// The first round over all doors goes without a pause; a refused AUTH or a one-time read ends after that round.
    fn retry_after(&self, failures: usize, error: &ConnectionError) -> Option<Duration> {
        let doors = self.group.doors.len();
        if failures < doors {
            return Some(Duration::ZERO);
        }
        let refused = match error {
            ConnectionError::AuthFailed(_)
            | ConnectionError::Identity(_)
            | ConnectionError::NotLoopback => true,
            ConnectionError::Refused { prefix, .. } => {
                !matches!(prefix, Prefix::RateLimited | Prefix::Error | Prefix::Other)
            }
            _ => false,
        };
        if refused || !self.options.live {
            return None;
        }
        let doublings = u32::try_from((failures - doors).min(10)).unwrap_or(10);
        Some(RETRY_LAST.min(RETRY_FIRST * 2u32.pow(doublings)))
    }

    /// Reads one door: the live subscription first, so that nothing falls between stored and live, then older pages.
    async fn read(&mut self, door: usize) -> Result<(), ConnectionError> {
        let mut visit = self.visit(door).await?;
        self.ask(&mut visit).await?;
        loop {
            let Some(frame) = self.frame_or_quiet(&mut visit.connection).await? else {
                continue;
            };
            match frame {
                RelayFrame::Event { event, cursor, .. } => {
                    self.on_event(&mut visit, event.get(), cursor).await;
                }
                RelayFrame::Eose {
                    subscription,
                    finished,
                    cursor,
                } if subscription == visit.subscription => {
                    let over = self.on_eose(&mut visit, finished, cursor).await?;
                    if over {
                        visit.connection.close().await;
                        return Ok(());
                    }
                }
                RelayFrame::Closed {
                    subscription,
                    message,
                } if subscription == visit.subscription => {
                    self.on_closed(&mut visit, message).await?;
                }
                _ => {}
            }
        }
    }

    async fn visit(&self, door: usize) -> Result<Visit, ConnectionError> {
        let Door { url, info } = self.group.doors[door].clone();
        if self.options.loopback_only && !url.is_localhost() {
            return Err(ConnectionError::NotLoopback);
        }
        let mut connection = Connection::open(&url, self.options.observer.clone()).await?;
        connection
            .authenticate_if_challenged(&self.identity)
            .await?;
        Ok(Visit {
            connection,
            region: info.as_ref().and_then(RelayInfo::region).map(str::to_owned),
            offers_cursor: info.as_ref().is_some_and(RelayInfo::offers_cursor),
            url,
            filter: wraps_filter(self.identity.public_key(), self.options.since),
            subscription: String::new(),
            pager: Pager::default(),
            asked_again: false,
            caught_up: false,
        })
    }

    /// Asks for wraps, after the cursor where there is one.
    async fn ask(&self, visit: &mut Visit) -> Result<(), ConnectionError> {
        let cursor = visit
            .offers_cursor
            .then(|| self.cursor.as_deref().unwrap_or_default());
        let filter = std::slice::from_ref(&visit.filter);
        visit.subscription = visit.connection.subscribe_from(filter, cursor).await?;
        Ok(())
    }

    async fn on_event(&mut self, visit: &mut Visit, json: &str, cursor: Option<String>) {
        let event = Event::from_json(json).ok();
        let resumes = visit.offers_cursor && self.cursor.is_some();
        if let Some(event) = event.as_ref().filter(|_| !visit.caught_up && !resumes) {
            visit.pager.note(event.id, event.created_at);
        }
        self.take(&visit.url, visit.region.as_deref(), visit.caught_up, event)
            .await;
        if visit.caught_up && cursor.is_some() {
            self.cursor = cursor;
        }
    }

    /// Answers whether nothing more is wanted.
    async fn on_eose(
        &mut self,
        visit: &mut Visit,
        finished: bool,
        cursor: Option<String>,
    ) -> Result<bool, ConnectionError> {
        if visit.connection.is_challenged() && !visit.asked_again {
            // It knows nobody yet, so it may have left private messages out: ask again as somebody.
            visit.asked_again = true;
            visit.connection.unsubscribe(&visit.subscription).await?;
            visit.connection.authenticate(&self.identity).await?;
            self.ask(visit).await?;
            return Ok(false);
        }
        if visit.caught_up {
            return Ok(false);
        }
        let resumed = visit.offers_cursor && self.cursor.is_some() && cursor.is_some();
        if resumed && !finished {
            self.cursor = cursor;
            visit.connection.unsubscribe(&visit.subscription).await?;
            self.ask(visit).await?;
            return Ok(false);
        }
        if !resumed {
            self.read_older(visit).await?;
        }
        self.cursor = cursor.or(self.cursor.take());
        visit.caught_up = true;
        let event = InboxEvent::CaughtUp {
            relay: visit.url.clone(),
            region: visit.region.clone(),
            group: self.number,
        };
        let gone = self.tell.send(event).await.is_err();
        Ok(gone || !self.options.live)
    }

    async fn on_closed(
        &mut self,
        visit: &mut Visit,
        message: String,
    ) -> Result<(), ConnectionError> {
        let prefix = Prefix::of(&message);
        if prefix == Prefix::AuthRequired && !visit.asked_again {
            visit.asked_again = true;
            visit.connection.authenticate(&self.identity).await?;
            return self.ask(visit).await;
        }
        // Too old, or of a fleet that was made anew: everything is read again, and shown once.
        if message.starts_with("invalid: cursor:") && self.cursor.take().is_some() {
            return self.ask(visit).await;
        }
        Err(ConnectionError::Refused { prefix, message })
    }

    async fn read_older(&mut self, visit: &mut Visit) -> Result<(), ConnectionError> {
        while let Some(until) = visit.pager.next_until() {
            let filter = visit.filter.clone().until(until);
            let page = visit
                .connection
                .fetch(&[filter], Some(&self.identity))
                .await?;
            for raw in page {
                let event = Event::from_json(raw.get()).ok();
                if event
                    .as_ref()
                    .is_none_or(|event| visit.pager.note(event.id, event.created_at))
                {
                    self.take(&visit.url, visit.region.as_deref(), false, event)
                        .await;
                }
            }
        }
        Ok(())
    }

    /// The next frame, or `None` after a quiet spell, when a ping went out. A side that does not even answer pings is gone.
    async fn frame_or_quiet(
        &self,
        connection: &mut Connection,
    ) -> Result<Option<RelayFrame>, ConnectionError> {
        if let Ok(frame) = timeout(QUIET, connection.next_frame()).await {
            return frame.map(Some);
        }
        if connection.silent_for() > QUIET * 2 {
            return Err(ConnectionError::TooLate {
                what: "a ping",
                within: QUIET,
            });
        }
        connection.ping().await?;
        Ok(None)
    }

    async fn take(
        &mut self,
        url: &RelayUrl,
        region: Option<&str>,
        live: bool,
        event: Option<Event>,
    ) {
        let received_ms = unix_ms();
        let told = match event {
            None => Err((None, RefusedReason::NotAnEvent)),
            Some(event) if self.wraps.contains(&event.id) => return,
            Some(event) => {
                let opened = unwrap(&self.identity, &event);
                // Anybody can claim an id: what is not the wrap of that id must not keep the real one away.
                if !opened.as_ref().is_err_and(|reason| reason.is_forged_wrap()) {
                    self.wraps.insert(event.id);
                }
                opened.map_err(|reason| (Some(event.id), reason.into()))
            }
        };
        let event = match told {
            Ok(message) => {
                let relay = url.clone();
                let region = region.map(str::to_owned);
                InboxEvent::Message(Box::new(Received {
                    message,
                    relay,
                    region,
                    group: self.number,
                    live,
                    received_ms,
                }))
            }
            Err((wrap, reason)) => InboxEvent::Refused {
                relay: url.clone(),
                wrap,
                reason,
            },
        };
        // Nobody listens any more: the next send or the drop of the inbox ends this task.
        let _ = self.tell.send(event).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn wraps_are_never_asked_for_less_than_two_days_back(since in 0u64..4_000_000_000) {
            let reader = Identity::generate().public_key();
            let filter = wraps_filter(reader, Some(Timestamp::from_secs(since)));
            prop_assert!(filter.since.unwrap().as_secs() <= since.saturating_sub(2 * 24 * 3600));
            prop_assert!(wraps_filter(reader, None).since.is_none());
        }
    }
}
