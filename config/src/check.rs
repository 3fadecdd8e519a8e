//! Ranges of the settings: every refusal names the field, the value and what would be right.

use std::fmt::Display;
use std::ops::RangeInclusive;

use crate::limits::Limits;
use crate::relay::{ConfigError, LogConfig, RelayConfig, RelayInfo};

/// Smallest index, in bytes.
const MIN_INDEX_BYTES: u64 = 16 << 20;
/// Shortest retention of messages, in seconds: 30 days.
const MIN_RETENTION_SECONDS: u64 = 30 * 24 * 60 * 60;

impl RelayConfig {
    /// Checks names and ranges.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        label("fleet.name", &self.fleet.name)?;
        label("name", &self.name)?;
        not_empty("public_urls", &self.public_urls)?;
        for (index, url) in self.public_urls.iter().enumerate() {
            has_scheme(&format!("public_urls[{index}]"), url, &["ws://", "wss://"])?;
        }
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
            let is_key = pubkey.len() == 64
                && pubkey
                    .bytes()
                    .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            ensure(
                "info.pubkey",
                is_key,
                "must be 64 lowercase hex digits (a public key, not an npub and never an nsec)",
            )?;
        }
        Ok(())
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
        within("limits.drain_seconds", self.drain_seconds, 0..=600)
    }
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
