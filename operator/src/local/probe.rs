//! Asks a process whether it serves yet. One question, one answer, within a second.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::plan::{Port, ProcessPlan, Role};

const DEADLINE: Duration = Duration::from_secs(1);
/// More than any readiness text.
const MAX_ANSWER: u64 = 16 * 1024;

/// What a process answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Nothing yet.
    Silent,
    /// It answers, and waits for something.
    Waiting(String),
    /// It serves.
    Ready,
}

/// Asks the process of a plan.
pub(crate) async fn ask(plan: &ProcessPlan) -> Answer {
    let port = match plan.id.role {
        Role::Nats | Role::Hub => Port::Client,
        Role::Relay => Port::Admin,
    };
    let Some(listener) = plan.listener(port) else {
        return Answer::Ready;
    };
    let asked = async {
        match plan.id.role {
            Role::Nats | Role::Hub => nats(listener.listen).await,
            Role::Relay => relay(listener.listen).await,
        }
    };
    tokio::time::timeout(DEADLINE, asked)
        .await
        .ok()
        .flatten()
        .unwrap_or(Answer::Silent)
}

/// A NATS server greets with `INFO {...}`.
async fn nats(address: SocketAddr) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let mut greeting = [0; 5];
    stream.read_exact(&mut greeting).await.ok()?;
    (&greeting == b"INFO ").then_some(Answer::Ready)
}

/// A relay answers `GET /readyz` with 200, or with 503 and a line for each thing it waits for.
async fn relay(address: SocketAddr) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream
        .take(MAX_ANSWER)
        .read_to_string(&mut answer)
        .await
        .ok()?;
    parse_readiness(&answer)
}

fn parse_readiness(answer: &str) -> Option<Answer> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    match head.split_whitespace().nth(1)? {
        "200" => Some(Answer::Ready),
        _ => {
            let mut lines = body.lines().filter(|line| !line.trim().is_empty());
            let first = lines.next().unwrap_or("not ready");
            Some(Answer::Waiting(lines.next().unwrap_or(first).to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_is_the_status_and_its_reason_the_first_line_after_the_verdict() {
        assert_eq!(
            parse_readiness("HTTP/1.1 200 OK\r\n\r\nready\n"),
            Some(Answer::Ready)
        );
        assert_eq!(
            parse_readiness(
                "HTTP/1.1 503 Service Unavailable\r\na: b\r\n\r\nnot ready\nno keyring\nmore\n"
            ),
            Some(Answer::Waiting("no keyring".to_owned()))
        );
        assert_eq!(parse_readiness("garbage"), None);
    }
}
