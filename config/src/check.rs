//! Ranges of the settings: every refusal names the field, the value and what would be right.

use std::fmt::Display;
use std::ops::RangeInclusive;

use crate::admission::{AdmissionConfig, MAX_ADMINS, MAX_LISTED, ManagementConfig};
use crate::limits::Limits;
use crate::relay::{ConfigError, LogConfig, RelayConfig, RelayInfo};
use crate::senders::{GiftWrapAdmission, KeyBudget, MAX_ROOTS, TrustConfig};

/// Smallest index, in bytes.
const MIN_INDEX_BYTES: u64 = 16 << 20;
/// Shortest retention of messages, in seconds: 30 days.
const MIN_RETENTION_SECONDS: u64 = 30 * 24 * 60 * 60;
/// Most proxies and most origins: each is looked at for every connection.
const MAX_FRONT_ENTRIES: usize = 64;

impl RelayConfig {
    /// Checks names and ranges.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        label("fleet.name", &self.fleet.name)?;
        label("name", &self.name)?;
        not_empty("public_urls", &self.public_urls)?;
        for (index, url) in self.public_urls.iter().enumerate() {
            has_scheme(&format!("public_urls[{index}]"), url, &["ws://", "wss://"])?;
        }
        self.check_front()?;
        not_empty("nats.servers", &self.nats.servers)?;
        for (index, server) in self.nats.servers.iter().enumerate() {
            has_scheme(
                &format!("nats.servers[{index}]"),
                server,
                &["nats://", "tls://"],
            )?;
        }
        for (field, path) in [
            ("nats.nkey_seed_file", &self.nats.nkey_seed_file),
            ("keyring_file", &self.keyring_file),
            ("index.dir", &self.index.dir),
        ] {
            ensure(field, !path.as_os_str().is_empty(), "must not be empty")?;
        }
        if self.listen == self.admin && self.listen.port() != 0 {
            return Err(refusal("admin", "must differ from listen"));
        }
        within(
            "index.max_bytes",
            self.index.max_bytes,
            MIN_INDEX_BYTES..=u64::MAX >> 1,
        )?;
        self.check_log()?;
        self.info.check()?;
        self.limits.check()?;
        self.admission.check()?;
        self.management.check()?;
        self.plugins.check()?;
        if let Some(tracing) = &self.tracing {
            has_scheme(
                "tracing.otlp_endpoint",
                &tracing.otlp_endpoint,
                &["http://", "https://"],
            )?;
            share("tracing.sample_ratio", tracing.sample_ratio)?;
        }
        Ok(())
    }

    /// What stands between clients and sessions.
    fn check_front(&self) -> Result<(), ConfigError> {
        for (field, len) in [
            ("trusted_proxies", self.trusted_proxies.len()),
            ("allowed_origins", self.allowed_origins.len()),
        ] {
            ensure(
                field,
                len <= MAX_FRONT_ENTRIES,
                &format!("has {len} entries, the limit is {MAX_FRONT_ENTRIES}"),
            )?;
        }
        for (index, origin) in self.allowed_origins.iter().enumerate() {
            check_origin(origin)
                .map_err(|message| refusal(&format!("allowed_origins[{index}]"), message))?;
        }
        if let Some(tls) = &self.tls {
            for (field, path) in [
                ("tls.cert_file", &tls.cert_file),
                ("tls.key_file", &tls.key_file),
            ] {
                ensure(field, !path.as_os_str().is_empty(), "must not be empty")?;
            }
        }
        Ok(())
    }

    fn check_log(&self) -> Result<(), ConfigError> {
        let LogConfig {
            replicas,
            message_retention_seconds,
            regions,
        } = &self.log;
        ensure(
            "log.replicas",
            matches!(replicas, 1 | 3),
            &format!("is {replicas}, must be 1 or 3"),
        )?;
        within(
            "log.message_retention_seconds",
            *message_retention_seconds,
            MIN_RETENTION_SECONDS..=u64::from(u32::MAX),
        )?;
        for (index, region) in regions.iter().enumerate() {
            let field = |name: &str| format!("log.regions[{index}].{name}");
            let repeated = regions[..index]
                .iter()
                .any(|earlier| earlier.region == region.region);
            ensure(
                &field("region"),
                !repeated,
                &format!("{} appears twice", region.region),
            )?;
            within(&field("generation"), region.generation, 1..=u32::MAX)?;
            within(&field("message_shards"), region.message_shards, 1..=64)?;
            within(&field("state_shards"), region.state_shards, 1..=64)?;
        }
        let known = self.log.region(&self.region).is_some();
        ensure(
            "log.regions",
            known,
            &format!("must have the relay's own region {}", self.region),
        )
    }
}

