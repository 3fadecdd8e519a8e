//! What an event says, against what this relay takes. Pure: the clock and the reader's keys are arguments.

use nightjar_config::RelayConfig;

use super::refusal::{AuthProblem, Refusal};
use crate::event::{Event, kind, leading_zero_bits};
use crate::visibility::Readers;

/// The answer to an AUTH challenge (NIP-42).
const AUTH_KIND: u16 = 22_242;
/// HTTP credentials (NIP-98).
const HTTP_AUTH_KIND: u16 = 27_235;
/// Reposts (NIP-18).
const REPOST_KINDS: [u16; 2] = [6, 16];
/// How far an AUTH event's clock may be away, in seconds (NIP-42: about ten minutes).
const AUTH_WINDOW_SECONDS: u64 = 600;
/// NIP-62: every relay is meant.
const ALL_RELAYS: &str = "ALL_RELAYS";

/// The rules of one relay.
#[derive(Debug, Clone)]
pub struct Rules {
    max_event_tags: usize,
    created_at_ahead_seconds: u64,
    min_pow_difficulty: u32,
    /// Hosts of the public URLs, in lowercase.
    hosts: Vec<String>,
}

impl Rules {
    /// The rules that follow from a configuration.
    pub fn new(config: &RelayConfig) -> Self {
        let mut hosts: Vec<String> = config
            .public_urls
            .iter()
            .filter_map(|url| host_of(url))
            .collect();
        hosts.dedup();
        Self {
            max_event_tags: config.limits.max_event_tags,
            created_at_ahead_seconds: config.limits.created_at_ahead_seconds,
            min_pow_difficulty: config.limits.min_pow_difficulty,
            hosts,
        }
    }

    /// Whether an EVENT may be published by a connection on which `readers` authenticated.
    pub fn check(&self, event: &Event, readers: &Readers, now_s: u64) -> Result<(), Refusal> {
        if matches!(event.kind, AUTH_KIND | HTTP_AUTH_KIND) {
            return Err(Refusal::Credential { kind: event.kind });
        }
        let count = event.tags.len();
        if count > self.max_event_tags {
            return Err(Refusal::TooManyTags {
                count,
                limit: self.max_event_tags,
            });
        }
        let ahead = event.created_at.saturating_sub(now_s);
        if ahead > self.created_at_ahead_seconds {
            return Err(Refusal::TooFarAhead {
                ahead,
                limit: self.created_at_ahead_seconds,
            });
        }
        check_expiration(event, now_s)?;
        check_protection(event, readers)?;
        if event.kind == kind::VANISH && !self.names_this_relay(event) {
            return Err(Refusal::OtherRelays);
        }
        Ok(())
    }

    /// Whether an EVENT shows the work that is asked for (NIP-13). Its id must have been checked. It looks at the event alone, so that the
    /// answer tells nothing of what the relay knows.
    pub fn check_work(&self, event: &Event) -> Result<(), Refusal> {
        check_work(event, self.min_pow_difficulty)
    }

    /// Whether the event of an AUTH answers this connection's challenge (NIP-42).
    pub fn check_auth(&self, event: &Event, challenge: &str, now_s: u64) -> Result<(), Refusal> {
        let problem = if event.kind != AUTH_KIND {
            AuthProblem::Kind(event.kind)
        } else if event.created_at.abs_diff(now_s) > AUTH_WINDOW_SECONDS {
            let away = event.created_at.abs_diff(now_s);
            AuthProblem::Time {
                away,
                limit: AUTH_WINDOW_SECONDS,
            }
        } else if only_value(event, "challenge") != Some(challenge) {
            AuthProblem::Challenge
        } else if !only_value(event, "relay").is_some_and(|url| self.is_ours(url)) {
            AuthProblem::Relay
        } else {
            return Ok(());
        };
        Err(Refusal::Auth(problem))
    }

