//! `nightjar inbox`: the messages that relays keep, oldest first.

use nightjar_client::inbox::InboxEvent;

use crate::args::InboxArgs;
use crate::context::{Context, known_names};
use crate::error::{CliError, from_relays};
use crate::verb::message::{MessageRecord, open_inbox};
use crate::when;

pub(crate) async fn run(args: InboxArgs, context: &Context) -> Result<(), CliError> {
    let since = args.since.as_deref().map(when::since).transpose()?;
    let actor = args.identity.named(&args.via).open()?;
    let (mut inbox, groups) = open_inbox(context, &actor, &args.via, since, false).await?;
    let (mut received, mut failed, mut read, mut refused) = (Vec::new(), Vec::new(), 0, 0);
    while let Some(event) = inbox.next().await {
        match event {
            InboxEvent::Message(message) => received.push(*message),
            InboxEvent::CaughtUp { .. } => read += 1,
            InboxEvent::Lost { relay, error, .. } => failed.push((relay, error)),
            InboxEvent::Refused {
                relay,
                wrap,
                reason,
            } => {
                refused += 1;
                let wrap = wrap.map_or_else(|| "?".to_owned(), |id| id.to_hex());
                context
                    .console
                    .detail(&format!("{relay}: refused wrap {wrap}: {reason}"));
            }
        }
    }
    if read == 0 {
        return Err(from_relays("no relay could be read", &failed));
    }
    if read < groups {
        for (relay, error) in &failed {
            context.console.warn(&format!("{relay}: {error}"));
        }
    }
    if refused > 0 {
        context.console.warn(&format!(
            "{refused} gift wraps did not pass the checks; --verbose says why"
        ));
    }
    if let Some(since) = since {
        received.retain(|one| one.message.written_ms / 1000 >= since.as_secs());
    }
    received.sort_by(|a, b| {
        (a.message.written_ms, a.message.id).cmp(&(b.message.written_ms, b.message.id))
    });
    if let Some(limit) = args.limit {
        received.drain(..received.len().saturating_sub(limit));
    }
    if received.is_empty() {
        context.console.note("no messages");
    }
    let out = context
        .out
        .with_names(known_names(args.via.state.as_deref()));
    out.list(&received.iter().map(MessageRecord::new).collect::<Vec<_>>())
}
