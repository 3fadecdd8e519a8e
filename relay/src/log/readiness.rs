//! What the relay still waits for: the content of `/readyz`, and whether stored reads may be answered.
//!
//! A relay is ready when nothing is waited for. While a fresh index is rebuilt, stored reads are refused (`CLOSED` with
//! the text of [`Readiness::refuses_reads`]): an EOSE over half an index would be a lie. Events are accepted meanwhile.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use serde::Serialize;

/// One thing that keeps the relay from being ready. Serialized into `/readyz` with its name in `state`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Waiting {
    /// The relay has not finished its start.
    Starting,
    /// The relay drains and will stop.
    Draining,
    /// No connection to any NATS server of the region.
    NatsDisconnected {
        /// What kept each server from being reached, as far as it is known.
        problem: String,
    },
    /// The keyring file is missing or unreadable; nothing is generated, nothing is lost, it goes on when the file is back.
    KeyringUnavailable {
        /// The path of the file.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Entries of one stream are sealed under a key epoch that the keyring does not hold: the stream's position stands.
    UnknownEpoch {
        /// The stream whose position stands.
        stream: String,
        /// The key epoch that is missing.
        epoch: u32,
    },
    /// The index was made anew and is filled from the log.
    Rebuilding {
        /// The stream.
        stream: String,
        /// The sequence applied so far.
        applied: u64,
        /// The last sequence of the stream when the relay started.
        head: u64,
    },
    /// The index was kept; the stream has entries from before the start that are not applied yet.
    CatchingUp {
        /// The stream.
        stream: String,
        /// The sequence applied so far.
        applied: u64,
        /// The last sequence of the stream when the relay started.
        head: u64,
    },
    /// The stream could not be looked at since the start.
    StreamUnseen {
        /// The stream.
        stream: String,
        /// Why.
        problem: String,
        /// The index is fresh, so nothing of the stream is known.
        fresh: bool,
    },
    /// The stream ends before the position that this relay has already applied: its log lost entries.
    StreamRegressed {
        /// The stream.
        stream: String,
        /// The sequence this relay has applied.
        applied: u64,
        /// The last sequence that the stream has now.
        head: u64,
    },
    /// The index refuses to take entries.
    IndexFailed {
        /// What it said.
        problem: String,
    },
}

impl Waiting {
    /// Every name that [`Waiting::name`] answers.
    pub const NAMES: [&'static str; 10] = [
        "starting",
        "draining",
        "nats-disconnected",
        "keyring-unavailable",
        "unknown-epoch",
        "rebuilding",
        "catching-up",
        "stream-unseen",
        "stream-regressed",
        "index-failed",
    ];

    /// The name in `state`.
    pub fn name(&self) -> &'static str {
        let at = match self {
            Self::Starting => 0,
            Self::Draining => 1,
            Self::NatsDisconnected { .. } => 2,
            Self::KeyringUnavailable { .. } => 3,
            Self::UnknownEpoch { .. } => 4,
            Self::Rebuilding { .. } => 5,
            Self::CatchingUp { .. } => 6,
            Self::StreamUnseen { .. } => 7,
            Self::StreamRegressed { .. } => 8,
            Self::IndexFailed { .. } => 9,
        };
        Self::NAMES[at]
    }
}

/// The body of `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReadinessReport {
    /// Whether the relay takes and answers everything.
    pub ready: bool,
    /// A fresh index is being filled; stored reads are refused.
    pub rebuilding: bool,
    /// Everything that is waited for, in a stable order.
    pub waiting_for: Vec<Waiting>,
}

/// A shared handle on what the relay waits for.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    waiting: Arc<RwLock<BTreeMap<String, Waiting>>>,
}

impl Readiness {
    /// A relay that has just begun to start: it waits for [`Waiting::Starting`].
    pub fn starting() -> Self {
        let readiness = Self::default();
        readiness.set("start", Waiting::Starting);
        readiness
    }

