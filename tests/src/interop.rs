//! Drives the clients of `tests/interop/`: JSON lines over their pipes.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::event::Person;
use crate::programs::{dies_with_this_thread, root};
use crate::report::skipped;

/// Start of an interpreter, its imports and its answers on a busy machine of 2 cores.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Which client.
#[derive(Clone, Copy, Debug)]
pub enum Library {
    /// nostr-tools under Node.
    NostrTools,
    /// monstr under Python.
    Monstr,
}

impl Library {
    fn interpreter(self) -> &'static str {
        match self {
            Library::NostrTools => "node",
            Library::Monstr => "python3",
        }
    }

    /// The client, without its arguments. None, with the reason in the report, when this machine lacks what it needs.
    fn command(self, test: &str) -> Option<Command> {
        let (variable, script) = match self {
            Library::NostrTools => ("NIGHTJAR_INTEROP_NODE", "tests/interop/node/client.mjs"),
            Library::Monstr => ("NIGHTJAR_INTEROP_PYTHON", "tests/interop/python/client.py"),
        };
        let installed = installed(variable, test)?;
        let mut command = Command::new(self.interpreter());
        command
            .arg(root().join(script))
            .env("PYTHONPATH", &installed)
            .env(variable, &installed);
        Some(command)
    }
}

/// The folder that a variable of `cargo xtask test` names. None, with the reason in the report, if it names none.
fn installed(variable: &str, test: &str) -> Option<OsString> {
    let installed = std::env::var_os(variable);
    if installed.is_none() {
        let why = std::env::var(format!("{variable}_MISSING"))
            .unwrap_or_else(|_| format!("{variable} is not set; run `cargo xtask test`"));
        skipped(test, &why);
    }
    installed
}

/// A value to hold against one of the schemas of `@nostrability/schemata`, by its path there, such as `nips/nip-11`.
pub struct Checked {
    /// The schema's path.
    pub schema: &'static str,
    /// A message, or a document.
    pub value: Value,
}

/// What the schemas say: for each value its faults, or null where there is no such schema. None, with the reason in the report,
/// when this machine lacks what it needs.
pub fn validate(values: &[Checked], test: &str) -> Option<Vec<Value>> {
    const VARIABLE: &str = "NIGHTJAR_INTEROP_NODE";
    let installed = installed(VARIABLE, test)?;
    let mut child = Command::new("node")
        .arg(root().join("tests/interop/node/validate.mjs"))
        .env(VARIABLE, installed)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node starts");
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    let lines: Vec<String> = values
        .iter()
        .map(|checked| json!([checked.schema, checked.value]).to_string())
        .collect();
    // It answers when it has read everything.
    stdin
        .write_all(lines.join("\n").as_bytes())
        .expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("node ends");
    assert!(output.status.success(), "{:?}", output.status);
    let faults = serde_json::from_slice(&output.stdout).expect("a list");
    Some(faults)
}

/// A running client with a key of its own, subscribed to its messages at one relay.
pub struct ForeignClient {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<Value>,
    /// Lines that came while another one was waited for.
    earlier: Vec<Value>,
    /// Lowercase hex.
    pub pubkey: String,
}

impl ForeignClient {
    /// Starts the client on `relay`. None, with the reason in the report, when this machine lacks what it needs.
    pub fn start(library: Library, relay: &str, test: &str) -> Option<ForeignClient> {
        ForeignClient::start_as(None, library, relay, test)
    }

