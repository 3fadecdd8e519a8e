//! NetworkPolicies: who may reach which port of a role's pods. They limit what comes in; what goes out is left to the platform.

use std::collections::BTreeMap;

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Group;
use crate::cluster::names::{
    COMPONENT_LABEL, FLEET_LABEL, MONITOR_PORT, REGION_LABEL, port_number,
};
use crate::plan::{Port, Role};

/// Labels of the operator's own pods, in whichever namespace it runs.
const OPERATOR: [(&str, &str); 2] = [
    ("app.kubernetes.io/name", "nightjar"),
    (COMPONENT_LABEL, "operator"),
];

/// The policy of a role in a region.
pub(super) fn build(group: &Group<'_>) -> NetworkPolicy {
    let region = group.region.name.as_str();
    let fleet = group.input.names.fleet.as_str();
    let of = |role: &str, region: Option<&str>| {
        let mut labels = vec![(FLEET_LABEL, fleet), (COMPONENT_LABEL, role)];
        labels.extend(region.map(|region| (REGION_LABEL, region)));
        peer(&labels, false)
    };
    let operator = || peer(&OPERATOR, true);
    let rules = match group.role {
        Role::Nats => vec![
            allow(
                &[number(Port::Client)],
                vec![of("relay", Some(region)), operator()],
            ),
            allow(&[number(Port::Route)], vec![of("nats", Some(region))]),
            // Probes come from the node, which some networks treat like any other address.
            allow(&[MONITOR_PORT], Vec::new()),
        ],
        Role::Hub => vec![
            allow(&[number(Port::Client)], vec![operator()]),
            allow(&[number(Port::Route)], vec![of("hub", Some(region))]),
            allow(&[number(Port::Leaf)], vec![of("nats", Some(region))]),
            allow(&[number(Port::Gateway)], vec![of("hub", None)]),
            allow(&[MONITOR_PORT], Vec::new()),
        ],
        Role::Relay => vec![allow(
            &[number(Port::Relay), number(Port::Admin)],
            Vec::new(),
        )],
    };
    NetworkPolicy {
        metadata: group.metadata(group.name()),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector {
                match_labels: Some(
                    group
                        .input
                        .names
                        .role_selector(&group.region.name, group.role),
                ),
                ..LabelSelector::default()
            }),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(rules),
            egress: None,
        }),
    }
}

fn number(port: Port) -> u16 {
    port_number(port)
}

/// These ports, from these peers; from everywhere if there are none.
fn allow(ports: &[u16], peers: Vec<NetworkPolicyPeer>) -> NetworkPolicyIngressRule {
    NetworkPolicyIngressRule {
        ports: Some(
            ports
                .iter()
                .map(|port| NetworkPolicyPort {
                    port: Some(IntOrString::Int((*port).into())),
                    protocol: Some("TCP".to_owned()),
                    end_port: None,
                })
                .collect(),
        ),
        from: (!peers.is_empty()).then_some(peers),
    }
}

fn peer(labels: &[(&str, &str)], any_namespace: bool) -> NetworkPolicyPeer {
    let labels: BTreeMap<String, String> = labels
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    NetworkPolicyPeer {
        pod_selector: Some(LabelSelector {
            match_labels: Some(labels),
            ..LabelSelector::default()
        }),
        namespace_selector: any_namespace.then(LabelSelector::default),
        ip_block: None,
    }
}
