//! Keyring files and envelopes made by hand.

use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nightjar_envelope::{Body, BodyKind, FleetId, Keyring, Route};

/// The fleet of all tests here.
pub(crate) fn fleet() -> FleetId {
    FleetId::from_bytes([7; 16])
}

/// A new keyring with one epoch.
pub(crate) fn keyring() -> Keyring {
    Keyring::generate().expect("random bytes")
}

/// A keyring with the epoch of `old` and one more, which seals.
pub(crate) fn with_next_epoch(old: &Keyring) -> Keyring {
    let parse = |keyring: &Keyring| -> serde_json::Value {
        serde_json::from_str(&keyring.to_json()).expect("JSON")
    };
    let (mut ring, mut next) = (parse(old), parse(&keyring()));
    let epoch = old.seal_epoch().0 + 1;
    let mut key = next["open"][0].take();
    key["epoch"] = epoch.into();
    ring["open"].as_array_mut().expect("keys").push(key);
    ring["seal"] = epoch.into();
    Keyring::parse(ring.to_string().as_bytes()).expect("a keyring")
}

/// Replaces the file at once, as the operator does.
pub(crate) fn write(path: &Path, content: &str) {
    let new = path.with_extension("new");
    let _ = std::fs::remove_file(&new);
    let mut file = std::fs::OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&new)
        .expect("a file");
    std::io::Write::write_all(&mut file, content.as_bytes()).expect("written");
    std::fs::rename(&new, path).expect("replaced");
}

/// An envelope for `subject`, admitted now.
pub(crate) fn seal(keyring: &Keyring, subject: &str, event_json: &str) -> Vec<u8> {
    seal_at(keyring, subject, event_json, crate::client::now())
}

/// An envelope that was admitted at this Unix time in seconds.
pub(crate) fn seal_at(keyring: &Keyring, subject: &str, event_json: &str, at: u64) -> Vec<u8> {
    seal_as(BodyKind::Event, keyring, subject, event_json, at)
}

/// An envelope with a management call.
pub(crate) fn seal_call(keyring: &Keyring, subject: &str, json: &str) -> Vec<u8> {
    let now = crate::client::now();
    seal_as(BodyKind::Management, keyring, subject, json, now)
}

fn seal_as(kind: BodyKind, keyring: &Keyring, subject: &str, json: &str, at: u64) -> Vec<u8> {
    let route = Route::from_subject(subject).expect("a route");
    let body = Body {
        admitted_ms: 1_000 * at,
        trace: None,
        kind,
        json: json.as_bytes(),
    };
    nightjar_envelope::seal(keyring, &fleet(), &route, &body).expect("sealed")
}
