//! Data on stdout, in the three formats. One struct makes all three, so their fields cannot differ.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use serde_json::Value;

use crate::code::Code;
use crate::error::CliError;

/// Columns that somebody wrote: shown whole, also when a word of theirs looks like a key.
const FREE_TEXT: [&str; 2] = ["text", "reason"];

/// How data is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// Columns for people; long keys and ids are shortened
    #[default]
    Table,
    /// One JSON document
    Json,
    /// One JSON object a line
    Jsonl,
    /// One YAML document
    Yaml,
    /// The first column alone, one value a line
    Name,
}

/// One row of data. `COLUMNS` are the JSON field names in the order of the table.
pub(crate) trait Record: Serialize {
    const COLUMNS: &'static [&'static str];
}

/// Data with a shape of its own. Its text is made from the same struct as its JSON.
pub(crate) trait Document: Serialize {
    /// What people read, whole lines; foreign text in it goes through [`shown`].
    fn text(&self) -> String;
    /// What `-o name` lists.
    fn names(&self) -> Vec<String>;
}

/// The one writer to stdout.
#[derive(Debug)]
pub(crate) struct Output {
    format: Format,
    /// What tables show instead of these `npub`s.
    names: Arc<BTreeMap<String, String>>,
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        Self {
            format,
            names: Arc::default(),
        }
    }

    /// The same, with names that tables show instead of keys.
    pub(crate) fn with_names(&self, names: BTreeMap<String, String>) -> Self {
        Self {
            format: self.format,
            names: Arc::new(names),
        }
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Writes a list.
    pub(crate) fn list<R: Record>(&self, records: &[R]) -> Result<(), CliError> {
        let mut text = String::new();
        match self.format {
            Format::Table if records.is_empty() => {}
            Format::Table => text = table(records, &self.names),
            Format::Json => {
                text = inert(&serde_json::to_string_pretty(records).map_err(broken)?) + "\n"
            }
            Format::Jsonl => {
                for record in records {
                    text += &inert(&serde_json::to_string(record).map_err(broken)?);
                    text.push('\n');
                }
            }
            Format::Yaml => text = yaml(&records)?,
            Format::Name => text = records.iter().map(first_column).collect(),
        }
        write(&text)
    }

    /// Writes one thing: field and value a line, or one JSON object.
    pub(crate) fn one<R: Record>(&self, record: &R) -> Result<(), CliError> {
        let text = match self.format {
            Format::Table => fields(record),
            Format::Json => inert(&serde_json::to_string_pretty(record).map_err(broken)?) + "\n",
            Format::Jsonl => inert(&serde_json::to_string(record).map_err(broken)?) + "\n",
            Format::Yaml => yaml(record)?,
            Format::Name => first_column(record),
        };
        write(&text)
    }

    /// Writes a document that is more than rows: `text` shows people the same fields.
    pub(crate) fn document<D: Document>(&self, document: &D) -> Result<(), CliError> {
        let text = match self.format {
            Format::Table => document.text(),
            Format::Json => inert(&serde_json::to_string_pretty(document).map_err(broken)?) + "\n",
            Format::Jsonl => inert(&serde_json::to_string(document).map_err(broken)?) + "\n",
            Format::Yaml => yaml(document)?,
            Format::Name => document
                .names()
                .iter()
                .map(|name| shown(name) + "\n")
                .collect(),
        };
        write(&text)
    }

    /// Writes a list whose end is not known yet. `widths` are those of the table's columns but the last.
    pub(crate) fn stream(&self, widths: &'static [usize]) -> Stream {
        Stream {
            format: self.format,
            names: self.names.clone(),
            widths,
            count: 0,
        }
    }
}

/// A list that grows while it is written.
#[derive(Debug)]
pub(crate) struct Stream {
    format: Format,
    names: Arc<BTreeMap<String, String>>,
    widths: &'static [usize],
    count: u64,
}

