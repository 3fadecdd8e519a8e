//! Hints: what every region's streams republish on `rp.>`. Fast and unreliable: live delivery only, never the index.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use nightjar_envelope::Route;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::metrics::Heard;
use super::opening;
use super::tail::Shared;
use crate::index::{Applied, Logged};
use crate::live::Source;

/// Pause before the subscription is made again.
const RESUBSCRIBE: Duration = Duration::from_millis(500);

/// Listens to `rp.>` until stopped.
pub(crate) async fn run(connection: Connection, shared: Arc<Shared>, stop: CancellationToken) {
    while !stop.is_cancelled() {
        match connection.client.subscribe("rp.>").await {
            Ok(mut hints) => {
                while let Some(Some(hint)) = stop.run_until_cancelled(hints.next()).await {
                    let heard = on_hint(&shared, &hint.subject, &hint.payload);
                    shared.metrics.on_hint(heard);
                }
            }
            Err(error) => tracing::warn!(%error, "no subscription to hints"),
        }
        stop.run_until_cancelled(tokio::time::sleep(RESUBSCRIBE))
            .await;
    }
}

/// The same path as an entry of the log: opening, tombstone, floor, expiry. Whatever does not pass is dropped; the pull
/// consumer brings the truth.
fn on_hint(shared: &Shared, subject: &str, envelope: &[u8]) -> Heard {
    let Ok(route) = Route::from_hint_subject(subject) else {
        return Heard::refused;
    };
    if !shared.follows(&route) {
        return Heard::refused;
    }
    let Some(keyring) = shared.keys.current() else {
        return Heard::refused;
    };
    let Ok(opened) = opening::open(&keyring, &shared.fleet, &route, envelope) else {
        return Heard::refused;
    };
    // A change of lists is nothing to deliver.
    let Logged::Event(event) = &opened.content else {
        return Heard::stale;
    };
    match shared
        .index
        .check_hint(event, opened.admitted_ms, super::now_s())
    {
        Ok(Applied::New) => {
            shared.live.deliver(event, Source::Hint);
            Heard::delivered
        }
        Ok(_) => Heard::stale,
        Err(error) => {
            tracing::debug!(%error, "the index could not judge a hint");
            Heard::refused
        }
    }
}
