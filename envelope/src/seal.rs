//! Sealing and opening. One envelope holds one event, or one management call, under the fleet's key, bound to its fleet and its
//! route.
//!
//! `version u8 | key epoch u32 | nonce 24 | ciphertext and tag`, all numbers big-endian. Plaintext:
//! `flags u8 | admitted_ms u64 | 25 bytes of trace context if flagged | length u32 | JSON | zeros up to the size class`.

use std::fmt;

use rand::TryRngCore;
use rand::rngs::OsRng;
use xaes_256_gcm::Nonce;
use xaes_256_gcm::aead::AeadInOut;
use zeroize::Zeroize;

use crate::keyring::Keyring;
use crate::name::{FleetId, KeyEpoch};
use crate::route::Route;
use crate::size::{self, HEADER_BYTES, MAX_EVENT_BYTES, PREFIX_BYTES, TRACE_BYTES};

/// The envelope version that this crate writes and reads.
pub const VERSION: u8 = 1;

const NONCE_BYTES: usize = 24;
/// Flag: a trace context follows the admission time.
const FLAG_TRACE: u8 = 1;
/// Flag: the JSON is a management call, not an event. A relay that does not know it skips the envelope as damaged.
const FLAG_MANAGEMENT: u8 = 2;

/// What the JSON of a body is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BodyKind {
    /// An event of a client.
    #[default]
    Event,
    /// A signed call that changes the fleet's lists of keys, events and kinds.
    Management,
}

/// W3C trace context. It travels inside the sealed body only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// 16 bytes, not all zero.
    pub trace_id: [u8; 16],
    /// 8 bytes, not all zero.
    pub span_id: [u8; 8],
    /// W3C trace flags; bit 0 is "sampled".
    pub flags: u8,
}

/// What is sealed.
#[derive(Clone, Copy)]
pub struct Body<'a> {
    /// When the relay admitted the event: Unix time in milliseconds.
    pub admitted_ms: u64,
    /// The publisher's trace, if sampled.
    pub trace: Option<TraceContext>,
    /// What `json` is.
    pub kind: BodyKind,
    /// The event as it came from the client, or the call; up to [`MAX_EVENT_BYTES`].
    pub json: &'a [u8],
}

impl fmt::Debug for Body<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("admitted_ms", &self.admitted_ms)
            .field("kind", &self.kind)
            .field("json_bytes", &self.json.len())
            .finish_non_exhaustive()
    }
}

/// What was inside an envelope. `Debug` shows the length only.
#[derive(Clone, PartialEq, Eq)]
pub struct OpenedBody {
    /// The key epoch that opened it.
    pub epoch: KeyEpoch,
    /// When the publishing relay admitted the event: Unix time in milliseconds.
    pub admitted_ms: u64,
    /// The publisher's trace, if sampled.
    pub trace: Option<TraceContext>,
    /// What `json` is.
    pub kind: BodyKind,
    /// The bytes, as sealed. Whether they are JSON is not looked at here.
    pub json: Vec<u8>,
}

impl fmt::Debug for OpenedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenedBody")
            .field("epoch", &self.epoch)
            .field("admitted_ms", &self.admitted_ms)
            .field("kind", &self.kind)
            .field("json_bytes", &self.json.len())
            .finish_non_exhaustive()
    }
}

/// Why an event was not sealed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The event fits no envelope.
    #[error("event is {len} bytes, the limit is {limit}")]
    TooLarge {
        /// Bytes allowed: [`MAX_EVENT_BYTES`].
        limit: usize,
        /// Bytes given.
        len: usize,
    },
    /// The system's random source failed.
    #[error("the system's random source failed")]
    Random,
}