    /// The same with somebody's key.
    pub fn start_as(
        person: Option<&Person>,
        library: Library,
        relay: &str,
        test: &str,
    ) -> Option<ForeignClient> {
        let mut command = library.command(test)?;
        let interpreter = library.interpreter();
        command.arg(relay);
        command
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        if let Some(person) = person {
            command.env("NIGHTJAR_INTEROP_SECRET", person.secret());
        }
        dies_with_this_thread(&mut command);
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{interpreter}: {error}"));
        let stdin = child.stdin.take().expect("stdin is a pipe");
        let stdout = child.stdout.take().expect("stdout is a pipe");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line)
                    .unwrap_or_else(|_| json!({"event": "error", "message": line}));
                if sender.send(value).is_err() {
                    break;
                }
            }
        });
        let mut client = ForeignClient {
            child,
            stdin,
            lines,
            earlier: Vec::new(),
            pubkey: String::new(),
        };
        client.pubkey = client.next("ready")["pubkey"]
            .as_str()
            .expect("a public key")
            .to_owned();
        Some(client)
    }

    /// Sends a message and waits until the relay said OK.
    pub fn send(&mut self, to: &str, text: &str) {
        self.command(&json!({"send": {"to": to, "text": text}}), "sent");
    }

    /// The next message received: sender (lowercase hex) and text.
    pub fn received(&mut self) -> (String, String) {
        let message = self.next("received");
        let text = |key: &str| message[key].as_str().unwrap_or_default().to_owned();
        (text("from"), text("text"))
    }

    /// Id and `created_at` of the wrap that the next message received came in.
    pub fn received_wrap(&mut self) -> Value {
        self.next("received")["wrap"].clone()
    }

    /// Ids of the stored events that match a filter.
    pub fn read(&mut self, filter: &Value) -> Value {
        self.command(&json!({ "read": filter }), "read")["ids"].clone()
    }

    /// Publishes a note (kind 1) and answers with its id.
    pub fn note(&mut self, text: &str) -> String {
        let noted = self.command(&json!({ "note": text }), "noted");
        noted["id"].as_str().expect("an id").to_owned()
    }

    /// Asks for the deletion of an event of some kind (NIP-09) and waits until the relay said OK.
    pub fn delete(&mut self, id: &str, kind: u16) {
        self.command(&json!({"delete": {"id": id, "kind": kind}}), "deleted");
    }

    /// How many events match, by NIP-45; nostr-tools alone.
    pub fn count(&mut self, filters: &[Value]) -> Value {
        self.command(&json!({ "count": filters }), "counted")["count"].clone()
    }

    /// Reconciles a set of `[id, created_at]` by NIP-77: what the relay lacks (`have`), what it has beside (`need`), and how many answers
    /// (`rounds`) that took. The error is the reason of a NEG-ERR; nostr-tools alone.
    pub fn sync(&mut self, filter: &Value, events: &[Value]) -> Result<Value, String> {
        let command = json!({"sync": {"filter": filter, "events": events}});
        let synced = self.command(&command, "synced");
        match synced["refused"].as_str() {
            Some(reason) => Err(reason.to_owned()),
            None => Ok(synced),
        }
    }

    /// Gives a command and waits for what the client says then.
    fn command(&mut self, command: &Value, event: &str) -> Value {
        writeln!(self.stdin, "{command}").expect("the client reads its commands");
        self.next(event)
    }

    /// A management call (NIP-86) to the relay at `url` (`http://`), authorized by NIP-98: HTTP status and answer.
    pub fn manage(&mut self, url: &str, method: &str, params: &Value) -> (u64, Value) {
        let command = json!({"manage": {"url": url, "method": method, "params": params}});
        writeln!(self.stdin, "{command}").expect("the client reads its commands");
        let managed = self.next("managed");
        let status = managed["status"].as_u64().expect("a status");
        (status, managed["answer"].clone())
    }

    fn next(&mut self, event: &str) -> Value {
        if let Some(at) = self.earlier.iter().position(|line| line["event"] == event) {
            return self.earlier.remove(at);
        }
        if let Some(line) = self.earlier.iter().find(|line| is_failure(line, event)) {
            panic!("the client failed: {line}");
        }
        let deadline = Instant::now() + ANSWER_LIMIT;
        loop {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) if line["event"] == event => return line,
                Ok(line) if is_failure(&line, event) => panic!("the client failed: {line}"),
                Ok(line) => self.earlier.push(line),
                Err(RecvTimeoutError::Timeout) => {
                    panic!("the client said no `{event}` within {ANSWER_LIMIT:?}")
                }
                Err(RecvTimeoutError::Disconnected) => panic!(
                    "the client ended without `{event}`: {:?}",
                    self.child.wait()
                ),
            }
        }
    }
}

/// Whether this line is the end of waiting for another one. Only who waits for a message minds that one cannot be read.
fn is_failure(line: &Value, awaited: &str) -> bool {
    line["event"] == "error" || (line["event"] == "unreadable" && awaited == "received")
}

impl Drop for ForeignClient {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
