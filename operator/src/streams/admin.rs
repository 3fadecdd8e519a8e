//! The operator's connection to one region's JetStream: applies planned streams, each on its own, all at the same time.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{Config, Info};
use async_nats::jetstream::{self, Context, ErrorCode};
use futures_util::future::join_all;
use nightjar_envelope::{RegionName, StreamName};
use serde::Serialize;
use zeroize::Zeroizing;

use super::desired;
use crate::plan::StreamPlan;

/// How long one request may take: the server itself gives up a stream's election after less.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// How long a look at a stream may take. Before its first leader is elected a region drops requests in silence, so asking again
/// soon is what makes a start quick.
const LOOKUP_DEADLINE: Duration = Duration::from_millis(500);
/// Pause before a request is tried again while the region elects its leaders.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Why a stream is not as planned.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The region's servers cannot be reached, or refuse the operator.
    #[error("region {region}: no connection to NATS: {reason}")]
    Connect {
        /// The region.
        region: RegionName,
        /// What the client library said.
        reason: String,
    },
    /// The region's servers do not know the user.
    #[error("region {region}: NATS refuses the user of the operator")]
    Login {
        /// The region.
        region: RegionName,
    },
    /// No answer within the deadline: no leader yet, or no majority of servers.
    #[error("stream {stream}: no answer from JetStream ({reason})")]
    Unanswered {
        /// The stream.
        stream: String,
        /// What the client library said.
        reason: String,
    },
    /// JetStream refused.
    #[error("stream {stream}: JetStream refuses to {verb} it: {reason}")]
    Refused {
        /// The stream.
        stream: String,
        /// `create`, `update`, `look up` or `move`.
        verb: &'static str,
        /// The server's words.
        reason: String,
        /// True when the same request may succeed later.
        retry: bool,
    },
    /// The stream was made before and is gone.
    #[error(
        "stream {stream}: was made before and is gone; made anew it would count from 1 while the other regions have more, so put its data back"
    )]
    Lost {
        /// The stream.
        stream: String,
    },
    /// The stream exists with settings that no update can change.
    #[error(
        "stream {stream}: exists with another {settings}; it holds acknowledged events, so it is left as it is"
    )]
    Unchangeable {
        /// The stream.
        stream: String,
        /// The settings, comma-separated.
        settings: String,
    },
}

impl StreamError {
    /// True when trying again without any change may succeed.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Login { .. } | Self::Unanswered { .. } => true,
            Self::Refused { retry, .. } => *retry,
            Self::Unchangeable { .. } | Self::Lost { .. } => false,
        }
    }
}

/// What applying a planned stream did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was made.
    Created,
    /// These settings were put right.
    Corrected(Vec<&'static str>),
    /// It was as planned; nothing was written.
    Unchanged,
}

/// A client that nobody holds any more goes on connecting until it gets through; after so many attempts it ends.
const LOST_ATTEMPTS: usize = 30;

/// How the operator logs in to a region's servers.
#[derive(Clone)]
pub struct Login {
    seed: Zeroizing<String>,
    authority: Option<String>,
    attempts: Option<usize>,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login")
            .field("authority", &self.authority)
            .finish_non_exhaustive()
    }
}

impl Login {
    /// With the seed of a user, in the clear: on loopback.
    pub fn plain(seed: &str) -> Self {
        Self {
            seed: Zeroizing::new(seed.to_owned()),
            authority: None,
            attempts: None,
        }
    }

    /// With the seed of a user, to servers whose certificates are of that authority (PEM).
    pub fn tls(seed: &str, authority: &str) -> Self {
        Self {
            authority: Some(authority.to_owned()),
            attempts: Some(LOST_ATTEMPTS),
            ..Self::plain(seed)
        }
    }

    /// Tells one login from another without showing it.
    pub(crate) fn digest(&self) -> String {
        use sha2::{Digest as _, Sha256};
        let mut hasher = Sha256::new();
        hasher.update(self.seed.as_bytes());
        hasher.update(self.authority.as_deref().unwrap_or_default());
        hex::encode(hasher.finalize())
    }

    fn tls_config(&self) -> Result<Option<rustls::ClientConfig>, String> {
        use rustls::pki_types::pem::PemObject as _;
        let Some(pem) = &self.authority else {
            return Ok(None);
        };
        let mut roots = rustls::RootCertStore::empty();
        for certificate in rustls::pki_types::CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|error| error.to_string())?;
            roots.add(certificate).map_err(|error| error.to_string())?;
        }
        let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Some(config))
    }
}

