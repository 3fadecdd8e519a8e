//! TLS as clients meet it: an authority that nobody else trusts, the certificates that it signs, and HTTPS that trusts it alone.

use std::sync::Arc;

use axum::body::Body;
use hyper::Request;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::socket::ANSWER_LIMIT;

/// The largest body of an answer in bytes.
const MAX_ANSWER: usize = 1 << 20;

/// An authority with a key of its own.
pub struct Authority {
    params: CertificateParams,
    key: KeyPair,
    trust: Arc<ClientConfig>,
}

/// A certificate and its key.
pub struct Pair {
    /// In PEM.
    pub certificate: String,
    /// In PEM.
    pub key: String,
    /// The certificate as it goes over the wire.
    pub der: Vec<u8>,
}

/// An answer of an HTTPS server.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Authority {
    /// An authority that nobody trusts yet.
    pub fn new() -> Authority {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "Nightjar tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.der().clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let trust = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Authority {
            params,
            key,
            trust: Arc::new(trust),
        }
    }

    /// A new certificate for names and addresses.
    pub fn issue(&self, names: &[&str]) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(names).expect("names");
        let issuer = Issuer::new(self.params.clone(), &self.key);
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        Pair {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            der: certificate.der().to_vec(),
        }
    }

    /// Settings of a client that trusts this authority and no other.
    pub fn trust(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.trust)
    }

    async fn connect(&self, server: &str) -> Result<TlsStream<TcpStream>, String> {
        let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
        let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
        let connect = async {
            let stream = TcpStream::connect(server).await?;
            TlsConnector::from(self.trust()).connect(name, stream).await
        };
        tokio::time::timeout(ANSWER_LIMIT, connect)
            .await
            .map_err(|_| "no TLS in time".to_owned())?
            .map_err(|error| error.to_string())
    }

    /// The certificate, in DER, that a server (`host:port`) shows to a new connection.
    pub async fn shown(&self, server: &str) -> Result<Vec<u8>, String> {
        let stream = self.connect(server).await?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let first = chain.first().ok_or("the server shows no certificate")?;
        Ok(first.to_vec())
    }

    /// Sends one request, whose URI is a path, to a server (`host:port`).
    pub async fn ask(&self, server: &str, mut request: Request<Body>) -> Result<Answer, String> {
        let host = server.parse().map_err(|_| "no host".to_owned())?;
        request.headers_mut().insert("host", host);
        let stream = TokioIo::new(self.connect(server).await?);
        let said = async {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
            tokio::spawn(connection);
            sender.send_request(request).await
        };
        let answer = tokio::time::timeout(ANSWER_LIMIT, said)
            .await
            .map_err(|_| "no answer in time".to_owned())?
            .map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(Body::new(answer.into_body()), MAX_ANSWER)
            .await
            .map_err(|error| error.to_string())?;
        Ok(Answer {
            status,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }
}

impl Default for Authority {
    fn default() -> Self {
        Authority::new()
    }
}
