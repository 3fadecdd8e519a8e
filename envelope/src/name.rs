//! The names that everything else is built of: regions, fleets, key epochs and classes of events.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::sync::Arc;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest region name, in bytes.
const MAX_REGION_BYTES: usize = 31;

/// Why a name was refused. The message holds at most the first 40 bytes of the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not `[a-z][a-z0-9-]{0,30}`.
    #[error("region name {0:?}: must be 1 to 31 of a-z, 0-9 and '-', and begin with a letter")]
    Region(String),
    /// Not 32 lowercase hex digits.
    #[error("fleet id {0:?}: must be 32 lowercase hex digits")]
    FleetId(String),
    /// Not `EV_<region>_<generation>_<shard>` or `ST_...`.
    #[error(
        "stream name {0:?}: must be EV_<region>_<generation>_<shard> or ST_<region>_<generation>_<shard>"
    )]
    Stream(String),
}

/// The first 40 characters of a refused text: enough to find it, never a whole message.
pub(crate) fn excerpt(text: &str) -> String {
    let mut short: String = text.chars().take(40).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// A region's name: `[a-z][a-z0-9-]{0,30}`. Never changed, and never given to another region. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionName(Arc<str>);

impl RegionName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RegionName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let bytes = text.as_bytes();
        let begins_well = bytes.first().is_some_and(u8::is_ascii_lowercase);
        let goes_on_well = bytes
            .iter()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
        if !begins_well || !goes_on_well || bytes.len() > MAX_REGION_BYTES {
            return Err(NameError::Region(excerpt(text)));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for RegionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RegionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for RegionName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// A fleet's identity: 16 random bytes, 32 lowercase hex digits in text. It is bound into every envelope.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FleetId([u8; 16]);

impl FleetId {
    /// The identity made of these bytes. They come from the caller's random source: this crate draws randomness for sealing only.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl FromStr for FleetId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let mut bytes = [0; 16];
        let refused = || NameError::FleetId(excerpt(text));
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(refused());
        }
        hex::decode_to_slice(text, &mut bytes).map_err(|_| refused())?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for FleetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for FleetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The number of one encryption key of the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyEpoch(pub u32);

impl fmt::Display for KeyEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How long the log keeps an event, and so which streams it goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Regular kinds and gift wraps: kept for the fleet's retention. Subjects `ev`, streams `EV`.
    Messages,
    /// Replaceable and addressable kinds, deletions (5) and vanish requests (62): no age limit. Subjects `st`, streams `ST`.
    State,
    /// Kinds 20000-29999: core NATS only, never stored. Subjects `eph`, no stream.
    Ephemeral,
}

impl Class {
    /// The class of an event kind (NIP-01 ranges, NIP-09, NIP-62).
    #[must_use]
    pub fn of_kind(kind: u16) -> Self {
        match kind {
            20_000..=29_999 => Self::Ephemeral,
            0 | 3 | 5 | 62 | 10_000..=19_999 | 30_000..=39_999 => Self::State,
            _ => Self::Messages,
        }
    }

    /// First token of the class's subjects.
    #[must_use]
    pub fn subject_prefix(self) -> &'static str {
        match self {
            Self::Messages => "ev",
            Self::State => "st",
            Self::Ephemeral => "eph",
        }
    }

    /// First part of the class's stream names; ephemeral events have no stream.
    #[must_use]
    pub fn stream_prefix(self) -> Option<&'static str> {
        match self {
            Self::Messages => Some("EV"),
            Self::State => Some("ST"),
            Self::Ephemeral => None,
        }
    }

    pub(crate) fn from_subject_prefix(prefix: &str) -> Option<Self> {
        [Self::Messages, Self::State, Self::Ephemeral]
            .into_iter()
            .find(|class| class.subject_prefix() == prefix)
    }

    pub(crate) fn from_stream_prefix(prefix: &str) -> Option<Self> {
        [Self::Messages, Self::State]
            .into_iter()
            .find(|class| class.stream_prefix() == Some(prefix))
    }
}

/// A decimal number in its one canonical spelling: no sign, no leading zero.
pub(crate) fn canonical<N: FromStr + ToString>(text: &str) -> Option<N> {
    let number: N = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// Reads a text form inside the visitor, where formats know the path and line of a refused value.
struct TextVisitor<T>(PhantomData<T>);

impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for TextVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

/// Text form for serde, for types that have `Display` and `FromStr`.
macro_rules! serde_as_text {
    ($name:ty) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(TextVisitor(PhantomData))
            }
        }
    };
}

serde_as_text!(RegionName);
serde_as_text!(FleetId);
serde_as_text!(crate::StreamName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn region_names_are_lowercase_short_and_begin_with_a_letter() {
        for good in ["a", "eu-west-1", "z9", "a------------------------------"] {
            assert_eq!(good.parse::<RegionName>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "A",
            "1a",
            "-a",
            "a_b",
            "a.b",
            "a*",
            "ä",
            "a234567890123456789012345678901b",
        ] {
            assert!(bad.parse::<RegionName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_refused_name_is_quoted_in_part_only() {
        let long = "X".repeat(5_000);
        let message = long.parse::<RegionName>().unwrap_err().to_string();
        assert!(message.len() < 200, "{message}");
    }

    #[test]
    fn fleet_ids_have_one_spelling() {
        let id: FleetId = "000102030405060708090a0b0c0d0e0f".parse().unwrap();
        assert_eq!(id.to_string(), "000102030405060708090a0b0c0d0e0f");
        for bad in [
            "",
            "00",
            "000102030405060708090A0B0C0D0E0F",
            "000102030405060708090a0b0c0d0e0g",
        ] {
            assert!(bad.parse::<FleetId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn kinds_fall_into_classes_by_their_nip_01_range() {
        for kind in [0, 3, 5, 62, 10_000, 10_050, 19_999, 30_000, 39_999] {
            assert_eq!(Class::of_kind(kind), Class::State, "{kind}");
        }
        for kind in [20_000, 21_059, 29_999] {
            assert_eq!(Class::of_kind(kind), Class::Ephemeral, "{kind}");
        }
        for kind in [1, 2, 4, 7, 1_059, 9_999, 40_000, 65_535] {
            assert_eq!(Class::of_kind(kind), Class::Messages, "{kind}");
        }
    }
}
