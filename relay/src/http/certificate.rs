//! The certificate of the public port: read, watched, and swapped without a restart. Open connections keep what they have.
//!
//! What is served stays when the files go away or go bad: that is logged and counted, and the files are looked at again.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use nightjar_config::TlsFiles;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use rustls::ServerConfig;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::log::now_s;
use crate::log::private_file::{self, FileStamp, PrivateFileError};

/// The files are looked at this often; a change is taken when two looks in a row saw the same, because the two files of a pair may
/// be written one after the other.
const POLL: Duration = Duration::from_secs(1);
/// The largest certificate file in bytes; a chain of four certificates is a tenth of it.
const MAX_BYTES: u64 = 64 * 1024;
/// All that a WebSocket needs.
const PROTOCOL: &[u8] = b"http/1.1";

/// Why a certificate cannot be served. The text names the file and never its content.
#[derive(Debug, Error)]
pub enum CertificateError {
    /// The certificate file cannot be opened or read.
    #[error("tls.cert_file: {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file holds no certificate in PEM.
    #[error(
        "tls.cert_file: {}: not certificates in PEM (-----BEGIN CERTIFICATE-----) of together at most 65536 bytes",
        .0.display()
    )]
    NotCertificates(PathBuf),
    /// The key file cannot be used.
    #[error("tls.key_file: {0}")]
    Key(#[from] PrivateFileError),
    /// The file holds no private key.
    #[error("tls.key_file: {}: not a private key in PEM", .0.display())]
    NotAKey(PathBuf),
    /// The key is of another certificate, or of a sort that is not known.
    #[error("tls: {} and {} do not go together: {reason}", cert_file.display(), key_file.display())]
    Unusable {
        /// The certificate file.
        cert_file: PathBuf,
        /// The key file.
        key_file: PathBuf,
        /// What the TLS library said.
        reason: rustls::Error,
    },
    /// The new certificate ended already, and ends before the one that is served.
    #[error("tls.cert_file: {}: this certificate ended before the one that is served", .0.display())]
    Ended(PathBuf),
    /// The TLS library refused its settings.
    #[error("tls: {0}")]
    Settings(rustls::Error),
}

/// What the relay tells of its certificate.
#[derive(Debug, Clone, Default)]
pub(crate) struct CertificateMetrics {
    until: Gauge,
    reloads: Counter,
    reload_failures: Counter,
}

impl CertificateMetrics {
    /// Adds them to the relay's metrics.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "tls_certificate_expiry_timestamp_seconds",
            "Unix time when the certificate that is served ends; only with tls",
            metrics.until.clone(),
        );
        registry.register(
            "tls_certificate_reloads",
            "New certificates taken while running; only with tls",
            metrics.reloads.clone(),
        );
        registry.register(
            "tls_certificate_reload_failures",
            "New certificates that could not be taken, so that the one before stays; only with tls",
            metrics.reload_failures.clone(),
        );
        metrics
    }
}

/// A certificate with its key, as it is served.
#[derive(Debug)]
struct Served {
    key: Arc<CertifiedKey>,
    /// When it ends, in seconds of Unix.
    until: i64,
}

/// Serves the certificate of the moment, whatever name the client asks for.
#[derive(Debug)]
struct Newest(Arc<ArcSwap<Served>>);

impl ResolvesServerCert for Newest {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().key.clone())
    }
}

/// Watches the files of the certificate.
#[derive(Debug)]
pub struct CertificateWatch {
    files: TlsFiles,
    provider: Arc<CryptoProvider>,
    served: Arc<ArcSwap<Served>>,
    metrics: CertificateMetrics,
    /// The files that were taken, or tried, last.
    seen: Stamps,
    /// Files that may still be being written.
    changing: Option<Stamps>,
    /// Why they were not taken.
    problem: Option<String>,
}

/// Certificate and key.
type Stamps = (Option<FileStamp>, Option<FileStamp>);

