//! The fleet's keys: which epochs can be opened, which one seals, and what is derived from each.
//!
//! The file is JSON, `{"seal": 2, "open": [{"epoch": 1, "key": "<base64>", "state": "active"}, ...]}`. A new key is first added to `open` on every relay
//! and only then named in `seal`. A destroyed epoch keeps its number without a key, so that its envelopes are skipped and not waited for.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _, Mac};
use rand::TryRngCore;
use rand::rngs::OsRng;
use serde::Deserialize;
use sha2::Sha256;
use xaes_256_gcm::Xaes256Gcm;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::name::KeyEpoch;
use crate::route::BUCKETS;

/// Largest keyring file, in bytes.
const MAX_KEYRING_BYTES: usize = 64 * 1024;
/// Bytes of the event id's keyed hash that make up a message id.
const MSG_ID_BYTES: usize = 16;

/// Why a keyring was refused. No message holds any part of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// Longer than any keyring.
    #[error("keyring: {len} bytes is too long, the limit is {limit}")]
    TooLong {
        /// Bytes allowed.
        limit: usize,
        /// Bytes given.
        len: usize,
    },
    /// Not the JSON of a keyring. The parser's own message is left out: it may quote a key.
    #[error(r#"keyring: not {{"seal": n, "open": [{{"epoch", "key", "state"}}]}} at line {line}, column {column}"#)]
    Form {
        /// Line of the fault, from 1.
        line: usize,
        /// Column of the fault, from 1.
        column: usize,
    },
    /// An epoch appears twice.
    #[error("keyring: open: epoch {0} appears twice")]
    Repeated(KeyEpoch),
    /// A key is not 32 bytes of base64.
    #[error("keyring: open: the key of epoch {0} must be 32 bytes in base64")]
    Key(KeyEpoch),
    /// An active epoch without a key, or a destroyed one with a key.
    #[error("keyring: open: epoch {0} must have a key if active and none if destroyed")]
    State(KeyEpoch),
    /// The sealing epoch cannot seal.
    #[error("keyring: seal: epoch {0} is not an active epoch of \"open\"")]
    Seal(KeyEpoch),
    /// The system's random source failed.
    #[error("keyring: the system's random source failed")]
    Random,
}

/// Whether an epoch's envelopes can be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyState {
    /// The key is here.
    Active,
    /// The key was destroyed for good: its envelopes are skipped.
    Destroyed,
}

impl KeyState {
    /// The state as the keyring file spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Destroyed => "destroyed",
        }
    }
}

/// What a bucket is computed from. The labels keep a person's mailbox and authorship in unrelated buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BucketLabel {
    /// The recipient of a kind 1059 or 21059.
    Mailbox,
    /// The author of everything else.
    Author,
}

impl BucketLabel {
    fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Mailbox => b"mailbox",
            Self::Author => b"author",
        }
    }
}

/// An epoch's key and what is derived from it, once.
struct EpochKey {
    secret: Zeroizing<[u8; 32]>,
    bucket: Zeroizing<[u8; 32]>,
    msg_id: Zeroizing<[u8; 32]>,
    cipher: Xaes256Gcm,
    cursor_cipher: Xaes256Gcm,
    spending_cipher: Xaes256Gcm,
}

impl EpochKey {
    fn new(secret: Zeroizing<[u8; 32]>) -> Self {
        let derive = |label: &[u8]| {
            let mut derived = Zeroizing::new([0; 32]);
            Hkdf::<Sha256>::new(None, secret.as_slice())
                .expand(label, derived.as_mut_slice())
                .expect("32 bytes are one block of output");
            derived
        };
        let cipher = |key: &[u8; 32]| <Xaes256Gcm as xaes_256_gcm::aead::KeyInit>::new(key.into());
        Self {
            bucket: derive(b"bucket"),
            msg_id: derive(b"msgid"),
            cursor_cipher: cipher(&derive(b"cursor")),
            spending_cipher: cipher(&derive(b"spending")),
            cipher: cipher(&secret),
            secret,
        }
    }

    fn cipher_of(&self, purpose: Purpose) -> &Xaes256Gcm {
        match purpose {
            Purpose::Cursor => &self.cursor_cipher,
            Purpose::Spending => &self.spending_cipher,
        }
    }
}

