//! A fleet on a real nats-server: streams, drift, restarts. Its relays are a program that only waits: they are tested elsewhere.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nightjar_envelope::StreamName;
use rustix::process::{Pid, Signal, kill_process};

use super::placement::Placement;
use super::record::RecordFile;
use super::{
    FleetState, LocalEvent, LocalFleet, LocalOptions, ProcessState, read_status, source, start,
};
use crate::pki::KeyFolder;
use crate::plan::{Credential, FleetPlan, RegionPlan};
use crate::streams::{Change, RegionAdmin, StreamError};

/// Longer than anything here takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

struct Fixture {
    _dir: tempfile::TempDir,
    options: LocalOptions,
}

fn fixture(regions: &[&str]) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let relay = dir.path().join("relay");
    std::fs::write(&relay, "#!/bin/sh\nexec sleep 600\n").unwrap();
    std::fs::set_permissions(&relay, std::fs::Permissions::from_mode(0o755)).unwrap();
    let file = dir.path().join("fleet.yaml");
    std::fs::write(&file, yaml(regions)).unwrap();
    let mut options = LocalOptions::new(file, dir.path().join("state"));
    options.relay_bin = relay;
    Fixture { _dir: dir, options }
}

fn yaml(regions: &[&str]) -> String {
    let regions: String = regions
        .iter()
        .map(|name| format!("    - {{name: {name}, relays: {{replicas: 1}}, nats: {{replicas: 1, storage: 2Gi}}}}\n"))
        .collect();
    format!(
        "apiVersion: nightjar.dev/v1alpha1\nkind: RelayCluster\nmetadata: {{name: t}}\nspec:\n  regions:\n{regions}  log: {{maxBytesPerRegion: 256Mi}}\n"
    )
}

/// The plan as the running fleet has it: ports, keys and generations are in the state folder.
fn plan(options: &LocalOptions) -> (FleetPlan, KeyFolder) {
    let keys = KeyFolder::open(&options.state_dir.join("keys")).unwrap();
    let mut placement = Placement {
        file: options.file.clone(),
        state_dir: options.state_dir.clone(),
        keys: keys.clone(),
        record: RecordFile::open(&options.state_dir).unwrap(),
    };
    let plan = placement
        .plan(&source::load(&options.file).unwrap())
        .unwrap();
    (plan, keys)
}

async fn connect(region: &RegionPlan, keys: &KeyFolder) -> RegionAdmin {
    let seed = keys.seed(&region.name, Credential::Admin).unwrap();
    wait_for("NATS", async || {
        RegionAdmin::connect(
            &region.name,
            &region.nats_urls,
            &crate::streams::Login::plain(&seed),
        )
        .await
        .ok()
    })
    .await
}

async fn wait_for<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asked = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LIMIT, asked)
        .await
        .unwrap_or_else(|_| panic!("no {what}"))
}

