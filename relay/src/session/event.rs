//! EVENT: admission, the write policy if there is one, publish, OK.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use nightjar_envelope::Class;
use serde_json::value::RawValue;
use tracing::Instrument;

use super::{Services, Session, unix_millis};
use crate::admission::{InFlightPermit, ListRules, Refusal};
use crate::event::{Event, PublicKey, kind};
use crate::index::{Index, Known};
use crate::live::SharedReaders;
use crate::log::{PublishContext, Published};
use crate::message;
use crate::metrics::{EventResult, Stage};
use crate::plugin::{Source, Write};
use crate::session::outbox::Outbox;
use crate::visibility::Readers;

impl Session {
    /// Takes an EVENT. Its answer comes later; the next message may be taken at once.
    pub(super) fn on_event(&mut self, json: Bytes, raw: &RawValue) {
        let started = Instant::now();
        let permit = match self.services.admission.admit_event(
            &self.admission,
            &self.readers.load(),
            json.len(),
        ) {
            Ok(permit) => permit,
            Err(refusal) => {
                answer(
                    &self.services,
                    &self.outbox,
                    message::claimed_id(raw),
                    Err(refusal),
                    started,
                );
                return;
            }
        };
        let work = Publishing {
            services: self.services.clone(),
            readers: self.readers.clone(),
            source: self.admission.source.clone(),
            outbox: self.outbox.clone(),
            _permit: permit,
        };
        let claimed = message::claimed_id(raw);
        // The span holds sizes and times only: no key, no address, no id.
        let span = tracing::debug_span!("session", verb = "EVENT", event.bytes = json.len());
        self.publishes.spawn(
            async move {
                let result = work.run(json).await;
                answer(&work.services, &work.outbox, claimed, result, started);
            }
            .instrument(span),
        );
    }
}

/// One event under way. The permit gives its bytes back at the end.
struct Publishing {
    services: Arc<Services>,
    readers: SharedReaders,
    source: Source,
    outbox: Outbox,
    _permit: InFlightPermit,
}

impl Publishing {
    /// `Ok` holds the message of the OK.
    async fn run(&self, json: Bytes) -> Result<&'static str, Refusal> {
        let admitted_ms = unix_millis();
        let readers = self.readers.load_full();
        let is_stranger = readers.is_empty();
        let now_s = admitted_ms / 1000;
        let (index, of_recipients) = (self.services.index.clone(), self.services.index.clone());
        let is_rebuilding = self.services.readiness.refuses_reads().is_some();
        let is_known =
            move |recipient: &PublicKey| is_known(&of_recipients, recipient, is_rebuilding, now_s);
        let event = self
            .services
            .admission
            .verify_event(
                json,
                readers.clone(),
                now_s,
                is_known,
                move |event, lists, readers| {
                    refuse_unlisted(&index, event, lists, readers, is_rebuilding)?;
                    refuse_known(&index, event, now_s)
                },
            )
            .instrument(tracing::debug_span!("admission"))
            .await?;
        // Asked last: what the relay refuses by itself, or knows, is no question for a program.
        let decided = self
            .services
            .plugins
            .may_write(&event, &self.source, &readers, now_s)
            .await?;
        if decided == Write::Pretend {
            return Ok("");
        }
        if is_stranger && event.class() != Class::Ephemeral {
            self.services
                .admission
                .charge_unauthenticated(event.json().len())?;
        }
        let started = Instant::now();
        let published = self
            .services
            .publisher
            .publish(event, PublishContext { admitted_ms })
            .await;
        self.services
            .metrics
            .on_stage(Stage::publish, started.elapsed().as_secs_f64());
        match published {
            // The same for an ephemeral wrap whether or not anyone listens.
            Ok(Published::Stored | Published::HandedOver) => Ok(""),
            Ok(Published::Duplicate) => Err(Refusal::Duplicate),
            Err(error) => Err(Refusal::Publish(error)),
        }
    }
}

/// Whether a recipient of gift wraps is known here. Half an index does not know what is in the other half.
fn is_known(
    index: &Index,
    recipient: &PublicKey,
    is_rebuilding: bool,
    now_s: u64,
) -> Result<bool, Refusal> {
    match index.knows(recipient, now_s) {
        Ok(false) if is_rebuilding => Err(Refusal::Failed("the index is being rebuilt")),
        Ok(is_known) => Ok(is_known),
        Err(error) => {
            tracing::warn!(%error, "the index did not answer");
            Err(Refusal::Failed("the index did not answer"))
        }
    }
}

/// What the lists forbid is refused before anything is said of what is known. An index that is being rebuilt may not know yet who is allowed: it
/// must not turn a member away for good.
fn refuse_unlisted(
    index: &Index,
    event: &Event,
    lists: &ListRules,
    readers: &Readers,
    is_rebuilding: bool,
) -> Result<(), Refusal> {
    match index.lists() {
        Ok(fleet) => lists
            .check(event, readers, &fleet)
            .map_err(|refusal| match refusal {
                refusal if is_rebuilding && refusal.is_for_want_of_an_entry() => {
                    Refusal::Failed("this relay rebuilds its lists")
                }
                refusal => refusal,
            }),
        Err(error) => {
            tracing::warn!(%error, "the index did not answer");
            Err(Refusal::Failed("the index did not answer"))
        }
    }
}

/// What the index knows need not go to the log again.
fn refuse_known(index: &Index, event: &Event, now_s: u64) -> Result<(), Refusal> {
    if event.class() == Class::Ephemeral {
        return Ok(());
    }
    match index.status_of(event, now_s) {
        Ok(Known::Unknown) => Ok(()),
        Ok(Known::Present) => Err(Refusal::Duplicate),
        Ok(Known::Deleted | Known::Expired) if event.kind == kind::GIFT_WRAP => {
            Err(Refusal::Duplicate)
        }
        Ok(Known::Superseded) => Err(Refusal::Superseded),
        Ok(Known::Deleted) => Err(Refusal::Deleted),
        Ok(Known::Expired) => Err(Refusal::Expired { ago: 0 }),
        Err(error) => {
            tracing::warn!(%error, "the index did not answer");
            Err(Refusal::Failed("the index did not answer"))
        }
    }
}

fn answer(
    services: &Services,
    outbox: &Outbox,
    claimed: Option<String>,
    result: Result<&'static str, Refusal>,
    started: Instant,
) {
    let (accepted, text, counted) = match &result {
        Ok(text) => (true, (*text).to_owned(), EventResult::ok),
        Err(refusal) => (refusal.accepted(), refusal.to_string(), refusal.result()),
    };
    match claimed {
        Some(id) => outbox.push_text(message::ok(&id, accepted, &text)),
        // Nothing to name in an OK: the event has no usable id.
        None => outbox.push_text(message::notice(&text)),
    }
    services
        .metrics
        .on_event(counted, started.elapsed().as_secs_f64());
}
