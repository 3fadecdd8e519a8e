//! Objects of a fleet from a file: a golden text, rules that hold for every pod, and which change restarts what.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::Value;

use super::*;
use crate::cluster::ClusterAddresses;
use crate::cluster::names::RESTART_HASH;
use crate::plan::{FleetFacts, plan};
use crate::validate::from_yaml;

const FILE: &str = "
apiVersion: nightjar.dev/v1alpha1
kind: RelayCluster
metadata: {name: golden}
spec:
  regions:
    - name: a
      relays: {replicas: 2, storage: 2Gi, resources: {cpu: '1', memory: 1Gi}}
      nats: {replicas: 3, storage: 4Gi, storageClass: fast}
      publicURL: 'wss://a.example.org'
      placement: {zones: [a1, a2, a3], nodeSelector: {pool: chat}, tolerations: [{key: chat, effect: NoSchedule}]}
      service: {type: LoadBalancer, port: 443, annotations: {example.org/lb: internal}}
      ingress: {host: a.example.org, tlsSecretName: a-tls}
    - {name: b, nats: {replicas: 1, storage: 4Gi}}
  log: {maxBytesPerRegion: 512Mi}
  images: {pullSecrets: [registry]}
";

fn objects(file: &str) -> Vec<Desired> {
    let fleet = from_yaml(file).unwrap();
    let names = Names::new(fleet.name.clone(), "chat");
    let facts = FleetFacts::stand_in(fleet.regions.iter().map(|region| &region.name));
    let addresses = match fleet.relay_tls_secret {
        Some(_) => ClusterAddresses::of(&names, &fleet),
        None => ClusterAddresses::new(names.clone(), BTreeMap::new()),
    };
    let plan = plan(&fleet, &facts, &addresses).unwrap();
    let authorities = fleet
        .regions
        .iter()
        .map(|region| {
            (
                region.name.clone(),
                format!("authority of {}\n", region.name),
            )
        })
        .collect();
    let owner = OwnerReference {
        api_version: "nightjar.dev/v1alpha1".to_owned(),
        kind: "RelayCluster".to_owned(),
        name: fleet.name.clone(),
        uid: "uid".to_owned(),
        ..OwnerReference::default()
    };
    let users = [("a".parse().unwrap(), "users-of-a".to_owned())].into();
    build(&Input {
        names: &names,
        fleet: &fleet,
        plan: &plan,
        owner: &owner,
        images: &Images {
            relay: "relay:1".to_owned(),
            nats: "nats:1".to_owned(),
        },
        authorities: &authorities,
        secrets_hash: &BTreeMap::new(),
        operator_users: &users,
        restarted_at: None,
    })
}

fn pods(objects: &[Desired]) -> Vec<(&str, &Value)> {
    objects
        .iter()
        .filter(|object| object.kind == Kind::StatefulSet)
        .map(|object| (object.name.as_str(), &object.object["spec"]["template"]))
        .collect()
}

fn hashes(file: &str) -> BTreeMap<String, String> {
    pods(&objects(file))
        .into_iter()
        .map(|(name, pod)| {
            let hash = &pod["metadata"]["annotations"][RESTART_HASH];
            (name.to_owned(), hash.as_str().unwrap().to_owned())
        })
        .collect()
}

/// StatefulSets whose pods a change of the file restarts.
fn restarted(old: &str, new: &str) -> Vec<String> {
    let (old, new) = (hashes(old), hashes(new));
    old.into_iter()
        .filter(|(name, hash)| new.get(name) != Some(hash))
        .map(|(name, _)| name)
        .collect()
}

#[test]
fn golden_objects() {
    let mut text = String::new();
    for object in objects(FILE) {
        let mut shown = object.object;
        if object.kind == Kind::ConfigMap {
            // The texts are in the golden plan.
            let keys: BTreeSet<String> =
                shown["data"].as_object().unwrap().keys().cloned().collect();
            shown["data"] = serde_json::to_value(keys).unwrap();
        }
        text.push_str("---\n");
        text.push_str(&serde_yaml::to_string(&shown).unwrap());
    }
    insta::assert_snapshot!("objects", text);
}

