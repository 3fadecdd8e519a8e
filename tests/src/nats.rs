//! A raw NATS client, blocking and on loopback: knocks on listeners with any credentials or none, and publishes as whoever it is.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

/// A server that lets somebody in or refuses does so at once; its own handshake timeout is 5 s.
const ANSWER_LIMIT: Duration = Duration::from_secs(8);
/// Listeners that speak first do so within this.
const GREETING_LIMIT: Duration = Duration::from_millis(500);

/// A certificate and its key, as files.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// PEM.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// What is shown to a listener.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// Speak TLS after the greeting.
    pub tls: bool,
    /// Client certificate; needs `tls`.
    pub certificate: Option<Certificate>,
    /// Seed of an nkey user.
    pub seed: Option<String>,
}

/// How a listener answered `CONNECT` and `PING`.
#[derive(Debug, Default)]
pub struct Answer {
    /// It answered the PING: whoever knocked is in.
    pub pong: bool,
    /// It said something after the credentials were shown; over TLS that means that it took the certificate.
    pub said: String,
    /// It closed the connection, or the handshake failed.
    pub closed: Option<String>,
}

impl Answer {
    /// Nobody was let in, and the listener made that clear.
    pub fn refused(&self) -> bool {
        !self.pong && (self.closed.is_some() || self.said.contains("-ERR"))
    }
}

/// A connection over which NATS is spoken.
pub struct Connection {
    stream: Box<dyn ReadWrite>,
    received: Vec<u8>,
}

trait ReadWrite: Read + Write + Send {}
impl<T: Read + Write + Send> ReadWrite for T {}

/// Shows credentials to a listener and reports what it does.
pub fn knock(port: u16, credentials: &Credentials) -> Answer {
    match Connection::open(port, credentials) {
        Ok(mut connection) => connection.answer("PONG\r\n"),
        Err(error) => Answer {
            closed: Some(error.to_string()),
            ..Answer::default()
        },
    }
}

impl Connection {
    /// Connects, reads the greeting if there is one, speaks TLS if asked, and sends CONNECT and PING. What the server makes of it
    /// is read later.
    pub fn open(port: u16, credentials: &Credentials) -> std::io::Result<Connection> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(GREETING_LIMIT))?;
        let greeting = read_line(&mut stream)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        let connect = connect_line(&greeting, credentials.seed.as_deref());
        let mut stream: Box<dyn ReadWrite> = if credentials.tls {
            Box::new(tls(stream, credentials.certificate.as_ref())?)
        } else {
            Box::new(stream)
        };
        stream.write_all(format!("{connect}\r\nPING\r\n").as_bytes())?;
        stream.flush()?;
        Ok(Connection {
            stream,
            received: Vec::new(),
        })
    }

    /// Connects as a user and insists on being let in.
    pub fn open_as(port: u16, seed: &str) -> Connection {
        let credentials = Credentials {
            seed: Some(seed.to_owned()),
            ..Credentials::default()
        };
        let mut connection = Connection::open(port, &credentials).expect("the server listens");
        let answer = connection.answer("PONG\r\n");
        assert!(answer.pong, "not let in: {answer:?}");
        connection
    }

    /// Sends protocol text and a PING, and returns what came up to the PONG: `-ERR` lines, messages.
    pub fn say(&mut self, protocol: &[u8]) -> Answer {
        self.received.clear();
        let sent = self
            .stream
            .write_all(protocol)
            .and_then(|()| self.stream.write_all(b"PING\r\n"))
            .and_then(|()| self.stream.flush());
        match sent {
            Ok(()) => self.answer("PONG\r\n"),
            Err(error) => Answer {
                closed: Some(error.to_string()),
                ..Answer::default()
            },
        }
    }

    /// Publishes on a subject that a stream takes, and returns JetStream's acknowledgement.
    pub fn publish_to_stream(&mut self, subject: &str, payload: &[u8]) -> String {
        let inbox = format!("_INBOX.test.{}", std::process::id());
        let mut protocol = format!(
            "SUB {inbox} 1\r\nPUB {subject} {inbox} {}\r\n",
            payload.len()
        )
        .into_bytes();
        protocol.extend_from_slice(payload);
        protocol.extend_from_slice(b"\r\n");
        self.received.clear();
        self.stream
            .write_all(&protocol)
            .and_then(|()| self.stream.flush())
            .expect("the connection is open");
        let answer = self.answer("}\r\n");
        assert!(answer.said.contains("\"seq\""), "not stored: {answer:?}");
        self.say(b"UNSUB 1\r\n");
        answer.said
    }

    /// Reads until `end` is among what came, the connection ends, or the limit passes.
    fn answer(&mut self, end: &str) -> Answer {
        let mut buffer = [0; 16 * 1024];
        let mut closed = None;
        while closed.is_none() && !contains(&self.received, end.as_bytes()) {
            match self.stream.read(&mut buffer) {
                Ok(0) => closed = Some("closed".to_owned()),
                Ok(read) => {
                    self.received.extend_from_slice(&buffer[..read]);
                    // NATS servers ping, too, and close on who does not answer.
                    if contains(&buffer[..read], b"PING\r\n") {
                        self.stream
                            .write_all(b"PONG\r\n")
                            .and_then(|()| self.stream.flush())
                            .ok();
                    }
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    break;
                }
                Err(error) => closed = Some(error.to_string()),
            }
        }
        Answer {
            pong: contains(&self.received, b"PONG\r\n"),
            said: String::from_utf8_lossy(&self.received).into_owned(),
            closed,
        }
    }
}

