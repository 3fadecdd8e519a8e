//! Drives the clients of `tests/interop/`: JSON lines over their pipes.

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

    /// The same with somebody's key; nostr-tools alone.
    pub fn start_as(
        person: Option<&Person>,
        library: Library,
        relay: &str,
        test: &str,
    ) -> Option<ForeignClient> {
        let (variable, interpreter, script) = match library {
            Library::NostrTools => (
                "NIGHTJAR_INTEROP_NODE",
                "node",
                "tests/interop/node/client.mjs",
            ),
            Library::Monstr => (
                "NIGHTJAR_INTEROP_PYTHON",
                "python3",
                "tests/interop/python/client.py",
            ),
        };
        let Some(installed) = std::env::var_os(variable) else {
            let why = std::env::var(format!("{variable}_MISSING"))
                .unwrap_or_else(|_| format!("{variable} is not set; run `cargo xtask test`"));
            skipped(test, &why);
            return None;
        };
        let mut command = Command::new(interpreter);
        command
            .arg(root().join(script))
            .arg(relay)
            .env("PYTHONPATH", &installed)
            .env(variable, &installed);
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
        writeln!(self.stdin, "{}", json!({"send": {"to": to, "text": text}}))
            .expect("the client reads its commands");
        self.next("sent");
    }

    /// The next message received: sender (lowercase hex) and text.
    pub fn received(&mut self) -> (String, String) {
        let message = self.next("received");
        let text = |key: &str| message[key].as_str().unwrap_or_default().to_owned();
        (text("from"), text("text"))
    }

    /// Id and `created_at` of the wrap that the next message received came in; nostr-tools alone tells them.
    pub fn received_wrap(&mut self) -> Value {
        self.next("received")["wrap"].clone()
    }

    /// How many events match, by NIP-45; nostr-tools alone.
    pub fn count(&mut self, filters: &[Value]) -> Value {
        writeln!(self.stdin, "{}", json!({ "count": filters }))
            .expect("the client reads its commands");
        self.next("counted")["count"].clone()
    }

    /// Reconciles a set of `[id, created_at]` by NIP-77: what the relay lacks (`have`) and what it has beside (`need`);
    /// nostr-tools alone.
    pub fn sync(&mut self, filter: &Value, events: &[Value]) -> Value {
        let command = json!({"sync": {"filter": filter, "events": events}});
        writeln!(self.stdin, "{command}").expect("the client reads its commands");
        self.next("synced")
    }

    /// A management call (NIP-86) to the relay at `url` (`http://`), authorized by NIP-98: HTTP status and answer; nostr-tools alone.
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
        let deadline = Instant::now() + ANSWER_LIMIT;
        loop {
            match self
                .lines
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) if line["event"] == event => return line,
                Ok(line) if line["event"] == "error" => panic!("the client failed: {line}"),
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

impl Drop for ForeignClient {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
