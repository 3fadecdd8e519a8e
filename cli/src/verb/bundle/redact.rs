//! Takes secrets out of text before it leaves the machine, and counts what it took. Pure.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde_json::Value;

/// A kind of secret, and how it looks.
struct Rule {
    what: &'static str,
    pattern: Regex,
    /// Only in logs: elsewhere the same look has another meaning, such as an image's digest.
    logs_only: bool,
}

static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let rule = |what, pattern: &str, logs_only| Rule {
        what,
        pattern: Regex::new(pattern).expect("patterns are our own, and a test uses each"),
        logs_only,
    };
    vec![
        rule(
            "private key (PEM)",
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(-----END [A-Z ]*PRIVATE KEY-----|\z)",
            false,
        ),
        // Of a log that begins in the middle of one.
        rule(
            "private key (PEM, its end)",
            r"(?m)(^[A-Za-z0-9+/= \t]*\n)*.*-----END [A-Z ]*PRIVATE KEY-----",
            false,
        ),
        rule("nkey seed", r"\bS[ACNOUX][A-Z2-7]{56}\b", false),
        rule("Nostr secret key", r"(?i)\bn(?:crypt)?sec1[0-9a-z]+", false),
        rule("age key", r"(?i)\bAGE-SECRET-KEY-1[0-9A-Z]+", false),
        rule(
            "token",
            r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*",
            false,
        ),
        rule(
            "public key of a person",
            r"\bn(?:pub|profile)1[0-9a-z]{50,}",
            true,
        ),
        rule(
            "64 hex digits: a key or the id of an event",
            r"\b[0-9a-fA-F]{64}\b",
            true,
        ),
    ]
});

/// A word that names a secret, and 64 hex digits or 43 of base64: 32 bytes.
static NAMED: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"(?i)([a-z0-9_.-]*(?:key|secret|seed|priv|token|nonce)[a-z0-9_.-]*["']?\s*[:=]\s*\\?["']?)([0-9a-f]{64}|[a-z0-9+/_-]{43}=?)(\b|$|["'\s])"#)
        .expect("the pattern is our own")
});

/// A word that always has a secret behind it.
static PASSWORD: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"(?i)(\b(?:[a-z0-9_.-]*(?:password|passwd|passphrase)|token|bearer)\b\\?["']?\s*[:= ]\s*\\?["']?)([^\s"',}\\]{6,})"#)
        .expect("the pattern is our own")
});

/// Name and password in a URL.
static USERINFO: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"([a-z][a-z0-9+.-]*://)[^/\s@]+@").expect("the pattern is our own")
});

/// How often each kind was taken out of one file.
pub(super) type Taken = BTreeMap<&'static str, usize>;

/// The text without secrets.
pub(super) fn redact(text: &str, is_log: bool, taken: &mut Taken) -> String {
    let mut text = text.to_owned();
    for rule in RULES.iter().filter(|rule| is_log || !rule.logs_only) {
        let replaced = rule.pattern.replace_all(&text, |_: &Captures<'_>| {
            *taken.entry(rule.what).or_default() += 1;
            format!("[removed: {}]", rule.what)
        });
        text = replaced.into_owned();
    }
    text = after_word(&NAMED, "32 bytes behind a word such as key", &text, taken);
    text = after_word(&PASSWORD, "password or token", &text, taken);
    let replaced = USERINFO.replace_all(&text, |found: &Captures<'_>| {
        *taken.entry("name and password in a URL").or_default() += 1;
        format!("{}[removed]@", &found[1])
    });
    replaced.into_owned()
}

fn after_word(pattern: &Regex, what: &'static str, text: &str, taken: &mut Taken) -> String {
    let replace = |found: &Captures<'_>| {
        let word = found[1].to_ascii_lowercase();
        // Public keys are named so, and are no secrets of a fleet.
        if word.contains("pub") || found[2].starts_with("[removed") {
            return found[0].to_owned();
        }
        *taken.entry(what).or_default() += 1;
        let end = found.get(3).map_or("", |end| end.as_str());
        format!("{}[removed: {what}]{end}", &found[1])
    };
    pattern.replace_all(text, replace).into_owned()
}

