//! The bytes of one TCP connection of the public port: plain, or TLS whose handshake the connection's own task makes, so that it
//! never keeps the others waiting. Until it is a WebSocket, a connection has little time.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{Duration, Instant, Sleep, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Handshakes at the same time: each holds some ten KiB and costs a signature. Others wait for their turn within the same time.
const HANDSHAKES: usize = 1_000;

/// How a handshake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types)]
enum TlsResult {
    /// Both sides agreed.
    ok,
    /// The client spoke no TLS, or none that goes with ours.
    failed,
    /// The client took too long.
    timeout,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TlsLabels {
    result: TlsResult,
}

/// Counts TLS handshakes.
#[derive(Debug, Clone, Default)]
pub(crate) struct TlsMetrics(Family<TlsLabels, Counter>);

impl TlsMetrics {
    /// Adds them to the relay's metrics.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        for result in [TlsResult::ok, TlsResult::failed, TlsResult::timeout] {
            drop(metrics.0.get_or_create(&TlsLabels { result }));
        }
        registry.register(
            "tls_handshakes",
            "TLS handshakes of the public port, by how they ended; only with tls",
            metrics.0.clone(),
        );
        metrics
    }

    fn on_end(&self, result: TlsResult) {
        self.0.get_or_create(&TlsLabels { result }).inc();
    }
}

/// What TLS connections are made with.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    turns: Arc<Semaphore>,
    metrics: TlsMetrics,
}

impl Tls {
    pub(crate) fn new(settings: Arc<ServerConfig>, metrics: TlsMetrics) -> Self {
        Self {
            acceptor: TlsAcceptor::from(settings),
            turns: Arc::new(Semaphore::new(HANDSHAKES)),
            metrics,
        }
    }

    /// A connection on which the handshake is still to be made, within that time from now on.
    pub(super) fn wire(&self, stream: TcpStream, within: Duration) -> Wire {
        let (tls, deadline) = (self.clone(), Instant::now() + within);
        let handshake = async move {
            let accepted = timeout_at(deadline, async {
                let _turn = tls.turns.acquire().await;
                tls.acceptor.accept(stream).await
            });
            let accepted = match accepted.await {
                Ok(accepted) => accepted,
                Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
            };
            tls.metrics.on_end(match &accepted {
                Ok(_) => TlsResult::ok,
                Err(error) if error.kind() == io::ErrorKind::TimedOut => TlsResult::timeout,
                Err(_) => TlsResult::failed,
            });
            accepted
        };
        Wire::Handshake(handshake.boxed())
    }
}

/// A connection as it is spoken on.
pub(super) enum Wire {
    /// Without TLS.
    Plain(TcpStream),
    /// The handshake is under way.
    Handshake(BoxFuture<'static, io::Result<TlsStream<TcpStream>>>),
    /// With TLS.
    Tls(Box<TlsStream<TcpStream>>),
    /// The handshake failed.
    Failed,
}

/// What is read from and written to.
trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

impl Wire {
    /// The stream, once there is one.
    fn poll_stream(&mut self, context: &mut Context<'_>) -> Poll<io::Result<&mut dyn Stream>> {
        if let Self::Handshake(handshake) = self {
            let accepted = ready!(handshake.poll_unpin(context));
            *self = Self::Failed;
            *self = Self::Tls(Box::new(accepted?));
        }
        Poll::Ready(match self {
            Self::Plain(stream) => Ok(stream),
            Self::Tls(stream) => Ok(stream),
            Self::Handshake(_) | Self::Failed => Err(io::ErrorKind::NotConnected.into()),
        })
    }
}

/// Counts a TCP connection from accept to its end.
pub(super) struct Place(pub(super) Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that may only be slow once it is a WebSocket.
pub(super) struct Guarded {
    wire: Wire,
    deadline: Option<Pin<Box<Sleep>>>,
    upgraded: Arc<AtomicBool>,
    _place: Place,
}

impl Guarded {
    pub(super) fn new(wire: Wire, upgrade_within: Duration, place: Place) -> Self {
        Self {
            wire,
            deadline: Some(Box::pin(tokio::time::sleep(upgrade_within))),
            upgraded: Arc::default(),
            _place: place,
        }
    }

    /// To be set when the connection is a WebSocket.
    pub(super) fn upgraded(&self) -> Arc<AtomicBool> {
        self.upgraded.clone()
    }

    fn check_deadline(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.upgraded.load(Ordering::Relaxed) {
            self.deadline = None;
        }
        let expired = self
            .deadline
            .as_mut()
            .is_some_and(|deadline| deadline.as_mut().poll(context).is_ready());
        if expired {
            Err(io::ErrorKind::TimedOut.into())
        } else {
            Ok(())
        }
    }
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_deadline(context)?;
        let stream = ready!(self.wire.poll_stream(context))?;
        Pin::new(stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let stream = ready!(self.wire.poll_stream(context))?;
        Pin::new(stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = ready!(self.wire.poll_stream(context))?;
        Pin::new(stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if matches!(self.wire, Wire::Handshake(_) | Wire::Failed) {
            return Poll::Ready(Ok(()));
        }
        let stream = ready!(self.wire.poll_stream(context))?;
        Pin::new(stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = ready!(self.wire.poll_stream(context))?;
        Pin::new(stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
