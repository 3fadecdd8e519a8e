//! Where a delivered entry stands: the `$JS.ACK.` reply subject of NATS ADR-15, in both of its forms.

/// What the reply subject of a JetStream delivery tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Sequence in the stream.
    pub(crate) stream_sequence: u64,
    /// Sequence in the consumer, without gaps.
    pub(crate) consumer_sequence: u64,
    /// When NATS stored it, in nanoseconds since the epoch; mirrors keep it.
    pub(crate) time_ns: u64,
    /// Entries that the consumer has still to deliver.
    pub(crate) pending: u64,
}

impl Place {
    /// Parses `$JS.ACK.<stream>.<consumer>.<n>.<sseq>.<cseq>.<ns>.<pending>` or the form with domain and account first.
    pub(crate) fn parse(reply: &str) -> Option<Self> {
        let mut tokens = reply.strip_prefix("$JS.ACK.")?.split('.');
        let leading = match reply.split('.').count() {
            9 => 2,
            11.. => 4,
            _ => return None,
        };
        let mut numbers = tokens.by_ref().skip(leading).map(str::parse::<u64>);
        let mut number = || numbers.next()?.ok();
        let _delivered = number()?;
        Some(Self {
            stream_sequence: number()?,
            consumer_sequence: number()?,
            time_ns: number()?,
            pending: number()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PLACE: Place = Place {
        stream_sequence: 20,
        consumer_sequence: 3,
        time_ns: 1_700_000_000_000_000_001,
        pending: 7,
    };

    #[test]
    fn both_forms_say_the_same() {
        let v1 = "$JS.ACK.EV_a_1_0.f00.1.20.3.1700000000000000001.7";
        let v2 = "$JS.ACK.a.ACCHASH.EV_a_1_0.f00.1.20.3.1700000000000000001.7";
        assert_eq!(Place::parse(v1), Some(PLACE));
        assert_eq!(Place::parse(v2), Some(PLACE));
        assert_eq!(Place::parse(&format!("{v2}.token")), Some(PLACE));
    }

    #[test]
    fn other_subjects_have_no_place() {
        for reply in ["", "_INBOX.x", "$JS.ACK.a.b.1.2.3", "$JS.ACK.a.b.1.x.3.4.5"] {
            assert_eq!(Place::parse(reply), None, "{reply}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(reply in "(\\$JS\\.ACK\\.)?[a-z0-9.]{0,80}") {
            let _ = Place::parse(&reply);
        }
    }
}
