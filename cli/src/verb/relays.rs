//! `nightjar relays`: where somebody wants private messages (kind 10050, NIP-17).

use nightjar_client::{Event, Kind, directory};
use serde::Serialize;

use crate::args::RelaysVerb;
use crate::code::Code;
use crate::context::Context;
use crate::error::CliError;
use crate::home_relays;
use crate::output::Record;
use crate::verb::message::who;
use crate::when;

#[derive(Debug, Serialize)]
struct RelaysRecord {
    npub: String,
    relays: Vec<String>,
    updated: String,
}
impl Record for RelaysRecord {
    const COLUMNS: &'static [&'static str] = &["npub", "relays", "updated"];
}

pub(crate) async fn run(verb: RelaysVerb, context: &Context) -> Result<(), CliError> {
    match verb {
        RelaysVerb::Show(args) => {
            let (actor, key) = who(&args)?;
            let relays = context.relays(&args.via, Some(&actor.identity.public_key()))?;
            let mut client = context.client(&actor, relays);
            let found = client.latest(&key, Kind::InboxRelays).await?;
            client.close().await;
            let event = found.ok_or_else(|| {
                let message = format!(
                    "{} has published no relays there",
                    nightjar_client::identity::npub(&key)
                );
                CliError::new(
                    Code::NoInbox,
                    message,
                    "nightjar relays set wss://relay.example",
                )
            })?;
            context.out.one(&record(&event))
        }
        RelaysVerb::Set {
            relays,
            identity,
            via,
        } => {
            let list = context.named_relays(&relays, via.state.as_deref())?;
            let actor = identity.named(&via).open()?;
            // Published where asked for, and on the new relays themselves, where senders look first.
            let mut targets = context.named_relays(&via.via, via.state.as_deref())?;
            targets.extend(
                list.iter()
                    .filter(|url| !targets.contains(url))
                    .cloned()
                    .collect::<Vec<_>>(),
            );
            let mut client = context.client(&actor, targets.clone());
            let (event, deliveries) = client
                .publish(directory::inbox_list(&list), &targets)
                .await?;
            client.close().await;
            context.tell_deliveries(&deliveries);
            if !actor.demo {
                home_relays::keep(&event.pubkey, &list)?;
            }
            context.out.one(&record(&event))
        }
    }
}

fn record(event: &Event) -> RelaysRecord {
    RelaysRecord {
        npub: nightjar_client::identity::npub(&event.pubkey),
        relays: directory::inbox_relays(event)
            .iter()
            .map(ToString::to_string)
            .collect(),
        updated: when::shown(event.created_at.as_secs().saturating_mul(1000)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::assert_same_fields;

    #[test]
    fn table_and_json_have_the_same_fields() {
        let event = nightjar_client::Identity::generate()
            .sign(directory::inbox_list(&[]))
            .unwrap();
        assert_same_fields(&record(&event));
    }
}
