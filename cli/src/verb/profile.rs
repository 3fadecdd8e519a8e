//! `nightjar profile`: kind 0, shown or changed field by field.

use nightjar_client::{Event, Kind, PublicKey};
use nostr::event::EventBuilder;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::args::{ProfileFields, ProfileVerb};
use crate::code::Code;
use crate::context::Context;
use crate::error::CliError;
use crate::output::Record;
use crate::verb::message::who;
use crate::when;

#[derive(Debug, Serialize)]
struct ProfileRecord {
    npub: String,
    name: Option<String>,
    display_name: Option<String>,
    about: Option<String>,
    picture: Option<String>,
    nip05: Option<String>,
    updated: String,
}
impl Record for ProfileRecord {
    const COLUMNS: &'static [&'static str] = &[
        "npub",
        "name",
        "display_name",
        "about",
        "picture",
        "nip05",
        "updated",
    ];
}

pub(crate) async fn run(verb: ProfileVerb, context: &Context) -> Result<(), CliError> {
    match verb {
        ProfileVerb::Show(args) => {
            let (actor, key) = who(&args)?;
            let relays = context.relays(&args.via, Some(&actor.identity.public_key()))?;
            let mut client = context.client(&actor, relays);
            let found = client.latest(&key, Kind::Metadata).await?;
            client.close().await;
            let event = found.ok_or_else(|| not_published(&key))?;
            context.out.one(&record(&event))
        }
        ProfileVerb::Set {
            fields,
            identity,
            via,
        } => {
            let actor = identity.named(&via).open()?;
            let me = actor.identity.public_key();
            let relays = context.relays(&via, Some(&me))?;
            let mut client = context.client(&actor, relays.clone());
            let old = client.latest(&me, Kind::Metadata).await?;
            let content = merged(old.as_ref(), fields).to_string();
            let (event, deliveries) = client
                .publish(EventBuilder::new(Kind::Metadata, content), &relays)
                .await?;
            client.close().await;
            context.tell_deliveries(&deliveries);
            context.out.one(&record(&event))
        }
    }
}

/// Fields that are not named stay, also those that this program does not know.
fn merged(old: Option<&Event>, fields: ProfileFields) -> Value {
    let mut content = old.map(content).unwrap_or_default();
    let ProfileFields {
        name,
        display_name,
        about,
        picture,
        nip05,
    } = fields;
    let named = [
        ("name", name),
        ("display_name", display_name),
        ("about", about),
        ("picture", picture),
        ("nip05", nip05),
    ];
    for (field, value) in named {
        if let Some(value) = value {
            content.insert(field.to_owned(), value.into());
        }
    }
    Value::Object(content)
}

fn content(event: &Event) -> Map<String, Value> {
    serde_json::from_str(&event.content).unwrap_or_default()
}

fn record(event: &Event) -> ProfileRecord {
    let content = content(event);
    let field = |name: &str| content.get(name).and_then(Value::as_str).map(str::to_owned);
    ProfileRecord {
        npub: nightjar_client::identity::npub(&event.pubkey),
        name: field("name"),
        display_name: field("display_name"),
        about: field("about"),
        picture: field("picture"),
        nip05: field("nip05"),
        updated: when::shown(event.created_at.as_secs().saturating_mul(1000)),
    }
}

fn not_published(key: &PublicKey) -> CliError {
    let message = format!(
        "{} has published no profile there",
        nightjar_client::identity::npub(key)
    );
    CliError::new(
        Code::NotPublished,
        message,
        "nightjar profile set --name NAME",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::assert_same_fields;
    use nightjar_client::Identity;

    #[test]
    fn unnamed_and_unknown_fields_stay() {
        let old = r#"{"name":"al","about":"x","lud16":"a@b"}"#;
        let old = Identity::generate()
            .sign(EventBuilder::new(Kind::Metadata, old))
            .unwrap();
        let fields = ProfileFields {
            name: Some("Alice".into()),
            display_name: None,
            about: None,
            picture: None,
            nip05: None,
        };
        assert_eq!(
            merged(Some(&old), fields),
            serde_json::json!({"name": "Alice", "about": "x", "lud16": "a@b"})
        );
    }

    #[test]
    fn table_and_json_have_the_same_fields() {
        let event = Identity::generate()
            .sign(EventBuilder::new(Kind::Metadata, "{}"))
            .unwrap();
        assert_same_fields(&record(&event));
    }
}