impl Stream {
    /// Writes one more record, at once.
    pub(crate) fn push<R: Record>(&mut self, record: &R) -> Result<(), CliError> {
        let mut text = String::new();
        match self.format {
            Format::Table => {
                if self.count == 0 {
                    text += &self.row(
                        &R::COLUMNS
                            .iter()
                            .map(|name| name.to_uppercase())
                            .collect::<Vec<_>>(),
                    );
                }
                text += &self.row(&cells(record, &self.names));
            }
            Format::Json => {
                text += if self.count == 0 { "[\n" } else { ",\n" };
                text += &inert(&serde_json::to_string(record).map_err(broken)?);
            }
            Format::Jsonl => text = inert(&serde_json::to_string(record).map_err(broken)?) + "\n",
            // A list of one after the other is the list of all.
            Format::Yaml => text = yaml(&[record])?,
            Format::Name => text = first_column(record),
        }
        self.count += 1;
        write(&text)
    }

    /// Ends the list; JSON needs its closing bracket.
    pub(crate) fn end(self) -> Result<(), CliError> {
        match (self.format, self.count) {
            (Format::Json | Format::Yaml, 0) => write("[]\n"),
            (Format::Json, _) => write("\n]\n"),
            _ => Ok(()),
        }
    }

    fn row(&self, cells: &[String]) -> String {
        let mut line = String::new();
        for (at, cell) in cells.iter().enumerate() {
            match self.widths.get(at) {
                Some(width) => line += &format!("{cell:<width$}  "),
                None => line += &format!("{cell}  "),
            }
        }
        format!("{}\n", line.trim_end())
    }
}

/// Writes text to stdout as it is. A reader that went away (`| head`) ends the program quietly.
pub(crate) fn write(text: &str) -> Result<(), CliError> {
    let mut stdout = anstream::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(CliError::new(
            Code::File,
            "could not write to stdout",
            "the same command again",
        )
        .because(error)),
        Ok(()) => Ok(()),
    }
}

fn broken(error: serde_json::Error) -> CliError {
    CliError::new(
        Code::File,
        "could not write JSON",
        "the same command with -o table",
    )
    .because(error)
}

fn yaml<T: Serialize + ?Sized>(value: &T) -> Result<String, CliError> {
    // Control characters are escaped by the writer; what turns the order of text around is not.
    let text = serde_yaml::to_string(value).map_err(|error| {
        CliError::new(
            Code::File,
            "could not write YAML",
            "the same command with -o json",
        )
        .because(error)
    })?;
    Ok(text.replace(|c| c != '\n' && steers_terminal(c), " "))
}

fn first_column<R: Record>(record: &R) -> String {
    let value = serde_json::to_value(record).unwrap_or_default();
    format!("{}\n", plain(&value[R::COLUMNS[0]]))
}

fn table<R: Record>(records: &[R], names: &BTreeMap<String, String>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        // Rows wider than the terminal are for the terminal to wrap: squeezed columns break every word and key.
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(R::COLUMNS.iter().map(|name| name.to_uppercase()));
    for record in records {
        table.add_row(cells(record, names));
    }
    table
        .lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
}

fn fields<R: Record>(record: &R) -> String {
    let width = R::COLUMNS.iter().map(|name| name.len()).max().unwrap_or(0);
    let value = serde_json::to_value(record).unwrap_or_default();
    let line = |name: &&str| format!("{name:<width$}  {}\n", plain(&value[*name]));
    R::COLUMNS.iter().map(line).collect()
}

fn cells<R: Record>(record: &R, names: &BTreeMap<String, String>) -> Vec<String> {
    let value = serde_json::to_value(record).unwrap_or_default();
    let cell = |name: &&str| {
        let text = plain(&value[*name]);
        if FREE_TEXT.contains(name) {
            text
        } else {
            shortened(&text, names)
        }
    };
    R::COLUMNS.iter().map(cell).collect()
}

/// A JSON value as a person reads it. Control characters of foreign text never reach the terminal.
fn plain(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) if values.is_empty() => "-".to_owned(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    };
    shown(&text)
}