impl RelayInfo {
    fn check(&self) -> Result<(), ConfigError> {
        for (field, text, limit) in [
            ("info.name", &self.name, 100),
            ("info.description", &self.description, 4_096),
            ("info.contact", &self.contact, 500),
            ("info.icon", &self.icon, 2_048),
            ("info.terms_of_service", &self.terms_of_service, 2_048),
            ("info.privacy_policy", &self.privacy_policy, 2_048),
            ("info.posting_policy", &self.posting_policy, 2_048),
        ] {
            let len = text.as_ref().map_or(0, String::len);
            ensure(
                field,
                len <= limit,
                &format!("is {len} bytes, the limit is {limit}"),
            )?;
        }
        for (field, url) in [
            ("info.icon", &self.icon),
            ("info.terms_of_service", &self.terms_of_service),
            ("info.privacy_policy", &self.privacy_policy),
            ("info.posting_policy", &self.posting_policy),
        ] {
            if let Some(url) = url {
                has_scheme(field, url, &["http://", "https://"])?;
            }
        }
        if let Some(pubkey) = &self.pubkey {
            is_key("info.pubkey", pubkey)?;
        }
        Ok(())
    }
}

impl AdmissionConfig {
    fn check(&self) -> Result<(), ConfigError> {
        keys("admission.allow_pubkeys", &self.allow_pubkeys, MAX_LISTED)?;
        keys("admission.deny_pubkeys", &self.deny_pubkeys, MAX_LISTED)?;
        for (field, kinds) in [
            ("admission.allow_kinds", &self.allow_kinds),
            ("admission.deny_kinds", &self.deny_kinds),
        ] {
            short(field, kinds.len(), MAX_LISTED)?;
        }
        self.gift_wraps.check()?;
        self.trust.check()?;
        self.key_budget.check()
    }
}

impl KeyBudget {
    fn check(&self) -> Result<(), ConfigError> {
        within(
            "admission.key_budget.events_per_minute",
            self.events_per_minute,
            0..=100_000,
        )?;
        within("admission.key_budget.burst", self.burst, 1..=1_000_000)
    }
}

impl GiftWrapAdmission {
    fn check(&self) -> Result<(), ConfigError> {
        for (index, way) in self.any_of.iter().enumerate() {
            ensure(
                &format!("admission.gift_wraps.any_of[{index}]"),
                !self.any_of[..index].contains(way),
                "appears twice",
            )?;
        }
        within(
            "admission.gift_wraps.proof_of_work_difficulty",
            self.proof_of_work_difficulty,
            1..=64,
        )
    }
}

impl TrustConfig {
    fn check(&self) -> Result<(), ConfigError> {
        keys("admission.trust.roots", &self.roots, MAX_ROOTS)?;
        within("admission.trust.depth", self.depth, 1..=2)?;
        within(
            "admission.trust.refresh_seconds",
            self.refresh_seconds,
            10..=86_400,
        )
    }
}

impl ManagementConfig {
    fn check(&self) -> Result<(), ConfigError> {
        keys("management.admins", &self.admins, MAX_ADMINS)
    }
}

impl Limits {
    fn check(&self) -> Result<(), ConfigError> {
        within(
            "limits.max_message_length",
            self.max_message_length,
            16 << 10..=16 << 20,
        )?;
        within(
            "limits.max_subscriptions",
            self.max_subscriptions,
            1..=10_000,
        )?;
        within("limits.max_filters", self.max_filters, 1..=1_000)?;
        within("limits.max_limit", self.max_limit, 1..=100_000)?;
        within(
            "limits.default_limit",
            self.default_limit,
            1..=self.max_limit,
        )?;
        within("limits.max_subid_length", self.max_subid_length, 1..=1_024)?;
        within("limits.max_event_tags", self.max_event_tags, 1..=100_000)?;
        within(
            "limits.created_at_ahead_seconds",
            self.created_at_ahead_seconds,
            0..=86_400,
        )?;
        within("limits.min_pow_difficulty", self.min_pow_difficulty, 0..=64)?;
        self.check_rates()?;
        self.check_room()
    }

    /// Token buckets.
    fn check_rates(&self) -> Result<(), ConfigError> {
        for (field, rate) in [
            (
                "limits.events_per_second_per_connection",
                self.events_per_second_per_connection,
            ),
            (
                "limits.events_per_second_per_address",
                self.events_per_second_per_address,
            ),
            (
                "limits.reqs_per_second_per_connection",
                self.reqs_per_second_per_connection,
            ),
        ] {
            // A token bucket's refill interval is kept in nanoseconds.
            let fits = (0.001..=1_000_000.0).contains(&rate);
            ensure(field, fits, &format!("is {rate}, must be 0.001 to 1000000"))?;
        }
        within(
            "limits.events_burst_per_connection",
            self.events_burst_per_connection,
            1..=u32::MAX,
        )?;
        within(
            "limits.events_burst_per_address",
            self.events_burst_per_address,
            1..=u32::MAX,
        )?;
        within(
            "limits.reqs_burst_per_connection",
            self.reqs_burst_per_connection,
            1..=u32::MAX,
        )?;
        within(
            "limits.read_percent_per_connection",
            self.read_percent_per_connection,
            1..=100,
        )?;
        within(
            "limits.auth_attempts_per_minute",
            self.auth_attempts_per_minute,
            1..=6_000,
        )
    }

