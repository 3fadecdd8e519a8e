//! Makes the cluster like the plan: server-side apply of what differs, removal of what is ours and no longer wanted. Never a disk.

use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PropagationPolicy};
use kube::core::DynamicObject;
use serde_json::Value;

use super::build::{Desired, Kind};
use super::dereference::Observed;
use super::differs::{first_difference, holds, stamp, stamped};
use super::error::ClusterError;
use super::names::{MANAGER, Names};

/// What happened to an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// It was made.
    Created,
    /// It had been there, somebody removed it, and it was made again.
    Recreated,
    /// The plan changed.
    Updated,
    /// Somebody had changed the named field; it was put back.
    PutBack(String),
    /// It was no longer wanted.
    Removed,
}

/// An object that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// What happened.
    pub change: Change,
}

/// Applies objects of one fleet.
#[allow(missing_debug_implementations)]
pub(super) struct Applier<'a> {
    /// The client.
    pub client: &'a Client,
    /// Names of the fleet.
    pub names: &'a Names,
    /// UID of the `RelayCluster`.
    pub owner_uid: &'a str,
    /// A pass over this very generation has been through before: what is missing was removed by somebody.
    pub settled: bool,
}

impl Applier<'_> {
    /// Applies what differs, in order, then removes what is no longer wanted. Ends at the first error; the next pass goes on.
    pub(super) async fn apply(
        &self,
        wanted: &[Desired],
        observed: &Observed,
    ) -> Result<Vec<Written>, ClusterError> {
        let mut written = Vec::new();
        for desired in wanted {
            if let Some(change) = self.apply_one(desired, observed).await? {
                written.push(Written {
                    kind: desired.kind,
                    name: desired.name.clone(),
                    change,
                });
            }
        }
        for ((kind, name), live) in &observed.objects {
            let kept = wanted
                .iter()
                .any(|desired| desired.kind == *kind && desired.name == *name);
            if kept || !self.is_owned(live) {
                continue;
            }
            self.delete(*kind, name, live, PropagationPolicy::Background)
                .await?;
            written.push(Written {
                kind: *kind,
                name: name.clone(),
                change: Change::Removed,
            });
        }
        Ok(written)
    }

    async fn apply_one(
        &self,
        desired: &Desired,
        observed: &Observed,
    ) -> Result<Option<Change>, ClusterError> {
        let object = stamped(desired.object.clone());
        let found = match observed.objects.get(&(desired.kind, desired.name.clone())) {
            Some(live) => Some(live.clone()),
            None => self.unlabelled(desired).await?,
        };
        let Some(live) = found else {
            self.patch(desired, &object).await?;
            let change = if self.settled {
                Change::Recreated
            } else {
                Change::Created
            };
            return Ok(Some(change));
        };
        if holds(&live, &object) {
            return Ok(None);
        }
        // What we wrote last says the same as what we want now, so the difference is somebody else's.
        let by_hand = stamp(&live) == stamp(&object);
        let field = first_difference(&live, &object).unwrap_or_default();
        if live["metadata"]["deletionTimestamp"].is_string() {
            // It is made anew when it is gone.
            return Ok(None);
        }
        if desired.kind == Kind::StatefulSet && !claims_hold(&live, &object) {
            // Claim templates cannot be changed: the disks have grown, and the set is made anew around its pods.
            self.delete(
                desired.kind,
                &desired.name,
                &live,
                PropagationPolicy::Orphan,
            )
            .await?;
            return Ok(Some(Change::Updated));
        }
        self.patch(desired, &object).await?;
        Ok(Some(if by_hand {
            Change::PutBack(field)
        } else {
            Change::Updated
        }))
    }

    /// An object of the wanted name that does not carry the fleet's label: ours if we own it, else somebody's.
    async fn unlabelled(&self, desired: &Desired) -> Result<Option<Value>, ClusterError> {
        let kind = desired.kind.resource().kind.to_lowercase();
        let found = self
            .api(desired.kind)
            .get_opt(&desired.name)
            .await
            .map_err(|source| ClusterError::api("read", &kind, &desired.name, source))?;
        let Some(found) = found else {
            return Ok(None);
        };
        let live = serde_json::to_value(&found).expect("objects are plain JSON");
        if self.is_owned(&live) {
            Ok(Some(live))
        } else {
            Err(ClusterError::Foreign {
                object: format!("{kind}/{}", desired.name),
            })
        }
    }

    async fn patch(&self, desired: &Desired, object: &Value) -> Result<(), ClusterError> {
        let params = PatchParams::apply(MANAGER).force();
        self.api(desired.kind)
            .patch(&desired.name, &params, &Patch::Apply(object))
            .await
            .map(drop)
            .map_err(|source| {
                let kind = desired.kind.resource().kind.to_lowercase();
                ClusterError::api("apply", &kind, &desired.name, source)
            })
    }

    async fn delete(
        &self,
        kind: Kind,
        name: &str,
        live: &Value,
        propagation: PropagationPolicy,
    ) -> Result<(), ClusterError> {
        let mut params = DeleteParams {
            propagation_policy: Some(propagation),
            ..DeleteParams::default()
        };
        // Only the very object that was looked at.
        params.preconditions = Some(kube::api::Preconditions {
            uid: live["metadata"]["uid"].as_str().map(str::to_owned),
            resource_version: None,
        });
        match self.api(kind).delete(name, &params).await {
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
            Err(source) => {
                let kind = kind.resource().kind.to_lowercase();
                Err(ClusterError::api("delete", &kind, name, source))
            }
            Ok(_) => Ok(()),
        }
    }

    fn is_owned(&self, live: &Value) -> bool {
        live["metadata"]["ownerReferences"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|owner| owner["uid"] == self.owner_uid)
    }

    fn api(&self, kind: Kind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &self.names.namespace, &kind.resource())
    }
}

fn claims_hold(live: &Value, object: &Value) -> bool {
    holds(
        &live["spec"]["volumeClaimTemplates"],
        &object["spec"]["volumeClaimTemplates"],
    )
}
