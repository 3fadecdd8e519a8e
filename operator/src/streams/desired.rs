//! What a planned stream is in JetStream's terms, and how a stream that exists differs from it. Pure: no socket here.

use std::time::Duration;

use async_nats::jetstream::stream::{
    Config, DiscardPolicy, External, Republish, RetentionPolicy, Source, StorageType,
};

use crate::plan::{StreamKind, StreamPlan};

/// The configuration of a planned stream.
pub(super) fn config(plan: &StreamPlan) -> Config {
    let mut config = Config {
        name: plan.name.to_string(),
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        num_replicas: plan.replicas.into(),
        // A full stream refuses: `old` would silently drop what was acknowledged.
        discard: DiscardPolicy::New,
        max_bytes: plan
            .max_bytes
            .map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        max_messages: -1,
        max_messages_per_subject: -1,
        max_consumers: -1,
        max_age: plan.max_age.unwrap_or(Duration::ZERO),
        duplicate_window: plan.duplicate_window.unwrap_or(Duration::ZERO),
        allow_direct: plan.allow_direct,
        ..Config::default()
    };
    match &plan.kind {
        StreamKind::Writer {
            subjects,
            republish_from,
            republish_to,
        } => {
            config.subjects = subjects.clone();
            config.republish = Some(Republish {
                source: republish_from.clone(),
                destination: republish_to.clone(),
                headers_only: false,
            });
        }
        StreamKind::Mirror { external_api, .. } => {
            config.mirror = Some(Source {
                name: plan.name.to_string(),
                external: Some(External {
                    api_prefix: external_api.clone(),
                    delivery_prefix: None,
                }),
                ..Source::default()
            });
        }
    }
    config
}

/// What of an existing stream is not as planned.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Drift {
    /// Settings that an update corrects.
    pub(super) correctable: Vec<&'static str>,
    /// Settings that only a new stream could change; it would lose what the old one holds.
    pub(super) fixed: Vec<&'static str>,
}

/// Compares the settings that the plan decides. The server fills in the others; they are not ours to change.
pub(super) fn drift(wanted: &Config, found: &Config) -> Drift {
    let mut drift = Drift::default();
    let mut correctable = |differs: bool, setting| {
        if differs {
            drift.correctable.push(setting);
        }
    };
    correctable(wanted.subjects != found.subjects, "subjects");
    correctable(wanted.republish != found.republish, "republish");
    correctable(wanted.num_replicas != found.num_replicas, "replicas");
    correctable(wanted.discard != found.discard, "discard");
    correctable(wanted.max_bytes != found.max_bytes, "max_bytes");
    correctable(
        limit(wanted.max_messages) != limit(found.max_messages),
        "max_msgs",
    );
    correctable(
        limit(wanted.max_messages_per_subject) != limit(found.max_messages_per_subject),
        "max_msgs_per_subject",
    );
    correctable(wanted.max_age != found.max_age, "max_age");
    correctable(
        // A mirror takes no publishes; whatever window the server shows for it means nothing.
        wanted.mirror.is_none() && wanted.duplicate_window != found.duplicate_window,
        "duplicate_window",
    );
    correctable(wanted.allow_direct != found.allow_direct, "allow_direct");
    if wanted.storage != found.storage {
        drift.fixed.push("storage");
    }
    if wanted.retention != found.retention {
        drift.fixed.push("retention");
    }
    if origin(wanted) != origin(found) {
        drift.fixed.push("mirror");
    }
    drift
}

/// The existing configuration with the planned settings put in, so that settings which are not ours stay as they are.
pub(super) fn corrected(wanted: &Config, found: &Config) -> Config {
    Config {
        subjects: wanted.subjects.clone(),
        republish: wanted.republish.clone(),
        num_replicas: wanted.num_replicas,
        discard: wanted.discard,
        max_bytes: wanted.max_bytes,
        max_messages: wanted.max_messages,
        max_messages_per_subject: wanted.max_messages_per_subject,
        max_age: wanted.max_age,
        duplicate_window: if wanted.mirror.is_none() {
            wanted.duplicate_window
        } else {
            found.duplicate_window
        },
        allow_direct: wanted.allow_direct,
        ..found.clone()
    }
}

/// JetStream shows "no limit" as -1 and accepts 0 for it.
fn limit(value: i64) -> i64 {
    if value <= 0 { -1 } else { value }
}

fn origin(config: &Config) -> Option<(&str, Option<&str>)> {
    let mirror = config.mirror.as_ref()?;
    let external = mirror
        .external
        .as_ref()
        .map(|external| external.api_prefix.as_str());
    Some((&mirror.name, external))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer() -> StreamPlan {
        StreamPlan {
            name: "EV_a_1_0".parse().unwrap(),
            kind: StreamKind::Writer {
                subjects: vec!["ev.a.1.0.*".to_owned()],
                republish_from: "ev.a.1.0.>".to_owned(),
                republish_to: "rp.a.ev.1.0.>".to_owned(),
            },
            replicas: 3,
            max_bytes: Some(1 << 20),
            max_age: Some(Duration::from_secs(90)),
            duplicate_window: Some(Duration::from_secs(60)),
            allow_direct: true,
        }
    }

    #[test]
    fn settings_that_the_server_fills_in_are_no_drift() {
        let wanted = config(&writer());
        let mut found = wanted.clone();
        found.max_message_size = -1;
        assert_eq!(drift(&wanted, &found), Drift::default());
    }

    #[test]
    fn a_changed_limit_is_corrected_and_foreign_settings_stay() {
        let wanted = config(&writer());
        let mut found = wanted.clone();
        found.max_bytes = 5;
        found.description = Some("by hand".to_owned());
        assert_eq!(drift(&wanted, &found).correctable, ["max_bytes"]);
        let corrected = corrected(&wanted, &found);
        assert_eq!(drift(&wanted, &corrected), Drift::default());
        assert_eq!(corrected.description.as_deref(), Some("by hand"));
    }

    #[test]
    fn a_writer_in_the_place_of_a_mirror_is_beyond_correction() {
        let wanted = config(&StreamPlan {
            kind: StreamKind::Mirror {
                of: "b".parse().unwrap(),
                external_api: "$JS.b.API".to_owned(),
            },
            duplicate_window: None,
            max_bytes: None,
            ..writer()
        });
        assert_eq!(drift(&wanted, &config(&writer())).fixed, ["mirror"]);
    }
}
