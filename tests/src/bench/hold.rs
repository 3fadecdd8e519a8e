//! `hold`: a process that keeps idle connections open for `idle`, since one process may have few open files.

use std::io::Write as _;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinSet;

use super::connection::open_from;
use super::idle::raise_open_files;

/// What it says when all are open.
const OPEN: &str = "open";

/// Opens the connections, says so, and keeps them until standard input ends. An error when one of them ended before.
pub async fn run(url: &str, connections: usize, source: u8) -> Result<()> {
    raise_open_files(connections)?;
    let mut senders = Vec::with_capacity(connections);
    let mut idle = JoinSet::new();
    for opened in 0..connections {
        let (sender, receiver) = open_from(url, source)
            .await
            .with_context(|| format!("connection {opened}"))?;
        // Kept: who drops it has nobody to answer pings.
        senders.push(sender);
        idle.spawn(receiver.idle());
    }
    writeln!(std::io::stdout(), "{OPEN}").context("stdout")?;
    let mut stdin = tokio::io::stdin();
    let mut nothing = Vec::new();
    tokio::select! {
        _ = stdin.read_to_end(&mut nothing) => Ok(()),
        _ = idle.join_next() => bail!("the relay closed an idle connection"),
    }
}

/// Such a process, ended when dropped.
pub(super) struct Holder {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Holder {
    pub(super) fn start(url: &str, connections: usize, source: u8) -> Result<Self> {
        let program = std::env::current_exe().context("this program's file")?;
        let mut child = Command::new(program)
            .args(["hold", "--url", url])
            .args(["--connections", &connections.to_string()])
            .args(["--source", &source.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("a process for connections")?;
        let stdout = child.stdout.take().context("its output")?;
        Ok(Self {
            child,
            lines: BufReader::new(stdout).lines(),
        })
    }

    pub(super) async fn wait_open(&mut self) -> Result<()> {
        match self.lines.next_line().await? {
            Some(line) if line == OPEN => Ok(()),
            _ => bail!("a process for connections ended; what it says stands above"),
        }
    }

    /// It still runs, so none of its connections has ended.
    pub(super) fn check_still_open(mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("a process for connections ended: {status}"),
        }
    }
}
