//! What a fleet must remember for as long as its disks: its identity, and what was made of it. Kept in a ConfigMap without owner.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Api, PostParams};
use nightjar_envelope::{FleetId, RegionName, StreamName};
use serde::{Deserialize, Serialize};

use super::error::ClusterError;
use super::names::Names;
use crate::crd::RegionSpec;

const VERSION: u32 = 1;
const KEY: &str = "record.json";

/// What is remembered of a fleet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct FleetRecord {
    version: u32,
    /// Random, for ever: envelopes are bound to it.
    pub fleet_id: FleetId,
    /// True from before the first stream was made. From then on a missing keyring is never replaced by a new one.
    pub streams_made: bool,
    /// Every region that was ever part of the fleet.
    pub regions: BTreeMap<RegionName, RegionRecord>,
}

/// What is remembered of a region, also after it left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct RegionRecord {
    /// Incarnation of its streams, from 1.
    pub generation: u32,
    /// Streams that its JetStream holds, own and mirrored: they are never made a second time.
    pub streams: BTreeSet<StreamName>,
    /// The spec it ran with last, so that a region that left the `RelayCluster` can be kept until its log is held elsewhere.
    pub spec: RegionSpec,
    /// It left, and its log is held by the other regions.
    #[serde(default)]
    pub removed: bool,
    /// It left while the policy was `Delete`, so that its disks may go. What left under `Retain` keeps them, whatever is said later.
    #[serde(default)]
    pub disposable: bool,
}

impl FleetRecord {
    /// The record of a fleet that never ran.
    pub(super) fn new(fleet_id: FleetId) -> Self {
        Self {
            version: VERSION,
            fleet_id,
            streams_made: false,
            regions: BTreeMap::new(),
        }
    }

    /// Regions that left, with the generation of their streams.
    pub(super) fn former(&self) -> BTreeMap<RegionName, u32> {
        self.regions
            .iter()
            .filter(|(_, region)| region.removed && !region.streams.is_empty())
            .map(|(name, region)| (name.clone(), region.generation))
            .collect()
    }

    fn read(names: &Names, map: &ConfigMap) -> Result<Self, ClusterError> {
        let damaged = |reason: String| ClusterError::Damaged {
            object: format!("configmap/{}", names.record()),
            reason,
        };
        let text = map
            .data
            .as_ref()
            .and_then(|data| data.get(KEY))
            .ok_or_else(|| damaged(format!("it has no key {KEY}")))?;
        let record: Self =
            serde_json::from_str(text).map_err(|error| damaged(error.to_string()))?;
        if record.version == VERSION {
            Ok(record)
        } else {
            Err(damaged(format!(
                "version {} is of another operator; this one knows {VERSION}",
                record.version
            )))
        }
    }
}

/// The record, and the ConfigMap as it was read.
#[derive(Debug, Clone)]
pub(super) struct StoredRecord {
    /// What is remembered.
    pub record: FleetRecord,
    map: Option<ConfigMap>,
}

impl StoredRecord {
    /// Reads the record; `None` if the fleet never ran here.
    pub(super) async fn load(
        api: &Api<ConfigMap>,
        names: &Names,
    ) -> Result<Option<Self>, ClusterError> {
        let map = api
            .get_opt(&names.record())
            .await
            .map_err(|source| ClusterError::api("read", "configmap", &names.record(), source))?;
        map.map(|map| {
            Ok(Self {
                record: FleetRecord::read(names, &map)?,
                map: Some(map),
            })
        })
        .transpose()
    }

    /// A record that is not stored yet.
    pub(super) fn fresh(record: FleetRecord) -> Self {
        Self { record, map: None }
    }

    /// Writes the record if it is not what is stored. Another writer in between is an error, never overwritten.
    pub(super) async fn save(
        &mut self,
        api: &Api<ConfigMap>,
        names: &Names,
    ) -> Result<(), ClusterError> {
        let stored = self
            .map
            .as_ref()
            .and_then(|map| FleetRecord::read(names, map).ok());
        if stored.as_ref() == Some(&self.record) {
            return Ok(());
        }
        let text = serde_json::to_string_pretty(&self.record).expect("a record is plain JSON");
        let map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(names.record()),
                namespace: Some(names.namespace.clone()),
                labels: Some(names.labels()),
                resource_version: self
                    .map
                    .as_ref()
                    .and_then(|map| map.metadata.resource_version.clone()),
                ..ObjectMeta::default()
            },
            data: Some([(KEY.to_owned(), text)].into_iter().collect()),
            ..ConfigMap::default()
        };
        let params = PostParams::default();
        let written = if self.map.is_some() {
            api.replace(&names.record(), &params, &map).await
        } else {
            api.create(&params, &map).await
        };
        self.map =
            Some(written.map_err(|source| {
                ClusterError::api("write", "configmap", &names.record(), source)
            })?);
        Ok(())
    }
}
