//! Times and durations as people type them, and times as they are shown.

use std::time::Duration;

use nightjar_client::Timestamp;
use nightjar_client::client::unix_ms;

use crate::error::CliError;

/// Reads `90s`, `5m`, `2h`, `3d` or `1w`.
pub(crate) fn duration(text: &str) -> Result<Duration, CliError> {
    let refuse = || {
        CliError::bad_value(
            "duration",
            text,
            "a number and s, m, h, d or w: 90s, 5m, 2h",
        )
    };
    let unit_at = text
        .find(|c: char| !c.is_ascii_digit())
        .ok_or_else(refuse)?;
    let (number, unit) = text.split_at(unit_at);
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return Err(refuse()),
    };
    let number: u64 = number.parse().map_err(|_| refuse())?;
    number
        .checked_mul(seconds)
        .map(Duration::from_secs)
        .ok_or_else(refuse)
}

/// Reads a time in the past: a duration before now, or seconds since 1970.
pub(crate) fn since(text: &str) -> Result<Timestamp, CliError> {
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Timestamp::from_secs(seconds));
    }
    let ago = duration(text)
        .map_err(|_| CliError::bad_value("time", text, "2h, 3d, or seconds since 1970"))?;
    Ok(Timestamp::from_secs(
        (unix_ms() / 1000).saturating_sub(ago.as_secs()),
    ))
}

/// Milliseconds since 1970 as RFC 3339 in UTC; the number itself when no calendar reaches that far.
pub(crate) fn shown(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| unix_ms.to_string(), |time| format!("{time:.3}"))
}

/// A span as people say it, in its two largest units: `40s`, `3m 20s`, `2h`, `5d 3h`.
pub(crate) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3600 % 24, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
    ];
    let first = parts.iter().position(|(count, _)| *count > 0);
    let first = first.unwrap_or(parts.len() - 1);
    let shown = parts[first..].iter().take(2).enumerate();
    let shown = shown.filter(|(at, (count, _))| *at == 0 || *count > 0);
    shown
        .map(|(_, (count, unit))| format!("{count}{unit}"))
        .collect::<Vec<_>>()
        .join(" ")
}

/// How long ago that was; nothing for a time to come, which clocks that differ make.
pub(crate) fn since_time(time: jiff::Timestamp, now: jiff::Timestamp) -> Duration {
    Duration::try_from(now.duration_since(time)).unwrap_or_default()
}

/// A duration in milliseconds, rounded.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from((duration + Duration::from_micros(500)).as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_read_and_shown() {
        assert_eq!(duration("90s").unwrap(), Duration::from_secs(90));
        assert_eq!(duration("3d").unwrap(), Duration::from_secs(259_200));
        assert_eq!(since("1700000000").unwrap().as_secs(), 1_700_000_000);
        assert_eq!(shown(1_700_000_000_437), "2023-11-14T22:13:20.437Z");
        assert_eq!(shown(u64::MAX), u64::MAX.to_string());
        for text in [
            "",
            "h",
            "2",
            "2x",
            "-2h",
            "99999999999999999999s",
            "18446744073709551615w",
        ] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn spans_have_at_most_two_units() {
        let span = |seconds| span(Duration::from_secs(seconds));
        assert_eq!(span(0), "0s");
        assert_eq!(span(40), "40s");
        assert_eq!(span(200), "3m 20s");
        assert_eq!(span(7200), "2h");
        assert_eq!(span(7201), "2h");
        assert_eq!(span(442_800), "5d 3h");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_panic(text in "\\PC{0,20}") {
            let _ = since(&text);
        }
    }
}
