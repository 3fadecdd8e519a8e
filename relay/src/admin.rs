//! The admin port: `/healthz`, `/readyz` and `/metrics`. Text for people, JSON when asked for.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::log::{Readiness, Waiting};
use crate::metrics::Metrics;

#[derive(Clone)]
struct AdminState {
    readiness: Readiness,
    metrics: Arc<Metrics>,
}

/// Serves the admin port until `stop` is cancelled.
pub async fn serve(
    listener: TcpListener,
    readiness: Readiness,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    axum::serve(listener, router(readiness, metrics))
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

fn router(readiness: Readiness, metrics: Arc<Metrics>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(on_readyz))
        .route("/metrics", get(on_metrics))
        .with_state(AdminState { readiness, metrics })
}

async fn on_readyz(State(state): State<AdminState>, headers: HeaderMap) -> Response {
    let report = state.readiness.report();
    let status = if report.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    if wants_json(&headers) {
        return (status, axum::Json(report)).into_response();
    }
    let mut text = String::from(if report.ready {
        "ready\n"
    } else {
        "not ready\n"
    });
    for waiting in &report.waiting_for {
        text.push_str(&describe(waiting));
        text.push('\n');
    }
    (status, text).into_response()
}

/// One line for a person: what is waited for, and why.
fn describe(waiting: &Waiting) -> String {
    match waiting {
        Waiting::Starting => "starting".to_owned(),
        Waiting::Draining => "draining: this relay closes its connections and stops".to_owned(),
        Waiting::NatsDisconnected { problem } => {
            format!("nats-disconnected: no NATS server of the region: {problem}")
        }
        Waiting::KeyringUnavailable { file, problem } => {
            format!("keyring-unavailable: {file}: {problem}")
        }
        Waiting::UnknownEpoch { stream, epoch } => {
            format!("unknown-epoch: {stream} needs key epoch {epoch}, which the keyring lacks")
        }
        Waiting::Rebuilding {
            stream,
            applied,
            head,
        } => format!("rebuilding: {stream} at {applied} of {head}"),
        Waiting::CatchingUp {
            stream,
            applied,
            head,
        } => format!("catching-up: {stream} at {applied} of {head}"),
        Waiting::StreamUnseen {
            stream, problem, ..
        } => format!("stream-unseen: {stream}: {problem}"),
        Waiting::StreamRegressed {
            stream,
            applied,
            head,
        } => format!("stream-regressed: {stream} ends at {head}, this relay had applied {applied}"),
        Waiting::IndexFailed { problem } => format!("index-failed: {problem}"),
    }
}

fn wants_json(headers: &HeaderMap) -> bool {
    headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|accept| accept.contains("json"))
}

async fn on_metrics(State(state): State<AdminState>) -> Response {
    const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match state.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("metrics: {error}\n"),
        )
            .into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn readyz_names_the_reason_as_text_and_as_json() {
        let readiness = Readiness::default();
        let state = AdminState {
            readiness: readiness.clone(),
            metrics: Arc::new(Metrics::new()),
        };
        let ready = on_readyz(State(state.clone()), HeaderMap::new()).await;
        assert_eq!(ready.status(), StatusCode::OK);

        readiness.set(
            "epoch",
            Waiting::UnknownEpoch {
                stream: "EV_a_1_0".to_owned(),
                epoch: 4,
            },
        );
        let response = on_readyz(State(state.clone()), HeaderMap::new()).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        let body = axum::body::to_bytes(response.into_body(), 4096)
            .await
            .expect("a body");
        assert!(String::from_utf8_lossy(&body).contains("EV_a_1_0 needs key epoch 4"));

        let mut headers = HeaderMap::new();
        headers.insert(
            header::ACCEPT,
            header::HeaderValue::from_static("application/json"),
        );
        let response = on_readyz(State(state), headers).await;
        let body = axum::body::to_bytes(response.into_body(), 4096)
            .await
            .expect("a body");
        let json: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(json["ready"], false);
        assert_eq!(json["waiting_for"][0]["state"], "unknown-epoch");
    }
}
