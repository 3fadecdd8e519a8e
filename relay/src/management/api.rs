//! The HTTP side of a management call: who may call is asked first, cheap questions before dear ones; then the call is answered.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::StreamExt;
use nightjar_config::{AdmissionConfig, RelayConfig};
use serde_json::{Value, json};

use super::call::{self, Call, CallError};
use super::lists::{Change, List, Target};
use super::record::SignedChange;
use crate::admission::Refusal;
use crate::event::{Event, parse_hex};
use crate::http_auth;
use crate::index::{IndexError, Listed, Lists};
use crate::log::{PublishContext, PublishError};
use crate::metrics::CallOutcome;
use crate::session::{Lane, Services, unix_millis};

/// What a call is sent as.
const CONTENT_TYPE: &str = "application/nostr+json+rpc";
/// Longest body of a call, in bytes.
const MAX_BODY: usize = 16 * 1024;
/// Why a key or kind of the configuration is on a list.
const BY_CONFIGURATION: &str = "in the fleet's configuration";

/// One HTTP request.
pub(crate) struct HttpRequest {
    /// Of the client, also behind a trusted proxy.
    pub(crate) address: IpAddr,
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Body,
}

/// Whether this relay has a management API.
pub(crate) fn is_offered(config: &RelayConfig) -> bool {
    !config.management.admins.is_empty()
}

/// Why a call was not answered. The text has a NIP-01 prefix and says what to do.
struct Failure {
    status: StatusCode,
    error: String,
}

impl Failure {
    fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self {
            status,
            error: error.into(),
        }
    }

    fn outcome(&self) -> CallOutcome {
        match self.error.split_once(':').map(|(prefix, _)| prefix) {
            Some("invalid") => CallOutcome::invalid,
            Some("auth-required") => CallOutcome::auth_required,
            Some("restricted") => CallOutcome::restricted,
            Some("rate-limited") => CallOutcome::rate_limited,
            _ => CallOutcome::error,
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let status = match &refusal {
            Refusal::Limited { .. } => StatusCode::TOO_MANY_REQUESTS,
            Refusal::Failed(_) => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::UNAUTHORIZED,
        };
        Self::new(status, refusal.to_string())
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let status = match &error {
            CallError::Declared(_) | CallError::Addresses(_) => StatusCode::FORBIDDEN,
            _ => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error.to_string())
    }
}

impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Self {
        let status = match error.prefix() {
            "invalid" => StatusCode::BAD_REQUEST,
            "rate-limited" => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(status, format!("{}: {error}", error.prefix()))
    }
}

impl From<IndexError> for Failure {
    fn from(error: IndexError) -> Self {
        tracing::warn!(%error, "the index did not answer");
        let error = "error: the index did not answer, call again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error)
    }
}

/// Answers a request that is not GET, HEAD or an upgrade.
pub(crate) async fn answer(services: &Services, request: HttpRequest) -> Response {
    let mut method = None;
    let result = run(services, request, &mut method).await;
    let outcome = match &result {
        Ok(_) => CallOutcome::ok,
        Err(failure) => failure.outcome(),
    };
    services.metrics.on_call(method, outcome);
    tracing::info!(
        method = method.unwrap_or("none"),
        ?outcome,
        "management call"
    );
    let (status, body) = match result {
        Ok(result) => (StatusCode::OK, json!({ "result": result })),
        Err(Failure { status, error }) => (status, json!({"result": null, "error": error})),
    };
    let headers = [(header::CONTENT_TYPE, "application/json")];
    let mut response = (status, headers, body.to_string()).into_response();
    if status == StatusCode::UNAUTHORIZED {
        let scheme = HeaderValue::from_static("Nostr");
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, scheme);
    }
    response
}