#[test]
fn every_pod_passes_the_restricted_standard_and_says_what_it_needs() {
    let objects = objects(FILE);
    assert_eq!(pods(&objects).len(), 6);
    for (name, pod) in pods(&objects) {
        let spec = &pod["spec"];
        assert_eq!(spec["securityContext"]["runAsNonRoot"], true, "{name}");
        assert_eq!(
            spec["securityContext"]["seccompProfile"]["type"], "RuntimeDefault",
            "{name}"
        );
        assert_eq!(spec["automountServiceAccountToken"], false, "{name}");
        for container in spec["containers"].as_array().unwrap() {
            let security = &container["securityContext"];
            assert_eq!(security["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(security["capabilities"]["drop"][0], "ALL", "{name}");
            for part in ["requests", "limits"] {
                assert!(container["resources"][part]["memory"].is_string(), "{name}");
            }
            assert!(
                container["resources"]["requests"]["cpu"].is_string(),
                "{name}"
            );
            for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
                assert!(container[probe].is_object(), "{name} has no {probe}");
            }
            let mounted: BTreeSet<&str> = container["volumeMounts"]
                .as_array()
                .unwrap()
                .iter()
                .filter_map(|mount| mount["name"].as_str())
                .collect();
            for volume in spec["volumes"].as_array().unwrap() {
                assert!(
                    mounted.contains(volume["name"].as_str().unwrap()),
                    "{name}: {volume}"
                );
                if let Some(mode) = volume["secret"]["defaultMode"].as_i64() {
                    assert_eq!(mode, 0o400, "{name}");
                }
            }
        }
    }
}

#[test]
fn no_object_holds_a_secret_and_every_object_is_owned_and_labelled() {
    for object in objects(FILE) {
        let text = object.object.to_string();
        for secret in ["PRIVATE KEY", "\"SU", "keyring\":"] {
            assert!(!text.contains(secret), "{} holds {secret}", object.name);
        }
        let metadata = &object.object["metadata"];
        assert_eq!(
            metadata["ownerReferences"][0]["uid"], "uid",
            "{}",
            object.name
        );
        assert_eq!(
            metadata["labels"]["nightjar.dev/fleet"], "golden",
            "{}",
            object.name
        );
    }
}

#[test]
fn a_change_restarts_what_it_must_and_nothing_else() {
    for (from, to, wanted) in [
        ("port: 443", "port: 8443", vec![]),
        ("relays: {replicas: 2", "relays: {replicas: 3", vec![]),
        ("type: LoadBalancer", "type: NodePort", vec![]),
        (
            "  log:",
            "  relay: {trustedProxies: [10.0.0.0/8], allowedOrigins: ['https://x.example.org'], limits: {pingIntervalSeconds: 20}}\n  log:",
            vec![],
        ),
        ("memory: 1Gi", "memory: 2Gi", vec!["golden-a-relay"]),
        (
            "pool: chat",
            "pool: other",
            vec!["golden-a-hub", "golden-a-nats", "golden-a-relay"],
        ),
        ("a.example.org'", "a.example.net'", vec!["golden-a-relay"]),
    ] {
        let changed = FILE.replacen(from, to, 1);
        assert_ne!(changed, FILE, "{from}");
        assert_eq!(restarted(FILE, &changed), wanted, "{from} -> {to}");
    }
}

/// The relays alone have the certificate, as files that are theirs, and clients are told of `wss://`.
#[test]
fn relays_with_tls_mount_the_secret_and_another_secret_restarts_them_alone() {
    let with = |secret: &str| {
        FILE.replace(
            "  log:",
            &format!("  relay: {{tls: {{secretName: {secret}}}}}\n  log:"),
        )
    };
    let found = objects(&with("chat-tls"));
    for (name, pod) in pods(&found) {
        let volumes = pod["spec"]["volumes"].as_array().unwrap();
        let volume = volumes.iter().find(|volume| volume["name"] == "public-tls");
        assert_eq!(volume.is_some(), name.ends_with("-relay"), "{name}");
        let Some(volume) = volume else { continue };
        assert_eq!(volume["secret"]["secretName"], "chat-tls");
        assert_eq!(volume["secret"]["defaultMode"], 0o400);
        let mounts = pod["spec"]["containers"][0]["volumeMounts"].as_array();
        let mount = mounts
            .unwrap()
            .iter()
            .find(|mount| mount["name"] == "public-tls");
        assert_eq!(mount.unwrap()["mountPath"], "/etc/nightjar/public-tls");
    }
    let config = |region: &str| {
        let name = format!("golden-{region}-relay-config");
        let map = found.iter().find(|object| object.name == name).unwrap();
        map.object["data"][format!("golden-{region}-relay-0.yaml")]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let (a, b) = (config("a"), config("b"));
    assert!(a.contains("- wss://golden-a.chat.svc\n"), "port 443: {a}");
    assert!(b.contains("- wss://golden-b.chat.svc:80\n"), "{b}");
    for line in [
        "  cert_file: /etc/nightjar/public-tls/tls.crt\n",
        "  key_file: /etc/nightjar/public-tls/tls.key\n",
    ] {
        assert!(a.contains(line) && b.contains(line), "{line} in {a}");
    }
    let relays = vec!["golden-a-relay", "golden-b-relay"];
    assert_eq!(restarted(&with("chat-tls"), &with("other-tls")), relays);
    assert_eq!(restarted(FILE, &with("chat-tls")), relays);
}

#[test]
fn every_object_is_built_the_same_each_time_and_reads_back_as_its_type() {
    let (one, two) = (objects(FILE), objects(FILE));
    assert_eq!(one, two);
    for object in one.iter().filter(|object| object.kind == Kind::StatefulSet) {
        let typed: k8s_openapi::api::apps::v1::StatefulSet =
            serde_json::from_value(object.object.clone()).unwrap();
        assert_eq!(serde_json::to_value(typed).unwrap(), object.object);
    }
}
