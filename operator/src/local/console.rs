//! Shows the events of a fleet: a table redrawn in place on a terminal, plain lines elsewhere, or one JSON object a line.

use std::collections::BTreeMap;
use std::io::Write;

use comfy_table::{ContentArrangement, Table, presets};

use super::event::{LocalEvent, ProcessState, ProcessStatus};
use crate::plan::Role;

/// How events are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A table that is redrawn in place.
    Table,
    /// A line for each event.
    Lines,
    /// A JSON object for each event, one a line.
    Json,
}

impl Style {
    /// JSON if asked for, else a table on a terminal, else lines.
    pub fn choose(json: bool, terminal: bool) -> Self {
        match (json, terminal) {
            (true, _) => Self::Json,
            (false, true) => Self::Table,
            (false, false) => Self::Lines,
        }
    }
}

/// Writes events to an output. The table keeps what was written with [`Console::say`] above itself.
#[derive(Debug)]
pub struct Console<W: Write> {
    output: W,
    style: Style,
    width: u16,
    height: usize,
    processes: BTreeMap<String, ProcessStatus>,
    drawn: usize,
}

impl<W: Write> Console<W> {
    /// A console on an output of so many columns.
    pub fn new(output: W, style: Style, width: u16) -> Self {
        Self {
            output,
            style,
            // A terminal that does not know its size says 0.
            width: width.max(40),
            height: terminal_height(style),
            processes: BTreeMap::new(),
            drawn: 0,
        }
    }

    /// Keeps the table within so many lines: a terminal cannot redraw what has scrolled away.
    #[must_use]
    pub fn within(mut self, height: u16) -> Self {
        self.height = usize::from(height);
        self
    }

    /// Shows an event.
    pub fn show(&mut self, event: &LocalEvent) -> std::io::Result<()> {
        if let LocalEvent::Process(status) = event {
            self.processes.insert(status.name.clone(), status.clone());
        }
        match self.style {
            Style::Json => {
                serde_json::to_writer(&mut self.output, event)?;
                writeln!(self.output)?;
            }
            Style::Lines => writeln!(self.output, "{}", line(event))?,
            Style::Table => match event {
                LocalEvent::Process(_) => self.redraw()?,
                other => self.say(&line(other))?,
            },
        }
        self.output.flush()
    }

    /// Writes text that stays, above the table. Not for [`Style::Json`], whose output is data.
    pub fn say(&mut self, text: &str) -> std::io::Result<()> {
        if self.style == Style::Json {
            return Ok(());
        }
        self.erase()?;
        writeln!(self.output, "{text}")?;
        if self.style == Style::Table {
            self.redraw()?;
        }
        self.output.flush()
    }

    fn redraw(&mut self) -> std::io::Result<()> {
        self.erase()?;
        // Half of the terminal stays for what was said above the table.
        let folded = self.processes.len() > self.height / 2;
        let table = render(self.processes.values(), self.width, folded);
        let lines: Vec<&str> = table.lines().collect();
        let room = self.height.saturating_sub(2).max(2);
        for line in lines.iter().take(room) {
            writeln!(self.output, "{line}")?;
        }
        self.drawn = lines.len().min(room);
        if lines.len() > room {
            writeln!(self.output, "... and {} more", lines.len() - room)?;
            self.drawn += 1;
        }
        Ok(())
    }

    /// Takes the table away: up to its first line, and clear from there.
    fn erase(&mut self) -> std::io::Result<()> {
        if self.drawn > 0 {
            write!(self.output, "\x1b[{}A\x1b[J", self.drawn)?;
            self.drawn = 0;
        }
        Ok(())
    }
}

/// Lines of the terminal that shows the table, where there is one.
fn terminal_height(style: Style) -> usize {
    if style != Style::Table {
        return usize::MAX;
    }
    match rustix::termios::tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_row > 0 => size.ws_row.into(),
        _ => usize::MAX,
    }
}

