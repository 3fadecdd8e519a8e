//! One fleet of three regions for the tests that leave it as they found it: it is 18 pods. It ends with the cluster, or when
//! `cargo xtask test` removes what tests left on another one.

use std::ops::{Deref, DerefMut};
use std::time::Instant;

use tokio::sync::{MappedMutexGuard, Mutex, MutexGuard};

use super::cluster::Cluster;
use super::fleet::{Fleet, FleetSpec};
use super::{limits, turn};
use crate::report::measured;

/// The regions of the shared fleet.
pub const REGIONS: [&str; 3] = ["a", "b", "c"];

/// The shared fleet and what was asked for at its start.
#[derive(Debug)]
pub struct ThreeRegions {
    /// The fleet.
    pub fleet: Fleet,
    /// What it was asked to be; a test that changes it puts this back.
    pub spec: FleetSpec,
}

impl ThreeRegions {
    /// The URL of a region.
    pub fn url(&self, region: &str) -> String {
        self.fleet.url(&self.spec, region)
    }

    /// The URLs of all regions.
    pub fn urls(&self) -> Vec<String> {
        self.fleet.urls(&self.spec)
    }
}

static SHARED: Mutex<Option<ThreeRegions>> = Mutex::const_new(None);

/// The shared fleet, with everything as first asked for, and a turn on the cluster, until it is dropped.
#[derive(Debug)]
pub struct Claim<Turn> {
    three: MappedMutexGuard<'static, ThreeRegions>,
    _turn: Turn,
}

impl<Turn> Deref for Claim<Turn> {
    type Target = ThreeRegions;

    fn deref(&self) -> &ThreeRegions {
        &self.three
    }
}

/// For a test that leaves the fleet with another spec, just as good: a way back would only take time.
impl<Turn> DerefMut for Claim<Turn> {
    fn deref_mut(&mut self) -> &mut ThreeRegions {
        &mut self.three
    }
}

/// Waits for the shared fleet; tests with fleets of their own go on meanwhile.
pub async fn beside(cluster: &'static Cluster) -> Claim<turn::Beside> {
    let turn = turn::without_a_fleet().await;
    claim(cluster, turn).await
}

/// Waits for the shared fleet and the whole cluster.
pub async fn alone(cluster: &'static Cluster) -> Claim<turn::Alone> {
    let turn = turn::alone().await;
    claim(cluster, turn).await
}

async fn claim<Turn>(cluster: &'static Cluster, turn: Turn) -> Claim<Turn> {
    let mut shared = SHARED.lock().await;
    if let Some(three) = shared.as_ref() {
        three.fleet.apply(&three.spec);
        three.fleet.wait_calm(limits::ROLLOUT).await;
    } else {
        *shared = Some(start(cluster).await);
    }
    Claim {
        three: MutexGuard::map(shared, |three| three.as_mut().expect("it was just made")),
        _turn: turn,
    }
}

async fn start(cluster: &'static Cluster) -> ThreeRegions {
    let spec = FleetSpec::new(&REGIONS, 3);
    let fleet = Fleet::namespace(cluster, "shared");
    let started = Instant::now();
    fleet.apply(&spec);
    fleet.wait_calm(limits::FLEET_READY).await;
    measured(&format!(
        "Kubernetes: three regions Ready {:.1} s after apply",
        started.elapsed().as_secs_f64()
    ));
    ThreeRegions { fleet, spec }
}