/// The operator's connection to one region, in the account of the relays.
#[derive(Debug, Clone)]
pub struct RegionAdmin {
    region: RegionName,
    jetstream: Context,
    lookups: Context,
}

impl RegionAdmin {
    /// Connects with the region's admin user. Afterwards the connection is restored by itself for ever.
    pub async fn connect(
        region: &RegionName,
        urls: &[String],
        login: &Login,
    ) -> Result<Self, StreamError> {
        let client = connect(region, urls, login, "nightjar-operator").await?;
        let mut jetstream = jetstream::new(client);
        let mut lookups = jetstream.clone();
        jetstream.set_timeout(REQUEST_DEADLINE);
        lookups.set_timeout(LOOKUP_DEADLINE);
        Ok(Self {
            region: region.clone(),
            jetstream,
            lookups,
        })
    }

    /// The region.
    pub fn region(&self) -> &RegionName {
        &self.region
    }

    pub(crate) fn client(&self) -> async_nats::Client {
        self.jetstream.client()
    }

    /// Makes or corrects streams, all at the same time. Each result stands for itself.
    ///
    /// Those in `made` were made before: they are corrected, and never made a second time.
    pub async fn apply<'a>(
        &self,
        streams: impl IntoIterator<Item = &'a StreamPlan>,
        made: &BTreeSet<StreamName>,
    ) -> Vec<(StreamName, Result<Change, StreamError>)> {
        join_all(
            streams
                .into_iter()
                .map(|stream| async { (stream.name.clone(), self.apply_one(stream, made).await) }),
        )
        .await
    }

    /// Like [`Self::apply`], and tries again what may succeed later, until everything is as planned or beyond help.
    ///
    /// Never ends by itself while a region has no majority: bound it with a timeout, or drop it.
    pub async fn apply_until_settled<'a>(
        &self,
        streams: impl IntoIterator<Item = &'a StreamPlan>,
        made: &BTreeSet<StreamName>,
    ) -> Vec<(StreamName, Result<Change, StreamError>)> {
        join_all(streams.into_iter().map(|stream| async {
            loop {
                match self.apply_one(stream, made).await {
                    Err(error) if error.is_temporary() => {
                        tracing::debug!(region = %self.region, %error, "stream not applied yet");
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                    settled => return (stream.name.clone(), settled),
                }
            }
        }))
        .await
    }

    /// Names of the fleet's streams that exist in this region, own and mirrored.
    pub async fn existing(&self) -> Result<HashSet<StreamName>, StreamError> {
        #[derive(serde::Deserialize)]
        struct Page {
            #[serde(default)]
            streams: Option<Vec<String>>,
        }
        #[derive(Serialize)]
        struct Offset {
            offset: usize,
        }
        let mut names = HashSet::new();
        let mut offset = 0;
        loop {
            let page: Page = self
                .request("STREAM.NAMES", "*", "look up", &Offset { offset })
                .await?;
            let found = page.streams.unwrap_or_default();
            if found.is_empty() {
                return Ok(names);
            }
            offset += found.len();
            names.extend(
                found
                    .iter()
                    .filter_map(|name| name.parse::<StreamName>().ok()),
            );
        }
    }

    /// The stream as the server sees it, or nothing if it does not exist.
    pub(crate) async fn info(&self, stream: &str) -> Result<Option<Info>, StreamError> {
        let subject = format!("STREAM.INFO.{stream}");
        match try_request(&self.lookups, &subject, stream, &()).await? {
            Response::Ok(info) => Ok(Some(info)),
            Response::Err { error } if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                Ok(None)
            }
            Response::Err { error } => Err(refused(stream, "look up", &error)),
        }
    }

    /// Asks the leader of a stream to hand over to another replica.
    pub(crate) async fn step_down(&self, stream: &str) -> Result<(), StreamError> {
        let _: serde_json::Value = self
            .request(
                &format!("STREAM.LEADER.STEPDOWN.{stream}"),
                stream,
                "move",
                &(),
            )
            .await?;
        Ok(())
    }

    async fn apply_one(
        &self,
        plan: &StreamPlan,
        made: &BTreeSet<StreamName>,
    ) -> Result<Change, StreamError> {
        let wanted = desired::config(plan);
        let Some(found) = self.info(&wanted.name).await? else {
            if made.contains(&plan.name) {
                return Err(StreamError::Lost {
                    stream: wanted.name,
                });
            }
            return self.create(&wanted).await;
        };
        let drift = desired::drift(&wanted, &found.config);
        if !drift.fixed.is_empty() {
            return Err(StreamError::Unchangeable {
                stream: wanted.name,
                settings: drift.fixed.join(", "),
            });
        }
        if drift.correctable.is_empty() {
            return Ok(Change::Unchanged);
        }
        let config = desired::corrected(&wanted, &found.config);
        let subject = format!("STREAM.UPDATE.{}", config.name);
        let _: Info = self
            .request(&subject, &config.name, "update", &config)
            .await?;
        Ok(Change::Corrected(drift.correctable))
    }

    async fn create(&self, wanted: &Config) -> Result<Change, StreamError> {
        let subject = format!("STREAM.CREATE.{}", wanted.name);
        let _: Info = self
            .request(&subject, &wanted.name, "create", wanted)
            .await?;
        Ok(Change::Created)
    }

    async fn request<T: Serialize + ?Sized, V: serde::de::DeserializeOwned>(
        &self,
        subject: &str,
        stream: &str,
        verb: &'static str,
        payload: &T,
    ) -> Result<V, StreamError> {
        match try_request(&self.jetstream, subject, stream, payload).await? {
            Response::Ok(value) => Ok(value),
            Response::Err { error } => Err(refused(stream, verb, &error)),
        }
    }
}

