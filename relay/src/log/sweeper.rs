//! Housekeeping: erases what expired from the index, and (one relay of a region) removes superseded entries from the
//! state streams, one by one and slowly. Deletes are not mirrored, so each region's sweeper cleans its own copies.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::context::RequestErrorKind;
use async_nats::jetstream::response::Response;
use serde::Deserialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::tail::Shared;
use crate::index::{Index, IndexError, LogPosition};

/// Expired events are erased this often.
const EXPIRE_EVERY: Duration = Duration::from_secs(10);
/// Events erased in one transaction.
const EXPIRE_BATCH: usize = 500;
/// Superseded entries are looked for this often.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// Entries removed in one round.
const SWEEP_BATCH: usize = 200;
/// Pause between two removals: at most 50 a second.
const SWEEP_PAUSE: Duration = Duration::from_millis(20);
/// JetStream: no message with this sequence, or no such stream (its region was removed); it is gone already.
const GONE: [u64; 3] = [10_037, 10_043, 10_059];

/// Erases what expired or outlived its retention, until stopped.
pub(crate) async fn expire(index: Index, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(EXPIRE_EVERY);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        loop {
            let erased = on_index(&index, |index| {
                index.sweep_expired(super::now_s(), EXPIRE_BATCH)
            });
            match erased.await {
                Some(Ok(EXPIRE_BATCH)) if !stop.is_cancelled() => {}
                Some(Err(error)) => {
                    tracing::warn!(%error, "expired events stay in the index for now");
                    break;
                }
                _ => break,
            }
        }
    }
}

/// Removes superseded entries from this region's copies of the state streams, until stopped.
pub(crate) async fn sweep(connection: Connection, shared: Arc<Shared>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(SWEEP_EVERY);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let index = shared.index.clone();
        let entries = match on_index(&index, |index| index.superseded(SWEEP_BATCH)).await {
            Some(Ok(entries)) => entries,
            Some(Err(error)) => {
                tracing::warn!(%error, "superseded entries stay in the log for now");
                continue;
            }
            None => break,
        };
        let mut removed = Vec::new();
        for entry in entries {
            if stop
                .run_until_cancelled(tokio::time::sleep(SWEEP_PAUSE))
                .await
                .is_none()
            {
                break;
            }
            match remove(&connection, &entry).await {
                Ok(()) => removed.push(entry),
                Err(problem) => {
                    tracing::debug!(stream = %entry.stream, seq = entry.seq, problem, "not removed");
                    break;
                }
            }
        }
        shared.metrics.swept.inc_by(removed.len() as u64);
        if !removed.is_empty()
            && let Some(Err(error)) = on_index(&index, move |index| index.swept(&removed)).await
        {
            tracing::warn!(%error, "removed entries will be removed again");
        }
    }
}

#[derive(Deserialize)]
struct Deleted {
    success: bool,
}

async fn remove(connection: &Connection, entry: &LogPosition) -> Result<(), String> {
    let subject = format!("STREAM.MSG.DELETE.{}", entry.stream);
    let answer: Result<Response<Deleted>, _> = connection
        .jetstream
        .request(subject, &json!({"seq": entry.seq, "no_erase": true}))
        .await;
    match answer {
        Ok(Response::Ok(deleted)) if deleted.success => Ok(()),
        Ok(Response::Ok(_)) => Err("refused without a reason".into()),
        Ok(Response::Err { error }) if GONE.contains(&error.error_code().0) => Ok(()),
        Ok(Response::Err { error }) => Err(error.to_string()),
        Err(error) if error.kind() == RequestErrorKind::TimedOut => Err("no answer".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// Runs on a thread that may block; nothing when the runtime is going down.
async fn on_index<T: Send + 'static>(
    index: &Index,
    work: impl FnOnce(&Index) -> Result<T, IndexError> + Send + 'static,
) -> Option<Result<T, IndexError>> {
    let index = index.clone();
    tokio::task::spawn_blocking(move || work(&index)).await.ok()
}
