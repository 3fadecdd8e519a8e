//! One fleet of three regions for the tests that leave it as they found it: it is 18 pods. It ends with the cluster, or when
//! `cargo xtask test` removes what tests left on another one.

use std::time::Instant;

use tokio::sync::{MappedMutexGuard, Mutex, MutexGuard};

use super::cluster::Cluster;
use super::fleet::{Fleet, FleetSpec};
use super::limits;
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

/// The right to use the shared fleet, until it is dropped.
#[derive(Debug)]
pub struct Claim {
    shared: MutexGuard<'static, Option<ThreeRegions>>,
}

/// Waits until no other test uses the shared fleet. Asked for before a turn on the cluster: a test that has one would hold up the others.
pub async fn claim() -> Claim {
    Claim {
        shared: SHARED.lock().await,
    }
}

impl Claim {
    /// The shared fleet, with everything as first asked for; made when there is none. It is this test's until the guard is dropped.
    pub async fn three_regions(
        mut self,
        cluster: &'static Cluster,
    ) -> MappedMutexGuard<'static, ThreeRegions> {
        if let Some(three) = self.shared.as_ref() {
            three.fleet.apply(&three.spec);
            three.fleet.wait_calm(limits::ROLLOUT).await;
        } else {
            *self.shared = Some(start(cluster).await);
        }
        MutexGuard::map(self.shared, |three| {
            three.as_mut().expect("it was just made")
        })
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
