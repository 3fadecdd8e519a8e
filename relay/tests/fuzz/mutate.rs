//! Changes to an input: some that keep its form, some that break it. Pure but for the random numbers.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore};

/// Longer inputs are cut: the limit of a message is tested elsewhere.
const LONGEST: usize = 64 * 1024;

/// What the formats are made of, and what parsers like least.
const WORDS: [&[u8]; 56] = [
    b"\"EVENT\"",
    b"\"REQ\"",
    b"\"COUNT\"",
    b"\"CLOSE\"",
    b"\"AUTH\"",
    b"\"NEG-OPEN\"",
    b"\"NEG-MSG\"",
    b"\"NEG-CLOSE\"",
    b"\"id\":",
    b"\"pubkey\":",
    b"\"created_at\":",
    b"\"kind\":",
    b"\"tags\":",
    b"\"content\":",
    b"\"sig\":",
    b"\"ids\":",
    b"\"authors\":",
    b"\"kinds\":",
    b"\"since\":",
    b"\"until\":",
    b"\"limit\":",
    b"\"#p\":",
    b"\"#e\":",
    b"\"p\"",
    b"\"e\"",
    b"\"a\"",
    b"\"d\"",
    b"\"k\"",
    b"\"expiration\"",
    b"\"-\"",
    b"1059",
    b"21059",
    b"30000:",
    b"62",
    b"-1",
    b"0",
    b"9007199254740992",
    b"18446744073709551616",
    b"1e999",
    b"0.5",
    b"null",
    b"true",
    b"\\u0000",
    b"\\ud800",
    b"\xff",
    b"\xe2\x80\xae",
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b"\"",
    b"\n",
    b": ",
    b"- ",
    b"&a *a",
];

/// One to eight changes of `input`; `others` lend their parts.
pub(crate) fn mutate(random: &mut StdRng, input: &[u8], others: &[Vec<u8>]) -> Vec<u8> {
    let mut changed = input.to_vec();
    for _ in 0..random.random_range(1..=8) {
        change(random, &mut changed, others);
        changed.truncate(LONGEST);
    }
    changed
}

fn change(random: &mut StdRng, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
    let at = random.random_range(0..=bytes.len());
    let end = random.random_range(at..=bytes.len().min(at + 32));
    match random.random_range(0..9) {
        0 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << random.random_range(0..8);
            }
        }
        1 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = random.next_u32().to_le_bytes()[0];
            }
        }
        2 => drop(bytes.drain(at..end)),
        3 => {
            let part = bytes[at..end].to_vec();
            let times = random.random_range(1..=4);
            bytes.splice(at..at, part.repeat(times));
        }
        4 | 5 => {
            let word = WORDS.choose(random).copied().unwrap_or_default();
            let end = if random.random_bool(0.5) { at } else { end };
            bytes.splice(at..end, word.iter().copied());
        }
        6 => {
            let other = others.choose(random).map_or(&[][..], Vec::as_slice);
            let from = random.random_range(0..=other.len());
            let to = random.random_range(from..=other.len());
            bytes.splice(at..end, other[from..to].iter().copied());
        }
        7 => bytes.truncate(at),
        _ => {
            // A number becomes another one, a word the next.
            if let Some(byte) = bytes.get_mut(at)
                && byte.is_ascii_alphanumeric()
            {
                let next = byte.wrapping_add(1);
                *byte = if next.is_ascii_alphanumeric() {
                    next
                } else {
                    b'0'
                };
            }
        }
    }
}

/// Nesting that a parser which calls itself would not survive.
pub(crate) fn deep() -> Vec<Vec<u8>> {
    let depths = [64, 130, 20_000];
    let pieces: [&[u8]; 5] = [
        b"[",
        b"{\"a\":",
        b"[\"REQ\",\"s\",{\"#t\":[",
        b"- ",
        b"[[\"",
    ];
    depths
        .iter()
        .flat_map(|depth| pieces.map(|piece| piece.repeat(*depth)))
        .map(|bytes| bytes[..bytes.len().min(LONGEST)].to_vec())
        .collect()
}
