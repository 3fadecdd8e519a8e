//! What replaceable and addressable events are unique by (NIP-01): kind, author and `d` value.

use super::{PublicKey, is_replaceable, parse_hex};

/// Kind, author and, for addressable kinds, the value of the `d` tag.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Coordinate {
    /// A replaceable (0, 3, 10000-19999) or addressable (30000-39999) kind.
    pub kind: u16,
    /// Author.
    pub pubkey: PublicKey,
    /// `d` value; empty for replaceable kinds.
    pub d: String,
}

impl Coordinate {
    /// The coordinate of an event with this kind, author and `d` value; `None` for kinds that have none.
    pub fn of(kind: u16, pubkey: PublicKey, d: &str) -> Option<Coordinate> {
        let d = match kind {
            _ if is_replaceable(kind) => String::new(),
            30_000..=39_999 => d.to_owned(),
            _ => return None,
        };
        Some(Coordinate { kind, pubkey, d })
    }

    /// Reads the value of an `a` tag, `kind:pubkey:d`. A `d` may contain colons.
    pub fn parse(text: &str) -> Option<Coordinate> {
        let mut parts = text.splitn(3, ':');
        let kind = parts.next()?.parse().ok()?;
        let pubkey = parse_hex::<32>(parts.next()?)?;
        Coordinate::of(kind, pubkey, parts.next().unwrap_or(""))
    }
}
