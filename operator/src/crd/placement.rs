//! Where a region's pods run, what they may use, and how clients reach them. Honoured in Kubernetes only.

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Where the pods of a region run.
///
/// Without any of this, nodes whose label `topology.kubernetes.io/region` is the region's name are preferred, and pods of one kind are
/// spread over zones and nodes where there are several.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlacementSpec {
    /// Labels that nodes must have, at most 16. A change restarts the region's pods, one after the other.
    ///
    /// Example: `{topology.kubernetes.io/region: eu-west-1}`
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub node_selector: BTreeMap<String, String>,

    /// Zones (label `topology.kubernetes.io/zone`) over which the NATS servers must spread: with three, the loss of one zone costs one
    /// server. At most 16. Without it spreading is preferred, not required. A change restarts the region's pods, one after the other.
    ///
    /// Example: `[eu-west-1a, eu-west-1b, eu-west-1c]`
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(min = 1, max = 63)))]
    pub zones: Vec<String>,

    /// Taints of nodes that the pods tolerate, at most 16. A change restarts the region's pods, one after the other.
    ///
    /// Example: `[{key: dedicated, value: messaging, effect: NoSchedule}]`
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub tolerations: Vec<TolerationSpec>,
}

/// A taint that pods tolerate.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TolerationSpec {
    /// Key of the taint.
    ///
    /// Example: `dedicated`
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
    /// Value of the taint; any value when left out.
    ///
    /// Example: `messaging`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub value: Option<String>,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`; every effect when left out.
    ///
    /// Example: `NoSchedule`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 16),
        regex(pattern = r"^(NoSchedule|PreferNoSchedule|NoExecute)$")
    )]
    pub effect: Option<String>,
}

/// CPU and memory of each pod.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResourcesSpec {
    /// CPU that is reserved: cores, or thousandths with `m`. There is no limit, so that idle cores can be used. Default `100m`.
    ///
    /// Example: `2`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16), regex(pattern = r"^[0-9]+m?$"))]
    pub cpu: Option<String>,

    /// Memory that is reserved, which is also the limit: at least `64Mi`. Default `256Mi`.
    ///
    /// Example: `4Gi`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 16),
        regex(pattern = r"^[0-9]+(Ki|Mi|Gi|Ti|k|M|G|T)?$")
    )]
    pub memory: Option<String>,
}

/// The Service of a region.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ServiceSpec {
    /// `ClusterIP`, `NodePort` or `LoadBalancer`. Default `ClusterIP`.
    ///
    /// Example: `LoadBalancer`
    #[serde(default, rename = "type")]
    pub type_: ServiceType,

    /// Port of the Service, 1 to 65535. Default 80.
    ///
    /// Example: `443`
    #[serde(default = "http_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: i32,

    /// Port of every node, 1 to 65535, for `NodePort` and `LoadBalancer`. Default: one that the cluster chooses.
    ///
    /// Example: `30080`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub node_port: Option<i32>,

    /// Annotations of the Service, at most 32; load balancers are set up with them.
    ///
    /// Example: `{service.beta.kubernetes.io/aws-load-balancer-type: nlb}`
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub annotations: BTreeMap<String, String>,
}

/// How a Service is reached.
#[derive(
    Serialize, Deserialize, schemars::JsonSchema, Debug, Clone, Copy, PartialEq, Eq, Default,
)]
pub enum ServiceType {
    /// From inside the Kubernetes cluster.
    #[default]
    ClusterIP,
    /// At a port of every node.
    NodePort,
    /// Through a load balancer of the cloud.
    LoadBalancer,
}

/// An Ingress in front of a region's Service.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct IngressSpec {
    /// Host name that clients use.
    ///
    /// Example: `eu.example.org`
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")
    )]
    pub host: String,

    /// IngressClass. Default: the cluster's default class.
    ///
    /// Example: `nginx`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub class_name: Option<String>,

    /// Secret of type `kubernetes.io/tls` with the certificate of `host`. Without it the Ingress serves plain HTTP.
    ///
    /// Example: `eu-example-org-tls`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub tls_secret_name: Option<String>,

    /// Annotations of the Ingress, at most 32.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub annotations: BTreeMap<String, String>,
}

/// The certificate of the relays.
#[derive(KubeSchema, Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RelayTlsSpec {
    /// Secret of type `kubernetes.io/tls` in the namespace of the fleet, with the certificate of all host names under which clients reach the
    /// relays. When it is renewed, the relays serve the new one to new connections; nothing restarts.
    ///
    /// Example: `chat-example-org-tls`
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")
    )]
    pub secret_name: String,
}

impl Default for ServiceSpec {
    fn default() -> Self {
        Self {
            type_: ServiceType::default(),
            port: http_port(),
            node_port: None,
            annotations: BTreeMap::new(),
        }
    }
}

fn http_port() -> i32 {
    80
}
