//! `nightjar watch`: messages as they come, over reconnects, until Ctrl-C.

use std::collections::HashSet;
use std::time::Duration;

use nightjar_client::client::unix_ms;
use nightjar_client::inbox::{Inbox, InboxEvent, Received};
use nightjar_client::{RelayUrl, Timestamp};
use tokio::time::Instant;

use crate::args::WatchArgs;
use crate::context::{Context, known_names};
use crate::error::{CliError, from_relays};
use crate::output::Stream;
use crate::verb::message::{MessageRecord, WIDTHS, open_inbox};
use crate::when;

/// Ends the watch when nobody said for how long: some years.
const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 86_400);

struct Watch<'a> {
    context: &'a Context,
    stream: Stream,
    /// Stored messages are shown when they were written since then: when asked for, or else since we began.
    since_ms: u64,
    /// Groups whose stored messages were read; what is stored later was missed while we were away, so it is shown.
    caught_up: HashSet<usize>,
    failed: Vec<(RelayUrl, nightjar_client::ConnectionError)>,
    left: Option<u64>,
}

pub(crate) async fn run(args: WatchArgs, context: &Context) -> Result<(), CliError> {
    let asked = args.since.as_deref().map(when::since).transpose()?;
    let duration = args
        .duration
        .as_deref()
        .map(when::duration)
        .transpose()?
        .unwrap_or(FOR_EVER);
    let actor = args.identity.named(&args.via).open()?;
    // Whole seconds: most clients date a message no finer, and one of this very second must not count as older.
    let since = asked.unwrap_or_else(|| Timestamp::from_secs(unix_ms() / 1000));
    let since_ms = since.as_secs().saturating_mul(1000);
    let (inbox, _) = open_inbox(context, &actor, &args.via, Some(since), true).await?;
    let out = context
        .out
        .with_names(known_names(args.via.state.as_deref()));
    let mut watch = Watch {
        context,
        stream: out.stream(WIDTHS),
        since_ms,
        caught_up: HashSet::new(),
        failed: Vec::new(),
        left: args.count,
    };
    let outcome = watch.until(inbox, Instant::now() + duration).await;
    watch.stream.end()?;
    outcome
}

impl Watch<'_> {
    async fn until(&mut self, mut inbox: Inbox, deadline: Instant) -> Result<(), CliError> {
        while self.left != Some(0) {
            let event = tokio::select! {
                event = inbox.next() => event,
                _ = tokio::signal::ctrl_c() => return Ok(()),
                () = tokio::time::sleep_until(deadline) => return self.time_is_up(),
            };
            match event {
                Some(event) => self.on_event(event)?,
                None => return Err(from_relays("no relay is left to watch", &self.failed)),
            }
        }
        Ok(())
    }

    /// A watch that never reached anybody has seen nothing, which is not the same as "no messages".
    fn time_is_up(&self) -> Result<(), CliError> {
        if !self.caught_up.is_empty() || self.failed.is_empty() {
            return Ok(());
        }
        Err(from_relays("no relay could be read", &self.failed))
    }

    fn on_event(&mut self, event: InboxEvent) -> Result<(), CliError> {
        match event {
            InboxEvent::Message(received) if self.is_wanted(&received) => {
                self.stream.push(&MessageRecord::new(&received))?;
                self.left = self.left.map(|left| left - 1);
            }
            InboxEvent::Message(_) => {}
            InboxEvent::CaughtUp {
                relay,
                region,
                group,
            } => {
                self.caught_up.insert(group);
                let region = region
                    .map(|region| format!(" in region {region}"))
                    .unwrap_or_default();
                self.context
                    .console
                    .note(&format!("watching {relay}{region}"));
            }
            InboxEvent::Refused {
                relay,
                wrap,
                reason,
            } => {
                let wrap = wrap.map_or_else(|| "?".to_owned(), |id| id.to_hex());
                self.context
                    .console
                    .warn(&format!("{relay}: refused wrap {wrap}: {reason}"));
            }
            InboxEvent::Lost {
                relay,
                error,
                retry,
            } => {
                let then = match retry {
                    Some(pause) if pause.is_zero() => "trying the next".to_owned(),
                    Some(pause) => format!("trying again in {:.1} s", pause.as_secs_f32()),
                    None => "giving up".to_owned(),
                };
                self.context
                    .console
                    .warn(&format!("{relay}: {error}; {then}"));
                // The last word of each relay.
                self.failed.retain(|(known, _)| *known != relay);
                self.failed.push((relay, error));
            }
        }
        Ok(())
    }

    fn is_wanted(&self, received: &Received) -> bool {
        let new = received.live || self.caught_up.contains(&received.group);
        new || received.message.written_ms >= self.since_ms
    }
}
