//! The Ingress of a region, if the spec asks for one.

use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressRule,
    IngressServiceBackend, IngressSpec, IngressTLS, ServiceBackendPort,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Group;
use crate::cluster::names::port_name;
use crate::plan::Port;

/// All paths of the host go to the region's Service.
pub(super) fn build(group: &Group<'_>) -> Option<Ingress> {
    let asked = group.spec.asked.ingress.as_ref()?;
    let name = group.input.names.region(&group.region.name);
    let backend = IngressBackend {
        service: Some(IngressServiceBackend {
            name: name.clone(),
            port: Some(ServiceBackendPort {
                name: Some(port_name(Port::Relay).to_owned()),
                number: None,
            }),
        }),
        resource: None,
    };
    Some(Ingress {
        metadata: ObjectMeta {
            annotations: (!asked.annotations.is_empty()).then(|| asked.annotations.clone()),
            ..group.metadata(name)
        },
        spec: Some(IngressSpec {
            ingress_class_name: asked.class_name.clone(),
            tls: asked.tls_secret_name.as_ref().map(|secret| {
                vec![IngressTLS {
                    hosts: Some(vec![asked.host.clone()]),
                    secret_name: Some(secret.clone()),
                }]
            }),
            rules: Some(vec![IngressRule {
                host: Some(asked.host.clone()),
                http: Some(HTTPIngressRuleValue {
                    paths: vec![HTTPIngressPath {
                        path: Some("/".to_owned()),
                        path_type: "Prefix".to_owned(),
                        backend,
                    }],
                }),
            }]),
            ..IngressSpec::default()
        }),
        ..Ingress::default()
    })
}
