//! Size classes: an envelope is always 512 bytes, 1 KiB, 2 KiB ... 512 KiB long, so its length says little.

/// Clear header: version, key epoch, nonce.
pub(crate) const HEADER_BYTES: usize = 1 + 4 + 24;
/// Authentication tag of AES-256-GCM.
pub(crate) const TAG_BYTES: usize = 16;
/// Plaintext ahead of the event: flags, admission time, length of the event.
pub(crate) const PREFIX_BYTES: usize = 1 + 8 + 4;
/// Trace context: trace id, span id, flags.
pub(crate) const TRACE_BYTES: usize = 16 + 8 + 1;

/// Length of the smallest size class, in bytes.
const SMALLEST_ENVELOPE_BYTES: usize = 512;
/// Number of size classes.
const SIZE_CLASSES: u8 = 11;

/// Length of the largest envelope, in bytes.
pub const MAX_ENVELOPE_BYTES: usize = SMALLEST_ENVELOPE_BYTES << (SIZE_CLASSES - 1);

/// Largest event that fits into an envelope, in bytes of JSON. The trace context is always counted, so that tracing decides nothing.
pub const MAX_EVENT_BYTES: usize =
    MAX_ENVELOPE_BYTES - HEADER_BYTES - TAG_BYTES - PREFIX_BYTES - TRACE_BYTES;

/// The size class (0 to 10) whose envelopes have exactly this length.
pub(crate) fn class_of(envelope_bytes: usize) -> Option<u8> {
    (0..SIZE_CLASSES).find(|class| envelope_len(*class) == envelope_bytes)
}

/// The smallest size class that holds a plaintext of this length.
pub(crate) fn class_for(plaintext_bytes: usize) -> Option<u8> {
    (0..SIZE_CLASSES).find(|class| plaintext_len(*class) >= plaintext_bytes)
}

/// Length of a class's envelopes, in bytes.
pub(crate) fn envelope_len(class: u8) -> usize {
    SMALLEST_ENVELOPE_BYTES << class
}

/// Length of a class's padded plaintext, in bytes.
pub(crate) fn plaintext_len(class: u8) -> usize {
    envelope_len(class) - HEADER_BYTES - TAG_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_the_powers_of_two_from_512_bytes_to_512_kib() {
        assert_eq!(
            (0..SIZE_CLASSES).map(envelope_len).collect::<Vec<_>>(),
            (9..=19).map(|n| 1 << n).collect::<Vec<_>>()
        );
        assert_eq!(MAX_ENVELOPE_BYTES, 512 * 1024);
        assert_eq!(class_of(511), None);
        assert_eq!(class_of(1024), Some(1));
        assert_eq!(class_of(0), None);
    }

    #[test]
    fn a_plaintext_gets_the_smallest_class_that_holds_it() {
        assert_eq!(class_for(0), Some(0));
        assert_eq!(class_for(512 - 45), Some(0));
        assert_eq!(class_for(512 - 44), Some(1));
        assert_eq!(class_for(512 * 1024 - 45), Some(10));
        assert_eq!(class_for(512 * 1024 - 44), None);
    }
}