/// The greeting line of a listener that speaks first; empty for one that waits.
fn read_line(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while !line.ends_with(b"\n") {
        match stream.read(&mut byte) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => line.push(byte[0]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

/// CONNECT, with the greeting's nonce signed when there is a seed.
fn connect_line(greeting: &str, seed: Option<&str>) -> String {
    let mut connect = serde_json::json!({"verbose": false, "pedantic": false, "lang": "test", "version": "1", "protocol": 1, "headers": true});
    if let Some(seed) = seed {
        let key = nkeys::KeyPair::from_seed(seed.trim()).expect("a seed");
        let info: serde_json::Value =
            serde_json::from_str(greeting.trim_start_matches("INFO ").trim()).unwrap_or_default();
        let nonce = info["nonce"].as_str().unwrap_or_default();
        connect["nkey"] = key.public_key().into();
        connect["sig"] = URL_SAFE_NO_PAD
            .encode(key.sign(nonce.as_bytes()).expect("a signature"))
            .into();
    }
    format!("CONNECT {connect}")
}

fn tls(
    stream: TcpStream,
    certificate: Option<&Certificate>,
) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let builder = ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ));
    let builder = builder
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?;
    let builder = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TakeAny));
    let config = match certificate {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let chain =
                CertificateDer::pem_file_iter(&files.certificate).map_err(std::io::Error::other)?;
            let chain = chain
                .collect::<Result<Vec<_>, _>>()
                .map_err(std::io::Error::other)?;
            let key = PrivateKeyDer::from_pem_file(&files.key).map_err(std::io::Error::other)?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(std::io::Error::other)?
        }
    };
    let name = ServerName::try_from("127.0.0.1").map_err(std::io::Error::other)?;
    let mut connection =
        ClientConnection::new(Arc::new(config), name).map_err(std::io::Error::other)?;
    let mut stream = stream;
    connection.complete_io(&mut stream)?;
    Ok(StreamOwned::new(connection, stream))
}

/// The tests ask what servers demand of clients; what servers show is not looked at.
#[derive(Debug)]
struct TakeAny;

impl ServerCertVerifier for TakeAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// A listener named in a nats-server configuration: the block it stands in (`client` outside of any) and its port.
pub fn listeners(conf: &Path) -> Vec<(String, u16)> {
    let text =
        std::fs::read_to_string(conf).unwrap_or_else(|error| panic!("{}: {error}", conf.display()));
    let mut blocks: Vec<String> = Vec::new();
    let mut found = Vec::new();
    for line in text
        .lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
    {
        if let Some(address) = line.strip_prefix("listen: ") {
            let port = address
                .trim_matches('"')
                .rsplit(':')
                .next()
                .and_then(|port| port.parse().ok());
            found.push((
                blocks
                    .first()
                    .cloned()
                    .unwrap_or_else(|| "client".to_owned()),
                port.expect("an address with a port"),
            ));
        } else if line.ends_with(['{', '[']) {
            blocks.push(line.split([' ', ':']).next().unwrap_or_default().to_owned());
        } else if line.starts_with(['}', ']']) {
            blocks.pop();
        }
    }
    found
}

/// TCP ports on which a process really listens, with the address as the kernel shows it.
pub fn listening(pid: u32) -> Vec<(String, u16)> {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    let inodes: Vec<String> = fds
        .filter_map(|fd| std::fs::read_link(fd.path()).ok())
        .filter_map(|link| {
            link.to_str()?
                .strip_prefix("socket:[")?
                .strip_suffix(']')
                .map(str::to_owned)
        })
        .collect();
    let mut found = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in std::fs::read_to_string(table)
            .unwrap_or_default()
            .lines()
            .skip(1)
        {
            let words: Vec<&str> = line.split_whitespace().collect();
            // 0A is LISTEN; the tenth word is the inode.
            if let (Some(local), Some(&"0A"), Some(inode)) =
                (words.get(1), words.get(3), words.get(9))
                && inodes.iter().any(|ours| ours == inode)
                && let Some((address, port)) = local.rsplit_once(':')
            {
                found.push((
                    address.to_owned(),
                    u16::from_str_radix(port, 16).expect("a port"),
                ));
            }
        }
    }
    found.sort();
    found
}

/// Whether `needle` is in `haystack`.
pub fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    memchr::memmem::find(haystack, needle).is_some()
}
