//! `nightjar send`: one private message, or one for each line of stdin.

use nightjar_client::delivery::Delivery;
use nightjar_client::identity::npub;
use nightjar_client::{Client, PublicKey, Sent};
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::args::SendArgs;
use crate::code::Code;
use crate::context::{Context, known_names};
use crate::error::{CliError, from_relays};
use crate::output::{Format, Output, Record};
use crate::{person, when};

/// One copy of a sent message.
#[derive(Debug, Serialize)]
pub(crate) struct CopyRecord {
    /// Id of the message, the same for each copy.
    id: String,
    to: String,
    /// `recipient`, or `own` for our other devices.
    copy: &'static str,
    /// The relay that took it, or the last one that did not.
    relay: Option<String>,
    region: Option<String>,
    /// `accepted` (a Nightjar relay says so once it is durable), `duplicate` when the relay had it, `failed`.
    state: &'static str,
    took_ms: Option<u64>,
}
impl Record for CopyRecord {
    const COLUMNS: &'static [&'static str] =
        &["id", "to", "copy", "relay", "region", "state", "took_ms"];
}

const WIDTHS: &[usize] = &[16, 16, 9, 22, 8, 9];

pub(crate) async fn run(args: SendArgs, context: &Context) -> Result<(), CliError> {
    let state = args.via.state.as_deref();
    let mut to = vec![person::public_key(&args.to, state)?];
    for who in &args.also {
        to.push(person::public_key(who, state)?);
    }
    let named = args.identity.named(&args.via);
    let text = args.text.filter(|text| text != "-");
    if text.is_none() && named.uses_stdin() {
        let message = "messages and passphrase would both come from stdin";
        return Err(CliError::new(
            Code::StdinTwice,
            message,
            "nightjar send TO --passphrase-file FILE",
        ));
    }
    let actor = named.open()?;
    let relays = context.relays(&args.via, Some(&actor.identity.public_key()))?;
    let out = context.out.with_names(known_names(state));
    let mut client = context.client(&actor, relays);
    let outcome = match text {
        Some(text) => send_one(&mut client, &to, &text, context, &out).await,
        None => send_lines(&mut client, &to, context, &out).await,
    };
    client.close().await;
    outcome
}

async fn send_one(
    client: &mut Client,
    to: &[PublicKey],
    text: &str,
    context: &Context,
    out: &Output,
) -> Result<(), CliError> {
    let sent = client.send(to, text).await?;
    tell(context, &sent);
    out.list(&records(&client.identity().public_key(), &sent))?;
    complete(&sent)
}

/// Fails when some recipient has no copy. The others have theirs, so the message must not go to everybody again.
fn complete(sent: &Sent) -> Result<(), CliError> {
    let not_taken = sent.not_taken();
    if not_taken.is_empty() {
        return Ok(());
    }
    let who: Vec<_> = not_taken.iter().map(|(who, _)| npub(who)).collect();
    let failed: Vec<_> = not_taken
        .into_iter()
        .flat_map(|(_, failed)| failed)
        .collect();
    let message = format!("no relay of {} took it; the others have it", who.join(", "));
    let mut error = from_relays(&message, &failed);
    error.next = format!("nightjar send {}, without those who have it", who[0]);
    Err(error)
}

/// Each line by itself: a failed one is named, and the others still go.
async fn send_lines(
    client: &mut Client,
    to: &[PublicKey],
    context: &Context,
    out: &Output,
) -> Result<(), CliError> {
    let me = client.identity().public_key();
    let mut stream = out.stream(WIDTHS);
    let mut lines = BufReader::new(tokio::io::stdin()).split(b'\n');
    let (mut number, mut failed) = (0u64, 0u64);
    let unreadable = |error: std::io::Error| {
        CliError::new(Code::File, "could not read stdin", "the same command again").because(error)
    };
    while let Some(line) = lines.next_segment().await.map_err(unreadable)? {
        number += 1;
        let outcome = match String::from_utf8(line) {
            Ok(line) if line.trim().is_empty() => continue,
            Ok(line) => client
                .send(to, line.trim_end_matches('\r'))
                .await
                .map_err(CliError::from),
            Err(_) => Err(CliError::new(
                Code::BadValue,
                "the line is not UTF-8",
                "iconv -t utf-8",
            )),
        };
        let outcome = match outcome {
            Ok(sent) => {
                tell(context, &sent);
                for record in records(&me, &sent) {
                    stream.push(&record)?;
                }
                complete(&sent)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            failed += 1;
            match out.format() {
                Format::Table => context.console.error(&format!("line {number}: {error}")),
                _ => context
                    .console
                    .plain(&error.because(format!("line {number}")).to_json()),
            }
        }
    }
    stream.end()?;
    if failed > 0 {
        let message = format!("{failed} of {number} lines were not sent, or not to everybody");
        return Err(CliError::new(
            Code::SomeLines,
            message,
            "send the failed lines again",
        ));
    }
    Ok(())
}

fn tell(context: &Context, sent: &Sent) {
    for (_, deliveries) in &sent.copies {
        context.tell_deliveries(deliveries);
    }
    context.tell_deliveries(&sent.own);
    if sent.own.is_empty() {
        context.console.note(
            "no copy for yourself: you have published no relays (`nightjar relays set --help`)",
        );
    }
}

fn records(me: &PublicKey, sent: &Sent) -> Vec<CopyRecord> {
    let id = sent.id.to_hex();
    let record = |to: &PublicKey, copy: &'static str, delivery: &Delivery| CopyRecord {
        id: id.clone(),
        to: npub(to),
        copy,
        relay: match &delivery.taken {
            Some(taken) => Some(taken.url.to_string()),
            None => delivery.failed.last().map(|(url, _)| url.to_string()),
        },
        region: delivery
            .taken
            .as_ref()
            .and_then(|taken| taken.region.clone()),
        state: match &delivery.taken {
            Some(taken) if taken.duplicate => "duplicate",
            Some(_) => "accepted",
            None => "failed",
        },
        took_ms: delivery
            .taken
            .as_ref()
            .map(|taken| when::millis(taken.took)),
    };
    let copies = sent.copies.iter();
    copies
        .flat_map(|(to, deliveries)| {
            deliveries
                .iter()
                .map(|delivery| record(to, "recipient", delivery))
        })
        .chain(sent.own.iter().map(|delivery| record(me, "own", delivery)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::assert_same_fields;

    #[test]
    fn table_and_json_have_the_same_fields() {
        let record = CopyRecord {
            id: String::new(),
            to: String::new(),
            copy: "own",
            relay: None,
            region: None,
            state: "failed",
            took_ms: None,
        };
        assert_same_fields(&record);
    }
}
