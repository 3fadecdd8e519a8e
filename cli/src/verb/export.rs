//! `nightjar export`: events as JSON lines, byte for byte as the relay has them.

use nightjar_client::pager::Pager;
use nightjar_client::{Connection, Event, Filter};

use crate::args::ExportArgs;
use crate::context::Context;
use crate::error::{CliError, from_relay};
use crate::output::write;
use crate::verb::message::{actor_for, first_open};
use crate::{person, when};

pub(crate) async fn run(args: ExportArgs, context: &Context) -> Result<(), CliError> {
    let filter = filter(&args)?;
    // Private messages are given only to who proves to be their reader, so AUTH comes first when an identity is named.
    let actor = actor_for(&args.identity, &args.via)?;
    let relays = context.relays(&args.via, Some(&actor.identity.public_key()))?;
    let mut connection = first_open(context, &actor, &relays).await?;
    let url = connection.url().clone();
    let fail = |error| from_relay(&url, &error);
    if args.identity.is_given()
        && !connection
            .authenticate_if_challenged(&actor.identity)
            .await
            .map_err(fail)?
    {
        context.console.note(&format!(
            "{url} did not ask who we are; exporting what it shows to everybody"
        ));
    }
    let count = pages(&mut connection, &filter).await?;
    connection.close().await;
    context.console.note(&format!("{count} events from {url}"));
    Ok(())
}

/// What is not named is not in the filter: an empty list would match nothing.
fn filter(args: &ExportArgs) -> Result<Filter, CliError> {
    let mut filter = Filter::new();
    for kind in &args.kind {
        filter = filter.kind((*kind).into());
    }
    for who in &args.author {
        filter = filter.author(person::public_key(who, args.via.state.as_deref())?);
    }
    if let Some(since) = &args.since {
        filter = filter.since(when::since(since)?);
    }
    Ok(filter)
}

async fn pages(connection: &mut Connection, filter: &Filter) -> Result<u64, CliError> {
    let url = connection.url().clone();
    let (mut pager, mut count, mut page_filter) = (Pager::default(), 0, filter.clone());
    loop {
        let page = connection
            .fetch(std::slice::from_ref(&page_filter), None)
            .await;
        let mut text = String::new();
        for raw in page.map_err(|error| from_relay(&url, &error))? {
            // What is no event has no place in a dump.
            let Ok(event) = Event::from_json(raw.get()) else {
                continue;
            };
            if pager.note(event.id, event.created_at) {
                count += 1;
                text += &one_line(raw.get());
            }
        }
        write(&text)?;
        match pager.next_until() {
            Some(until) => page_filter = filter.clone().until(until),
            None => return Ok(count),
        }
    }
}

/// JSON may hold line breaks between its tokens only; nearly no relay sends any.
fn one_line(json: &str) -> String {
    format!("{}\n", json.replace(['\n', '\r'], " "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Verb};
    use clap::Parser;

    fn asked(args: &[&str]) -> String {
        let cli = Cli::parse_from(["nightjar", "export"].iter().chain(args));
        match cli.verb {
            Verb::Export(args) => filter(&args).unwrap().as_json(),
            _ => panic!("not an export"),
        }
    }

    #[test]
    fn everything_is_asked_for_unless_kinds_are_named() {
        assert_eq!(asked(&[]), "{}");
        assert_eq!(
            asked(&["--kind", "0", "--kind", "10050"]),
            r#"{"kinds":[0,10050]}"#
        );
    }
}