/// Takes out of an object what no reader needs, and what its structure tells to be secret: values of environment variables with
/// telling names, keyrings in ConfigMaps, the whole object once more in annotations.
pub(super) fn prune(value: &mut Value, taken: &mut Taken) {
    match value {
        Value::Object(fields) => {
            fields.remove("managedFields");
            if let Some(Value::Object(annotations)) = fields.get_mut("annotations") {
                annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
            }
            let name = fields
                .get("name")
                .and_then(Value::as_str)
                .unwrap_or_default();
            if fields.contains_key("value") && telling(name) {
                fields["value"] = "[removed: value of an environment variable]".into();
                *taken.entry("value of an environment variable").or_default() += 1;
            }
            for (key, below) in fields.iter_mut() {
                if below.is_string() && key.to_ascii_lowercase().contains("keyring") {
                    let is_path = below.as_str().is_some_and(|text| text.starts_with('/'));
                    if !is_path {
                        *below = "[removed: keyring]".into();
                        *taken.entry("keyring").or_default() += 1;
                    }
                } else {
                    prune(below, taken);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| prune(item, taken)),
        _ => {}
    }
}

fn telling(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    [
        "secret",
        "token",
        "passw",
        "passphrase",
        "seed",
        "_key",
        "apikey",
    ]
    .iter()
    .any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn redacted(text: &str, is_log: bool) -> String {
        redact(text, is_log, &mut Taken::new())
    }

    /// One of each kind, none of them in use anywhere.
    fn secrets() -> Vec<(String, String)> {
        let hex = "0123456789abcdef".repeat(4);
        let seed = format!("SU{}", "A2B3".repeat(14));
        let nsec = format!("nsec1{}", "q0p9".repeat(14));
        let age = format!("AGE-SECRET-KEY-1{}", "QPZR".repeat(14));
        let pem = "MC4CAQAwBQYDK2VwBCIEIF".to_owned();
        let whole = format!("-----BEGIN PRIVATE KEY-----\n{pem}\n-----END PRIVATE KEY-----");
        let escaped = format!(
            "\"tls.key\": \"-----BEGIN EC PRIVATE KEY-----\\n{pem}\\n-----END EC PRIVATE KEY-----\\n\""
        );
        [
            (seed.clone(), format!("LEAF_SEED: \"{seed}\"")),
            (nsec.clone(), format!("key {nsec} was")),
            (age.clone(), format!("line {age}")),
            (pem.clone(), whole),
            (pem.clone(), escaped),
            (
                pem.clone(),
                format!("{pem}\n-----END PRIVATE KEY-----\nlater"),
            ),
            (pem.clone(), format!("-----BEGIN PRIVATE KEY-----\n{pem}\n")),
            (hex.clone(), format!("epoch_key={hex}")),
            (hex.clone(), format!("\"secret\": \"{hex}\"")),
            (
                "hunter2hunter2".to_owned(),
                "password: hunter2hunter2".to_owned(),
            ),
            (
                "hunter2hunter2".to_owned(),
                "Authorization: Bearer hunter2hunter2".to_owned(),
            ),
            (
                "user:pass".to_owned(),
                "https://user:pass@example.org/x".to_owned(),
            ),
            (
                "eyJhbGciOiJS".to_owned(),
                "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrIn0.c2ln".to_owned(),
            ),
        ]
        .into()
    }

    #[test]
    fn each_kind_of_secret_is_taken_out_and_counted() {
        for (secret, text) in secrets() {
            for is_log in [true, false] {
                let mut taken = Taken::new();
                let left = redact(&text, is_log, &mut taken);
                assert!(!left.contains(&secret), "{left}");
                assert!(!taken.is_empty() && left.contains("[removed"), "{left}");
            }
        }
    }

    #[test]
    fn what_is_no_secret_stays() {
        let hex = "0123456789abcdef".repeat(4);
        for text in [
            format!("image: relay@sha256:{hex}"),
            format!("pubkey: {hex}"),
            "secretName: eu-a-nats-tls".to_owned(),
            "keyring_file: /etc/nightjar/keys/keyring.json".to_owned(),
            "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----".to_owned(),
        ] {
            assert_eq!(redacted(&text, false), text);
        }
        assert!(
            !redacted(&format!("event {hex} stored"), true).contains(&hex),
            "logs may name people"
        );
    }

    #[test]
    fn structure_tells_of_secrets_too() {
        let mut object = serde_json::json!({
            "metadata": {"managedFields": [1], "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "a": "b"}},
            "env": [{"name": "API_TOKEN", "value": "short"}, {"name": "LEVEL", "value": "info"}],
            "data": {"keyring.json": "{\"epochs\":[]}", "relay.yaml": "x"},
        });
        let mut taken = Taken::new();
        prune(&mut object, &mut taken);
        let text = object.to_string();
        assert!(
            !text.contains("short") && !text.contains("epochs") && !text.contains("managedFields"),
            "{text}"
        );
        assert!(
            text.contains("info") && text.contains("relay.yaml"),
            "{text}"
        );
        assert_eq!(taken.values().sum::<usize>(), 2);
    }

    proptest! {
        #[test]
        fn no_surroundings_hide_a_secret(before in "[ -~\\n]{0,40}[ =\"]", after in "[ \"\\n][ -~\\n]{0,40}") {
            let seed = format!("SU{}", "A2B3".repeat(14));
            let left = redacted(&[before.as_str(), &seed, &after].concat(), true);
            prop_assert!(!left.contains(&seed));
        }
    }
}