    fn names_this_relay(&self, event: &Event) -> bool {
        values(event, "relay").any(|url| url == ALL_RELAYS || self.is_ours(url))
    }

    fn is_ours(&self, url: &str) -> bool {
        host_of(url).is_some_and(|host| self.hosts.contains(&host))
    }
}

/// Whether an event shows so much work, by its id and by what it commits to.
pub(super) fn check_work(event: &Event, required: u32) -> Result<(), Refusal> {
    if required == 0 {
        return Ok(());
    }
    let found = leading_zero_bits(&event.id);
    if found < required {
        return Err(Refusal::TooLittleWork { required, found });
    }
    match event.committed_difficulty() {
        Some(committed) if committed < required => Err(Refusal::TooLowTarget {
            required,
            committed,
        }),
        _ => Ok(()),
    }
}

/// An expired wrap gets the same answer whatever is known of it: its sender must not learn whether it was deleted.
fn check_expiration(event: &Event, now_s: u64) -> Result<(), Refusal> {
    match event.expiration() {
        Some(at) if at <= now_s && event.kind == kind::GIFT_WRAP => Err(Refusal::Duplicate),
        Some(at) if at <= now_s => Err(Refusal::Expired { ago: now_s - at }),
        _ => Ok(()),
    }
}

/// NIP-70.
fn check_protection(event: &Event, readers: &Readers) -> Result<(), Refusal> {
    if event.is_protected() && !readers.contains(&event.pubkey) {
        return Err(if readers.is_empty() {
            Refusal::Protected
        } else {
            Refusal::ProtectedByAnother
        });
    }
    if REPOST_KINDS.contains(&event.kind) && carries_protected(event) {
        return Err(Refusal::ProtectedRepost);
    }
    Ok(())
}

/// A repost's content is the JSON of the reposted event, or empty.
fn carries_protected(repost: &Event) -> bool {
    let Ok(content) = serde_json::from_slice::<String>(repost.content_json()) else {
        return false;
    };
    Event::parse(content.as_bytes()).is_ok_and(|event| event.is_protected())
}

fn values<'a>(event: &'a Event, name: &'a str) -> impl Iterator<Item = &'a str> {
    event
        .tags
        .iter()
        .filter(move |tag| tag[0] == name)
        .filter_map(|tag| tag.get(1))
        .map(String::as_str)
}

/// The value of a tag that must occur exactly once.
fn only_value<'a>(event: &'a Event, name: &'a str) -> Option<&'a str> {
    let mut found = values(event, name);
    let value = found.next()?;
    found.next().is_none().then_some(value)
}

/// The host of a URL, in lowercase, without port. All names of the loopback interface are one host.
fn host_of(url: &str) -> Option<String> {
    let rest = url.split_once("://")?.1;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host_port = authority.rsplit('@').next()?;
    let host = match host_port.strip_prefix('[') {
        Some(bracketed) => bracketed.split_once(']')?.0,
        None => host_port.split(':').next()?,
    };
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    match host.as_str() {
        "" => None,
        "localhost" | "127.0.0.1" | "::1" => Some("localhost".to_owned()),
        _ => Some(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_compare_without_scheme_port_path_and_case() {
        for (url, host) in [
            (
                "wss://Relay.Example.com:443/path?x#y",
                Some("relay.example.com"),
            ),
            ("ws://relay.example.com.", Some("relay.example.com")),
            ("wss://user@relay.example.com", Some("relay.example.com")),
            ("ws://127.0.0.1:4001", Some("localhost")),
            ("ws://[::1]:4001/", Some("localhost")),
            ("ws://localhost", Some("localhost")),
            ("ws://[2001:DB8::1]:80", Some("2001:db8::1")),
            ("relay.example.com", None),
            ("wss://", None),
        ] {
            assert_eq!(host_of(url).as_deref(), host, "{url}");
        }
        assert_ne!(
            host_of("wss://relay.example.com.evil.test"),
            host_of("wss://relay.example.com")
        );
    }
}
