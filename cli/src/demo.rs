//! Demo identities of a local fleet, and the hello that proves the whole path: sealed in one region, decrypted in another.

use std::path::Path;
use std::time::Duration;

use nightjar_client::inbox::{Inbox, InboxEvent, InboxOptions};
use nightjar_client::{Client, ClientError, EventId, Identity, Options, RelayUrl, directory};
use nightjar_operator::local::RegionRelays;
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout_at};

use crate::code::Code;
use crate::error::CliError;
use crate::keyfile::{self, KeyFile};
use crate::person::demo_file;
use crate::running::relay_url;

/// The whole of publishing, sending and reading; a fleet that just became ready may still elect leaders.
const HELLO_WITHIN: Duration = Duration::from_secs(20);
const RETRY_AFTER: Duration = Duration::from_millis(250);
const TEXT: &str = "Hello Bob, nobody between us can read this.";

/// The hello as it arrived.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Hello {
    pub(crate) text: String,
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
    /// Region whose relay took it.
    pub(crate) sent_in: String,
    /// Region whose relay gave it.
    pub(crate) read_in: String,
    /// From the call that seals it to the decrypted text, durable acknowledgement included.
    pub(crate) took_ms: u64,
}

/// Makes or reads a demo identity.
pub(crate) fn identity(state: &Path, name: &str) -> Result<Identity, CliError> {
    let path = demo_file(state, name)?;
    if path.exists() {
        return KeyFile::read(&path)?.open_demo();
    }
    let identity = Identity::generate();
    keyfile::create_demo(&path, &identity)?;
    Ok(identity)
}

/// Publishes the demo identities' relays and sends a hello from the first region to the second (or within the only one).
pub(crate) async fn hello(state: &Path, regions: &[RegionRelays]) -> Result<Hello, CliError> {
    let (Some(first), Some(last)) = (regions.first(), regions.get(1).or(regions.first())) else {
        return Err(no_hello("the fleet has no region"));
    };
    let (alice, bob) = (identity(state, "alice")?, identity(state, "bob")?);
    let urls = |region: &RegionRelays| {
        region
            .relays
            .iter()
            .map(|url| relay_url(url))
            .collect::<Result<Vec<_>, _>>()
    };
    let (sending, reading) = (urls(first)?, urls(last)?);
    // One relay of each region is a list that fits NIP-17 and survives the loss of a region.
    let list: Vec<RelayUrl> = regions
        .iter()
        .filter_map(|region| region.relays.first())
        .take(directory::MAX_RELAYS)
        .map(|url| relay_url(url))
        .collect::<Result<_, _>>()?;
    let deadline = Instant::now() + HELLO_WITHIN;
    let mut sender = client(&alice, &sending);
    publish_lists(
        &mut sender,
        &mut client(&bob, &sending),
        &list,
        &sending,
        deadline,
    )
    .await?;
    let mut inbox = open_inbox(&bob, &reading, deadline).await?;

    let started = Instant::now();
    let (id, sent_in) = send(&mut sender, &bob, deadline).await?;
    let read_in = read(&mut inbox, id, deadline).await?;
    let took_ms = crate::when::millis(started.elapsed());
    sender.close().await;
    Ok(Hello {
        text: TEXT.to_owned(),
        from: "alice@demo",
        to: "bob@demo",
        sent_in: sent_in.unwrap_or_else(|| first.name.to_string()),
        read_in: read_in.unwrap_or_else(|| last.name.to_string()),
        took_ms,
    })
}

fn client(identity: &Identity, via: &[RelayUrl]) -> Client {
    Client::new(
        identity.clone(),
        Options {
            via: via.to_vec(),
            loopback_only: true,
            observer: None,
        },
    )
}

async fn publish_lists(
    alice: &mut Client,
    bob: &mut Client,
    list: &[RelayUrl],
    at: &[RelayUrl],
    deadline: Instant,
) -> Result<(), CliError> {
    for person in [alice, bob] {
        loop {
            match person.publish(directory::inbox_list(list), at).await {
                Ok(_) => break,
                Err(error) => pause_or_fail(error, deadline).await?,
            }
        }
    }
    Ok(())
}

async fn open_inbox(
    reader: &Identity,
    at: &[RelayUrl],
    deadline: Instant,
) -> Result<Inbox, CliError> {
    let mut asking = client(reader, at);
    let groups = asking.groups(at).await;
    let options = InboxOptions {
        since: None,
        live: true,
        loopback_only: true,
        observer: None,
    };
    let mut inbox = Inbox::open(reader, groups, &options);
    loop {
        match timeout_at(deadline, inbox.next()).await {
            Ok(Some(InboxEvent::CaughtUp { .. })) => return Ok(inbox),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return Err(no_hello("no relay let bob@demo read in time")),
        }
    }
}

async fn send(
    sender: &mut Client,
    reader: &Identity,
    deadline: Instant,
) -> Result<(EventId, Option<String>), CliError> {
    loop {
        match sender.send(&[reader.public_key()], TEXT).await {
            Ok(sent) => {
                let taken = sent
                    .copies
                    .iter()
                    .flat_map(|(_, deliveries)| deliveries)
                    .find_map(|one| one.taken.clone());
                return Ok((sent.id, taken.and_then(|taken| taken.region)));
            }
            Err(error) => pause_or_fail(error, deadline).await?,
        }
    }
}

async fn read(
    inbox: &mut Inbox,
    id: EventId,
    deadline: Instant,
) -> Result<Option<String>, CliError> {
    loop {
        match timeout_at(deadline, inbox.next()).await {
            Ok(Some(InboxEvent::Message(received))) if received.message.id == id => {
                return Ok(received.region);
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => {
                return Err(no_hello("it was accepted and did not arrive in time"));
            }
        }
    }
}

async fn pause_or_fail(error: ClientError, deadline: Instant) -> Result<(), CliError> {
    if Instant::now() + RETRY_AFTER > deadline {
        let cause = CliError::from(error);
        let mut failed = no_hello(&cause.message);
        failed.causes.extend(cause.causes);
        return Err(failed);
    }
    sleep(RETRY_AFTER).await;
    Ok(())
}

fn no_hello(why: &str) -> CliError {
    CliError::new(
        Code::NoHello,
        "the hello did not arrive; the fleet keeps running",
        "nightjar status",
    )
    .because(why)
}
