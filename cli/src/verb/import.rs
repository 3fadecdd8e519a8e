//! `nightjar import`: publishes events from JSON lines, many at a time, and says which lines were refused and why.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::time::Duration;

use nightjar_client::connection::{ANSWER_WITHIN, ConnectionError};
use nightjar_client::frame::{Prefix, RelayFrame};
use nightjar_client::{Connection, Event, RelayUrl};
use serde::Serialize;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};
use tokio::time::{Instant, sleep_until, timeout};

use crate::args::ImportArgs;
use crate::code::Code;
use crate::context::Context;
use crate::error::{CliError, from_relay};
use crate::output::{Record, Stream};
use crate::person::Actor;
use crate::verb::message::{actor_for, first_open};

/// Events without an answer at any time: enough to keep the relay busy, few enough for its limits.
const WINDOW: usize = 32;
/// A line that the relay could not take for now is offered this often.
const ATTEMPTS: u32 = 8;
const WIDTHS: &[usize] = &[8, 16, 10];

#[derive(Debug, Serialize)]
struct LineRecord {
    line: u64,
    id: Option<String>,
    /// `accepted`, `duplicate` or `refused`.
    state: &'static str,
    reason: Option<String>,
}
impl Record for LineRecord {
    const COLUMNS: &'static [&'static str] = &["line", "id", "state", "reason"];
}

/// A line on its way.
#[derive(Debug, Clone)]
struct Line {
    number: u64,
    id: String,
    json: String,
    attempts: u32,
}

struct Import<'a> {
    context: &'a Context,
    actor: Actor,
    authenticate: bool,
    connection: Connection,
    stream: Stream,
    all: bool,
    in_flight: HashMap<String, Line>,
    later: VecDeque<(Instant, Line)>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    lines: u64,
    accepted: u64,
    duplicate: u64,
    refused: u64,
}

pub(crate) async fn run(args: ImportArgs, context: &Context) -> Result<(), CliError> {
    let actor = actor_for(&args.identity, &args.via)?;
    let relays = context.relays(&args.via, Some(&actor.identity.public_key()))?;
    let connection = first_open(context, &actor, &relays).await?;
    let mut import = Import {
        context,
        authenticate: args.identity.is_given(),
        actor,
        connection,
        stream: context.out.stream(WIDTHS),
        all: args.all,
        in_flight: HashMap::new(),
        later: VecDeque::new(),
        counts: Counts::default(),
    };
    match args.file.filter(|path| path != Path::new("-")) {
        Some(path) => {
            let file = tokio::fs::File::open(&path).await;
            let file = file.map_err(|error| CliError::file("read", &path, &error))?;
            import.read(BufReader::new(file)).await?;
        }
        None => import.read(BufReader::new(tokio::io::stdin())).await?,
    }
    import.end().await
}

