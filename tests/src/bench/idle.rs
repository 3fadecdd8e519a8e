//! `idle`: memory of a relay at rest, and of connections that do nothing.

use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::connection::open;
use super::hold::Holder;
use super::options::Common;
use super::process::{Meter, Watched, memory, round};
use super::report::Row;
use super::target::{ONE_REGION_R1, SIX_RELAYS, Target, wanted};

/// Connections are opened in steps of so many.
const STEP: usize = 1_000;
/// How long a relay rests before its memory is read, so that what it frees is freed.
const REST: Duration = Duration::from_secs(5);

/// Measures a one-region fleet and the peer.
pub async fn run(
    connections: usize,
    fleet_connections: usize,
    common: &Common,
) -> Result<Vec<Row>> {
    raise_open_files(connections)?;
    let mut rows = Vec::new();
    if wanted(common, ONE_REGION_R1) {
        rows.extend(measure(&Target::fleet(ONE_REGION_R1).await, connections).await?);
    }
    if fleet_connections > 0 && wanted(common, SIX_RELAYS) {
        rows.extend(hold_on_fleet(&Target::fleet(SIX_RELAYS).await, fleet_connections).await?);
    }
    if let Some(target) = Target::peer(common)? {
        rows.extend(measure(&target, connections).await?);
    }
    Ok(rows)
}

/// Each connection is an open file here; what is started inherits the limit, and needs as many.
pub(super) fn raise_open_files(connections: usize) -> Result<()> {
    let wanted = connections as u64 + 500;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(wanted),
            maximum: limit.maximum,
        },
    )
    .with_context(|| {
        format!("{connections} connections need {wanted} open files; raise the limit (ulimit -Hn)")
    })
}

async fn measure(target: &Target, connections: usize) -> Result<Vec<Row>> {
    let (_, url) = target.relays.first().context("the target has no relay")?;
    let relay = target
        .processes
        .iter()
        .find(|process| target.is_peer || process.name.contains("-relay-"))
        .context("the relay's process is not known: start the peer with --peer-command")?;
    tokio::time::sleep(REST).await;
    let mut rows = vec![at_rest(target, relay).await?];
    let empty = rows[0].memory_mib.unwrap_or_default();
    let mut idle = tokio::task::JoinSet::new();
    // Sending halves are kept: dropping one would not close the connection, but would leave nobody to answer pings.
    let mut senders = Vec::with_capacity(connections);
    for opened in 1..=connections {
        let (sender, receiver) = open(url, None)
            .await
            .with_context(|| format!("connection {opened}"))?;
        senders.push(sender);
        idle.spawn(receiver.idle());
        if opened % STEP == 0 {
            tokio::time::sleep(REST).await;
            let now = memory(relay.pid)
                .context("the relay is gone")?
                .anonymous_mib;
            let thousands = (opened / STEP) as f64;
            rows.push(row(target, format!("{opened} idle connections"), now));
            rows.push(row(
                target,
                format!("per 1,000, of {opened}"),
                round((now - empty) / thousands, 100.0),
            ));
        }
    }
    Ok(rows)
}

/// So many connections on all relays of a fleet together, then memory of each relay.
async fn hold_on_fleet(target: &Target, connections: usize) -> Result<Vec<Row>> {
    let urls = target.urls();
    let each = connections.div_ceil(urls.len());
    let mut holders = Vec::new();
    for (url, source) in urls.iter().zip(1..) {
        holders.push(Holder::start(url, each, source)?);
    }
    for holder in &mut holders {
        holder.wait_open().await?;
    }
    tokio::time::sleep(REST).await;
    let meter = Meter::start(&target.processes);
    tokio::time::sleep(REST).await;
    let relays: Vec<f64> = target
        .processes
        .iter()
        .filter(|process| process.name.contains("-relay-"))
        .filter_map(|process| memory(process.pid))
        .map(|memory| memory.anonymous_mib)
        .collect();
    let all: f64 = relays.iter().sum();
    let load = format!(
        "{} idle connections on {} relays",
        each * urls.len(),
        urls.len()
    );
    let mut rows = vec![row(target, load.clone(), round(all, 10.0))];
    rows[0].what = "anonymous memory of all relays".to_owned();
    rows[0].usage = meter.stop();
    rows.push(Row {
        what: "anonymous memory of all relays".to_owned(),
        ..row(
            target,
            format!("per 1,000, of {load}"),
            round(all * 1_000.0 / (each * urls.len()) as f64, 100.0),
        )
    });
    for holder in holders {
        holder.check_still_open()?;
    }
    Ok(rows)
}

/// A relay at rest, and what all processes use meanwhile.
async fn at_rest(target: &Target, relay: &Watched) -> Result<Row> {
    let meter = Meter::start(&target.processes);
    tokio::time::sleep(REST).await;
    let now = memory(relay.pid).context("the relay is gone")?;
    Ok(Row {
        usage: meter.stop(),
        ..row(target, "no connection".to_owned(), now.anonymous_mib)
    })
}

fn row(target: &Target, load: String, memory_mib: f64) -> Row {
    Row {
        target: target.name.clone(),
        durability: target.durability.to_owned(),
        what: "anonymous memory of the relay".to_owned(),
        load,
        memory_mib: Some(memory_mib),
        ..Row::default()
    }
}
