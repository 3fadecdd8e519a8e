//! TLS by the relay: handshakes good, bad and slow, and a certificate that is renewed under open connections.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use nightjar_config::{RelayConfig, TlsFiles};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::MaybeTlsStream;

use super::harness::{Client, Relay, SOON};
use crate::socket::Timings;

const NAME: &str = "relay.test";

/// A folder with a certificate that clients trust.
struct Certificate {
    folder: TempDir,
    pem: String,
}

impl Certificate {
    fn new() -> Self {
        let mut certificate = Self {
            folder: tempfile::tempdir().expect("a folder"),
            pem: String::new(),
        };
        certificate.renew();
        certificate
    }

    fn renew(&mut self) {
        let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).expect("a pair");
        self.pem = made.cert.pem();
        self.put(&made.cert.pem(), &made.signing_key.serialize_pem());
    }

    fn put(&self, certificate: &str, key: &str) {
        let TlsFiles {
            cert_file,
            key_file,
        } = self.files();
        std::fs::write(cert_file, certificate).expect("written");
        std::fs::write(&key_file, key).expect("written");
        let owner = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(key_file, owner).expect("mode");
    }

    fn files(&self) -> TlsFiles {
        TlsFiles {
            cert_file: self.folder.path().join("tls.crt"),
            key_file: self.folder.path().join("tls.key"),
        }
    }

    async fn relay(&self, timings: Timings) -> Relay {
        let adjust = |config: &mut RelayConfig| config.tls = Some(self.files());
        Relay::start_with(adjust, timings).await
    }

    /// A connection that trusts the certificate as it is now.
    async fn connect(
        &self,
        relay: &Relay,
        versions: &[&'static SupportedProtocolVersion],
        protocols: &[&[u8]],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        let trusted = CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("a certificate");
        roots.add(trusted).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        let stream = TcpStream::connect(relay.port.address()).await?;
        let name = ServerName::try_from(NAME).expect("a name");
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
    }

    async fn client(&self, relay: &Relay) -> Client {
        let stream = self.connect(relay, rustls::ALL_VERSIONS, &[]).await;
        let stream = MaybeTlsStream::Rustls(stream.expect("a TLS handshake"));
        let url = format!("wss://{NAME}/");
        let (socket, _) = tokio_tungstenite::client_async(url, stream)
            .await
            .expect("a handshake");
        Client::greeted(socket).await
    }
}

#[tokio::test]
async fn a_client_talks_over_tls_of_both_versions_and_http_1() {
    let certificate = Certificate::new();
    let relay = certificate.relay(Timings::default()).await;
    certificate.client(&relay).await.check_alive().await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut stream = certificate
            .connect(&relay, &[version], &[b"h2", b"http/1.1"])
            .await
            .expect("a TLS handshake");
        assert_eq!(
            stream.get_ref().1.alpn_protocol(),
            Some(b"http/1.1".as_slice())
        );
        let request = "GET / HTTP/1.1\r\nHost: x\r\nAccept: application/nostr+json\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.expect("a write");
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .await
            .expect("an answer and an orderly end");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert!(relay.shows("nj_tls_handshakes_total{result=\"ok\"} 3"));
}

#[tokio::test]
async fn a_renewed_certificate_is_served_to_new_connections_and_open_ones_live() {
    let mut certificate = Certificate::new();
    let relay = certificate.relay(Timings::default()).await;
    let mut before = certificate.client(&relay).await;
    certificate.renew();
    relay
        .until("the new certificate is taken", |services| {
            let text = services.metrics.encode().expect("text");
            text.contains("nj_tls_certificate_reloads_total 1")
        })
        .await;
    // This client trusts the new one alone.
    let mut after = certificate.client(&relay).await;
    before.check_alive().await;
    after.check_alive().await;

    certificate.put("no certificate", "no key");
    relay
        .until("the bad one is refused", |services| {
            let text = services.metrics.encode().expect("text");
            text.contains("nj_tls_certificate_reload_failures_total 1")
        })
        .await;
    certificate.client(&relay).await.check_alive().await;
    before.check_alive().await;
}

#[tokio::test]
async fn what_is_no_tls_ends_only_its_own_connection() {
    use rand::rngs::StdRng;
    use rand::{RngCore, SeedableRng};

    let certificate = Certificate::new();
    let relay = certificate.relay(Timings::default()).await;
    let mut bystander = certificate.client(&relay).await;
    let mut garbage = vec![b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()];
    for seed in 0..20 {
        let mut bytes = vec![0; 300];
        StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
        garbage.push(bytes);
    }
    // A record of the right form with a ClientHello of nonsense.
    garbage.push([&[0x16, 3, 1, 0, 100, 1, 0, 0, 96], [7; 96].as_slice()].concat());
    for bytes in garbage {
        let mut raw = TcpStream::connect(relay.port.address()).await.expect("TCP");
        raw.write_all(&bytes).await.expect("a write");
        raw.shutdown().await.expect("an end");
        let mut answer = Vec::new();
        let read = tokio::time::timeout(SOON, raw.read_to_end(&mut answer));
        drop(read.await.expect("the relay ends it"));
        assert!(answer.len() < 100, "no more than an alert: {answer:?}");
    }
    relay
        .until("all are counted", |services| {
            let text = services.metrics.encode().expect("text");
            text.contains("nj_tls_handshakes_total{result=\"failed\"} 22")
        })
        .await;
    bystander.check_alive().await;
}

#[tokio::test]
async fn slow_handshakes_are_given_up_and_hinder_nobody() {
    let certificate = Certificate::new();
    let timings = Timings {
        handshake_within: Duration::from_millis(300),
        ..Timings::default()
    };
    let relay = certificate.relay(timings).await;
    let mut slow = Vec::new();
    for _ in 0..50 {
        let mut raw = TcpStream::connect(relay.port.address()).await.expect("TCP");
        raw.write_all(&[0x16, 3, 1]).await.expect("a write");
        slow.push(raw);
    }
    certificate.client(&relay).await.check_alive().await;
    for mut raw in slow {
        let mut answer = Vec::new();
        let read = tokio::time::timeout(SOON, raw.read_to_end(&mut answer));
        drop(read.await.expect("the relay ends it"));
    }
    relay
        .until("all are counted", |services| {
            let text = services.metrics.encode().expect("text");
            text.contains("nj_tls_handshakes_total{result=\"timeout\"} 50")
        })
        .await;
}
