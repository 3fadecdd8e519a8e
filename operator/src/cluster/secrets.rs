//! Secrets of a fleet, read and written by name: keyring, NATS users, authorities, certificates. Nothing here is ever logged.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, PostParams};
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
        let Some(secret) = secret else {
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
