//! Reads what a fleet has in the cluster. I/O only: nothing is decided here.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod};
use kube::Client;
use kube::api::{Api, ListParams};
use kube::core::DynamicObject;
use serde_json::Value;

use super::build::Kind;
use super::error::ClusterError;
use super::names::{Names, is_pod_of};
use super::record::StoredRecord;

/// What a fleet has in the cluster.
#[derive(Debug)]
pub(super) struct Observed {
    /// Owned objects by kind and name.
    pub objects: BTreeMap<(Kind, String), Value>,
    /// Its pods, by name.
    pub pods: BTreeMap<String, Pod>,
    /// Its disks, by name.
    pub claims: BTreeMap<String, PersistentVolumeClaim>,
    /// What it remembers.
    pub record: Option<StoredRecord>,
}

impl Observed {
    /// Reads everything.
    pub(super) async fn read(client: &Client, names: &Names) -> Result<Self, ClusterError> {
        let params = ListParams::default().labels(&names.selector());
        let namespace = names.namespace.as_str();
        let mut objects = BTreeMap::new();
        for kind in Kind::ALL {
            let resource = kind.resource();
            let api: Api<DynamicObject> =
                Api::namespaced_with(client.clone(), namespace, &resource);
            let list = api
                .list(&params)
                .await
                .map_err(|source| ClusterError::api("list", &resource.plural, "", source))?;
            for object in list {
                let name = object.metadata.name.clone().unwrap_or_default();
                let mut value = serde_json::to_value(&object).expect("objects are plain JSON");
                // Entries of a list do not say what they are.
                value["apiVersion"] = resource.api_version.clone().into();
                value["kind"] = resource.kind.clone().into();
                objects.insert((kind, name), value);
            }
        }
        let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
        let pods = pods
            .list(&params)
            .await
            .map_err(|source| ClusterError::api("list", "pods", "", source))?;
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
        let claims = claims
            .list(&params)
            .await
            .map_err(|source| ClusterError::api("list", "persistentvolumeclaims", "", source))?;
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
        Ok(Self {
            objects,
            pods: by_name(pods),
            claims: by_name(claims),
            record: StoredRecord::load(&maps, names).await?,
        })
    }

    /// The StatefulSet of that name.
    pub(super) fn stateful_set(&self, name: &str) -> Option<&Value> {
        self.objects.get(&(Kind::StatefulSet, name.to_owned()))
    }

    /// The image that a StatefulSet runs. Where the set is gone for a moment, by hand or to be made anew, its pods run on.
    pub(super) fn image(&self, name: &str) -> Option<String> {
        let asked = self.stateful_set(name).and_then(|set| {
            let image = &set["spec"]["template"]["spec"]["containers"][0]["image"];
            image.as_str().map(str::to_owned)
        });
        asked.or_else(|| {
            let mut pods = self.pods.iter();
            let (_, pod) = pods.find(|(pod, _)| is_pod_of(pod, name))?;
            pod.spec.as_ref()?.containers.first()?.image.clone()
        })
    }
}

fn by_name<K: kube::Resource>(list: impl IntoIterator<Item = K>) -> BTreeMap<String, K> {
    list.into_iter()
        .map(|object| (object.meta().name.clone().unwrap_or_default(), object))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_that_is_gone_for_a_moment_still_runs_what_its_pods_run() {
        let pod = |image: &str| {
            let pod = serde_json::json!({"spec": {"containers": [{"name": "c", "image": image}]}});
            serde_json::from_value::<Pod>(pod).unwrap()
        };
        let mut observed = Observed {
            objects: BTreeMap::new(),
            pods: [
                ("f-a-nats-x-0".to_owned(), pod("other")),
                ("f-a-nats-0".to_owned(), pod("nats:1")),
            ]
            .into(),
            claims: BTreeMap::new(),
            record: None,
        };
        assert_eq!(observed.image("f-a-nats").as_deref(), Some("nats:1"));
        assert_eq!(observed.image("f-a-relay"), None);
        let set = serde_json::json!({"spec": {"template": {"spec": {"containers": [{"image": "nats:2"}]}}}});
        observed
            .objects
            .insert((Kind::StatefulSet, "f-a-nats".to_owned()), set);
        assert_eq!(observed.image("f-a-nats").as_deref(), Some("nats:2"));
    }
}
