//! Reads RelayClusters of other versions: fields that this program does not know are left out instead of failing, and are told. At three in
//! the morning an older program must still say what is wrong.

use std::sync::LazyLock;

use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use nightjar_operator::crd::{RelayCluster, definition};
use serde_json::{Map, Value};

use super::{Cluster, Failure};

const RESOURCE: &str = "relayclusters";

/// The schema that this program knows.
static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let version = definition().spec.versions.into_iter().next();
    let schema = version.and_then(|version| version.schema);
    serde_json::to_value(schema.and_then(|schema| schema.open_api_v3_schema)).unwrap_or_default()
});

/// A fleet as far as this program knows it.
#[derive(Debug, Clone)]
pub(crate) struct Read {
    pub(crate) fleet: RelayCluster,
    /// Paths of fields with a value that it does not know.
    pub(crate) unknown: Vec<String>,
}

impl Cluster {
    fn raw(&self) -> Api<DynamicObject> {
        let resource = ApiResource::erase::<RelayCluster>(&());
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    /// The fleet of that name as the API server has it; `None` when there is none.
    pub(crate) async fn raw_fleet(&self, name: &str) -> Result<Option<DynamicObject>, Failure> {
        self.ask("get", RESOURCE, self.raw().get_opt(name)).await
    }

    /// The fleet of that name; `None` when there is none.
    pub(crate) async fn fleet(&self, name: &str) -> Result<Option<Read>, Failure> {
        let found = self.raw_fleet(name).await?;
        found.map(|object| self.read(&object)).transpose()
    }

    /// All fleets of the namespace.
    pub(crate) async fn fleets(&self) -> Result<Vec<Read>, Failure> {
        let raw = self.raw();
        let list = self
            .ask("list", RESOURCE, raw.list(&ListParams::default()))
            .await?;
        list.items.iter().map(|object| self.read(object)).collect()
    }

    /// Changes a fleet by a merge patch.
    pub(crate) async fn patch_fleet(
        &self,
        name: &str,
        change: &Value,
    ) -> Result<RelayCluster, Failure> {
        let (raw, params, patch) = (self.raw(), PatchParams::default(), Patch::Merge(change));
        let object = self
            .ask("patch", RESOURCE, raw.patch(name, &params, &patch))
            .await?;
        self.read(&object).map(|read| read.fleet)
    }

    fn read(&self, object: &DynamicObject) -> Result<Read, Failure> {
        read(object).map_err(|error| {
            let what = format!("{RESOURCE}/{}", object.name_any());
            Failure::of(self, "get", &what, &kube::Error::SerdeError(error))
        })
    }
}

fn read(object: &DynamicObject) -> Result<Read, serde_json::Error> {
    let mut value = serde_json::to_value(object)?;
    let mut unknown = Vec::new();
    for part in ["spec", "status"] {
        if let Some(below) = value.get_mut(part) {
            keep_known(part, below, &SCHEMA["properties"][part], &mut unknown);
        }
    }
    let fleet = serde_json::from_value(value)?;
    Ok(Read { fleet, unknown })
}

fn keep_known(path: &str, value: &mut Value, schema: &Value, unknown: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            let Some(known) = schema["properties"].as_object() else {
                // A map of the user's own names.
                return;
            };
            unknown.extend(strangers(path, fields, known));
            fields.retain(|name, _| known.contains_key(name));
            for (name, below) in fields.iter_mut() {
                keep_known(&format!("{path}.{name}"), below, &known[name], unknown);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                keep_known(&format!("{path}[{index}]"), item, &schema["items"], unknown);
            }
        }
        _ => {}
    }
}

fn strangers(path: &str, fields: &Map<String, Value>, known: &Map<String, Value>) -> Vec<String> {
    let strange = fields
        .iter()
        .filter(|(name, value)| !known.contains_key(*name) && !value.is_null());
    strange.map(|(name, _)| format!("{path}.{name}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_of_a_newer_version_is_read_without_what_is_new() {
        let object: DynamicObject = serde_yaml::from_str(
            "apiVersion: nightjar.dev/v1alpha1\nkind: RelayCluster\nmetadata: {name: eu, labels: {x.example/y: z}}\nspec:\n  color: red\n  regions: [{name: a, service: {shape: round, gone: null}, placement: {nodeSelector: {a.b/c: d}}}]\nstatus: {observedGeneration: 2, mood: good}\n",
        )
        .unwrap();
        let read = read(&object).unwrap();
        assert_eq!(
            read.unknown,
            ["spec.color", "spec.regions[0].service.shape", "status.mood"]
        );
        assert_eq!(
            read.fleet.spec.regions[0].placement.node_selector["a.b/c"],
            "d"
        );
        assert_eq!(read.fleet.status.unwrap().observed_generation, Some(2));
    }
}
