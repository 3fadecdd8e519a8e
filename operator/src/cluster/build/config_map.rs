//! ConfigMaps: the configurations of a role's processes, one key a pod. Nothing in them is secret.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;

use super::Group;
use crate::cluster::addresses::authority_key;
use crate::plan::{Issuer, Role};

/// The ConfigMap of a role.
pub(super) fn build(group: &Group<'_>) -> ConfigMap {
    let mut data: BTreeMap<String, String> = group
        .processes()
        .iter()
        .flat_map(|process| &process.files)
        .map(|file| (file.name().to_owned(), file.text.clone()))
        .collect();
    if group.role == Role::Relay {
        // The relays check the servers of their region with it.
        let region = &group.region.name;
        if let Some(certificate) = group.input.authorities.get(region) {
            data.insert(
                authority_key(&Issuer::Region(region.clone())).to_owned(),
                certificate.clone(),
            );
        }
    }
    ConfigMap {
        metadata: group.metadata(group.input.names.config(&group.region.name, group.role)),
        data: Some(data),
        ..ConfigMap::default()
    }
}