async fn run(
    services: &Services,
    request: HttpRequest,
    method: &mut Option<&'static str>,
) -> Result<Value, Failure> {
    if services.drain.is_cancelled() {
        return Err(going_away());
    }
    services.admission.admit_call(request.address)?;
    check_shape(&request)?;
    let auth = Bytes::from(http_auth::event_json(&request.headers).map_err(Refusal::from)?);
    let body = read_body(request.body).await?;
    let admitted_ms = unix_millis();
    let about = http_auth::Request {
        method: request.method.to_string(),
        path_and_query: request
            .uri
            .path_and_query()
            .map_or("/", |path| path.as_str())
            .to_owned(),
        payload: Some(http_auth::payload_of(&body)),
    };
    let auth = services
        .admission
        .verify_http_auth(auth, about, admitted_ms / 1000)
        .await?;
    let config = services.config.load_full();
    let is_admin = |admin: &String| parse_hex::<32>(admin) == Some(auth.pubkey);
    if !config.management.admins.iter().any(is_admin) {
        let error = "restricted: this key is no administrator of this relay (management.admins)";
        return Err(Failure::new(StatusCode::FORBIDDEN, error));
    }
    let (name, call) = call::parse(&body);
    *method = name;
    let call = call?;
    if let Some(reason) = services.readiness.refuses_reads() {
        // Half the lists would be a lie, and what was used before might not be known yet.
        return Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, reason));
    }
    match call {
        Call::SupportedMethods => Ok(call::methods()
            .filter(|method| *method != "supportedmethods")
            .collect()),
        Call::Read(list) => read_list(services, list, &config.admission).await,
        Call::Change(change) => {
            check_declared(&config.admission, &change)?;
            let context = PublishContext { admitted_ms };
            publish(services, &auth, &body, change, context).await
        }
    }
}

fn check_shape(request: &HttpRequest) -> Result<(), Failure> {
    let kind = request.headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|value| value.to_str().ok()).unwrap_or("");
    let media = kind.split(';').next().unwrap_or("").trim();
    if media.eq_ignore_ascii_case(CONTENT_TYPE) {
        return Ok(());
    }
    let error =
        format!("invalid: a management call has the header \"Content-Type: {CONTENT_TYPE}\"");
    Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, error))
}

/// The whole body. How long it may take is bounded as a handshake is.
async fn read_body(body: Body) -> Result<Vec<u8>, Failure> {
    let mut parts = body.into_data_stream();
    let mut whole = Vec::new();
    while let Some(part) = parts.next().await {
        let part = part.map_err(|_| {
            let error = "invalid: the body of the request ended early";
            Failure::new(StatusCode::BAD_REQUEST, error)
        })?;
        if whole.len() + part.len() > MAX_BODY {
            let error = format!("invalid: the body is longer than {MAX_BODY} bytes");
            return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, error));
        }
        whole.extend_from_slice(&part);
    }
    Ok(whole)
}

/// What the configuration holds fast cannot be undone here; `true` would be no true answer.
fn check_declared(admission: &AdmissionConfig, change: &Change) -> Result<(), Failure> {
    let lifts = |list| change.moves.contains(&(list, false));
    let is_taken_off = |list| change.moves.first() == Some(&(list, false));
    let holds_key = |keys: &[String], target: &Target| {
        let Target::Pubkey(key) = target else {
            return false;
        };
        keys.iter().any(|text| parse_hex(text) == Some(*key))
    };
    let holds_kind = |kinds: &[u16], target: &Target| match target {
        Target::Kind(kind) => kinds.contains(kind),
        _ => false,
    };
    let target = &change.target;
    let field = if lifts(List::BannedPubkeys) && holds_key(&admission.deny_pubkeys, target) {
        "denyPubkeys"
    } else if is_taken_off(List::AllowedPubkeys) && holds_key(&admission.allow_pubkeys, target) {
        "allowPubkeys"
    } else if lifts(List::DisallowedKinds) && holds_kind(&admission.deny_kinds, target) {
        "denyKinds"
    } else {
        return Ok(());
    };
    let error = format!(
        "restricted: this entry is {BY_CONFIGURATION}, take it out of spec.relay.admission.{field} of the RelayCluster"
    );
    Err(Failure::new(StatusCode::FORBIDDEN, error))
}

