//! The route of an entry: all that NATS sees of it in the clear, and the subjects that spell it.

use crate::name::{Class, RegionName, canonical, excerpt};
use crate::stream::StreamName;

/// Message streams per region and generation.
pub const MESSAGE_SHARDS: u8 = 4;
/// State streams per region and generation.
pub const STATE_SHARDS: u8 = 2;
/// Buckets per class; a bucket is a keyed hash of the mailbox or the author.
pub const BUCKETS: u8 = 64;

/// First token of the subjects under which the log republishes, as hints for live delivery.
const HINT_PREFIX: &str = "rp";

/// Why a subject is no route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The text has not the form of a route's subject.
    #[error("subject {subject:?}: must be {expected}")]
    Form {
        /// The first 40 characters of the subject.
        subject: String,
        /// The form that was expected.
        expected: &'static str,
    },
}

/// Where an entry goes: region of origin, generation, class, shard and bucket. It is bound into the envelope as associated data.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Route {
    /// The region that writes the entry.
    pub region: RegionName,
    /// The incarnation of that region's streams; 0 for ephemeral events.
    pub generation: u32,
    /// Messages, state or ephemeral.
    pub class: Class,
    /// The shard, from 0; 0 for ephemeral events.
    pub shard: u8,
    /// The bucket, 0 to 63.
    pub bucket: u8,
}

impl Route {
    /// The route of a bucket on its home shard: messages to `bucket % 4`, state to `bucket % 2`, ephemeral events to generation 0, shard 0.
    #[must_use]
    pub fn home(region: RegionName, generation: u32, class: Class, bucket: u8) -> Self {
        let (generation, shard) = match class {
            Class::Messages => (generation, bucket % MESSAGE_SHARDS),
            Class::State => (generation, bucket % STATE_SHARDS),
            Class::Ephemeral => (0, 0),
        };
        Self {
            region,
            generation,
            class,
            shard,
            bucket,
        }
    }

    /// The same entry on another shard. It must be sealed again: the shard is bound into the envelope.
    #[must_use]
    pub fn on_shard(&self, shard: u8) -> Self {
        Self {
            shard,
            ..self.clone()
        }
    }

    /// `ev.<region>.<generation>.<shard>.<bucket>`, with `st` for state and `eph` for ephemeral events.
    #[must_use]
    pub fn subject(&self) -> String {
        format!(
            "{}.{}.{}.{}.{}",
            self.class.subject_prefix(),
            self.region,
            self.generation,
            self.shard,
            self.bucket
        )
    }

    /// Reads what [`Route::subject`] writes; every other text is refused.
    pub fn from_subject(subject: &str) -> Result<Self, RouteError> {
        let parse = || {
            let mut tokens = subject.split('.');
            let class = Class::from_subject_prefix(tokens.next()?)?;
            let region = tokens.next()?.parse().ok()?;
            Self::from_tail(region, class, tokens)
        };
        parse().ok_or_else(|| RouteError::Form {
            subject: excerpt(subject),
            expected: "<ev|st|eph>.<region>.<generation>.<shard>.<bucket 0-63>",
        })
    }

    /// `rp.<region>.<ev|st>.<generation>.<shard>.<bucket>`: where the stream republishes the entry. None for ephemeral events, which are in no stream.
    #[must_use]
    pub fn hint_subject(&self) -> Option<String> {
        self.class.stream_prefix()?;
        let class = self.class.subject_prefix();
        Some(format!(
            "{HINT_PREFIX}.{}.{class}.{}.{}.{}",
            self.region, self.generation, self.shard, self.bucket
        ))
    }

    /// Reads what [`Route::hint_subject`] writes; every other text is refused.
    pub fn from_hint_subject(subject: &str) -> Result<Self, RouteError> {
        let parse = || {
            let mut tokens = subject.split('.');
            (tokens.next()? == HINT_PREFIX).then_some(())?;
            let region = tokens.next()?.parse().ok()?;
            let class = Class::from_subject_prefix(tokens.next()?)?;
            class.stream_prefix()?;
            Self::from_tail(region, class, tokens)
        };
        parse().ok_or_else(|| RouteError::Form {
            subject: excerpt(subject),
            expected: "rp.<region>.<ev|st>.<generation>.<shard>.<bucket 0-63>",
        })
    }

