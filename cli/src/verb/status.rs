//! `nightjar status` and `nightjar down`: what the state folder of a running fleet tells, and ending it. Fleets in Kubernetes are told
//! by `fleet_status`.

use std::time::Duration;

use nightjar_client::{RelayUrl, info};
use nightjar_operator::local::{FleetState, ProcessState, ProcessStatus};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::fleet_status;
use crate::args::{DownArgs, StatusArgs, is_plugin};
use crate::code::Code;
use crate::context::Context;
use crate::error::CliError;
use crate::output::Record;
use crate::running::Running;
use crate::when;

/// A fleet drains and ends within 10 s, by its own promise.
const DOWN_WITHIN: Duration = Duration::from_secs(15);
const INFO_WITHIN: Duration = Duration::from_secs(4);

#[derive(Debug, Serialize)]
struct ProcessRecord {
    region: String,
    name: String,
    state: &'static str,
    pid: Option<u32>,
    address: String,
    /// How often it ended by itself since the fleet was started.
    restarts: u32,
    /// Why it is not ready, when known.
    reason: Option<String>,
}
impl Record for ProcessRecord {
    const COLUMNS: &'static [&'static str] = &[
        "region", "name", "state", "pid", "address", "restarts", "reason",
    ];
}

#[derive(Debug, Serialize)]
struct RelayRecord {
    relay: String,
    state: &'static str,
    name: Option<String>,
    fleet: Option<String>,
    region: Option<String>,
    durability: Option<String>,
    took_ms: Option<u64>,
    reason: Option<String>,
}
impl Record for RelayRecord {
    const COLUMNS: &'static [&'static str] = &[
        "relay",
        "state",
        "name",
        "fleet",
        "region",
        "durability",
        "took_ms",
        "reason",
    ];
}

pub(crate) async fn status(args: &StatusArgs, context: &Context) -> Result<(), CliError> {
    let local = !args.via.via.is_empty() || args.via.state.is_some();
    if args.fleet.is_some() || args.at.is_given() || (is_plugin() && !local) {
        return fleet_status::run(args.fleet.as_deref(), &args.at, context).await;
    }
    if !args.via.via.is_empty() {
        return relays(&context.relays(&args.via, None)?, context).await;
    }
    let running = Running::find(args.via.state.as_deref())?;
    if !running.is_alive() {
        return Err(running.stopped());
    }
    let records: Vec<_> = running
        .status
        .processes
        .iter()
        .map(|entry| record(&entry.status))
        .collect();
    context.out.list(&records)?;
    let sick: Vec<_> = records
        .iter()
        .filter(|process| process.state != ProcessState::Ready.name())
        .collect();
    if sick.is_empty() && running.status.state == FleetState::Ready {
        return Ok(());
    }
    let next = format!("ls {}/regions/*/*/*.log", running.state.display());
    let message = match running.status.state {
        FleetState::KeysMissing => {
            "the fleet's keyring is missing, and is not made anew; put it back".to_owned()
        }
        _ => format!(
            "{} of {} processes are not ready",
            sick.len(),
            records.len()
        ),
    };
    let error = CliError::new(Code::Unhealthy, message, next);
    Err(sick.iter().fold(error, |error, process| {
        let reason = process
            .reason
            .as_ref()
            .map(|reason| format!(": {reason}"))
            .unwrap_or_default();
        error.because(format!("{} is {}{reason}", process.name, process.state))
    }))
}

fn record(process: &ProcessStatus) -> ProcessRecord {
    ProcessRecord {
        region: process.region.to_string(),
        name: process.name.clone(),
        state: process.state.name(),
        pid: process.pid,
        address: process.address.clone(),
        restarts: process.restarts,
        reason: process.reason.clone(),
    }
}

/// Asks relays what they say of themselves; none of them needs to be ours.
async fn relays(urls: &[RelayUrl], context: &Context) -> Result<(), CliError> {
    let mut records = Vec::new();
    for url in urls {
        let started = Instant::now();
        let answer = info::fetch(url, INFO_WITHIN).await;
        let took_ms = answer.is_ok().then(|| when::millis(started.elapsed()));
        let (state, reason) = match &answer {
            Ok(_) => ("ready", None),
            Err(error) => ("unreachable", Some(error.to_string())),
        };
        let info = answer.unwrap_or_default();
        let fleet = info.nightjar.as_ref();
        records.push(RelayRecord {
            relay: url.to_string(),
            state,
            fleet: fleet.map(|fleet| {
                fleet
                    .fleet_name
                    .clone()
                    .unwrap_or_else(|| fleet.fleet.clone())
            }),
            region: fleet.and_then(|fleet| fleet.region.clone()),
            durability: fleet.and_then(|fleet| fleet.durability.clone()),
            name: info.name,
            took_ms,
            reason,
        });
    }
    context.out.list(&records)?;
    let lost = records
        .iter()
        .filter(|relay| relay.reason.is_some())
        .count();
    match lost {
        0 => Ok(()),
        _ if lost == records.len() => Err(CliError::new(
            Code::Unreachable,
            "no relay could be reached",
            "the same command with --verbose",
        )),
        _ => Err(CliError::new(
            Code::Unhealthy,
            format!("{lost} relays could not be reached"),
            "nightjar status",
        )),
    }
}

pub(crate) async fn down(args: &DownArgs, context: &Context) -> Result<(), CliError> {
    let running = Running::find(args.state.as_deref())?;
    // Only who holds the lock is the fleet.
    let pid = Some(running.status.pid).filter(|_| running.is_alive());
    let pid = pid
        .and_then(|pid| i32::try_from(pid).ok())
        .and_then(rustix::process::Pid::from_raw);
    let Some(pid) = pid else {
        return Err(running.stopped());
    };
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).map_err(|error| {
        CliError::new(
            Code::FleetFailed,
            "the fleet could not be told to stop",
            "nightjar status",
        )
        .because(error)
    })?;
    let deadline = Instant::now() + DOWN_WITHIN;
    while running.is_alive() {
        if Instant::now() > deadline {
            let message = format!("the fleet did not end within {} s", DOWN_WITHIN.as_secs());
            return Err(CliError::new(
                Code::FleetFailed,
                message,
                "nightjar down, once more",
            ));
        }
        sleep(Duration::from_millis(50)).await;
    }
    context.console.note(&format!(
        "stopped; its data stays in {}",
        running.state.display()
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::assert_same_fields;

    #[test]
    fn table_and_json_have_the_same_fields() {
        let text = String::new;
        let process = ProcessRecord {
            region: text(),
            name: text(),
            state: "ready",
            pid: None,
            address: text(),
            restarts: 0,
            reason: None,
        };
        assert_same_fields(&process);
        let relay = RelayRecord {
            relay: text(),
            state: "ready",
            name: None,
            fleet: None,
            region: None,
            durability: None,
            took_ms: None,
            reason: None,
        };
        assert_same_fields(&relay);
    }
}
