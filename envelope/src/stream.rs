//! Names of the log's streams. A mirror has the name of its origin, so a position means the same in every region.

use std::fmt;
use std::str::FromStr;

use crate::name::{Class, NameError, RegionName, canonical, excerpt};

/// One stream of the log: `EV_<region>_<generation>_<shard>` or `ST_...`. Ordered by class, region, generation, shard.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamName {
    /// [`Class::Messages`] or [`Class::State`]; the constructors make no other.
    pub class: Class,
    /// The region that writes the stream.
    pub region: RegionName,
    /// The incarnation of the region's streams; it grows when they are made anew.
    pub generation: u32,
    /// The shard, from 0.
    pub shard: u8,
}

impl StreamName {
    /// The stream of a class, or none: ephemeral events are in no stream.
    #[must_use]
    pub fn new(class: Class, region: RegionName, generation: u32, shard: u8) -> Option<Self> {
        class.stream_prefix()?;
        Some(Self {
            class,
            region,
            generation,
            shard,
        })
    }

    /// The subjects that the stream takes in its own region: `ev.<region>.<generation>.<shard>.*`.
    #[must_use]
    pub fn subjects(&self) -> String {
        format!(
            "{}.{}.{}.{}.*",
            self.class.subject_prefix(),
            self.region,
            self.generation,
            self.shard
        )
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = self.class.stream_prefix().unwrap_or_default();
        write!(
            f,
            "{prefix}_{}_{}_{}",
            self.region, self.generation, self.shard
        )
    }
}

impl fmt::Debug for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for StreamName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let parse = || {
            let mut parts = text.split('_');
            let name = Self {
                class: Class::from_stream_prefix(parts.next()?)?,
                region: parts.next()?.parse().ok()?,
                generation: canonical(parts.next()?)?,
                shard: canonical(parts.next()?)?,
            };
            parts.next().is_none().then_some(name)
        };
        parse().ok_or_else(|| NameError::Stream(excerpt(text)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_stream_name_has_one_spelling() {
        let name: StreamName = "EV_eu-west_3_1".parse().unwrap();
        assert_eq!(
            (
                name.class,
                name.region.as_str(),
                name.generation,
                name.shard
            ),
            (Class::Messages, "eu-west", 3, 1)
        );
        assert_eq!(name.subjects(), "ev.eu-west.3.1.*");
        for bad in [
            "",
            "EV",
            "EV_a_1",
            "EV_a_1_0_0",
            "EV_a_01_0",
            "EV_a_1_+0",
            "EV_a_1_256",
            "ev_a_1_0",
            "EPH_a_0_0",
            "EV_A_1_0",
        ] {
            assert!(bad.parse::<StreamName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ephemeral_events_have_no_stream() {
        assert_eq!(
            StreamName::new(Class::Ephemeral, "a".parse().unwrap(), 0, 0),
            None
        );
    }

    proptest! {
        #[test]
        fn every_stream_name_reads_back(state: bool, region in "[a-z][a-z0-9-]{0,30}", generation: u32, shard: u8) {
            let class = if state { Class::State } else { Class::Messages };
            let name = StreamName::new(class, region.parse().unwrap(), generation, shard).unwrap();
            prop_assert_eq!(name.to_string().parse::<StreamName>().unwrap(), name);
        }

        #[test]
        fn any_text_parses_to_its_own_spelling_or_not_at_all(text in "(EV|ST|X)?_?[a-z0-9-]{0,4}_?[0-9]{0,11}_?[0-9]{0,4}|\\PC*") {
            if let Ok(name) = text.parse::<StreamName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }
}