impl Import<'_> {
    async fn read(&mut self, reader: impl AsyncBufRead + Unpin) -> Result<(), CliError> {
        let mut lines = reader.split(b'\n');
        loop {
            let line = lines.next_segment().await;
            let line = line.map_err(|error| {
                CliError::new(
                    Code::File,
                    "could not read the lines",
                    "the same command again",
                )
                .because(error)
            })?;
            let Some(line) = line else { break };
            self.counts.lines += 1;
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            match checked(self.counts.lines, &line) {
                Ok(line) => self.offer(line).await?,
                Err(reason) => self.refuse(self.counts.lines, None, reason)?,
            }
            // What waits counts too, or a relay that asks to slow down would get ever more lines to refuse.
            while self.in_flight.len() + self.later.len() >= WINDOW {
                self.step().await?;
            }
        }
        while !self.in_flight.is_empty() || !self.later.is_empty() {
            self.step().await?;
        }
        Ok(())
    }

    async fn offer(&mut self, mut line: Line) -> Result<(), CliError> {
        if self.in_flight.contains_key(&line.id) {
            // The same event twice in the file: one answer serves both.
            self.counts.duplicate += 1;
            return self.tell(
                line.number,
                Some(line.id),
                "duplicate",
                Some("the same event is on a line before".into()),
            );
        }
        line.attempts += 1;
        let json = line.json.clone();
        self.in_flight.insert(line.id.clone(), line);
        if let Err(error) = self.connection.send_event(&json).await {
            self.reconnect(&error).await?;
        }
        Ok(())
    }

    /// Takes one answer, or sends one line whose pause is over.
    async fn step(&mut self) -> Result<(), CliError> {
        let due = self.later.front().map(|(at, _)| *at);
        let waiting = !self.in_flight.is_empty();
        tokio::select! {
            frame = timeout(ANSWER_WITHIN, self.connection.next_frame()), if waiting => match frame {
                Ok(Ok(frame)) => self.on_frame(frame).await,
                Ok(Err(error)) => self.reconnect(&error).await,
                Err(_) => self.reconnect(&ConnectionError::TooLate { what: "an event", within: ANSWER_WITHIN }).await,
            },
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                match self.later.pop_front() {
                    Some((_, line)) => self.offer(line).await,
                    None => Ok(()),
                }
            }
        }
    }

    async fn on_frame(&mut self, frame: RelayFrame) -> Result<(), CliError> {
        let RelayFrame::Ok {
            id,
            accepted,
            message,
        } = frame
        else {
            return Ok(());
        };
        let Some(line) = self.in_flight.remove(&id) else {
            return Ok(());
        };
        let prefix = Prefix::of(&message);
        if accepted {
            let duplicate = prefix == Prefix::Duplicate;
            let count = if duplicate {
                &mut self.counts.duplicate
            } else {
                &mut self.counts.accepted
            };
            *count += 1;
            if self.all {
                let state = if duplicate { "duplicate" } else { "accepted" };
                return self.tell(line.number, Some(id), state, None);
            }
            return Ok(());
        }
        match prefix {
            Prefix::AuthRequired if self.authenticate && line.attempts < ATTEMPTS => {
                let url = self.connection.url().clone();
                let known = self.connection.authenticate(&self.actor.identity).await;
                known.map_err(|error| from_relay(&url, &error))?;
                self.offer(line).await
            }
            Prefix::RateLimited | Prefix::Error if line.attempts < ATTEMPTS => {
                let pause = Duration::from_millis(250) * 2u32.pow(line.attempts.min(5));
                self.later.push_back((Instant::now() + pause, line));
                Ok(())
            }
            _ => self.refuse(line.number, Some(id), message),
        }
    }

    /// The connection broke: open it again and offer everything that has no answer. The relay stores an event once.
    async fn reconnect(&mut self, error: &ConnectionError) -> Result<(), CliError> {
        let url = self.connection.url().clone();
        if let Some(tired) = self
            .in_flight
            .values()
            .find(|line| line.attempts >= ATTEMPTS)
        {
            let message = format!(
                "line {} has no answer after {ATTEMPTS} attempts",
                tired.number
            );
            return Err(CliError::new(
                Code::Unreachable,
                message,
                "the same command again; nothing is stored twice",
            )
            .because(format!("{url}: {error}")));
        }
        self.context
            .console
            .warn(&format!("{url}: {error}; connecting again"));
        let relays: [RelayUrl; 1] = [url];
        self.connection = first_open(self.context, &self.actor, &relays).await?;
        for (_, line) in std::mem::take(&mut self.in_flight) {
            self.later.push_back((Instant::now(), line));
        }
        Ok(())
    }

    fn refuse(&mut self, line: u64, id: Option<String>, reason: String) -> Result<(), CliError> {
        self.counts.refused += 1;
        self.tell(line, id, "refused", Some(reason))
    }

    fn tell(
        &mut self,
        line: u64,
        id: Option<String>,
        state: &'static str,
        reason: Option<String>,
    ) -> Result<(), CliError> {
        if state == "refused" || self.all {
            self.stream.push(&LineRecord {
                line,
                id,
                state,
                reason,
            })?;
        }
        Ok(())
    }

    async fn end(self) -> Result<(), CliError> {
        let Counts {
            lines,
            accepted,
            duplicate,
            refused,
        } = self.counts;
        self.stream.end()?;
        self.connection.close().await;
        let summary =
            format!("{lines} lines: {accepted} accepted, {duplicate} duplicate, {refused} refused");
        if refused > 0 {
            return Err(CliError::new(
                Code::SomeLines,
                summary,
                "correct the lines above and import those",
            ));
        }
        self.context.console.note(&summary);
        Ok(())
    }
}

/// An event whose id and signature are right, so that the relay's time is not spent on what we can see ourselves.
fn checked(number: u64, line: &[u8]) -> Result<Line, String> {
    let text = std::str::from_utf8(line)
        .map_err(|_| "not UTF-8".to_owned())?
        .trim();
    let event = Event::from_json(text).map_err(|error| format!("not an event: {error}"))?;
    if !event.verify_id() {
        return Err("the id is not the hash of the fields".to_owned());
    }
    if !event.verify_signature() {
        return Err("the signature is wrong".to_owned());
    }
    Ok(Line {
        number,
        id: event.id.to_hex(),
        json: text.to_owned(),
        attempts: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::assert_same_fields;
    use nightjar_client::{Identity, Kind};
    use nostr::event::EventBuilder;

    #[test]
    fn damaged_lines_are_refused_with_their_reason() {
        let event = Identity::generate()
            .sign(EventBuilder::new(Kind::TextNote, "hi"))
            .unwrap()
            .as_json();
        assert!(checked(1, event.as_bytes()).is_ok());
        let reason = |line: &[u8]| checked(1, line).unwrap_err();
        assert_eq!(
            reason(event.replace("\"hi\"", "\"ho\"").as_bytes()),
            "the id is not the hash of the fields"
        );
        assert_eq!(reason(b"\xff"), "not UTF-8");
        assert!(reason(b"[]").starts_with("not an event"));
        let other = Identity::generate()
            .sign(EventBuilder::new(Kind::TextNote, ""))
            .unwrap()
            .sig
            .to_string();
        let at = event.find("\"sig\":\"").unwrap() + 7;
        let forged = format!("{}{other}{}", &event[..at], &event[at + 128..]);
        assert_eq!(reason(forged.as_bytes()), "the signature is wrong");
    }

    #[test]
    fn table_and_json_have_the_same_fields() {
        assert_same_fields(&LineRecord {
            line: 1,
            id: None,
            state: "refused",
            reason: None,
        });
    }
}
