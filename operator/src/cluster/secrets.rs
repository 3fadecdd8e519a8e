//! Secrets of a fleet, read and written by name: keyring, NATS users, authorities, certificates. Nothing here is ever logged.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use zeroize::Zeroizing;

use super::error::ClusterError;
use super::names::{FLEET_LABEL, Names};

/// Texts of a Secret by key; wiped when dropped.
pub(super) type SecretText = BTreeMap<String, Zeroizing<String>>;

/// What a Secret holds, and the notes in its annotations.
#[derive(Clone, Default)]
pub(super) struct Held {
    /// Its texts.
    pub text: SecretText,
    /// Its annotations.
    pub notes: BTreeMap<String, String>,
    resource_version: Option<String>,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held")
            .field("keys", &self.text.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// The Secrets of one fleet.
#[derive(Clone)]
pub(super) struct SecretStore {
    api: Api<Secret>,
    names: Names,
    owner: OwnerReference,
}

impl std::fmt::Debug for SecretStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretStore")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

/// Whether a Secret goes with the `RelayCluster`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lifetime {
    /// Removed with its owner.
    Fleet,
    /// Stays as long as the disks.
    Data,
}

impl SecretStore {
    /// The Secrets of a fleet.
    pub(super) fn new(api: Api<Secret>, names: Names, owner: OwnerReference) -> Self {
        Self { api, names, owner }
    }

    /// Reads a Secret.
    pub(super) async fn get(&self, name: &str) -> Result<Option<Held>, ClusterError> {
        let secret = self
            .api
            .get_opt(name)
            .await
            .map_err(|source| ClusterError::api("read", "secret", name, source))?;
        let Some(mut secret) = secret else {
            return Ok(None);
        };
        let fleet = secret
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(FLEET_LABEL));
        if fleet.is_some_and(|fleet| *fleet != self.names.fleet) {
            return Err(ClusterError::Foreign {
                object: format!("secret/{name}"),
            });
        }
        if let Some(owners) = self.adopted(&secret.metadata)? {
            secret = self.adopt(name, &secret.metadata, owners).await?;
        }
        let mut text = SecretText::new();
        for (key, ByteString(bytes)) in secret.data.unwrap_or_default() {
            let value = String::from_utf8(bytes).map_err(|_| ClusterError::Damaged {
                object: format!("secret/{name}"),
                reason: format!("key {key} is not text"),
            })?;
            text.insert(key, Zeroizing::new(value));
        }
        Ok(Some(Held {
            text,
            notes: secret.metadata.annotations.unwrap_or_default(),
            resource_version: secret.metadata.resource_version,
        }))
    }

    /// The owners that the Secret should have instead of those that it has; `None` if it is as it should be.
    fn adopted(&self, metadata: &ObjectMeta) -> Result<Option<Vec<OwnerReference>>, ClusterError> {
        let name = metadata.name.as_deref().unwrap_or_default();
        let owners = metadata.owner_references.as_deref().unwrap_or_default();
        // Keys have no owner. What they open is needed for as long as they can be read.
        if metadata.deletion_timestamp.is_some() && !owners.is_empty() {
            return Err(ClusterError::BeingRemoved {
                object: format!("secret/{name}"),
            });
        }
        Ok(adopted(owners, &self.owner))
    }

    async fn adopt(
        &self,
        name: &str,
        metadata: &ObjectMeta,
        owners: Vec<OwnerReference>,
    ) -> Result<Secret, ClusterError> {
        let patch = json!({"metadata": {
            "ownerReferences": owners,
            "resourceVersion": metadata.resource_version,
        }});
        let params = PatchParams::default();
        self.api
            .patch(name, &params, &Patch::Merge(&patch))
            .await
            .map_err(|source| ClusterError::api("write", "secret", name, source))
    }

    /// Makes a Secret that is not there. One that appeared in between is never replaced: the caller comes back and reads it.
    pub(super) async fn create(
        &self,
        name: &str,
        lifetime: Lifetime,
        text: &SecretText,
        notes: BTreeMap<String, String>,
    ) -> Result<(), ClusterError> {
        let secret = self.secret(name, lifetime, text, notes, None);
        self.api
            .create(&PostParams::default(), &secret)
            .await
            .map(drop)
            .map_err(|source| ClusterError::api("create", "secret", name, source))
    }

    /// Replaces the content of a Secret as it was read; a change in between is an error.
    pub(super) async fn replace(
        &self,
        name: &str,
        held: &Held,
        text: &SecretText,
        notes: BTreeMap<String, String>,
    ) -> Result<(), ClusterError> {
        let version = held.resource_version.clone();
        let secret = self.secret(name, Lifetime::Fleet, text, notes, version);
        self.api
            .replace(name, &PostParams::default(), &secret)
            .await
            .map(drop)
            .map_err(|source| ClusterError::api("write", "secret", name, source))
    }

    fn secret(
        &self,
        name: &str,
        lifetime: Lifetime,
        text: &SecretText,
        notes: BTreeMap<String, String>,
        resource_version: Option<String>,
    ) -> Secret {
        Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(self.names.namespace.clone()),
                labels: Some(self.names.labels()),
                annotations: (!notes.is_empty()).then_some(notes),
                owner_references: (lifetime == Lifetime::Fleet).then(|| vec![self.owner.clone()]),
                resource_version,
                ..ObjectMeta::default()
            },
            type_: Some("Opaque".to_owned()),
            data: Some(
                text.iter()
                    .map(|(key, value)| (key.clone(), ByteString(value.as_bytes().to_vec())))
                    .collect(),
            ),
            ..Secret::default()
        }
    }
}

/// The owners of an object of the fleet whose `RelayCluster` was removed and applied again: the garbage collector is about to remove what
/// belongs to the one of before. `None` if nobody of that kind owns it, or today's does.
fn adopted(owners: &[OwnerReference], owner: &OwnerReference) -> Option<Vec<OwnerReference>> {
    let is_former = |known: &OwnerReference| {
        known.kind == owner.kind && known.name == owner.name && known.uid != owner.uid
    };
    if !owners.iter().any(is_former) {
        return None;
    }
    let others = owners
        .iter()
        .filter(|known| !is_former(known) && known.uid != owner.uid);
    Some(std::iter::once(owner).chain(others).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(kind: &str, name: &str, uid: &str) -> OwnerReference {
        OwnerReference {
            kind: kind.to_owned(),
            name: name.to_owned(),
            uid: uid.to_owned(),
            ..OwnerReference::default()
        }
    }

    #[test]
    fn what_belonged_to_the_fleet_before_it_was_applied_again_is_adopted_and_nothing_else() {
        let today = owner("RelayCluster", "f", "new");
        let former = owner("RelayCluster", "f", "old");
        let foreign = owner("ConfigMap", "f", "x");
        for owners in [vec![], vec![today.clone()], vec![foreign.clone()]] {
            assert_eq!(adopted(&owners, &today), None, "{owners:?}");
        }
        let owners = [former.clone(), foreign.clone(), today.clone()];
        assert_eq!(adopted(&owners, &today), Some(vec![today.clone(), foreign]));
        assert_eq!(adopted(&[former], &today), Some(vec![today]));
    }
}
