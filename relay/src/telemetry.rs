//! Tracing: logs to stderr, traces to OTLP when configured, off otherwise.
//!
//! `NIGHTJAR_LOG` is a filter (default `info`), `NIGHTJAR_LOG_FORMAT` is `text` or `json`. Between relays, trace context
//! travels inside sealed bodies only.

use std::time::Duration;

use nightjar_config::TracingConfig;
use nightjar_envelope::TraceContext;
use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider,
};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use thiserror::Error;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

/// Logs of the NATS client repeat what we say ourselves.
const DEFAULT_LOG: &str = "info,async_nats=error";
/// Spans that are exported: ours, down to each publish and apply.
const EXPORTED: &str = "off,nightjar_relay=debug";

/// The last traces may take this when the process ends.
const EXPORT_WITHIN: Duration = Duration::from_millis(400);

/// Why telemetry did not start.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The log filter cannot be parsed.
    #[error("NIGHTJAR_LOG: {0}")]
    Filter(String),
    /// The log format is unknown.
    #[error("NIGHTJAR_LOG_FORMAT: {0:?} is neither \"text\" nor \"json\"")]
    Format(String),
    /// The exporter was refused.
    #[error("tracing.otlp_endpoint: {0}")]
    Exporter(String),
    /// Something has taken the place already.
    #[error("tracing is already set up: {0}")]
    Twice(String),
}

/// Ends the export of traces when the process ends.
#[derive(Debug, Default)]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Sets up logs and traces for the process. Call within the tokio runtime.
    pub fn start(name: &str, tracing: Option<&TracingConfig>) -> Result<Self, TelemetryError> {
        let filter = std::env::var("NIGHTJAR_LOG").unwrap_or_else(|_| DEFAULT_LOG.into());
        let filter = EnvFilter::try_new(filter)
            .map_err(|error| TelemetryError::Filter(error.to_string()))?;
        let format = std::env::var("NIGHTJAR_LOG_FORMAT").unwrap_or_else(|_| "text".into());
        let logs = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        let logs: Box<dyn Layer<Registry> + Send + Sync> = match format.as_str() {
            "text" => logs.with_ansi(false).with_target(false).boxed(),
            "json" => logs.json().flatten_event(true).boxed(),
            _ => return Err(TelemetryError::Format(format)),
        };
        let provider = tracing.map(|tracing| provider(name, tracing)).transpose()?;
        let traces = provider.as_ref().map(|provider| {
            tracing_opentelemetry::layer()
                .with_tracer(provider.tracer("nightjar-relay"))
                .with_filter(EnvFilter::new(EXPORTED))
        });
        tracing_subscriber::registry()
            .with(logs.with_filter(filter))
            .with(traces)
            .try_init()
            .map_err(|error| TelemetryError::Twice(error.to_string()))?;
        Ok(Self { provider })
    }

    /// Sends what is left of the traces.
    pub fn stop(self) {
        if let Some(provider) = self.provider
            && let Err(error) = provider.shutdown_with_timeout(EXPORT_WITHIN)
        {
            tracing::warn!(%error, "the last traces were not exported");
        }
    }
}

fn provider(name: &str, tracing: &TracingConfig) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(&tracing.otlp_endpoint)
        .build()
        .map_err(|error| TelemetryError::Exporter(error.to_string()))?;
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(tracing.sample_ratio)));
    let resource = Resource::builder()
        .with_service_name("nightjar-relay")
        .with_attribute(opentelemetry::KeyValue::new(
            "service.instance.id",
            name.to_owned(),
        ))
        .build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(sampler)
        .with_resource(resource)
        .build())
}

/// The sampled trace of the current span, for the sealed body.
pub(crate) fn current_trace() -> Option<TraceContext> {
    let context = tracing::Span::current().context();
    let span = context.span();
    let span = span.span_context();
    (span.is_valid() && span.is_sampled()).then(|| TraceContext {
        trace_id: span.trace_id().to_bytes(),
        span_id: span.span_id().to_bytes(),
        flags: span.trace_flags().to_u8(),
    })
}

/// A span that continues the trace of another relay.
pub(crate) fn follow_span(trace: &TraceContext) -> tracing::Span {
    let span = tracing::debug_span!("follow");
    let remote = SpanContext::new(
        TraceId::from_bytes(trace.trace_id),
        SpanId::from_bytes(trace.span_id),
        TraceFlags::new(trace.flags),
        true,
        TraceState::NONE,
    );
    // Refused only when no trace is exported here: then there is nothing to continue.
    drop(span.set_parent(opentelemetry::Context::new().with_remote_span_context(remote)));
    span
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_goes_on_in_another_relay_through_the_sealed_body() {
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::AlwaysOn)
            .build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            let sent = tracing::debug_span!("publish")
                .in_scope(current_trace)
                .expect("a sampled trace");
            let followed = follow_span(&sent)
                .in_scope(current_trace)
                .expect("its continuation");
            assert_eq!(followed.trace_id, sent.trace_id);
            assert_ne!(followed.span_id, sent.span_id);
        });
    }

    #[test]
    fn without_export_nothing_is_sealed_along() {
        tracing::subscriber::with_default(tracing_subscriber::registry(), || {
            assert_eq!(
                tracing::debug_span!("publish").in_scope(current_trace),
                None
            );
        });
    }
}
