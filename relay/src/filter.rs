//! A NIP-01 filter: strict parsing, and whether an event matches. Pure.
//!
//! Lists given but empty match nothing. Fields that no NIP-01 filter has (`search` of NIP-50, say) are ignored, as is
//! common, except tag filters this relay could not honour: ignoring `#name` would answer with more than was asked.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use serde_json::{Map, Value};

use nightjar_envelope::MAX_CURSOR_CHARS;

use crate::event::{Event, EventId, PRIVATE_KINDS, PublicKey, is_replaceable, is_wrap, parse_hex};

/// Most values in one list of a filter.
pub const MAX_FILTER_VALUES: usize = 5_000;
/// Longest value in a tag filter, in bytes.
pub const MAX_TAG_VALUE_BYTES: usize = 1_024;

/// Why a filter is refused. `Display` is the reason of `CLOSED`, with its NIP-01 prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Something else than a JSON object.
    #[error("invalid: a filter must be a JSON object")]
    NotAnObject,
    /// A field has the wrong type, range or spelling.
    #[error("invalid: filter field {field} must be {expected}")]
    Field {
        /// The field's name.
        field: String,
        /// What NIP-01 asks for.
        expected: &'static str,
    },
    /// A list is too long.
    #[error("invalid: filter field {field} has {count} values, the limit is {limit}")]
    TooMany {
        /// The field's name.
        field: String,
        /// How many it has.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// A tag filter for a name of more than one letter.
    #[error(
        "invalid: tag filters are # and one letter a-z or A-Z; this one has {len} characters after #"
    )]
    TagName {
        /// Characters after the `#`.
        len: usize,
    },
}

/// One filter. Lists are sorted and without duplicates; `None` means that the field is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Event ids.
    pub ids: Option<Vec<EventId>>,
    /// Authors.
    pub authors: Option<Vec<PublicKey>>,
    /// Kinds.
    pub kinds: Option<Vec<u16>>,
    /// Tag filters: letter to wanted values of the tag's second element.
    pub tags: BTreeMap<u8, Vec<String>>,
    /// Least `created_at`, in seconds, inclusive.
    pub since: Option<u64>,
    /// Greatest `created_at`, in seconds, inclusive.
    pub until: Option<u64>,
    /// Most stored events to answer with.
    pub limit: Option<usize>,
    /// Where a REQ goes on (`docs/proposals/0001-arrival-cursor.md`); empty: it asks for a cursor. Says nothing of what matches.
    pub cursor: Option<String>,
}

impl Filter {
    /// Parses a filter from JSON text.
    pub fn parse(raw: &RawValue) -> Result<Filter, FilterError> {
        Filter::from_json(raw.get().as_bytes())
    }

    /// Parses a filter from JSON bytes.
    pub fn from_json(json: &[u8]) -> Result<Filter, FilterError> {
        let fields: Map<String, Value> =
            serde_json::from_slice(json).map_err(|_| FilterError::NotAnObject)?;
        let mut filter = Filter::default();
        for (name, value) in &fields {
            filter.set_field(name, value)?;
        }
        Ok(filter)
    }

    fn set_field(&mut self, name: &str, value: &Value) -> Result<(), FilterError> {
        match name {
            "ids" => self.ids = Some(hex_list(name, value)?),
            "authors" => self.authors = Some(hex_list(name, value)?),
            "kinds" => self.kinds = Some(kind_list(name, value)?),
            "since" => self.since = Some(integer(name, value)?),
            "until" => self.until = Some(integer(name, value)?),
            "limit" => {
                self.limit = Some(usize::try_from(integer(name, value)?).unwrap_or(usize::MAX))
            }
            "cursor" => self.cursor = Some(cursor(name, value)?),
            _ => {
                if let Some(tag) = name.strip_prefix('#') {
                    let letter = tag_letter(tag)?;
                    self.tags.insert(letter, tag_list(name, letter, value)?);
                }
            }
        }
        Ok(())
    }

    /// Caps the limit: `default` when the client gave none, never above `max`.
    pub fn cap_limit(&mut self, default: usize, max: usize) {
        self.limit = Some(self.limit.unwrap_or(default).min(max));
    }

    /// How many values its lists have: what an open subscription costs in memory.
    pub fn value_count(&self) -> usize {
        self.ids.as_ref().map_or(0, Vec::len)
            + self.authors.as_ref().map_or(0, Vec::len)
            + self.kinds.as_ref().map_or(0, Vec::len)
            + self.tags.values().map(Vec::len).sum::<usize>()
    }

    /// Whether the event matches, `limit` aside.
    pub fn matches(&self, event: &Event) -> bool {
        self.matches_head(&event.id, &event.pubkey, event.created_at, event.kind)
            && self.matches_tags(&event.tags)
    }

    /// Everything but tags.
    pub(crate) fn matches_head(
        &self,
        id: &EventId,
        pubkey: &PublicKey,
        created_at: u64,
        kind: u16,
    ) -> bool {
        self.since.is_none_or(|since| created_at >= since)
            && self.until.is_none_or(|until| created_at <= until)
            && self
                .kinds
                .as_ref()
                .is_none_or(|kinds| kinds.binary_search(&kind).is_ok())
            && self
                .ids
                .as_ref()
                .is_none_or(|ids| ids.binary_search(id).is_ok())
            && self
                .authors
                .as_ref()
                .is_none_or(|authors| authors.binary_search(pubkey).is_ok())
    }

