//! The first reading of the log after a start: until every stream has reached the end it had then.
//!
//! A fresh index leaves a mark in its folder until it is filled, so that a relay that dies in between still knows that its
//! index has holes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use nightjar_envelope::StreamName;

use super::readiness::{Readiness, Waiting};

/// Tracks which streams are still behind the end they had at the start.
#[derive(Debug)]
pub(crate) struct Rebuild {
    fresh: bool,
    mark: PathBuf,
    began: Instant,
    readiness: Readiness,
    behind: Mutex<Behind>,
}

#[derive(Debug)]
struct Behind {
    streams: BTreeSet<StreamName>,
    done: bool,
}

impl Rebuild {
    /// Begins with all `streams` behind. `fresh`: the index was empty when it was opened.
    pub(crate) fn begin(
        dir: &Path,
        fresh: bool,
        streams: impl IntoIterator<Item = StreamName>,
        readiness: Readiness,
    ) -> std::io::Result<Self> {
        let mark = dir.join("rebuilding");
        if fresh {
            std::fs::write(
                &mark,
                "The index is being filled from the log. Removed when it is complete.\n",
            )?;
        }
        let fresh = fresh || mark.exists();
        let rebuild = Self {
            fresh,
            mark,
            began: Instant::now(),
            readiness,
            behind: Mutex::new(Behind {
                streams: streams.into_iter().collect(),
                done: false,
            }),
        };
        let behind = rebuild.lock().streams.clone();
        for stream in behind {
            rebuild.on_unseen(&stream, "not looked at yet");
        }
        Ok(rebuild)
    }

    /// Whether the stream is still behind the end it had at the start.
    pub(crate) fn is_behind(&self, stream: &StreamName) -> bool {
        self.lock().streams.contains(stream)
    }

    /// The stream could not be looked at.
    pub(crate) fn on_unseen(&self, stream: &StreamName, problem: &str) {
        if self.is_behind(stream) {
            let waiting = Waiting::StreamUnseen {
                stream: stream.to_string(),
                problem: problem.to_owned(),
                fresh: self.fresh,
            };
            self.readiness.set(key(stream), waiting);
        }
    }

    /// The stream is behind and has come so far.
    pub(crate) fn on_progress(&self, stream: &StreamName, applied: u64, head: u64) {
        if !self.is_behind(stream) {
            return;
        }
        let stream_text = stream.to_string();
        let waiting = if self.fresh {
            Waiting::Rebuilding {
                stream: stream_text,
                applied,
                head,
            }
        } else {
            Waiting::CatchingUp {
                stream: stream_text,
                applied,
                head,
            }
        };
        self.readiness.set(key(stream), waiting);
    }

    /// The stream has reached its end, or is none of ours to wait for (a mirror that does not exist, a removed region).
    pub(crate) fn on_reached(&self, stream: &StreamName) {
        let mut behind = self.lock();
        if !behind.streams.remove(stream) {
            return;
        }
        self.readiness.clear(&key(stream));
        if !behind.streams.is_empty() || behind.done {
            return;
        }
        behind.done = true;
        tracing::info!(
            seconds = self.began.elapsed().as_secs_f64(),
            rebuilt = self.fresh,
            "every stream of the log is read to the end it had at the start"
        );
        if self.fresh
            && let Err(error) = std::fs::remove_file(&self.mark)
        {
            tracing::warn!(path = %self.mark.display(), %error, "the mark of the rebuild stays; the next start waits again");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Behind> {
        self.behind
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn key(stream: &StreamName) -> String {
    format!("stream {stream}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streams() -> Vec<StreamName> {
        ["EV_a_1_0", "ST_a_1_0"]
            .iter()
            .map(|name| name.parse().expect("a name"))
            .collect()
    }

    #[test]
    fn a_relay_that_dies_while_rebuilding_still_rebuilds_after_its_restart() {
        let dir = tempfile::tempdir().expect("a folder");
        let begin = |fresh| {
            let readiness = Readiness::default();
            let rebuild =
                Rebuild::begin(dir.path(), fresh, streams(), readiness.clone()).expect("begun");
            (rebuild, readiness)
        };
        let (first, readiness) = begin(true);
        first.on_reached(&streams()[0]);
        assert!(readiness.refuses_reads().is_some());
        drop(first);

        let (second, readiness) = begin(false);
        second.on_progress(&streams()[0], 1, 2);
        assert!(readiness.refuses_reads().is_some(), "the index has holes");
        for stream in streams() {
            second.on_reached(&stream);
        }
        assert!(readiness.is_ready());

        let (_third, readiness) = begin(false);
        assert_eq!(
            readiness.refuses_reads(),
            None,
            "a kept index answers while it catches up"
        );
        assert!(!readiness.is_ready());
    }
}
