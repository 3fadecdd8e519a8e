//! The Kubernetes cluster that fleet verbs ask: where it is, a client with a deadline for each call, and errors as sentences.

mod failure;
mod fleet;
mod layout;
mod tolerant;

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Config, Resource};
use serde::de::DeserializeOwned;

use crate::code::Code;
use crate::error::CliError;
use crate::when;

pub(crate) use failure::Failure;
pub(crate) use fleet::{event_time, events, fleet_or_only, fleets, found_fleet};
pub(crate) use layout::{
    KEYS_KEY, OPERATOR_LEASE, OPERATOR_SELECTOR, PAUSED, REMOVE_REGION, RESTARTED_AT,
    ROLLOUT_PAUSED, keys_secret, pod_name, region_service, selector,
};

/// Which cluster and namespace.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Kubernetes")]
pub(crate) struct Where {
    /// Namespace of the fleet [default: that of the context]
    #[arg(short = 'n', long, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// Context of the kubeconfig file [default: its current one]
    #[arg(long, value_name = "NAME")]
    pub(crate) context: Option<String>,
    /// kubeconfig file [default: $KUBECONFIG, then ~/.kube/config, then the account of the pod]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// How long each answer of the API server may take
    #[arg(long, value_name = "TIME", default_value = "5s")]
    pub(crate) request_timeout: String,
}

impl Where {
    /// Whether a cluster or namespace was named at all.
    pub(crate) fn is_given(&self) -> bool {
        self.namespace.is_some() || self.context.is_some() || self.kubeconfig.is_some()
    }

    /// The flags again, for a command to type next; begins with a space, or is empty.
    pub(crate) fn flags(&self) -> String {
        let mut flags = String::new();
        for (flag, value) in [("-n", &self.namespace), ("--context", &self.context)] {
            if let Some(value) = value {
                flags += &format!(" {flag} {value}");
            }
        }
        if let Some(file) = &self.kubeconfig {
            flags += &format!(" --kubeconfig {}", file.display());
        }
        flags
    }
}

/// A client of one cluster, for one namespace.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    /// The API server's address, for messages.
    pub(crate) server: String,
    /// Flags that led here, for the next command to type.
    pub(crate) flags: String,
    deadline: Duration,
}

impl Cluster {
    /// Reads the configuration; connects with the first call.
    pub(crate) async fn find(at: &Where) -> Result<Self, CliError> {
        let deadline = when::duration(&at.request_timeout)?;
        let mut config = config(at).await?;
        if let Some(namespace) = &at.namespace {
            config.default_namespace.clone_from(namespace);
        }
        config.connect_timeout = Some(deadline);
        config.read_timeout = Some(deadline);
        // Ours are questions of a person who waits: better a clear answer now than three tries.
        config.default_retry = false;
        let server = config
            .cluster_url
            .to_string()
            .trim_end_matches('/')
            .to_owned();
        let namespace = config.default_namespace.clone();
        let client = Client::try_from(config).map_err(|error| no_config().because(error))?;
        Ok(Self {
            client,
            namespace,
            server,
            flags: at.flags(),
            deadline,
        })
    }

    /// One call with its deadline. `verb` and `resource` as RBAC names them.
    pub(crate) async fn ask<T>(
        &self,
        verb: &'static str,
        resource: &str,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, Failure> {
        match tokio::time::timeout(self.deadline, call).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Failure::of(self, verb, resource, &error)),
            Err(_) => Err(Failure::too_late(self, verb, resource, self.deadline)),
        }
    }

    /// The objects of one kind in the namespace.
    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// All objects of one kind in the namespace that have these labels; all of them when the selector is empty.
    pub(crate) async fn list<K>(&self, labels: &str) -> Result<Vec<K>, Failure>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
        K::DynamicType: Default,
    {
        let resource = K::plural(&K::DynamicType::default()).into_owned();
        let params = ListParams::default().labels(labels);
        let list = self
            .ask("list", &resource, self.api::<K>().list(&params))
            .await?;
        Ok(list.items)
    }

    /// One object of the namespace; `None` when there is no such object.
    pub(crate) async fn get<K>(&self, name: &str) -> Result<Option<K>, Failure>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
        K::DynamicType: Default,
    {
        let resource = K::plural(&K::DynamicType::default()).into_owned();
        self.ask("get", &resource, self.api::<K>().get_opt(name))
            .await
    }
}

async fn config(at: &Where) -> Result<Config, CliError> {
    let read = match &at.kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    let options = KubeConfigOptions {
        context: at.context.clone(),
        ..KubeConfigOptions::default()
    };
    match read {
        Ok(kubeconfig) => {
            let known = kubeconfig
                .contexts
                .iter()
                .map(|context| context.name.clone());
            let known: Vec<String> = known.collect();
            let made = Config::from_custom_kubeconfig(kubeconfig, &options).await;
            made.map_err(|error| {
                let error = no_config().because(error);
                match known.is_empty() {
                    true => error,
                    false => error.because(format!("contexts there are: {}", known.join(", "))),
                }
            })
        }
        // In a pod there is no file, and an account instead.
        Err(_) if at.kubeconfig.is_none() && at.context.is_none() && in_a_pod() => {
            Config::incluster().map_err(|error| no_config().because(error))
        }
        Err(error) => Err(no_config().because(error)),
    }
}

fn in_a_pod() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

fn no_config() -> CliError {
    CliError::new(
        Code::NoKubeconfig,
        "no Kubernetes cluster is configured that could be asked",
        "kubectl config get-contexts, then the same command with --context NAME or --kubeconfig FILE",
    )
}