async fn try_request<T: Serialize + ?Sized, V: serde::de::DeserializeOwned>(
    context: &Context,
    subject: &str,
    stream: &str,
    payload: &T,
) -> Result<Response<V>, StreamError> {
    context
        .request(subject.to_owned(), payload)
        .await
        .map_err(|error| StreamError::Unanswered {
            stream: stream.to_owned(),
            reason: error.to_string(),
        })
}

/// Connects to a region's servers, trying each until one lets the user in.
///
/// The client library gives up at the first server that refuses, but servers load new users one by one.
pub(super) async fn connect(
    region: &RegionName,
    urls: &[String],
    login: &Login,
    name: &str,
) -> Result<async_nats::Client, StreamError> {
    let mut order = urls.to_vec();
    for attempt in 0..=urls.len() {
        match connect_in_order(region, &order, attempt > 0, login, name).await {
            Err(StreamError::Login { .. }) if attempt > 0 => order.rotate_left(1),
            Err(StreamError::Login { .. }) => {}
            other => return other,
        }
    }
    Err(StreamError::Login {
        region: region.clone(),
    })
}

async fn connect_in_order(
    region: &RegionName,
    urls: &[String],
    ordered: bool,
    login: &Login,
    name: &str,
) -> Result<async_nats::Client, StreamError> {
    use async_nats::ConnectErrorKind::{Authentication, AuthorizationViolation};
    let failed = |reason: String| StreamError::Connect {
        region: region.clone(),
        reason,
    };
    let mut options = async_nats::ConnectOptions::with_nkey(login.seed.to_string())
        .name(name)
        .ignore_discovered_servers();
    if let Some(tls) = login.tls_config().map_err(failed)? {
        options = options.tls_client_config(tls).require_tls(true);
    }
    if ordered {
        options = options.retain_servers_order();
    }
    options
        .connection_timeout(Duration::from_secs(2))
        .max_reconnects(login.attempts)
        .ping_interval(Duration::from_secs(2))
        .reconnect_delay_callback(|attempt| {
            Duration::from_millis(50 * u64::try_from(attempt.min(20)).unwrap_or(20))
        })
        .connect(urls)
        .await
        .map_err(|error| match error.kind() {
            Authentication | AuthorizationViolation => StreamError::Login {
                region: region.clone(),
            },
            _ => failed(error.to_string()),
        })
}

fn refused(stream: &str, verb: &'static str, error: &jetstream::Error) -> StreamError {
    // 503: no leader, no majority, or too few servers that have joined yet; 10005 says the last with another status.
    let retry = error.code() == 503 || error.error_code() == ErrorCode::CLUSTER_NO_PEERS;
    StreamError::Refused {
        stream: stream.to_owned(),
        verb,
        reason: error.to_string(),
        retry,
    }
}
