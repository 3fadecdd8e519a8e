//! Whether a region's servers are linked to their hubs, and its hubs to the other regions, as the servers themselves say.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use nightjar_envelope::RegionName;
use serde::Deserialize;

use super::admin::{StreamError, connect};

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
        seed: &str,
    ) -> Result<Self, StreamError> {
        let client = connect(region, urls, seed, "nightjar-operator system").await?;
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

    /// Asks every server of the cluster; answers by server name.
    async fn ask<T: for<'de> Deserialize<'de> + Default>(
        &self,
        endpoint: &str,
    ) -> BTreeMap<String, T> {
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
                answers.insert(answer.server.name, answer.data.unwrap_or_default());
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