    /// Tags only: for each letter asked for, one tag whose second element is among the values.
    pub(crate) fn matches_tags<S: AsRef<str>>(&self, tags: &[Vec<S>]) -> bool {
        self.tags.iter().all(|(letter, wanted)| {
            tags.iter().any(|tag| {
                tag.first()
                    .is_some_and(|name| name.as_ref().as_bytes() == [*letter])
                    && tag
                        .get(1)
                        .is_some_and(|value| contains(wanted, value.as_ref()))
            })
        })
    }

    /// Nothing can match: an empty list, a limit of 0, or `since` after `until`.
    pub fn matches_nothing(&self) -> bool {
        self.ids.as_ref().is_some_and(Vec::is_empty)
            || self.authors.as_ref().is_some_and(Vec::is_empty)
            || self.kinds.as_ref().is_some_and(Vec::is_empty)
            || self.tags.values().any(Vec::is_empty)
            || self.limit == Some(0)
            || self
                .since
                .zip(self.until)
                .is_some_and(|(since, until)| since > until)
    }

    /// How many stored events can match it at most, if its fields tell: ids are unique, and of a replaceable kind an author
    /// has one event.
    pub fn most_matches(&self) -> Option<usize> {
        let by_id = self.ids.as_ref().map(Vec::len);
        let by_coordinate = match (&self.authors, &self.kinds) {
            (Some(authors), Some(kinds)) if kinds.iter().copied().all(is_replaceable) => {
                Some(authors.len() * kinds.len())
            }
            _ => None,
        };
        by_id.into_iter().chain(by_coordinate).min()
    }

    /// Some event that anybody may read can match.
    pub fn may_match_public(&self) -> bool {
        self.kinds
            .as_ref()
            .is_none_or(|kinds| !kinds.iter().copied().all(is_wrap))
    }

    /// Some event that only its readers may read can match: a gift wrap, or a request to delete or to vanish.
    pub fn may_match_private(&self) -> bool {
        self.kinds.as_ref().is_none_or(|kinds| {
            kinds
                .iter()
                .copied()
                .any(|kind| PRIVATE_KINDS.contains(&kind))
        })
    }

    /// The filter asks for gift wraps by kind.
    pub fn names_private_kind(&self) -> bool {
        self.kinds
            .as_ref()
            .is_some_and(|kinds| kinds.iter().copied().any(is_wrap))
    }
}

fn contains(sorted: &[String], value: &str) -> bool {
    sorted
        .binary_search_by(|candidate| candidate.as_str().cmp(value))
        .is_ok()
}

fn tag_letter(name: &str) -> Result<u8, FilterError> {
    match name.as_bytes() {
        [letter] if letter.is_ascii_alphabetic() => Ok(*letter),
        _ => Err(FilterError::TagName {
            len: name.chars().count(),
        }),
    }
}

fn list<'a>(
    field: &str,
    expected: &'static str,
    value: &'a Value,
) -> Result<&'a [Value], FilterError> {
    let values = value.as_array().ok_or_else(|| wrong(field, expected))?;
    if values.len() > MAX_FILTER_VALUES {
        return Err(FilterError::TooMany {
            field: field.to_owned(),
            count: values.len(),
            limit: MAX_FILTER_VALUES,
        });
    }
    Ok(values)
}

fn sorted<T: Ord>(mut values: Vec<T>) -> Vec<T> {
    values.sort_unstable();
    values.dedup();
    values
}

fn hex_list(field: &str, value: &Value) -> Result<Vec<[u8; 32]>, FilterError> {
    const EXPECTED: &str = "a list of strings of 64 lowercase hex digits";
    let values = list(field, EXPECTED, value)?;
    let parsed: Option<Vec<_>> = values
        .iter()
        .map(|value| value.as_str().and_then(parse_hex::<32>))
        .collect();
    parsed.map(sorted).ok_or_else(|| wrong(field, EXPECTED))
}

fn kind_list(field: &str, value: &Value) -> Result<Vec<u16>, FilterError> {
    const EXPECTED: &str = "a list of integers from 0 to 65535";
    let values = list(field, EXPECTED, value)?;
    let parsed: Option<Vec<u16>> = values
        .iter()
        .map(|value| value.as_u64().and_then(|kind| u16::try_from(kind).ok()))
        .collect();
    parsed.map(sorted).ok_or_else(|| wrong(field, EXPECTED))
}

fn tag_list(field: &str, letter: u8, value: &Value) -> Result<Vec<String>, FilterError> {
    const TEXTS: &str = "a list of strings of at most 1024 bytes";
    const KEYS: &str = "a list of strings of 64 lowercase hex digits";
    let is_hex = matches!(letter, b'e' | b'p');
    let expected = if is_hex { KEYS } else { TEXTS };
    let values = list(field, expected, value)?;
    let fits = |text: &&str| {
        if is_hex {
            parse_hex::<32>(text).is_some()
        } else {
            text.len() <= MAX_TAG_VALUE_BYTES
        }
    };
    let parsed: Option<Vec<String>> = values
        .iter()
        .map(|value| value.as_str().filter(fits).map(str::to_owned))
        .collect();
    parsed.map(sorted).ok_or_else(|| wrong(field, expected))
}

fn integer(field: &str, value: &Value) -> Result<u64, FilterError> {
    value
        .as_u64()
        .ok_or_else(|| wrong(field, "an integer of 0 or more"))
}

fn cursor(field: &str, value: &Value) -> Result<String, FilterError> {
    const EXPECTED: &str = "a string of at most 32768 characters";
    value
        .as_str()
        .filter(|text| text.len() <= MAX_CURSOR_CHARS)
        .map(str::to_owned)
        .ok_or_else(|| wrong(field, EXPECTED))
}

/// `field` is one of ours or `#` and a letter, so it is short.
fn wrong(field: &str, expected: &'static str) -> FilterError {
    FilterError::Field {
        field: field.to_owned(),
        expected,
    }
}
