//! What grows, what is held back, and what is remembered of it.

use std::collections::{BTreeMap, BTreeSet};

use nightjar_envelope::FleetId;

use super::*;
use crate::cluster::build::Kind;
use crate::cluster::record::RegionRecord;
use crate::validate::from_yaml;

fn fleet(nats: &str) -> ValidFleet {
    let file = format!(
        "
apiVersion: nightjar.dev/v1alpha1
kind: RelayCluster
metadata: {{name: f}}
spec:
  regions:
    - {{name: a, nats: {{replicas: 3, storage: {nats}}}, relays: {{replicas: 1, storage: 2Gi}}}}
    - {{name: b, nats: {{replicas: 1, storage: {nats}}}, relays: {{replicas: 1, storage: 2Gi}}}}
  log: {{maxBytesPerRegion: 256Mi}}
"
    );
    from_yaml(&file).unwrap()
}

fn names() -> Names {
    Names::new("f", "chat")
}

fn claim(size: &str, phase: &str) -> PersistentVolumeClaim {
    serde_json::from_value(json!({
        "spec": {"resources": {"requests": {"storage": size}}},
        "status": {"phase": phase},
    }))
    .unwrap()
}

fn cluster(claims: &[(&str, &str)]) -> Observed {
    let claims = claims
        .iter()
        .map(|(name, size)| ((*name).to_owned(), claim(size, "Bound")));
    Observed {
        objects: BTreeMap::new(),
        pods: BTreeMap::new(),
        claims: claims.collect(),
        record: None,
    }
}

fn set(size: &str) -> Value {
    json!({"spec": {"volumeClaimTemplates": [{"spec": {"resources": {"requests": {"storage": size}}}}]}})
}

/// A record of the fleet as it was asked for with that size.
fn record(nats: &str) -> FleetRecord {
    let mut record = FleetRecord::new(FleetId::from_bytes([1; 16]));
    for region in fleet(nats).regions {
        let known = RegionRecord {
            generation: 1,
            streams: BTreeSet::new(),
            spec: region.asked,
            removed: false,
            disposable: false,
        };
        record.regions.insert(region.name, known);
    }
    record
}

fn refused(growth: Growth) -> Refused {
    Refused {
        claim: growth.claims[0].clone(),
        growth,
        reason: "only dynamically provisioned pvc can be resized".to_owned(),
    }
}

#[test]
fn disks_that_are_smaller_than_asked_grow_and_no_others() {
    let mut live = cluster(&[
        ("data-f-a-nats-0", "4Gi"),
        ("data-f-a-nats-1", "8Gi"),
        ("data-f-a-nats-2", "16Gi"),
        ("data-f-a-nats-x-0", "4Gi"),
        ("data-f-a-relay-0", "2048Mi"),
    ]);
    live.claims
        .insert("data-f-b-nats-0".to_owned(), claim("4Gi", "Pending"));
    let grown = wanted(&fleet("8Gi"), &names(), &live);
    assert_eq!(grown.len(), 1, "{grown:?}");
    assert_eq!(grown[0].claims, ["data-f-a-nats-0"]);
    assert_eq!(grown[0].size, "8Gi");
    assert_eq!(wanted(&fleet("4Gi"), &names(), &live), []);
}

#[test]
fn a_refused_growth_holds_back_its_own_size_and_says_what_to_do() {
    let live = cluster(&[("data-f-a-nats-0", "4Gi")]);
    let (mut asked, record) = (fleet("8Gi"), record("4Gi"));
    let growth = wanted(&asked, &names(), &live).remove(0);
    let wait = hold(&mut asked, &record, &refused(growth));
    assert_eq!(wait.what, "VolumeCannotGrow");
    assert_eq!(wait.where_, "persistentvolumeclaim/data-f-a-nats-0");
    for part in [
        "only dynamically",
        "allowVolumeExpansion",
        "put nats.storage of region a back to 4Gi",
    ] {
        assert!(wait.unblocked_by.contains(part), "{}", wait.unblocked_by);
    }
    let sizes: Vec<_> = asked
        .regions
        .iter()
        .map(|region| {
            (
                region.nats_storage >> 30,
                region.asked.nats.storage.as_str(),
            )
        })
        .collect();
    assert_eq!(sizes, [(4, "4Gi"), (8, "8Gi")]);
    assert_eq!(asked.regions[0].relay_storage >> 30, 2);
}

#[test]
fn the_old_size_can_be_put_back_after_a_refusal() {
    let live = cluster(&[("data-f-a-nats-0", "4Gi")]);
    let (mut asked, mut record) = (fleet("8Gi"), record("4Gi"));
    let growth = wanted(&asked, &names(), &live).remove(0);
    hold(&mut asked, &record, &refused(growth));
    for region in &asked.regions {
        let known = record.regions.get_mut(&region.name).unwrap();
        known.spec = region.asked.clone();
    }
    let back = crate::cluster::leaving::check_change(&fleet("4Gi"), &record);
    let fields: Vec<&str> = back.iter().map(|error| error.field.as_str()).collect();
    assert_eq!(
        fields,
        ["spec.regions[1].nats.storage"],
        "b has grown, a has not"
    );
}

#[test]
fn a_record_that_says_more_than_what_was_applied_is_corrected() {
    let mut live = cluster(&[]);
    live.objects
        .insert((Kind::StatefulSet, "f-a-nats".to_owned()), set("4Gi"));
    live.objects
        .insert((Kind::StatefulSet, "f-b-nats".to_owned()), set("16Gi"));
    let mut known = record("8Gi");
    correct_record(&mut known, &names(), &live);
    let sizes: Vec<&str> = known
        .regions
        .values()
        .map(|region| region.spec.nats.storage.as_str())
        .collect();
    assert_eq!(sizes, ["4Gi", "8Gi"], "less, and never more");
}
