//! `nightjar why`: what a fleet waits for, since when, what ends it, and what happened around it.

use clap::Args;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::ResourceExt;
use nightjar_operator::crd::{ConditionType, RelayCluster, WaitingFor};
use serde::Serialize;

use crate::context::Context;
use crate::error::CliError;
use crate::kubernetes::{Cluster, PAUSED, Where, event_time, events, fleet_or_only};
use crate::output::{Document, shown};
use crate::when;

/// Events shown with each thing that is waited for.
const EVENTS: usize = 5;

#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    /// Name of the fleet [default: the only one of the namespace]
    fleet: Option<String>,
    #[command(flatten)]
    at: Where,
}

/// The whole answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    fleet: String,
    namespace: String,
    /// One sentence.
    summary: String,
    waiting_for: Vec<Waiting>,
}

/// One thing that is waited for.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Waiting {
    what: String,
    #[serde(rename = "where")]
    place: String,
    since: Timestamp,
    /// How long by now.
    lasts: String,
    unblocked_by: String,
    events: Vec<Happened>,
}

/// An event of Kubernetes.
#[derive(Debug, Serialize)]
struct Happened {
    time: Option<Timestamp>,
    #[serde(rename = "type")]
    kind: String,
    reason: String,
    object: String,
    message: String,
    count: i32,
}

pub(crate) async fn run(args: &WhyArgs, context: &Context) -> Result<(), CliError> {
    let cluster = Cluster::find(&args.at).await?;
    let fleet = fleet_or_only(&cluster, args.fleet.as_deref()).await?;
    let events = match events(&cluster, &fleet.name_any()).await {
        Ok(events) => events,
        Err(failure) => {
            context
                .console
                .warn(&format!("without events: {}", failure.message));
            Vec::new()
        }
    };
    context
        .out
        .document(&answer(&fleet, &events, Timestamp::now()))
}

fn answer(fleet: &RelayCluster, events: &[Event], now: Timestamp) -> Answer {
    let name = fleet.name_any();
    let status = fleet.status.as_ref();
    let waits: Vec<Waiting> = status
        .map(|status| status.waiting_for.as_slice())
        .unwrap_or_default()
        .iter()
        .map(|wait| waiting(&name, wait, events, now))
        .collect();
    Answer {
        summary: summary(fleet, &waits),
        namespace: fleet.namespace().unwrap_or_default(),
        fleet: name,
        waiting_for: waits,
    }
}

fn summary(fleet: &RelayCluster, waits: &[Waiting]) -> String {
    let name = fleet.name_any();
    let status = fleet.status.as_ref();
    let seen = status.and_then(|status| status.observed_generation);
    if fleet
        .annotations()
        .get(PAUSED)
        .is_some_and(|value| value == "true")
    {
        return format!(
            "{name} is paused: the operator leaves it alone until `kubectl annotate njc {name} {PAUSED}-`."
        );
    }
    let behind = if seen.is_none() {
        format!(
            "The operator has not seen {name} yet: does it run, and does it watch this namespace? `nightjar check` tells. "
        )
    } else if seen != fleet.metadata.generation {
        format!(
            "The operator has not taken the last change of {name} yet; what follows is from before. "
        )
    } else {
        String::new()
    };
    let ready = status.and_then(|status| status.condition(ConditionType::Ready));
    let state = match waits.len() {
        0 if seen.is_none() => return behind.trim_end().to_owned(),
        0 => match ready {
            Some(ready) if ready.status != "True" => format!(
                "{name} waits for nothing that its status names, and is not ready: {}",
                ready.message
            ),
            _ => format!("{name} waits for nothing."),
        },
        1 => format!("{name} waits for one thing."),
        count => format!("{name} waits for {count} things."),
    };
    behind + &state
}

fn waiting(fleet: &str, wait: &WaitingFor, events: &[Event], now: Timestamp) -> Waiting {
    let about = events
        .iter()
        .filter(|event| concerns(fleet, &wait.where_, event));
    Waiting {
        what: wait.what.clone(),
        place: wait.where_.clone(),
        since: wait.since.0,
        lasts: when::span(when::since_time(wait.since.0, now)),
        unblocked_by: wait.unblocked_by.clone(),
        events: about.take(EVENTS).map(happened).collect(),
    }
}

