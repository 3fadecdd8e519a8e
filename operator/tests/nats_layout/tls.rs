//! A peer that says hello to a NATS listener with a certificate of its choice.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use nightjar_operator::plan::{Issuer, Listener, Port};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::fleet::Fleet;

/// Makes the TLS handshake with a route, leaf or gateway listener, trusting `own` and showing a certificate of `shown`.
/// An answer beyond the handshake means that the certificate was taken.
pub(crate) fn greet(
    fleet: &Fleet,
    listener: &Listener,
    own: &Issuer,
    shown: Option<&Issuer>,
) -> Result<(), String> {
    let (_, _, authority) = fleet.certificate(own);
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = builder.with_root_certificates(roots);
    let config = match shown.map(|issuer| fleet.certificate(issuer)) {
        None => builder.with_no_client_auth(),
        Some((certificate, key, _)) => {
            let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
            builder
                .with_client_auth_cert(
                    vec![certificate],
                    PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
                )
                .unwrap()
        }
    };
    let stream = TcpStream::connect(listener.listen).map_err(|error| error.to_string())?;
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    if listener.port == Port::Leaf {
        read_info(&stream);
    }
    let connection =
        ClientConnection::new(Arc::new(config), ServerName::from(listener.listen.ip())).unwrap();
    let mut tls = StreamOwned::new(connection, stream);
    tls.write_all(b"PING\r\n")
        .and_then(|()| tls.flush())
        .map_err(|error| error.to_string())?;
    match tls.read(&mut [0; 64]) {
        Ok(0) => Err("closed".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

/// Leaf listeners send INFO in the clear before both sides turn to TLS; routes and gateways begin with TLS.
fn read_info(stream: &TcpStream) {
    let mut info = String::new();
    BufReader::with_capacity(1, stream)
        .read_line(&mut info)
        .unwrap();
    assert!(
        info.starts_with("INFO") && info.contains("\"tls_required\":true"),
        "{info:?}"
    );
}
