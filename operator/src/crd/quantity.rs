//! Sizes in bytes as Kubernetes writes them: `512Mi`, `4Gi`, `20G`. Whole numbers only.

/// Suffixes with their factors; the empty one is bytes.
const SUFFIXES: [(&str, u64); 9] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("", 1),
];

/// Largest size: JetStream counts bytes in an `i64`.
const MAX_BYTES: u64 = i64::MAX as u64;

/// Why a size was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not digits with a known suffix.
    #[error(
        "must be a whole number of bytes with an optional suffix Ki, Mi, Gi, Ti, k, M, G or T, such as 4Gi"
    )]
    Form,
    /// More than JetStream can count.
    #[error("must be less than 8388608Ti")]
    TooLarge,
}

/// Bytes of a quantity.
pub fn parse_quantity(text: &str) -> Result<u64, QuantityError> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, suffix) = text.split_at(end);
    let (_, factor) = SUFFIXES
        .into_iter()
        .find(|(known, _)| *known == suffix)
        .ok_or(QuantityError::Form)?;
    if digits.is_empty() {
        return Err(QuantityError::Form);
    }
    let number: u64 = digits.parse().map_err(|_| QuantityError::TooLarge)?;
    number
        .checked_mul(factor)
        .filter(|bytes| *bytes <= MAX_BYTES)
        .ok_or(QuantityError::TooLarge)
}

/// Bytes in the largest binary unit that divides them, for messages.
pub fn format_bytes(bytes: u64) -> String {
    let unit = SUFFIXES[..4]
        .iter()
        .rev()
        .find(|(_, factor)| bytes >= *factor && bytes.is_multiple_of(*factor));
    unit.map_or_else(
        || bytes.to_string(),
        |(suffix, factor)| format!("{}{suffix}", bytes / factor),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_as_kubernetes_writes_them() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("1Ki", 1024),
            ("4Gi", 4 << 30),
            ("20G", 20_000_000_000),
            ("007k", 7000),
        ] {
            assert_eq!(parse_quantity(text), Ok(bytes), "{text}");
        }
        for text in [
            "", "Gi", "4 Gi", "4gi", "4GiB", "-1", "1.5Gi", "1e3", "٤", "4Gi4",
        ] {
            assert_eq!(parse_quantity(text), Err(QuantityError::Form), "{text}");
        }
        for text in [
            "8388608Ti",
            "99999999999999999999",
            "18446744073709551615Ki",
        ] {
            assert_eq!(parse_quantity(text), Err(QuantityError::TooLarge), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_written_size_reads_back(bytes in 0..=MAX_BYTES, shift in 0..40_u32) {
            let bytes = bytes >> shift << shift;
            prop_assert_eq!(parse_quantity(&format_bytes(bytes)), Ok(bytes));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,24}|[0-9]{0,22}[KMGTik]{0,2}") {
            let _ = parse_quantity(&text);
        }
    }
}
