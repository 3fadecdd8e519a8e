//! Spans of time as one number with a unit: `90d`, `12h`.

use std::time::Duration;

/// Units with their seconds.
const UNITS: [(&str, u64); 5] = [
    ("s", 1),
    ("m", 60),
    ("h", 3_600),
    ("d", 86_400),
    ("w", 604_800),
];

/// Longest span: JetStream counts nanoseconds in an `i64`, some 292 years.
const MAX_SECONDS: u64 = i64::MAX as u64 / 1_000_000_000;

/// Why a span was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not digits with a known unit.
    #[error("must be a whole number with a unit s, m, h, d or w, such as 90d")]
    Form,
    /// Longer than JetStream can count.
    #[error("must be less than 292 years")]
    TooLong,
}

/// The span of a text.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let (_, seconds) = UNITS
        .into_iter()
        .find(|(known, _)| *known == unit)
        .ok_or(DurationError::Form)?;
    if digits.is_empty() {
        return Err(DurationError::Form);
    }
    let number: u64 = digits.parse().map_err(|_| DurationError::TooLong)?;
    let total = number
        .checked_mul(seconds)
        .filter(|total| *total <= MAX_SECONDS)
        .ok_or(DurationError::TooLong)?;
    Ok(Duration::from_secs(total))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_span_is_one_number_with_a_unit() {
        for (text, seconds) in [
            ("0s", 0),
            ("90d", 7_776_000),
            ("2w", 1_209_600),
            ("36h", 129_600),
            ("5m", 300),
        ] {
            assert_eq!(
                parse_duration(text),
                Ok(Duration::from_secs(seconds)),
                "{text}"
            );
        }
        for text in ["", "d", "90", "90 d", "90D", "-1d", "1.5d", "1d12h", "1y"] {
            assert_eq!(parse_duration(text), Err(DurationError::Form), "{text}");
        }
        assert_eq!(parse_duration("15251w"), Err(DurationError::TooLong));
        assert_eq!(
            parse_duration("99999999999999999999s"),
            Err(DurationError::TooLong)
        );
    }

    proptest! {
        #[test]
        fn every_span_in_range_is_read(number in 0..=MAX_SECONDS / 604_800, unit in 0..UNITS.len()) {
            let (unit, seconds) = UNITS[unit];
            prop_assert_eq!(parse_duration(&format!("{number}{unit}")), Ok(Duration::from_secs(number * seconds)));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,24}|[0-9]{0,22}[smhdw]{0,2}") {
            let _ = parse_duration(&text);
        }
    }
}
