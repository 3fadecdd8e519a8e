//! Whether a region's servers are linked to their hubs, and its hubs to the other regions, as the servers themselves say.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use nightjar_envelope::RegionName;
use serde::Deserialize;

use super::admin::{Login, StreamError, connect};

/// How long servers may take to answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(1);

/// What one server says of its links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerLinks {
    /// The server's name, such as `a-nats-0`.
    pub server: String,
    /// How many leaf links it has: to hubs if it is a JetStream server, from them if it is a hub.
    pub leafs: usize,
    /// Names of the gateways it reaches (`hub-<region>`); none on a JetStream server.
    pub gateways: Vec<String>,
}

/// What one server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerState {
    /// The server's name, such as `a-nats-0`.
    pub server: String,
    /// Its id, another one after each start.
    pub id: String,
    /// The tag of the configuration that it has loaded.
    pub config: Option<String>,
    /// When the certificate ends that it shows to clients, in seconds of Unix; `None` without TLS.
    pub certificate_until: Option<i64>,
    /// Its version.
    pub version: String,
    /// Bytes that JetStream stores.
    pub storage_used: u64,
    /// Bytes that JetStream may store.
    pub storage_max: u64,
}

/// The operator's connection to one cluster of servers (a region's JetStream servers, or its hubs), in the system account.
#[derive(Debug, Clone)]
pub struct Links {
    client: async_nats::Client,
    servers: usize,
}

impl Links {
    /// Connects with the region's system user to a cluster of as many servers as there are URLs.
    pub async fn connect(
        region: &RegionName,
        urls: &[String],
        login: &Login,
    ) -> Result<Self, StreamError> {
        let client = connect(region, urls, login, "nightjar-operator system").await?;
        Ok(Self {
            client,
            servers: urls.len(),
        })
    }

    /// Links of every server that answers within a second.
    pub async fn read(&self) -> Vec<ServerLinks> {
        let (leafs, gateways) = tokio::join!(
            self.ask::<LeafData>("LEAFZ"),
            self.ask::<GatewayData>("GATEWAYZ")
        );
        leafs
            .into_iter()
            .map(|(server, data)| ServerLinks {
                leafs: data.leafs.map_or(0, |leafs| leafs.len()),
                gateways: gateways
                    .get(&server)
                    .map(|data| data.outbound_gateways.keys().cloned().collect())
                    .unwrap_or_default(),
                server,
            })
            .collect()
    }

    /// Names of the servers that say within a second that they are well: JetStream up, every stream and consumer current.
    pub async fn healthy(&self) -> Vec<String> {
        self.ask::<HealthData>("HEALTHZ")
            .await
            .into_iter()
            .filter(|(_, data)| data.status == "ok")
            .map(|(server, _)| server)
            .collect()
    }

    /// Every server that answers within a second: its id, the configuration it has loaded, and its disk.
    pub async fn servers(&self) -> Vec<ServerState> {
        self.ask_with_id::<VarzData>("VARZ")
            .await
            .into_iter()
            .map(|(server, (id, data))| ServerState {
                config: data
                    .tags
                    .iter()
                    .find_map(|tag| tag.strip_prefix("config:"))
                    .map(str::to_owned),
                certificate_until: data.tls_cert_not_after.map(jiff::Timestamp::as_second),
                storage_used: data.jetstream.stats.storage,
                storage_max: data.jetstream.config.max_storage,
                version: data.version,
                server,
                id,
            })
            .collect()
    }

    /// Tells a server to read its configuration again.
    pub async fn reload(&self, id: &str) -> Result<(), String> {
        let subject = format!("$SYS.REQ.SERVER.{id}.RELOAD");
        let answer =
            tokio::time::timeout(ANSWER_DEADLINE * 3, self.client.request(subject, "".into()))
                .await
                .map_err(|_| "no answer".to_owned())?
                .map_err(|error| error.to_string())?;
        #[derive(Deserialize)]
        struct Answer {
            error: Option<Problem>,
        }
        #[derive(Deserialize)]
        struct Problem {
            description: String,
        }
        match serde_json::from_slice::<Answer>(&answer.payload) {
            Ok(Answer { error: Some(error) }) => Err(error.description),
            _ => Ok(()),
        }
    }

    /// Asks every server of the cluster; answers by server name.
    async fn ask<T: for<'de> Deserialize<'de> + Default>(
        &self,
        endpoint: &str,
    ) -> BTreeMap<String, T> {
        let answers = self.ask_with_id(endpoint).await;
        answers
            .into_iter()
            .map(|(server, (_, data))| (server, data))
            .collect()
    }

    async fn ask_with_id<T: for<'de> Deserialize<'de> + Default>(
        &self,
        endpoint: &str,
    ) -> BTreeMap<String, (String, T)> {
        let mut answers = BTreeMap::new();
        let inbox = self.client.new_inbox();
        let Ok(mut replies) = self.client.subscribe(inbox.clone()).await else {
            return answers;
        };
        let subject = format!("$SYS.REQ.SERVER.PING.{endpoint}");
        if self
            .client
            .publish_with_reply(subject, inbox, "".into())
            .await
            .is_err()
        {
            return answers;
        }
        let deadline = tokio::time::Instant::now() + ANSWER_DEADLINE;
        while answers.len() < self.servers {
            let Ok(Some(reply)) = tokio::time::timeout_at(deadline, replies.next()).await else {
                break;
            };
            if let Ok(answer) = serde_json::from_slice::<Answer<T>>(&reply.payload) {
                let data = answer.data.unwrap_or_default();
                answers.insert(answer.server.name, (answer.server.id, data));
            }
        }
        answers
    }
}

/// An answer of the monitoring service (nats-server 2.15, `ServerAPIResponse`), as far as it is used.
#[derive(Deserialize)]
struct Answer<T> {
    server: ServerInfo,
    data: Option<T>,
}

#[derive(Deserialize)]
struct ServerInfo {
    name: String,
    #[serde(default)]
    id: String,
}

#[derive(Deserialize, Default)]
struct VarzData {
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    tls_cert_not_after: Option<jiff::Timestamp>,
    #[serde(default)]
    version: String,
    #[serde(default)]
    jetstream: JetStreamData,
}

#[derive(Deserialize, Default)]
struct JetStreamData {
    #[serde(default)]
    config: JetStreamConfig,
    #[serde(default)]
    stats: JetStreamStats,
}

#[derive(Deserialize, Default)]
struct JetStreamConfig {
    #[serde(default)]
    max_storage: u64,
}

#[derive(Deserialize, Default)]
struct JetStreamStats {
    #[serde(default)]
    storage: u64,
}

#[derive(Deserialize, Default)]
struct HealthData {
    #[serde(default)]
    status: String,
}

#[derive(Deserialize, Default)]
struct LeafData {
    #[serde(default)]
    leafs: Option<Vec<serde::de::IgnoredAny>>,
}

#[derive(Deserialize, Default)]
struct GatewayData {
    #[serde(default)]
    outbound_gateways: BTreeMap<String, serde::de::IgnoredAny>,
}