/// A number with its word.
pub(crate) fn counted(number: usize, one: &str, several: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        number => format!("{number} {several}"),
    }
}

/// Foreign text as it may stand in a line of ours.
pub(crate) fn shown(text: &str) -> String {
    text.replace(steers_terminal, " ")
}

/// Whether a terminal acts on a character instead of showing it: control characters (C0, DEL, C1), and those that turn the
/// order of what follows around.
pub(crate) fn steers_terminal(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// JSON whose strings hold no character that steers a terminal. serde_json escapes C0 only; the value stays the same.
pub(crate) fn inert(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        // Line breaks between tokens are the only ones left by now.
        if c != '\n' && steers_terminal(c) {
            text += &format!("\\u{:04x}", u32::from(c));
        } else {
            text.push(c);
        }
    }
    text
}

/// Keys and ids are recognised by their first and last characters.
fn shortened(text: &str, names: &BTreeMap<String, String>) -> String {
    let short = |word: &str| {
        if let Some(name) = names.get(word) {
            return name.clone();
        }
        let is_key =
            word.len() >= 63 && word.is_ascii() && word.chars().all(|c| c.is_ascii_alphanumeric());
        if is_key {
            format!("{}..{}", &word[..9], &word[word.len() - 5..])
        } else {
            word.to_owned()
        }
    };
    text.split(", ").map(short).collect::<Vec<_>>().join(", ")
}

/// Fails when the table and JSON of a record have different fields.
#[cfg(test)]
pub(crate) fn assert_same_fields<R: Record>(record: &R) {
    let json = serde_json::to_value(record).unwrap();
    let mut fields: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
    let mut columns: Vec<_> = R::COLUMNS.iter().map(|name| (*name).to_owned()).collect();
    fields.sort();
    columns.sort();
    assert_eq!(fields, columns);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Thing {
        name: &'static str,
        size: Option<u32>,
        tags: Vec<&'static str>,
    }
    impl Record for Thing {
        const COLUMNS: &'static [&'static str] = &["name", "size", "tags"];
    }

    #[test]
    fn table_has_a_header_and_shows_gaps() {
        let things = [
            Thing {
                name: "a",
                size: Some(3),
                tags: vec!["x", "y"],
            },
            Thing {
                name: "bell\u{7}\u{1b}[2J",
                size: None,
                tags: vec![],
            },
        ];
        insta::assert_snapshot!(table(&things, &BTreeMap::new()), @r"
         NAME       SIZE  TAGS
         a          3     x, y
         bell  [2J  -     -
        ");
    }

    #[test]
    fn json_of_foreign_text_steers_no_terminal_and_means_the_same() {
        let text = "a\u{1b}[2J\u{9b}31m\u{7f}\u{202e}b\nc é";
        let json = inert(&serde_json::to_string(text).unwrap());
        assert!(!json.chars().any(steers_terminal), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }

    #[test]
    fn text_that_looks_like_a_key_is_shown_as_it_was_written() {
        #[derive(Serialize)]
        struct Said {
            from: String,
            text: String,
        }
        impl Record for Said {
            const COLUMNS: &'static [&'static str] = &["from", "text"];
        }
        let key = "npub1".to_owned() + &"q".repeat(58);
        let said = Said {
            from: key.clone(),
            text: key.clone(),
        };
        let names = BTreeMap::from([(key.clone(), "bob@demo".to_owned())]);
        assert_eq!(cells(&said, &names), ["bob@demo".to_owned(), key]);
    }

    #[test]
    fn keys_are_shortened_in_tables_only() {
        let key = "npub1".to_owned() + &"q".repeat(58);
        let none = BTreeMap::new();
        assert_eq!(shortened(&key, &none), "npub1qqqq..qqqqq");
        assert_eq!(
            shortened("a message of ordinary words", &none),
            "a message of ordinary words"
        );
        assert_eq!(
            shortened(
                &key,
                &BTreeMap::from([(key.clone(), "bob@demo".to_owned())])
            ),
            "bob@demo"
        );
    }
}
