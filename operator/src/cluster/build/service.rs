//! Services: a headless one for each role, so that pods have names, and one for a region's clients.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Group;
use crate::cluster::names::{port_name, port_number};
use crate::crd::ServiceType;
use crate::plan::{Port, Role};

/// Gives every pod of a role a name. Pods that are not ready have one too: servers find each other while they start.
pub(super) fn headless(group: &Group<'_>) -> Service {
    let ports = Port::of(group.role).iter().map(|port| ServicePort {
        name: Some(port_name(*port).to_owned()),
        port: port_number(*port).into(),
        target_port: Some(IntOrString::String(port_name(*port).to_owned())),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    });
    Service {
        metadata: group.metadata(group.name()),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(
                group
                    .input
                    .names
                    .role_selector(&group.region.name, group.role),
            ),
            ports: Some(ports.collect()),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// Where clients reach the relays of a region.
pub(super) fn of_clients(group: &Group<'_>) -> Service {
    let asked = &group.spec.asked.service;
    let type_ = match asked.type_ {
        ServiceType::ClusterIP => "ClusterIP",
        ServiceType::NodePort => "NodePort",
        ServiceType::LoadBalancer => "LoadBalancer",
    };
    let metadata = ObjectMeta {
        annotations: (!asked.annotations.is_empty()).then(|| asked.annotations.clone()),
        ..group.metadata(group.input.names.region(&group.region.name))
    };
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(type_.to_owned()),
            selector: Some(
                group
                    .input
                    .names
                    .role_selector(&group.region.name, Role::Relay),
            ),
            ports: Some(vec![ServicePort {
                name: Some(port_name(Port::Relay).to_owned()),
                port: asked.port,
                node_port: asked
                    .node_port
                    .filter(|_| asked.type_ != ServiceType::ClusterIP),
                target_port: Some(IntOrString::String(port_name(Port::Relay).to_owned())),
                protocol: Some("TCP".to_owned()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}
