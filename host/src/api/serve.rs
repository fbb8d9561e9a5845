//! The HTTP/1.1 server: bounded connections, deadlines for slow clients, and a stop that lets requests in flight finish.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, Sleep};
use tower::Service as _;

use super::ApiState;

/// How long to leave the listener alone after it failed: without descriptors it fails at once, again and again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long clients that connected just before the stop have to send their request.
const LAST_REQUESTS: Duration = Duration::from_millis(250);
/// How often the recorder's histograms are drained.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// The most that is buffered of a connection; a head must fit into it.
const MAX_BUFFER_BYTES: usize = 128 * 1024;

/// Serves until `shutdown` ends. Then who has connected is still answered and nobody else is accepted, streams that follow a log
/// end, synchronous executions are answered with their job's status, and the rest may finish within `shutdown_seconds`. Answers
/// how many connections had to be cut.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    state: ApiState,
    shutdown: impl Future<Output = ()>,
) -> usize {
    let settings = state.settings();
    let places = Arc::new(Semaphore::new(settings.max_connections as usize));
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(u64::from(settings.header_timeout_seconds)))
        .max_buf_size(MAX_BUFFER_BYTES);
    let stall = Duration::from_secs(u64::from(settings.stall_timeout_seconds));
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    let mut upkeep = tokio::time::interval(UPKEEP_INTERVAL);
    upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shutdown = std::pin::pin!(shutdown);
    let begin = |connections: &mut JoinSet<()>, (stream, place): Accepted| {
        let service = router.clone();
        let connection = http.serve_connection(
            TokioIo::new(Patient::new(stream, stall)),
            hyper::service::service_fn(move |request| service.clone().call(request)),
        );
        let watched = graceful.watch(connection);
        connections.spawn(async move {
            // A client that breaks off or sends nonsense was answered, or is gone: there is nobody to tell.
            if let Err(error) = watched.await {
                tracing::debug!(cause = super::problem::chain(&error), "a connection ended early");
            }
            drop(place);
        });
    };
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            _ = upkeep.tick() => {
                state.metrics().run_upkeep();
                continue;
            }
            Some(_) = connections.join_next() => continue,
            () = &mut shutdown => break,
        };
        if let Some(accepted) = accepted {
            begin(&mut connections, accepted);
        }
    }
    state.stopping().cancel();
    let deadline = Instant::now() + Duration::from_secs(u64::from(settings.shutdown_seconds));
    for accepted in waiting(listener, &places) {
        begin(&mut connections, accepted);
    }
    // A connection on which nothing has been read is closed at once by what follows, though its request may be under way.
    tokio::time::sleep(LAST_REQUESTS).await;
    let _ = tokio::time::timeout_at(deadline, graceful.shutdown()).await;
    while connections.try_join_next().is_some() {}
    let cut = connections.len();
    connections.shutdown().await;
    state.0.detached.close();
    if tokio::time::timeout_at(deadline, state.0.detached.wait()).await.is_err() {
        tracing::warn!("the server stops although work is under way; the next start repairs it");
    }
    cut
}

/// A connection with its place.
type Accepted = (TcpStream, OwnedSemaphorePermit);

/// Those who have connected and were not accepted yet, as many as there are places for: closing the listener cuts them off, whatever they
/// have sent. It is closed behind the last.
fn waiting(listener: TcpListener, places: &Arc<Semaphore>) -> Vec<Accepted> {
    let mut found = Vec::new();
    let Ok(listener) = listener.into_std() else { return found };
    while let Ok(place) = Arc::clone(places).try_acquire_owned() {
        let Ok((stream, _)) = listener.accept() else { break };
        let adopted = stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true));
        if let Ok(stream) = adopted.and_then(|()| TcpStream::from_std(stream)) {
            found.push((stream, place));
        }
    }
    found
}

/// The next connection with its place; `None` when there is none to be had for the moment.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> Option<Accepted> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => {
            // Without it small answers wait for an acknowledgement.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(cause = %error, "a connection ended before it began");
                return None;
            }
            Some((stream, place))
        }
        Err(error) => {
            if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
                tracing::warn!(cause = %error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
            None
        }
    }
}

/// A connection that is given up when its other end takes nothing for too long.
struct Patient<T> {
    inner: T,
    limit: Duration,
    timer: Pin<Box<Sleep>>,
    waiting: bool,
}

impl<T> Patient<T> {
    fn new(inner: T, limit: Duration) -> Self {
        Self { inner, limit, timer: Box::pin(tokio::time::sleep(limit)), waiting: false }
    }

    /// Passes a result on; one that waits may do so until the limit.
    fn bound<R>(&mut self, polled: Poll<io::Result<R>>, cx: &mut Context<'_>) -> Poll<io::Result<R>> {
        if polled.is_ready() {
            self.waiting = false;
            return polled;
        }
        if !self.waiting {
            self.waiting = true;
            self.timer.as_mut().reset(Instant::now() + self.limit);
        }
        ready!(self.timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing of the answer")))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Patient<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Patient<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.bound(polled, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, bytes);
        self.bound(polled, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        self.bound(polled, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.bound(polled, cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn who_takes_nothing_is_given_up() {
        let (near, mut far) = tokio::io::duplex(4);
        let mut patient = Patient::new(near, Duration::from_millis(50));
        let writing = tokio::spawn(async move { patient.write_all(b"0123456789").await });
        let mut taken = [0; 3];
        far.read_exact(&mut taken).await.unwrap();
        let error = tokio::time::timeout(Duration::from_secs(20), writing).await.unwrap().unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