/// Why an envelope was not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The keyring does not know the epoch: wait for the key, the entry may be good.
    #[error("key epoch {0} is not in the keyring")]
    UnknownEpoch(KeyEpoch),
    /// The epoch's key was destroyed: skip the entry.
    #[error("key epoch {0} was destroyed")]
    DestroyedEpoch(KeyEpoch),
    /// The key is here and the envelope is not what it should be: skip the entry and keep a record.
    #[error("damaged envelope: {0}")]
    Damaged(DamageReason),
    /// Written by a later version, or a damaged first byte: the two cannot be told apart.
    #[error("envelope version {0} is not supported, this relay reads version {VERSION}")]
    UnsupportedVersion(u8),
}

/// What is wrong with a damaged envelope. A closed set, so that it can be a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DamageReason {
    /// The envelope's length is no size class.
    Size,
    /// The tag does not fit: changed, moved to another route, of another fleet, or sealed with another key.
    Tag,
    /// A flag that version 1 does not have.
    Flags,
    /// The length of the JSON goes beyond the plaintext.
    Length,
    /// The padding is not all zero.
    Padding,
}

impl DamageReason {
    /// The reason as a metric label: `size`, `tag`, `flags`, `length` or `padding`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Size => "size",
            Self::Tag => "tag",
            Self::Flags => "flags",
            Self::Length => "length",
            Self::Padding => "padding",
        }
    }
}

impl fmt::Display for DamageReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Seals an event for one route, under the keyring's sealing epoch and a fresh random nonce.
pub fn seal(
    keyring: &Keyring,
    fleet: &FleetId,
    route: &Route,
    body: &Body<'_>,
) -> Result<Vec<u8>, SealError> {
    let mut nonce = [0; NONCE_BYTES];
    OsRng
        .try_fill_bytes(&mut nonce)
        .map_err(|_| SealError::Random)?;
    seal_with_nonce(keyring, fleet, route, body, nonce)
}

/// Opens an envelope that came on one route.
pub fn open(
    keyring: &Keyring,
    fleet: &FleetId,
    route: &Route,
    envelope: &[u8],
) -> Result<OpenedBody, OpenError> {
    let damaged = OpenError::Damaged;
    let version = *envelope.first().ok_or(damaged(DamageReason::Size))?;
    if version != VERSION {
        return Err(OpenError::UnsupportedVersion(version));
    }
    let size_class = size::class_of(envelope.len()).ok_or(damaged(DamageReason::Size))?;
    let (header, sealed) = envelope.split_at(HEADER_BYTES);
    let epoch = KeyEpoch(u32::from_be_bytes([
        header[1], header[2], header[3], header[4],
    ]));
    let cipher = keyring
        .cipher(epoch)
        .ok_or(OpenError::UnknownEpoch(epoch))?
        .ok_or(OpenError::DestroyedEpoch(epoch))?;
    let nonce = <&Nonce>::try_from(&header[5..]).expect("the header ends with the nonce");
    let mut plaintext = sealed.to_vec();
    cipher
        .decrypt_in_place(
            nonce,
            &associated_data(header, fleet, route, size_class),
            &mut plaintext,
        )
        .map_err(|_| damaged(DamageReason::Tag))?;
    parse_plaintext(epoch, plaintext).map_err(damaged)
}

/// Nonces must never repeat under one key: outside of this file only the golden vectors' test calls this.
fn seal_with_nonce(
    keyring: &Keyring,
    fleet: &FleetId,
    route: &Route,
    body: &Body<'_>,
    nonce: [u8; NONCE_BYTES],
) -> Result<Vec<u8>, SealError> {
    let too_large = SealError::TooLarge {
        limit: MAX_EVENT_BYTES,
        len: body.json.len(),
    };
    if body.json.len() > MAX_EVENT_BYTES {
        return Err(too_large);
    }
    let trace_bytes = if body.trace.is_some() { TRACE_BYTES } else { 0 };
    let size_class =
        size::class_for(PREFIX_BYTES + trace_bytes + body.json.len()).ok_or(too_large.clone())?;
    let json_len = u32::try_from(body.json.len()).map_err(|_| too_large)?;

    // The whole envelope is laid out in one buffer and its tail is then encrypted in place.
    let mut envelope = Vec::with_capacity(size::envelope_len(size_class));
    envelope.push(VERSION);
    envelope.extend(keyring.seal_epoch().0.to_be_bytes());
    envelope.extend(nonce);
    envelope.push(flags_of(body));
    envelope.extend(body.admitted_ms.to_be_bytes());
    if let Some(trace) = &body.trace {
        envelope.extend(trace.trace_id);
        envelope.extend(trace.span_id);
        envelope.push(trace.flags);
    }
    envelope.extend(json_len.to_be_bytes());
    envelope.extend(body.json);
    envelope.resize(HEADER_BYTES + size::plaintext_len(size_class), 0);

    let (header, plaintext) = envelope.split_at_mut(HEADER_BYTES);
    let tag = keyring
        .sealing_cipher()
        .encrypt_inout_detached(
            (&nonce).into(),
            &associated_data(header, fleet, route, size_class),
            plaintext.into(),
        )
        .expect("512 KiB is far below the limit of AES-GCM");
    envelope.extend_from_slice(&tag);
    Ok(envelope)
}

