//! A policy for members: who has not authenticated (NIP-42) as one of them may neither publish nor read. Serves as write policy and
//! as read policy.
//!
//! `members FILE`: one public key a line, 64 lowercase hex digits. FILE is read once: name it under `watch`, and the relay starts the
//! program anew when it changes. Build it with `cargo build --release --example members`.

use std::collections::HashSet;
use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize};

/// What this policy reads of a question. Of a write question the id is the event's.
#[derive(Deserialize)]
struct Question {
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    event: Option<Event>,
    #[serde(default)]
    authed: Vec<String>,
}

#[derive(Deserialize)]
struct Event {
    id: String,
}

#[derive(Serialize)]
struct Answer<'a> {
    id: String,
    action: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    msg: Option<&'a str>,
}

fn answer<'a>(question: Question, members: &HashSet<String>) -> Option<Answer<'a>> {
    let id = question.event.map(|event| event.id).or(question.id)?;
    let is_member = question.authed.iter().any(|key| members.contains(key));
    let (action, msg) = if is_member {
        ("accept", None)
    } else if question.authed.is_empty() {
        (
            "reject",
            Some("auth-required: this relay is for its members"),
        )
    } else {
        ("reject", Some("restricted: this relay is for its members"))
    };
    Some(Answer { id, action, msg })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args().nth(1).ok_or("usage: members FILE")?;
    let members: HashSet<String> = std::fs::read_to_string(file)?
        .lines()
        .map(|line| line.trim().to_owned())
        .collect();
    let mut stdout = std::io::stdout().lock();
    // Ends when stdin ends, which is how the relay ends a policy.
    for line in std::io::stdin().lock().lines() {
        if let Some(answer) = answer(serde_json::from_str(&line?)?, &members) {
            writeln!(stdout, "{}", serde_json::to_string(&answer)?)?;
            stdout.flush()?;
        }
    }
    Ok(())
}