/// What a key is derived for, beside envelopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Cursors.
    Cursor,
    /// What relays tell each other of the budgets of keys.
    Spending,
}

/// The fleet's keys. Cheap to clone; keys are wiped from memory with the last clone; `Debug` shows epochs and states only.
#[derive(Clone)]
pub struct Keyring {
    seal: KeyEpoch,
    sealing: Arc<EpochKey>,
    open: BTreeMap<KeyEpoch, Option<Arc<EpochKey>>>,
}

impl Keyring {
    /// Reads a keyring file.
    pub fn parse(json: &[u8]) -> Result<Self, KeyringError> {
        if json.len() > MAX_KEYRING_BYTES {
            return Err(KeyringError::TooLong {
                limit: MAX_KEYRING_BYTES,
                len: json.len(),
            });
        }
        let file: KeyringFile =
            serde_json::from_slice(json).map_err(|error| KeyringError::Form {
                line: error.line(),
                column: error.column(),
            })?;
        let mut open = BTreeMap::new();
        for entry in file.open {
            let epoch = entry.epoch;
            let key = match (entry.state, entry.key) {
                (KeyState::Active, Some(text)) => Some(Arc::new(EpochKey::new(
                    decode_key(&text).ok_or(KeyringError::Key(epoch))?,
                ))),
                (KeyState::Destroyed, None) => None,
                _ => return Err(KeyringError::State(epoch)),
            };
            if open.insert(epoch, key).is_some() {
                return Err(KeyringError::Repeated(epoch));
            }
        }
        Self::with(file.seal, open)
    }

    /// A new keyring with one random key, epoch 1. Only for a fleet that has no streams anywhere: keys are data.
    pub fn generate() -> Result<Self, KeyringError> {
        let mut secret = Zeroizing::new([0; 32]);
        OsRng
            .try_fill_bytes(secret.as_mut_slice())
            .map_err(|_| KeyringError::Random)?;
        Self::with(
            KeyEpoch(1),
            BTreeMap::from([(KeyEpoch(1), Some(Arc::new(EpochKey::new(secret))))]),
        )
    }

    /// The keyring file's text. It holds every key: write it with mode 0600 and by rename.
    #[must_use]
    pub fn to_json(&self) -> Zeroizing<String> {
        // One allocation that is never outgrown, so that no copy of a key is left behind.
        let mut text = Zeroizing::new(String::with_capacity(64 + self.open.len() * 128));
        text.push_str(&format!("{{\n  \"seal\": {},\n  \"open\": [\n", self.seal));
        for (index, (epoch, key)) in self.open.iter().enumerate() {
            if index > 0 {
                text.push_str(",\n");
            }
            text.push_str(&format!("    {{\"epoch\": {epoch}"));
            if let Some(key) = key {
                text.push_str(", \"key\": \"");
                STANDARD.encode_string(key.secret.as_slice(), &mut text);
                text.push('"');
            }
            text.push_str(&format!(", \"state\": \"{}\"}}", state_of(key).as_str()));
        }
        text.push_str("\n  ]\n}\n");
        text
    }

    /// The epoch that seals.
    #[must_use]
    pub fn seal_epoch(&self) -> KeyEpoch {
        self.seal
    }

    /// All known epochs and their states, in order.
    pub fn epochs(&self) -> impl Iterator<Item = (KeyEpoch, KeyState)> {
        self.open.iter().map(|(epoch, key)| (*epoch, state_of(key)))
    }

    /// The state of an epoch, or none if the keyring does not know it.
    #[must_use]
    pub fn state(&self, epoch: KeyEpoch) -> Option<KeyState> {
        self.open.get(&epoch).map(state_of)
    }

    /// The bucket (0 to 63) of a public key, under the sealing epoch's key.
    #[must_use]
    pub fn bucket(&self, label: BucketLabel, pubkey: &[u8; 32]) -> u8 {
        keyed_hash(&self.sealing.bucket, &[label.as_bytes(), pubkey])[0] % BUCKETS
    }