fn flags_of(body: &Body<'_>) -> u8 {
    let trace = if body.trace.is_some() { FLAG_TRACE } else { 0 };
    match body.kind {
        BodyKind::Event => trace,
        BodyKind::Management => trace | FLAG_MANAGEMENT,
    }
}

/// The clear header and then, each with its length as one byte ahead: fleet id, origin region, generation, class, shard, bucket, size class.
fn associated_data(header: &[u8], fleet: &FleetId, route: &Route, size_class: u8) -> Vec<u8> {
    let fields: [&[u8]; 7] = [
        fleet.as_bytes(),
        route.region.as_str().as_bytes(),
        &route.generation.to_be_bytes(),
        route.class.subject_prefix().as_bytes(),
        &[route.shard],
        &[route.bucket],
        &[size_class],
    ];
    let mut data = Vec::with_capacity(header.len() + 7 + 16 + 31 + 4 + 3 + 3);
    data.extend_from_slice(header);
    for field in fields {
        data.push(u8::try_from(field.len()).expect("no field is longer than a region name"));
        data.extend_from_slice(field);
    }
    data
}

fn parse_plaintext(epoch: KeyEpoch, mut plaintext: Vec<u8>) -> Result<OpenedBody, DamageReason> {
    let mut rest = plaintext.as_slice();
    let [flags] = take(&mut rest)?;
    if flags & !(FLAG_TRACE | FLAG_MANAGEMENT) != 0 {
        return Err(DamageReason::Flags);
    }
    let kind = if flags & FLAG_MANAGEMENT == 0 {
        BodyKind::Event
    } else {
        BodyKind::Management
    };
    let admitted_ms = u64::from_be_bytes(take(&mut rest)?);
    let trace = if flags & FLAG_TRACE == 0 {
        None
    } else {
        let (trace_id, span_id, [flags]) = (take(&mut rest)?, take(&mut rest)?, take(&mut rest)?);
        Some(TraceContext {
            trace_id,
            span_id,
            flags,
        })
    };
    let json_len = u32::from_be_bytes(take(&mut rest)?) as usize;
    let padding = rest.get(json_len..).ok_or(DamageReason::Length)?;
    if padding.iter().any(|byte| *byte != 0) {
        return Err(DamageReason::Padding);
    }
    // The JSON stays in its buffer: what stands before it is moved out, the padding is cut.
    let start = plaintext.len() - rest.len();
    plaintext.truncate(start + json_len);
    plaintext.drain(..start);
    Ok(OpenedBody {
        epoch,
        admitted_ms,
        trace,
        kind,
        json: plaintext,
    })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], DamageReason> {
    let (head, tail) = rest.split_first_chunk().ok_or(DamageReason::Length)?;
    *rest = tail;
    Ok(*head)
}

impl OpenedBody {
    /// Wipes the bytes, for callers that keep it no longer.
    pub fn wipe(&mut self) {
        self.json.zeroize();
    }
}

#[cfg(test)]
#[path = "seal_tests.rs"]
mod tests;