async fn wait_event(fleet: &mut LocalFleet, what: &str, wanted: impl Fn(&LocalEvent) -> bool) {
    let found = async {
        while let Some(event) = fleet.events.recv().await {
            if wanted(&event) {
                return;
            }
        }
        panic!("the fleet ended before: {what}");
    };
    tokio::time::timeout(LIMIT, found)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_made_once_corrected_when_changed_and_never_made_twice() {
    let fixture = fixture(&["a", "b"]);
    let fleet = start(fixture.options.clone()).await.unwrap();
    let (plan, keys) = plan(&fixture.options);
    for region in &plan.regions {
        let admin = connect(region, &keys).await;
        let wanted: BTreeSet<StreamName> = region
            .streams
            .iter()
            .map(|stream| stream.name.clone())
            .collect();
        assert_eq!(wanted.len(), 12);
        wait_for("streams", async || {
            let existing: BTreeSet<StreamName> = admin.existing().await.ok()?.into_iter().collect();
            (existing == wanted).then_some(())
        })
        .await;
        for (name, result) in admin.apply(&region.streams, &wanted).await {
            assert_eq!(result.unwrap(), Change::Unchanged, "{name}");
        }
    }
    drift_is_corrected(&plan.regions[0], &keys).await;
    fleet.shutdown().await;
    assert_eq!(
        read_status(&fixture.options.state_dir).unwrap().state,
        FleetState::Stopped
    );
}

async fn drift_is_corrected(region: &RegionPlan, keys: &KeyFolder) {
    let admin = connect(region, keys).await;
    let planned = &region.streams[0];
    let mut other = planned.clone();
    other.max_bytes = Some(1 << 24);
    let made = BTreeSet::from([planned.name.clone()]);
    for stream in [&other, planned] {
        let (_, result) = admin.apply([stream], &made).await.remove(0);
        assert_eq!(result.unwrap(), Change::Corrected(vec!["max_bytes"]));
    }
    let delete = format!("$JS.API.STREAM.DELETE.{}", planned.name);
    admin.client().request(delete, "".into()).await.unwrap();
    let (_, result) = admin.apply([planned], &made).await.remove(0);
    assert!(
        matches!(result, Err(StreamError::Lost { .. })),
        "{result:?}"
    );
    assert!(!admin.existing().await.unwrap().contains(&planned.name));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_dies_is_started_again_and_addresses_stay() {
    let fixture = fixture(&["a"]);
    let mut fleet = start(fixture.options.clone()).await.unwrap();
    let mut first = None;
    for restarts in [0, 1] {
        let mut pid = None;
        let ready = async {
            while let Some(event) = fleet.events.recv().await {
                if let LocalEvent::Process(process) = event
                    && process.name == "a-nats-0"
                    && process.state == ProcessState::Ready
                    && process.restarts == restarts
                {
                    pid = process.pid;
                    let address = first.get_or_insert(process.address.clone());
                    assert_eq!(*address, process.address);
                    return;
                }
            }
        };
        tokio::time::timeout(LIMIT, ready)
            .await
            .expect("a NATS server that serves");
        let pid = Pid::from_raw(pid.unwrap().cast_signed()).unwrap();
        if restarts == 0 {
            kill_process(pid, Signal::KILL).unwrap();
        }
    }
    fleet.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_region_stops_and_comes_back() {
    let fixture = fixture(&["a"]);
    let mut fleet = start(fixture.options.clone()).await.unwrap();
    let nats_is = |state| move |event: &LocalEvent| matches!(event, LocalEvent::Process(process) if process.name == "a-nats-0" && process.state == state);
    wait_event(&mut fleet, "ready", nats_is(ProcessState::Ready)).await;
    let marker: PathBuf = fixture.options.state_dir.join("regions/a/hold");
    std::fs::write(&marker, "").unwrap();
    wait_event(&mut fleet, "stopped", nats_is(ProcessState::Stopped)).await;
    std::fs::remove_file(&marker).unwrap();
    wait_event(&mut fleet, "ready again", nats_is(ProcessState::Ready)).await;
    fleet.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_lost_its_disks_begins_a_new_generation_and_keeps_its_keys() {
    let fixture = fixture(&["a"]);
    let state = fixture.options.state_dir.clone();
    let generation_made = async |generation: u32| {
        let fleet = start(fixture.options.clone()).await.unwrap();
        wait_for("record of the streams", async || {
            let record = RecordFile::open(&state).ok()?.record;
            let region = record.regions.values().next()?;
            (region.generation == generation && region.streams.len() == 6).then_some(())
        })
        .await;
        let keyring = std::fs::read(state.join("keys/keyring.json")).unwrap();
        fleet.shutdown().await;
        keyring
    };
    let before = generation_made(1).await;
    std::fs::remove_dir_all(Path::new(&state).join("regions/a/a-nats-0/data")).unwrap();
    let ports = RecordFile::open(&state).unwrap().record.ports;
    let port = *ports["a-relay-0"].values().next().unwrap();
    let taken = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    start(fixture.options.clone()).await.unwrap_err();
    let record = RecordFile::open(&state).unwrap().record;
    assert_eq!(
        record.regions.values().next().unwrap().generation,
        1,
        "a start that is refused for something else gives up no log"
    );
    drop(taken);
    assert_eq!(generation_made(2).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_cannot_change_its_number_of_servers() {
    let fixture = fixture(&["a"]);
    start(fixture.options.clone())
        .await
        .unwrap()
        .shutdown()
        .await;
    std::fs::write(
        &fixture.options.file,
        yaml(&["a"]).replace("{replicas: 1, storage", "{replicas: 3, storage"),
    )
    .unwrap();
    let refusal = start(fixture.options.clone())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        refusal.contains("spec.regions[0].nats.replicas"),
        "{refusal}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_a_running_fleet_cannot_take_over_is_refused() {
    let fixture = fixture(&["a"]);
    let mut fleet = start(fixture.options.clone()).await.unwrap();
    let config = fixture
        .options
        .state_dir
        .join("regions/a/a-nats-0/nats.conf");
    let written = wait_for("nats.conf", async || std::fs::read_to_string(&config).ok()).await;
    std::fs::write(
        &fixture.options.file,
        yaml(&["a"]).replace("storage: 2Gi", "storage: 1Gi"),
    )
    .unwrap();
    wait_event(&mut fleet, "refused", |event| {
        matches!(event, LocalEvent::Error { field: Some(field), .. } if field == "spec.regions[0].nats.storage")
    })
    .await;
    assert_eq!(std::fs::read_to_string(&config).unwrap(), written);
    fleet.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_is_watched_while_another_has_never_come_up() {
    let fixture = fixture(&["a", "b"]);
    let fleet = start(fixture.options.clone()).await.unwrap();
    let held = fixture.options.state_dir.join("regions/b");
    std::fs::create_dir_all(&held).unwrap();
    std::fs::write(held.join("hold"), "").unwrap();
    let (plan, keys) = plan(&fixture.options);
    let admin = connect(&plan.regions[0], &keys).await;
    let planned = &plan.regions[0].streams[0];
    let made = BTreeSet::from([planned.name.clone()]);
    let change = async |stream| admin.apply([stream], &made).await.remove(0).1.ok();
    wait_for("stream", async || {
        (change(planned).await? == Change::Unchanged).then_some(())
    })
    .await;
    let mut other = planned.clone();
    other.max_bytes = Some(1 << 24);
    assert_eq!(
        change(&other).await,
        Some(Change::Corrected(vec!["max_bytes"]))
    );
    wait_for("correction", async || {
        let info = format!("$JS.API.STREAM.INFO.{}", planned.name);
        let reply = admin.client().request(info, "".into()).await.ok()?;
        let info: serde_json::Value = serde_json::from_slice(&reply.payload).ok()?;
        (info["config"]["max_bytes"].as_u64() == planned.max_bytes).then_some(())
    })
    .await;
    fleet.kill().await;
}