    /// Notes under `key` that something is waited for; the same key replaces. Says whether that is news.
    pub fn set(&self, key: impl Into<String>, waiting: Waiting) -> bool {
        let mut map = self
            .waiting
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let key = key.into();
        if map.get(&key) == Some(&waiting) {
            return false;
        }
        map.insert(key, waiting);
        true
    }

    /// Notes that what was waited for under `key` is there. Says whether it was waited for.
    pub fn clear(&self, key: &str) -> bool {
        let mut map = self
            .waiting
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        map.remove(key).is_some()
    }

    /// Whether nothing is waited for.
    pub fn is_ready(&self) -> bool {
        self.read().is_empty()
    }

    /// The text for a `CLOSED` to stored reads (with its `error: ` prefix), or nothing when they may be answered.
    pub fn refuses_reads(&self) -> Option<String> {
        let (mut applied_sum, mut head_sum, mut rebuilding) = (0u64, 0u64, false);
        for waiting in self.read().values() {
            match waiting {
                Waiting::Rebuilding { applied, head, .. } => {
                    rebuilding = true;
                    applied_sum = applied_sum.saturating_add(*applied);
                    head_sum = head_sum.saturating_add(*head);
                }
                Waiting::StreamUnseen { fresh: true, .. } => rebuilding = true,
                _ => {}
            }
        }
        rebuilding.then(|| {
            format!("error: this relay rebuilds its index ({applied_sum} of {head_sum} log entries), ask again soon")
        })
    }

    /// What `/readyz` shows.
    pub fn report(&self) -> ReadinessReport {
        let waiting_for: Vec<Waiting> = self.read().values().cloned().collect();
        ReadinessReport {
            ready: waiting_for.is_empty(),
            rebuilding: self.refuses_reads().is_some(),
            waiting_for,
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<String, Waiting>> {
        self.waiting
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_starting_relay_is_not_ready_and_answers_reads_only_with_a_kept_index() {
        let readiness = Readiness::starting();
        assert!(!readiness.is_ready());
        readiness.clear("start");
        assert!(readiness.is_ready());

        let stream = "EV_a_1_0".to_owned();
        readiness.set(
            "s",
            Waiting::CatchingUp {
                stream: stream.clone(),
                applied: 1,
                head: 2,
            },
        );
        assert!(!readiness.is_ready());
        assert_eq!(readiness.refuses_reads(), None);

        readiness.set(
            "s",
            Waiting::Rebuilding {
                stream,
                applied: 3,
                head: 9,
            },
        );
        let text = readiness.refuses_reads().expect("reads are refused");
        assert!(text.starts_with("error: "), "{text}");
        assert!(text.contains("3 of 9"), "{text}");
        let json = serde_json::to_value(readiness.report()).expect("a report");
        assert_eq!(json["waiting_for"][0]["state"], "rebuilding");
        assert_eq!(json["rebuilding"], true);
    }

    #[test]
    fn names_are_those_of_the_report() {
        let (stream, problem) = (String::new(), String::new());
        let (applied, head) = (0, 0);
        let all = [
            Waiting::Starting,
            Waiting::Draining,
            Waiting::NatsDisconnected {
                problem: problem.clone(),
            },
            Waiting::KeyringUnavailable {
                file: String::new(),
                problem: problem.clone(),
            },
            Waiting::UnknownEpoch {
                stream: stream.clone(),
                epoch: 1,
            },
            Waiting::Rebuilding {
                stream: stream.clone(),
                applied,
                head,
            },
            Waiting::CatchingUp {
                stream: stream.clone(),
                applied,
                head,
            },
            Waiting::StreamUnseen {
                stream: stream.clone(),
                problem: problem.clone(),
                fresh: false,
            },
            Waiting::StreamRegressed {
                stream,
                applied,
                head,
            },
            Waiting::IndexFailed { problem },
        ];
        assert_eq!(all.each_ref().map(Waiting::name), Waiting::NAMES);
        for waiting in all {
            let json = serde_json::to_value(&waiting).expect("JSON");
            assert_eq!(json["state"], waiting.name());
        }
    }
}
