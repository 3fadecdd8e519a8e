#!/usr/bin/env python3
"""Makes envelope-v1.json from docs/reference/envelope.md alone, without Nightjar's code: a second implementation of the format.

Needs the `cryptography` package. Vectors of a released version never change; a new version gets a file of its own.
"""
import base64, hashlib, hmac, json, pathlib
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def block(key, data):
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return encryptor.update(data) + encryptor.finalize()


def xaes_256_gcm(key, nonce, plaintext, aad):
    """https://github.com/C2SP/C2SP/blob/main/XAES-256-GCM.md"""
    first = int.from_bytes(block(key, bytes(16)), "big")
    k1 = ((first << 1) & (1 << 128) - 1) ^ (0b10000111 if first >> 127 else 0)
    half = lambda n: block(key, (int.from_bytes(bytes([0, n]) + b"X\0" + nonce[:12], "big") ^ k1).to_bytes(16, "big"))
    return AESGCM(half(1) + half(2)).encrypt(nonce[12:], plaintext, aad)


assert xaes_256_gcm(b"\1" * 32, b"ABCDEFGHIJKLMNOPQRSTUVWX", b"XAES-256-GCM", b"").hex() == "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"


def hkdf(key, label):
    extracted = hmac.digest(bytes(32), key, "sha256")
    return hmac.digest(extracted, label + b"\1", "sha256")


def seal(epoch, key, fleet, subject, nonce, admitted_ms, trace, event):
    prefix, region, generation, shard, bucket = subject.split(".")
    body = bytes([1 if trace else 0]) + admitted_ms.to_bytes(8, "big") + trace + len(event).to_bytes(4, "big") + event
    size_class = next(c for c in range(11) if (512 << c) - 45 >= len(body))
    body = body.ljust((512 << size_class) - 45, b"\0")
    header = b"\1" + epoch.to_bytes(4, "big") + nonce
    fields = [fleet, region.encode(), int(generation).to_bytes(4, "big"), prefix.encode(), bytes([int(shard)]), bytes([int(bucket)]), bytes([size_class])]
    return header + xaes_256_gcm(key, nonce, body, header + b"".join(bytes([len(f)]) + f for f in fields))


def vector(name, epoch, key, subject, trace, event):
    digest = lambda label: hashlib.sha256(f"{name} {label}".encode()).digest()
    fleet, nonce, pubkey, event_id, admitted_ms = digest("fleet")[:16], digest("nonce")[:24], digest("pubkey"), digest("event id"), 1_700_000_000_123
    bucket = lambda label: hmac.digest(hkdf(key, b"bucket"), label + pubkey, "sha256")[0] % 64
    return {
        "name": name,
        "keyring": {"seal": epoch, "open": [{"epoch": epoch, "key": base64.b64encode(key).decode(), "state": "active"}]},
        "fleet": fleet.hex(), "subject": subject, "nonce": nonce.hex(), "admitted_ms": admitted_ms, "trace": trace.hex() or None, "event": event,
        "pubkey": pubkey.hex(), "event_id": event_id.hex(), "mailbox_bucket": bucket(b"mailbox"), "author_bucket": bucket(b"author"),
        "msg_id": base64.urlsafe_b64encode(hmac.digest(hkdf(key, b"msgid"), event_id, "sha256")[:16]).decode().rstrip("="),
        "envelope": seal(epoch, key, fleet, subject, nonce, admitted_ms, trace, event.encode()).hex(),
    }


vectors = [
    vector("message", 1, bytes(range(32)), "ev.a.1.3.7", b"", '{"kind":1059,"content":"hello"}'),
    vector("state, traced", 7, b"\x80" * 32, "st.eu-west-1.2.1.63", bytes(range(1, 26)), '{"kind":10050,"content":"ünï"}'),
    vector("ephemeral, empty event", 0xFFFFFFFF, b"\xff" * 32, "eph.b.0.0.0", b"", ""),
    vector("exactly full at 512 bytes", 1, b"\x11" * 32, "ev.a.1.0.0", b"", "x" * (512 - 45 - 13)),
    vector("one byte more: 1 KiB", 1, b"\x11" * 32, "ev.a.1.0.0", b"", "x" * (512 - 45 - 12)),
    vector("traced, full at 512 bytes", 1, b"\x11" * 32, "ev.a.4294967295.255.1", bytes(25), "x" * (512 - 45 - 13 - 25)),
]
path = pathlib.Path(__file__).with_name("envelope-v1.json")
path.write_text(json.dumps(vectors, indent=1, ensure_ascii=False) + "\n")
