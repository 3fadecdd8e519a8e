//! One run of a policy program: its process, its pipes, and the files whose change means that it is to be started anew.
//!
//! The program gets its arguments, the relay's PATH and what the configuration names, nothing else of the relay's
//! environment. What it writes to stderr goes to the log, shortened. It leads a process group of its own, so that what it
//! started itself ends with it, and a Ctrl-C in a terminal is for the relay.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use nightjar_config::Plugin;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::metrics::PluginName;

/// Longest line of an answer, in bytes.
pub(super) const MAX_LINE_BYTES: usize = 64 * 1024;
/// Of a line on stderr this much goes to the log.
const MAX_LOG_BYTES: usize = 1_024;
/// Lines on stderr that go to the log in a second.
const MAX_LOG_LINES: u32 = 20;
/// Answers that may lie read and not looked at.
const LINES_AHEAD: usize = 64;
/// A program whose stdin has ended gets this long.
const END_WITHIN: Duration = Duration::from_millis(500);
/// One that was killed, or that closed its stdout by itself.
const GONE_WITHIN: Duration = Duration::from_millis(300);

/// What came from a program's stdout. Without `Debug`: it may repeat what a client wrote.
pub(super) enum Output {
    /// A line, its line break left out.
    Line(Vec<u8>),
    /// A line of more than [`MAX_LINE_BYTES`]. Nothing comes after it.
    TooLong,
}

/// A running program. It is killed when dropped.
#[derive(Debug)]
pub(super) struct Program {
    child: Child,
    stdin: mpsc::Sender<Bytes>,
    stdout: mpsc::Receiver<Output>,
    /// The tasks at its pipes, ended with it.
    _pipes: JoinSet<()>,
}

/// Why a line cannot be handed over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Untold {
    /// The program reads more slowly than it is asked.
    Full,
    /// It has closed its stdin.
    Gone,
}

impl Program {
    /// Starts it.
    pub(super) fn start(name: PluginName, settings: &Plugin) -> std::io::Result<Self> {
        let mut words = settings.command.iter();
        let mut command = Command::new(words.next().map_or("", String::as_str));
        command
            .args(words)
            .env_clear()
            .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
            .envs(&settings.environment)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let (questions, to_write) = mpsc::channel(settings.max_in_flight);
        let (read, lines) = mpsc::channel(LINES_AHEAD);
        let mut pipes = JoinSet::new();
        if let Some(stdin) = child.stdin.take() {
            pipes.spawn(write_lines(stdin, to_write));
        }
        if let Some(stdout) = child.stdout.take() {
            pipes.spawn(read_lines(stdout, read));
        }
        if let Some(stderr) = child.stderr.take() {
            pipes.spawn(log_lines(name, stderr));
        }
        Ok(Self {
            child,
            stdin: questions,
            stdout: lines,
            _pipes: pipes,
        })
    }

    /// Hands it a line. Never waits: as many lines as questions may be open lie between relay and pipe.
    pub(super) fn tell(&self, line: Bytes) -> Result<(), Untold> {
        self.stdin.try_send(line).map_err(|error| match error {
            TrySendError::Full(_) => Untold::Full,
            TrySendError::Closed(_) => Untold::Gone,
        })
    }

    /// The next thing it writes; `None` when it has closed its stdout, as it does when it ends. Safe to drop halfway.
    pub(super) async fn next(&mut self) -> Option<Output> {
        self.stdout.recv().await
    }

    /// Ends its stdin, lets it go, and kills what is left. Says how it ended.
    pub(super) async fn end(mut self) -> Option<ExitStatus> {
        // The task that writes ends with the channel, and closes the pipe.
        let (closed, _) = mpsc::channel(1);
        drop(std::mem::replace(&mut self.stdin, closed));
        let until = Instant::now() + END_WITHIN;
        while let Ok(Some(_)) = timeout_at(until, self.stdout.recv()).await {}
        if let Ok(Ok(status)) = timeout(GONE_WITHIN, self.child.wait()).await {
            return Some(status);
        }
        self.kill();
        timeout(GONE_WITHIN, self.child.wait()).await.ok()?.ok()
    }

