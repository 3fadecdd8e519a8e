//! Small sealed messages beside the envelope: cursors, and what relays tell each other of the budgets of keys.
//!
//! `version u8 | key epoch u32 | nonce 24 | ciphertext and tag`, numbers big-endian. The key is derived from the epoch's key, one for each purpose.
//! Associated data: what stands before the ciphertext, then what the message is bound to. Plaintexts are padded with zeros.

use rand::TryRngCore;
use rand::rngs::OsRng;
use xaes_256_gcm::Nonce;
use xaes_256_gcm::aead::AeadInOut;

use crate::keyring::{Keyring, Purpose};
use crate::name::KeyEpoch;

/// The version of every purpose's message so far.
pub(crate) const VERSION: u8 = 1;
/// Bytes of the tag behind the ciphertext.
pub(crate) const TAG_BYTES: usize = 16;
/// Bytes before the ciphertext.
pub(crate) const HEADER_BYTES: usize = 1 + 4 + NONCE_BYTES;
const NONCE_BYTES: usize = 24;

/// The system's random source failed.
#[derive(Debug)]
pub(crate) struct NoRandom;

/// Why a message was not opened.
#[derive(Debug)]
pub(crate) enum NotOpened {
    /// Made by a later version.
    Version(u8),
    /// Its key is not here, or was destroyed.
    Key,
    /// Changed, bound to something else, or too short.
    Foreign,
}

/// Seals `body`, padded to `padded` bytes, under the sealing epoch and a fresh random nonce.
pub(crate) fn seal(
    keyring: &Keyring,
    purpose: Purpose,
    bound_to: &[&[u8]],
    body: &[u8],
    padded: usize,
) -> Result<Vec<u8>, NoRandom> {
    let (epoch, cipher) = keyring.sealing_cipher_of(purpose);
    let mut nonce = [0; NONCE_BYTES];
    OsRng.try_fill_bytes(&mut nonce).map_err(|_| NoRandom)?;
    let mut bytes = Vec::with_capacity(HEADER_BYTES + padded + TAG_BYTES);
    bytes.push(VERSION);
    bytes.extend(epoch.0.to_be_bytes());
    bytes.extend(nonce);
    bytes.extend(body);
    bytes.resize(HEADER_BYTES + padded.max(body.len()), 0);
    let (header, plaintext) = bytes.split_at_mut(HEADER_BYTES);
    let tag = cipher
        .encrypt_inout_detached(
            (&nonce).into(),
            &associated_data(header, bound_to),
            plaintext.into(),
        )
        .expect("small messages are far below the limit of AES-GCM");
    bytes.extend_from_slice(&tag);
    Ok(bytes)
}

/// Opens a message: its plaintext with the padding.
pub(crate) fn open(
    keyring: &Keyring,
    purpose: Purpose,
    bound_to: &[&[u8]],
    bytes: &[u8],
) -> Result<Vec<u8>, NotOpened> {
    let (header, sealed) = bytes
        .split_at_checked(HEADER_BYTES)
        .ok_or(NotOpened::Foreign)?;
    if header[0] != VERSION {
        return Err(NotOpened::Version(header[0]));
    }
    let epoch = KeyEpoch(u32::from_be_bytes([
        header[1], header[2], header[3], header[4],
    ]));
    let cipher = keyring.cipher_of(purpose, epoch).ok_or(NotOpened::Key)?;
    let nonce = <&Nonce>::try_from(&header[5..]).map_err(|_| NotOpened::Foreign)?;
    let mut plaintext = sealed.to_vec();
    cipher
        .decrypt_in_place(nonce, &associated_data(header, bound_to), &mut plaintext)
        .map_err(|_| NotOpened::Foreign)?;
    Ok(plaintext)
}

fn associated_data(header: &[u8], bound_to: &[&[u8]]) -> Vec<u8> {
    [&[header], bound_to].concat().concat()
}

/// The next bytes of a plaintext.
pub(crate) fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}
