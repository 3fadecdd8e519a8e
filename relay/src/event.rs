//! A Nostr event: parsed strictly, verified, its JSON kept as bytes.