    /// The `Nats-Msg-Id` of an event, under the sealing epoch's key: 22 characters of base64url. It saves space only; it decides nothing.
    #[must_use]
    pub fn msg_id(&self, event_id: &[u8; 32]) -> String {
        URL_SAFE_NO_PAD.encode(&keyed_hash(&self.sealing.msg_id, &[event_id])[..MSG_ID_BYTES])
    }

    pub(crate) fn sealing_cipher(&self) -> &Xaes256Gcm {
        &self.sealing.cipher
    }

    /// The cipher of an epoch: none if unknown, `Some(None)` if destroyed.
    pub(crate) fn cipher(&self, epoch: KeyEpoch) -> Option<Option<&Xaes256Gcm>> {
        self.open
            .get(&epoch)
            .map(|key| key.as_ref().map(|key| &key.cipher))
    }

    /// The cipher of a purpose under the epoch that seals, and that epoch.
    pub(crate) fn sealing_cipher_of(&self, purpose: Purpose) -> (KeyEpoch, &Xaes256Gcm) {
        (self.seal, self.sealing.cipher_of(purpose))
    }

    /// The cipher of a purpose under an epoch, if that is known and not destroyed.
    pub(crate) fn cipher_of(&self, purpose: Purpose, epoch: KeyEpoch) -> Option<&Xaes256Gcm> {
        let key = self.open.get(&epoch)?.as_ref()?;
        Some(key.cipher_of(purpose))
    }