    /// Connections, queues and deadlines.
    fn check_room(&self) -> Result<(), ConfigError> {
        within(
            "limits.connections_per_address",
            self.connections_per_address,
            1..=usize::MAX,
        )?;
        within(
            "limits.max_connections",
            self.max_connections,
            1..=usize::MAX,
        )?;
        within(
            "limits.out_queue_bytes",
            self.out_queue_bytes,
            64 << 10..=1 << 30,
        )?;
        let per_connection = self.in_flight_publish_bytes_per_connection;
        within(
            "limits.in_flight_publish_bytes_per_connection",
            per_connection,
            self.max_message_length..=1 << 30,
        )?;
        within(
            "limits.in_flight_publish_bytes_per_relay",
            self.in_flight_publish_bytes_per_relay,
            per_connection..=1 << 36,
        )?;
        share(
            "limits.unauthenticated_log_share",
            self.unauthenticated_log_share,
        )?;
        within(
            "limits.publish_deadline_ms",
            self.publish_deadline_ms,
            500..=60_000,
        )?;
        within("limits.drain_seconds", self.drain_seconds, 0..=600)?;
        within(
            "limits.ping_interval_seconds",
            self.ping_interval_seconds,
            5..=3_600,
        )?;
        within(
            "limits.idle_timeout_seconds",
            self.idle_timeout_seconds,
            self.ping_interval_seconds + 1..=86_400,
        )
    }
}

/// An origin as browsers send it: `scheme://host` or `scheme://host:port`, without a path, and without the port that the scheme has anyway.
///
/// # Errors
/// What would be right.
pub fn check_origin(origin: &str) -> Result<(), &'static str> {
    const FORM: &str = "must be an origin as browsers send it, as https://chat.example.org or http://localhost:3000, without a path";
    const PORT: &str = "must not name the port that its scheme has anyway: browsers leave it out";
    let (scheme, host) = origin.split_once("://").ok_or(FORM)?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+.-".contains(&b));
    let is_host = !host.is_empty()
        && host
            .bytes()
            .all(|b| b.is_ascii_graphic() && !b"/?#@\\,\"'*".contains(&b));
    if !is_scheme || !is_host || origin.len() > 512 {
        return Err(FORM);
    }
    let names_default =
        |of: &str, port: &str| scheme.eq_ignore_ascii_case(of) && host.ends_with(port);
    if names_default("https", ":443") || names_default("http", ":80") {
        return Err(PORT);
    }
    Ok(())
}

fn refusal(field: &str, message: &str) -> ConfigError {
    ConfigError::Field {
        field: field.to_owned(),
        message: message.to_owned(),
    }
}

pub(crate) fn ensure(field: &str, holds: bool, message: &str) -> Result<(), ConfigError> {
    if holds {
        Ok(())
    } else {
        Err(refusal(field, message))
    }
}

pub(crate) fn within<N: PartialOrd + Display>(
    field: &str,
    value: N,
    range: RangeInclusive<N>,
) -> Result<(), ConfigError> {
    let message = format!("is {value}, must be {} to {}", range.start(), range.end());
    ensure(field, range.contains(&value), &message)
}

fn share(field: &str, value: f64) -> Result<(), ConfigError> {
    ensure(
        field,
        (0.0..=1.0).contains(&value),
        &format!("is {value}, must be 0 to 1"),
    )
}

fn not_empty<T>(field: &str, list: &[T]) -> Result<(), ConfigError> {
    ensure(field, !list.is_empty(), "must have at least one entry")
}

fn keys(field: &str, keys: &[String], limit: usize) -> Result<(), ConfigError> {
    short(field, keys.len(), limit)?;
    keys.iter()
        .enumerate()
        .try_for_each(|(index, key)| is_key(&format!("{field}[{index}]"), key))
}

fn short(field: &str, len: usize, limit: usize) -> Result<(), ConfigError> {
    let message = format!("has {len} entries, the limit is {limit}");
    ensure(field, len <= limit, &message)
}

/// The value is not repeated: it may be a secret key by mistake.
fn is_key(field: &str, key: &str) -> Result<(), ConfigError> {
    let is_key = key.len() == 64
        && key
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    ensure(
        field,
        is_key,
        "must be 64 lowercase hex digits (a public key, not an npub and never an nsec)",
    )
}

/// The value is not repeated: a URL may hold a password.
fn has_scheme(field: &str, url: &str, schemes: &[&str]) -> Result<(), ConfigError> {
    let fits = schemes
        .iter()
        .any(|scheme| url.len() > scheme.len() && url.starts_with(scheme));
    ensure(
        field,
        fits,
        &format!("must begin with {}", schemes.join(" or ")),
    )
}

/// A DNS label, as Kubernetes wants names.
fn label(field: &str, text: &str) -> Result<(), ConfigError> {
    let fits = (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-');
    ensure(
        field,
        fits,
        "must be 1 to 63 of a-z, 0-9 and '-', without '-' at either end",
    )
}