/// Whether an event is about the place: an object such as `pod/eu-a-nats-1`, or any object of a region.
fn concerns(fleet: &str, place: &str, event: &Event) -> bool {
    let name = event.involved_object.name.as_deref().unwrap_or_default();
    match place.split_once('/') {
        // The pod's disk tells more of a pod that waits than the pod itself.
        Some((_, object)) => name == object || name.ends_with(&format!("-{object}")),
        None if place == fleet || place.is_empty() => name == fleet,
        None => name == place || name.contains(&format!("{fleet}-{place}-")),
    }
}

fn happened(event: &Event) -> Happened {
    let object = &event.involved_object;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    Happened {
        time: event_time(event),
        kind: text(&event.type_),
        reason: text(&event.reason),
        object: format!(
            "{}/{}",
            text(&object.kind).to_ascii_lowercase(),
            text(&object.name)
        ),
        message: text(&event.message),
        count: event
            .count
            .or(event.series.as_ref().and_then(|series| series.count))
            .unwrap_or(1),
    }
}

/// `PodNotReady` as people say it: `pod not ready`.
fn words(what: &str) -> String {
    let mut words = String::new();
    let mut before = ' ';
    for c in what.chars() {
        if c.is_ascii_uppercase() && before.is_ascii_lowercase() {
            words.push(' ');
        }
        words.push(c.to_ascii_lowercase());
        before = c;
    }
    words
}

impl Document for Answer {
    fn text(&self) -> String {
        let Self {
            fleet,
            namespace,
            summary,
            waiting_for,
        } = self;
        let mut text = format!(
            "{}\n(fleet {fleet}, namespace {namespace})\n",
            shown(summary)
        );
        for wait in waiting_for {
            let Waiting {
                what,
                place,
                since,
                lasts,
                unblocked_by,
                events,
            } = wait;
            text += &format!(
                "\n{} ({what}) at {}, for {lasts}, since {since}.\n  It ends when: {}\n",
                words(what),
                shown(place),
                shown(unblocked_by)
            );
            for event in events {
                let Happened {
                    time,
                    kind,
                    reason,
                    object,
                    message,
                    count,
                } = event;
                let time = time.map_or_else(|| "-".to_owned(), |time| format!("{time:.0}"));
                let times = if *count > 1 {
                    format!(" ({count} times)")
                } else {
                    String::new()
                };
                text += &format!(
                    "    {time}  {kind}  {reason}  {}: {}{times}\n",
                    shown(object),
                    shown(message)
                );
            }
            if events.is_empty() {
                text += "    no recent events about it\n";
            }
        }
        text
    }

    fn names(&self) -> Vec<String> {
        self.waiting_for
            .iter()
            .map(|wait| wait.place.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: nightjar.dev/v1alpha1\nkind: RelayCluster\nmetadata: {name: eu, namespace: messages, generation: 2}\nspec: {regions: [{name: a}]}\n";

    fn event(kind: &str, name: &str, message: &str) -> Event {
        serde_json::from_value(serde_json::json!({
            "metadata": {}, "involvedObject": {"kind": kind, "name": name}, "type": "Warning", "reason": "FailedScheduling",
            "message": message, "count": 4, "lastTimestamp": "2026-11-25T21:04:00Z",
        }))
        .unwrap()
    }

    fn text(status: &str) -> String {
        let fleet: RelayCluster = serde_yaml::from_str(&format!("{HEAD}{status}")).unwrap();
        let events = [
            event("Pod", "eu-a-nats-1", "0/3 nodes are available\u{1b}[2J"),
            event(
                "PersistentVolumeClaim",
                "data-eu-a-nats-1",
                "waiting for a volume",
            ),
            event("Pod", "eu-a-nats-2", "of another pod"),
        ];
        answer(&fleet, &events, "2026-11-25T21:05:00Z".parse().unwrap()).text()
    }

    #[test]
    fn one_paragraph_for_each_thing() {
        insta::assert_snapshot!(text(
            "status: {observedGeneration: 2, waitingFor: [{what: PodUnschedulable, where: pod/eu-a-nats-1, since: '2026-11-25T21:01:40Z', unblockedBy: 'a node with room in region a'}, {what: Soak, where: a, since: '2026-11-25T21:04:40Z', unblockedBy: '5m of quiet'}]}"
        ));
    }

    #[test]
    fn a_fleet_that_waits_for_nothing_says_so() {
        assert!(text("status: {observedGeneration: 2}").starts_with("eu waits for nothing.\n"));
        assert!(
            text("status: {observedGeneration: 1}")
                .starts_with("The operator has not taken the last change of eu yet")
        );
        assert!(text("").starts_with("The operator has not seen eu yet"));
    }

    #[test]
    fn words_are_read_out_of_names() {
        assert_eq!(words("PodNotReady"), "pod not ready");
    }
}