    fn with(
        seal: KeyEpoch,
        open: BTreeMap<KeyEpoch, Option<Arc<EpochKey>>>,
    ) -> Result<Self, KeyringError> {
        let sealing = open
            .get(&seal)
            .and_then(Option::clone)
            .ok_or(KeyringError::Seal(seal))?;
        Ok(Self {
            seal,
            sealing,
            open,
        })
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring")
            .field("seal", &self.seal)
            .field("epochs", &self.epochs().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyringFile {
    seal: KeyEpoch,
    open: Vec<KeyEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyEntry {
    epoch: KeyEpoch,
    key: Option<KeyText>,
    state: KeyState,
}

/// A key as text, wiped when dropped.
#[derive(Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
struct KeyText(String);

fn decode_key(text: &KeyText) -> Option<Zeroizing<[u8; 32]>> {
    let bytes = Zeroizing::new(STANDARD.decode(&text.0).ok()?);
    bytes.as_slice().try_into().ok().map(Zeroizing::new)
}

fn state_of(key: &Option<Arc<EpochKey>>) -> KeyState {
    if key.is_some() {
        KeyState::Active
    } else {
        KeyState::Destroyed
    }
}

fn keyed_hash(key: &Zeroizing<[u8; 32]>, parts: &[&[u8]]) -> [u8; 32] {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key.as_slice()).expect("HMAC takes keys of every length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

    fn parse(json: &str) -> Result<Keyring, KeyringError> {
        Keyring::parse(json.as_bytes())
    }

    #[test]
    fn a_generated_keyring_reads_back_and_is_not_repeated() {
        let keyring = Keyring::generate().unwrap();
        let again = parse(&keyring.to_json()).unwrap();
        assert_eq!(keyring.to_json().as_str(), again.to_json().as_str());
        assert_ne!(
            keyring.to_json().as_str(),
            Keyring::generate().unwrap().to_json().as_str()
        );
        assert_eq!(
            again.epochs().collect::<Vec<_>>(),
            [(KeyEpoch(1), KeyState::Active)]
        );
    }

    #[test]
    fn writing_never_outgrows_its_allocation() {
        let entries: Vec<String> = (0..300_u32)
            .map(|n| {
                format!(
                    r#"{{"epoch":{},"key":"{KEY}","state":"active"}}"#,
                    u32::MAX - n
                )
            })
            .collect();
        let keyring = parse(&format!(
            r#"{{"seal":{},"open":[{}]}}"#,
            u32::MAX,
            entries.join(",")
        ))
        .unwrap();
        assert!(keyring.to_json().len() <= 64 + 300 * 128);
    }

    #[test]
    fn faults_are_named_and_no_message_holds_a_key() {
        let cases = [
            ("", "line 1, column 0"),
            ("[]", "line 1"),
            (r#"{"seal":1,"open":[],"x":1}"#, "line 1"),
            (r#"{"seal":1,"open":[]}"#, "seal: epoch 1"),
            (
                &format!(r#"{{"seal":2,"open":[{{"epoch":1,"key":"{KEY}","state":"active"}}]}}"#),
                "seal: epoch 2",
            ),
            (
                &format!(
                    r#"{{"seal":1,"open":[{{"epoch":1,"key":"{KEY}","state":"destroyed"}}]}}"#
                ),
                "epoch 1 must have",
            ),
            (
                r#"{"seal":1,"open":[{"epoch":1,"state":"active"}]}"#,
                "epoch 1 must have",
            ),
            (
                r#"{"seal":1,"open":[{"epoch":1,"key":"AQEB","state":"active"}]}"#,
                "the key of epoch 1",
            ),
            (
                r#"{"seal":1,"open":[{"epoch":"AQEB","key":"AQEB","state":"active"}]}"#,
                "line 1",
            ),
            (
                &format!(
                    r#"{{"seal":1,"open":[{{"epoch":1,"key":"{KEY}","state":"active"}},{{"epoch":1,"state":"destroyed"}}]}}"#
                ),
                "epoch 1 appears twice",
            ),
        ];
        for (json, expected) in cases {
            let message = parse(json).unwrap_err().to_string();
            assert!(
                message.contains(expected) && !message.contains("AQEB"),
                "{json}: {message}"
            );
        }
    }

    #[test]
    fn a_keyring_file_has_a_size_limit() {
        assert!(matches!(
            parse(&" ".repeat(MAX_KEYRING_BYTES + 1)),
            Err(KeyringError::TooLong { .. })
        ));
    }

    #[test]
    fn debug_shows_no_key() {
        let keyring = parse(&format!(
            r#"{{"seal":1,"open":[{{"epoch":1,"key":"{KEY}","state":"active"}}]}}"#
        ))
        .unwrap();
        let shown = format!("{keyring:?}");
        assert!(
            !shown.contains("AQEB") && !shown.contains("1, 1, 1"),
            "{shown}"
        );
        assert!(shown.contains("Active"));
    }

    #[test]
    fn mailbox_and_author_buckets_are_unrelated_and_evenly_used() {
        let keyring = Keyring::generate().unwrap();
        let mut used = [0_u32; BUCKETS as usize];
        let mut equal = 0;
        for n in 0..6_400_u32 {
            let mut pubkey = [0; 32];
            pubkey[..4].copy_from_slice(&n.to_be_bytes());
            let mailbox = keyring.bucket(BucketLabel::Mailbox, &pubkey);
            used[usize::from(mailbox)] += 1;
            equal += u32::from(mailbox == keyring.bucket(BucketLabel::Author, &pubkey));
        }
        assert!(
            used.iter().all(|count| (40..200).contains(count)),
            "{used:?}"
        );
        assert!(
            equal < 250,
            "{equal} of 6,400 buckets are the same, about 100 are expected"
        );
    }

    #[test]
    fn message_ids_are_22_characters_and_differ_between_keys() {
        let (a, b) = (Keyring::generate().unwrap(), Keyring::generate().unwrap());
        assert_eq!(a.msg_id(&[7; 32]).len(), 22);
        assert_eq!(a.msg_id(&[7; 32]), a.msg_id(&[7; 32]));
        assert_ne!(a.msg_id(&[7; 32]), b.msg_id(&[7; 32]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes: Vec<u8>) {
            let _ = Keyring::parse(&bytes);
        }

        #[test]
        fn nearly_right_json_is_parsed_or_refused(
            seal in "-?[0-9]{1,11}", epoch in "-?[0-9]{1,11}", key in "\"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=\"|null|\"[A-Z=]{0,9}\"", state in "active|destroyed|open",
        ) {
            let json = format!(r#"{{"seal":{seal},"open":[{{"epoch":{epoch},"key":{key},"state":"{state}"}}]}}"#);
            if let Ok(keyring) = Keyring::parse(json.as_bytes()) {
                let again = Keyring::parse(keyring.to_json().as_bytes()).unwrap();
                prop_assert_eq!(again.to_json(), keyring.to_json());
            }
        }
    }
}