/// Asks the index for its lists, on a thread that may wait.
async fn read<T: Send + 'static>(
    services: &Services,
    ask: impl FnOnce(&Lists<'_>) -> Result<T, IndexError> + Send + 'static,
) -> Result<T, Failure> {
    let index = services.index.clone();
    let read = move || index.lists().and_then(|lists| ask(&lists));
    Ok(services
        .reads
        .run(Lane::First, read)
        .await
        .map_err(|_| going_away())??)
}

/// What is on a list, with what the configuration puts there.
async fn read_list(
    services: &Services,
    list: List,
    admission: &AdmissionConfig,
) -> Result<Value, Failure> {
    let mut entries = read(services, move |lists| lists.entries(list)).await?;
    for target in declared(list, admission) {
        if !entries.iter().any(|entry| entry.target == target) {
            let reason = Some(BY_CONFIGURATION.to_owned());
            entries.push(Listed { target, reason });
        }
    }
    Ok(entries.into_iter().map(shown).collect())
}

fn declared(list: List, admission: &AdmissionConfig) -> Vec<Target> {
    let keys = |keys: &[String]| {
        let keys = keys.iter().filter_map(|key| parse_hex(key));
        keys.map(Target::Pubkey).collect()
    };
    let kinds = |kinds: &[u16]| kinds.iter().copied().map(Target::Kind).collect();
    match list {
        List::BannedPubkeys => keys(&admission.deny_pubkeys),
        List::AllowedPubkeys => keys(&admission.allow_pubkeys),
        List::AllowedKinds => kinds(&admission.allow_kinds),
        List::DisallowedKinds => kinds(&admission.deny_kinds),
        List::BannedEvents | List::AllowedEvents => Vec::new(),
    }
}

fn shown(entry: Listed) -> Value {
    let mut value = match entry.target {
        Target::Pubkey(key) => json!({"pubkey": hex::encode(key)}),
        Target::Event(id) => json!({"id": hex::encode(id)}),
        Target::Kind(kind) => return json!(kind),
    };
    if let Some(reason) = entry.reason {
        value["reason"] = reason.into();
    }
    value
}

/// Brings a change into the log and onto this relay.
async fn publish(
    services: &Services,
    auth: &Event,
    body: &[u8],
    change: Change,
    context: PublishContext,
) -> Result<Value, Failure> {
    let text = std::str::from_utf8(body)
        .map_err(|_| Failure::new(StatusCode::BAD_REQUEST, "invalid: the body is not UTF-8"))?;
    let signed = SignedChange::new(auth, text, change).map_err(|error| {
        tracing::error!(%error, "a call cannot be written");
        let error = "error: the call cannot be written to the log";
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error)
    })?;
    let signed = Arc::new(signed);
    check_unused(services, signed.clone()).await?;
    if services.publisher.publish_change(signed, context).await? {
        Ok(Value::Bool(true))
    } else {
        Err(overtaken())
    }
}

/// An authorization is used once in the fleet. Where the change has not arrived yet, its stamp makes it do nothing.
async fn check_unused(services: &Services, signed: Arc<SignedChange>) -> Result<(), Failure> {
    let Some((list, _)) = signed.change.moves.first() else {
        return Ok(());
    };
    let (list, target) = (*list, signed.change.target);
    let last = read(services, move |lists| lists.stamp(list, &target)).await?;
    match last {
        Some(stamp) if stamp == signed.stamp => Err(Failure::new(
            StatusCode::UNAUTHORIZED,
            "auth-required: this authorization was used already, sign a new event for every call",
        )),
        Some(stamp) if stamp.beats(&signed.stamp) => Err(overtaken()),
        _ => Ok(()),
    }
}

fn going_away() -> Failure {
    let error = "error: this relay is going away, call another";
    Failure::new(StatusCode::SERVICE_UNAVAILABLE, error)
}

fn overtaken() -> Failure {
    let error = "invalid: a change of the same entry that was signed at the same second or later is in force; if it is not what you want, \
                 sign this call again";
    Failure::new(StatusCode::CONFLICT, error)
}