fn stamps(files: &TlsFiles) -> Stamps {
    (
        private_file::stamp(&files.cert_file),
        private_file::stamp(&files.key_file),
    )
}

impl CertificateWatch {
    /// Reads the files and makes the settings of the public port: TLS 1.2 and 1.3, HTTP/1.1.
    ///
    /// # Errors
    /// When there is nothing to serve.
    pub(crate) fn open(
        files: &TlsFiles,
        metrics: CertificateMetrics,
    ) -> Result<(Self, Arc<ServerConfig>), CertificateError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let seen = stamps(files);
        let first = load(files, &provider)?;
        if first.until <= now() {
            tracing::warn!("the certificate (tls.cert_file) has ended: clients will not connect");
        }
        metrics.until.set(first.until);
        let served = Arc::new(ArcSwap::from_pointee(first));
        let mut settings = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(CertificateError::Settings)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Newest(served.clone())));
        settings.alpn_protocols = vec![PROTOCOL.to_vec()];
        let watch = Self {
            files: files.clone(),
            provider,
            served,
            metrics,
            seen,
            changing: None,
            problem: None,
        };
        Ok((watch, Arc::new(settings)))
    }

    /// Looks at the files until cancelled.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(POLL);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            self.look();
        }
    }

    fn look(&mut self) {
        let now = stamps(&self.files);
        if now == self.seen && self.problem.is_none() {
            self.changing = None;
            return;
        }
        if now != self.seen && self.changing != Some(now) {
            self.changing = Some(now);
            return;
        }
        // Rights of a file can be mended without a change of the file, so a bad one is tried again.
        let is_new = now != self.seen;
        self.seen = now;
        self.changing = None;
        match self.reload() {
            Ok(until) => {
                self.problem = None;
                self.metrics.until.set(until);
                self.metrics.reloads.inc();
                tracing::info!(until, "a new certificate is served");
            }
            Err(error) => self.on_bad(error.to_string(), is_new),
        }
    }

    fn reload(&self) -> Result<i64, CertificateError> {
        let new = load(&self.files, &self.provider)?;
        let until = new.until;
        if until <= now() && until < self.served.load().until {
            return Err(CertificateError::Ended(self.files.cert_file.clone()));
        }
        self.served.store(Arc::new(new));
        Ok(until)
    }

    fn on_bad(&mut self, problem: String, is_new: bool) {
        if is_new || self.problem.as_ref() != Some(&problem) {
            self.metrics.reload_failures.inc();
            tracing::error!(problem, "the certificate stays as it was");
        }
        self.problem = Some(problem);
    }
}

fn now() -> i64 {
    i64::try_from(now_s()).unwrap_or(i64::MAX)
}

fn load(files: &TlsFiles, provider: &CryptoProvider) -> Result<Served, CertificateError> {
    let text = read_certificates(&files.cert_file)?;
    let not_certificates = || CertificateError::NotCertificates(files.cert_file.clone());
    // The parser's own errors repeat what is in the file.
    let chain = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| not_certificates())?;
    let first = chain.first().ok_or_else(not_certificates)?;
    let (_, first) = X509Certificate::from_der(first).map_err(|_| not_certificates())?;
    let until = first.validity().not_after.timestamp();
    let (key, _) = private_file::read(&files.key_file)?;
    let key = PrivateKeyDer::from_pem_slice(&key)
        .map_err(|_| CertificateError::NotAKey(files.key_file.clone()))?;
    let key = CertifiedKey::from_der(chain, key, provider).map_err(|reason| {
        CertificateError::Unusable {
            cert_file: files.cert_file.clone(),
            key_file: files.key_file.clone(),
            reason,
        }
    })?;
    Ok(Served {
        key: Arc::new(key),
        until,
    })
}

fn read_certificates(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let unreadable = |source| CertificateError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut text = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(unreadable)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(CertificateError::NotCertificates(path.to_owned()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