    /// The whole group. A child that was not waited for keeps its id, so that no other process is meant.
    fn kill(&self) {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(group) = id.and_then(Pid::from_raw) {
            // It may have ended by itself.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn write_lines(mut stdin: ChildStdin, mut lines: mpsc::Receiver<Bytes>) {
    while let Some(line) = lines.recv().await {
        if stdin.write_all(&line).await.is_err() {
            return;
        }
    }
}

async fn read_lines(stdout: impl AsyncRead + Unpin, lines: mpsc::Sender<Output>) {
    let mut reader = BufReader::new(stdout);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut reader).take(MAX_LINE_BYTES as u64 + 1);
        let output = match limited.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) if line.last() == Some(&b'\n') => {
                line.pop();
                Output::Line(line)
            }
            Ok(len) if len > MAX_LINE_BYTES => Output::TooLong,
            // The last line, without a line break.
            Ok(_) => Output::Line(line),
        };
        let is_last = matches!(output, Output::TooLong);
        if lines.send(output).await.is_err() || is_last {
            return;
        }
    }
}

/// What a program says on stderr, with its name. Long lines are cut, many are counted only.
async fn log_lines(name: PluginName, stderr: impl AsyncRead + Unpin) {
    let mut reader = BufReader::new(stderr);
    let mut budget = LogBudget::new(Instant::now());
    let mut goes_on = false;
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut reader).take(MAX_LOG_BYTES as u64);
        match limited.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let is_rest = std::mem::replace(&mut goes_on, line.last() != Some(&b'\n'));
        if is_rest {
            continue;
        }
        let text = String::from_utf8_lossy(&line);
        match budget.take(Instant::now()) {
            Taken::Yes { left_out } => {
                if left_out > 0 {
                    tracing::warn!(plugin = ?name, left_out, "the plugin wrote more lines to stderr than the log takes");
                }
                let said = text.trim_end().escape_debug();
                tracing::info!(plugin = ?name, %said, "the plugin says");
            }
            Taken::No => {}
        }
    }
}

/// How many lines may still go to the log in this second.
struct LogBudget {
    since: Instant,
    used: u32,
    left_out: u64,
}

enum Taken {
    Yes { left_out: u64 },
    No,
}

impl LogBudget {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            used: 0,
            left_out: 0,
        }
    }

    fn take(&mut self, now: Instant) -> Taken {
        if now.duration_since(self.since) >= Duration::from_secs(1) {
            (self.since, self.used) = (now, 0);
        }
        if self.used >= MAX_LOG_LINES {
            self.left_out += 1;
            return Taken::No;
        }
        self.used += 1;
        Taken::Yes {
            left_out: std::mem::take(&mut self.left_out),
        }
    }
}

/// What tells one version of a program's files from another: of the program itself and of what is watched beside it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Stamps(Vec<Option<Stamp>>);

type Stamp = (u64, u64, i64, i64);

impl Stamps {
    /// Looks at the files. Follows symlinks, so that a swapped volume is noticed.
    pub(super) async fn of(settings: &Plugin) -> Self {
        let mut stamps = Vec::new();
        for path in settings.watched() {
            stamps.push(stamp(Path::new(path)).await);
        }
        Self(stamps)
    }
}

async fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let meta = tokio::fs::metadata(path).await.ok()?;
    Some((meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines_of(bytes: &[u8]) -> Vec<String> {
        let (sender, mut receiver) = mpsc::channel(100);
        read_lines(bytes, sender).await;
        let mut lines = Vec::new();
        while let Some(output) = receiver.recv().await {
            lines.push(match output {
                Output::Line(line) => String::from_utf8(line).expect("text"),
                Output::TooLong => "too long".to_owned(),
            });
        }
        lines
    }

    #[tokio::test]
    async fn lines_are_bounded_and_the_last_needs_no_line_break() {
        assert_eq!(lines_of(b"").await, [""; 0]);
        assert_eq!(lines_of(b"a\n\nb").await, ["a", "", "b"]);
        let longest = "x".repeat(MAX_LINE_BYTES);
        assert_eq!(
            lines_of(format!("{longest}\nb\n").as_bytes()).await,
            [&longest, "b"]
        );
        assert_eq!(
            lines_of(format!("a\n{longest}x\nb\n").as_bytes()).await,
            ["a", "too long"]
        );
    }

    #[test]
    fn a_second_has_room_for_so_many_lines_and_the_next_tells_what_was_left_out() {
        let start = Instant::now();
        let mut budget = LogBudget::new(start);
        let taken = (0..100)
            .filter(|_| matches!(budget.take(start), Taken::Yes { left_out: 0 }))
            .count();
        assert_eq!(taken, MAX_LOG_LINES as usize);
        let next = budget.take(start + Duration::from_secs(1));
        assert!(matches!(next, Taken::Yes { left_out: 80 }));
    }
}