    /// The stream that keeps the entry; none for ephemeral events.
    #[must_use]
    pub fn stream(&self) -> Option<StreamName> {
        StreamName::new(self.class, self.region.clone(), self.generation, self.shard)
    }

    fn from_tail<'a>(
        region: RegionName,
        class: Class,
        mut tokens: impl Iterator<Item = &'a str>,
    ) -> Option<Self> {
        let route = Self {
            region,
            class,
            generation: canonical(tokens.next()?)?,
            shard: canonical(tokens.next()?)?,
            bucket: canonical(tokens.next()?)?,
        };
        let unsharded =
            route.class != Class::Ephemeral || (route.generation == 0 && route.shard == 0);
        (tokens.next().is_none() && route.bucket < BUCKETS && unsharded).then_some(route)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn subjects_spell_the_whole_route() {
        let route = Route::home("eu".parse().unwrap(), 2, Class::Messages, 7);
        assert_eq!(route.subject(), "ev.eu.2.3.7");
        assert_eq!(route.hint_subject().unwrap(), "rp.eu.ev.2.3.7");
        assert_eq!(route.stream().unwrap().to_string(), "EV_eu_2_3");
        let state = Route::home("eu".parse().unwrap(), 2, Class::State, 7);
        assert_eq!(
            (
                state.subject().as_str(),
                state.stream().unwrap().to_string().as_str()
            ),
            ("st.eu.2.1.7", "ST_eu_2_1")
        );
        let ephemeral = Route::home("eu".parse().unwrap(), 2, Class::Ephemeral, 7);
        assert_eq!(ephemeral.subject(), "eph.eu.0.0.7");
        assert_eq!((ephemeral.hint_subject(), ephemeral.stream()), (None, None));
    }

    #[test]
    fn other_subjects_are_refused() {
        for bad in [
            "",
            "ev",
            "ev.eu.1.0",
            "ev.eu.1.0.64",
            "ev.eu.1.0.07",
            "ev.EU.1.0.0",
            "ev.eu.1.0.0.0",
            "xx.eu.1.0.0",
            "eph.eu.1.0.0",
            "eph.eu.0.1.0",
        ] {
            assert!(Route::from_subject(bad).is_err(), "{bad}");
        }
        for bad in [
            "rp",
            "ev.eu.1.0.0",
            "rp.eu.eph.0.0.1",
            "rp.eu.ev.1.0",
            "rp.eu.ev.1.0.1.1",
            "rp.*.ev.1.0.1",
        ] {
            assert!(Route::from_hint_subject(bad).is_err(), "{bad}");
        }
    }

    fn any_route() -> impl Strategy<Value = Route> {
        let class = prop_oneof![
            Just(Class::Messages),
            Just(Class::State),
            Just(Class::Ephemeral)
        ];
        (
            "[a-z][a-z0-9-]{0,30}",
            any::<u32>(),
            class,
            any::<u8>(),
            0..BUCKETS,
        )
            .prop_map(|(region, generation, class, shard, bucket)| {
                let home = Route::home(region.parse().unwrap(), generation, class, bucket);
                if class == Class::Ephemeral {
                    home
                } else {
                    home.on_shard(shard)
                }
            })
    }

    proptest! {
        #[test]
        fn every_route_reads_back(route in any_route()) {
            let hinted = route.hint_subject().map(|hint| Route::from_hint_subject(&hint).unwrap());
            prop_assert!(hinted.is_none_or(|hinted| hinted == route));
            prop_assert_eq!(Route::from_subject(&route.subject()).unwrap(), route);
        }

        #[test]
        fn any_text_parses_to_its_own_spelling_or_not_at_all(text in "(rp\\.)?(ev|st|eph)?(\\.[a-z0-9*>-]{0,4}){0,6}|\\PC*") {
            if let Ok(route) = Route::from_subject(&text) {
                prop_assert_eq!(route.subject(), text.clone());
            }
            if let Ok(route) = Route::from_hint_subject(&text) {
                prop_assert_eq!(route.hint_subject().unwrap(), text);
            }
        }
    }
}