/// The table of a fleet: region, process, state, address. Folded, a region whose processes are all ready has one row, with
/// the addresses of its relays.
pub fn render<'a>(
    processes: impl Iterator<Item = &'a ProcessStatus>,
    width: u16,
    folded: bool,
) -> String {
    let mut regions: BTreeMap<&str, Vec<&ProcessStatus>> = BTreeMap::new();
    for process in processes {
        let region = regions.entry(process.region.as_str()).or_default();
        region.push(process);
    }
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(width)
        .set_header(["REGION", "PROCESS", "STATE", "ADDRESS"]);
    for (region, processes) in regions {
        let ready = |process: &&ProcessStatus| process.state == ProcessState::Ready;
        if folded && processes.iter().all(ready) {
            table.add_row(folded_row(region, &processes));
        } else {
            table.add_rows(processes.into_iter().map(row));
        }
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

fn row(process: &ProcessStatus) -> [String; 4] {
    let state = match &process.reason {
        Some(reason) if process.state != ProcessState::Ready => {
            format!("{}: {}", process.state.name(), short(reason))
        }
        _ => process.state.name().to_owned(),
    };
    [
        process.region.to_string(),
        process.name.clone(),
        state,
        process.address.clone(),
    ]
}

fn folded_row(region: &str, processes: &[&ProcessStatus]) -> [String; 4] {
    let relays: Vec<&str> = processes
        .iter()
        .filter(|process| process.role == Role::Relay)
        .map(|process| process.address.as_str())
        .collect();
    [
        region.to_owned(),
        format!("all {}", processes.len()),
        ProcessState::Ready.name().to_owned(),
        relays.join(" "),
    ]
}

fn short(text: &str) -> String {
    text.chars().take(60).collect()
}

/// An event as one line for a person.
fn line(event: &LocalEvent) -> String {
    match event {
        LocalEvent::Process(process) => {
            let reason = process
                .reason
                .as_ref()
                .map(|reason| format!(": {reason}"))
                .unwrap_or_default();
            format!(
                "{} {}{reason} {}",
                process.name,
                process.state.name(),
                process.address
            )
        }
        LocalEvent::Ready { regions } => {
            let all = regions
                .iter()
                .map(|region| format!("\n  {}  {}", region.name, region.relays.join(" ")));
            format!("ready: all regions serve{}", all.collect::<String>())
        }
        LocalEvent::Error {
            field: Some(field),
            message,
        } => format!("error: {field}: {message}"),
        LocalEvent::Error {
            field: None,
            message,
        } => format!("error: {message}"),
        LocalEvent::Notice { message } => message.clone(),
        LocalEvent::Stopped => "stopped".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(state: ProcessState) -> LocalEvent {
        LocalEvent::Process(ProcessStatus {
            region: "a".parse().unwrap(),
            name: "a-relay-0".to_owned(),
            role: Role::Relay,
            pid: Some(7),
            state,
            address: "ws://127.0.0.1:4001".to_owned(),
            reason: None,
            restarts: 0,
        })
    }

    fn shown(style: Style, events: &[LocalEvent]) -> String {
        let mut output = Vec::new();
        let mut console = Console::new(&mut output, style, 100);
        for event in events {
            console.show(event).unwrap();
        }
        String::from_utf8(output).unwrap()
    }

    #[test]
    fn json_is_one_object_a_line_with_its_kind() {
        let text = shown(
            Style::Json,
            &[process(ProcessState::Ready), LocalEvent::Stopped],
        );
        let kinds: Vec<String> = text
            .lines()
            .map(|line| {
                serde_json::from_str::<serde_json::Value>(line).unwrap()["event"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        assert_eq!(kinds, ["process", "stopped"]);
        assert!(text.contains(r#""pid":7,"state":"ready""#), "{text}");
    }

    #[test]
    fn a_table_that_is_higher_than_the_terminal_says_what_is_left_out() {
        let mut output = Vec::new();
        let mut console = Console::new(&mut output, Style::Table, 100).within(4);
        for name in ["a-nats-0", "a-nats-1", "a-nats-2"] {
            let LocalEvent::Process(mut status) = process(ProcessState::Ready) else {
                unreachable!()
            };
            status.name = name.to_owned();
            status.state = ProcessState::Starting;
            console.show(&LocalEvent::Process(status)).unwrap();
        }
        let text = String::from_utf8(output).unwrap();
        assert!(text.ends_with("... and 2 more\n"), "{text:?}");
    }

    #[test]
    fn a_ready_region_folds_into_one_row_where_the_terminal_is_low() {
        let mut output = Vec::new();
        let mut console = Console::new(&mut output, Style::Table, 100).within(4);
        for (name, role) in [
            ("a-nats-0", Role::Nats),
            ("a-nats-1", Role::Nats),
            ("a-relay-0", Role::Relay),
        ] {
            let LocalEvent::Process(mut status) = process(ProcessState::Ready) else {
                unreachable!()
            };
            (status.name, status.role) = (name.to_owned(), role);
            console.show(&LocalEvent::Process(status)).unwrap();
        }
        let text = String::from_utf8(output).unwrap();
        let (_, last) = text.rsplit_once("\x1b[J").unwrap();
        assert_eq!(last.lines().count(), 2, "{last:?}");
        assert!(
            last.contains("all 3") && last.contains("ws://127.0.0.1:4001"),
            "{last:?}"
        );
    }

    #[test]
    fn the_table_replaces_itself() {
        let text = shown(
            Style::Table,
            &[
                process(ProcessState::Starting),
                process(ProcessState::Ready),
            ],
        );
        let (_, last) = text.rsplit_once("\x1b[2A\x1b[J").unwrap();
        assert!(
            last.starts_with("REGION") || last.trim_start().starts_with("REGION"),
            "{last:?}"
        );
        assert!(
            last.contains("ready") && !last.contains("starting"),
            "{last:?}"
        );
    }
}
