//! A connection to the server that can be cut: after so many bytes of an answer, or altogether.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A proxy before a server. It ends with the test's runtime.
pub(super) struct Proxy {
    pub(super) endpoint: String,
    rules: Arc<Rules>,
    stopped: watch::Sender<bool>,
}

struct Rules {
    upstream: String,
    /// How many connections are still to be cut.
    cuts: AtomicUsize,
    /// After so many bytes of answers.
    after: AtomicUsize,
}

impl Proxy {
    /// Starts before `endpoint`, which is `http://host:port`.
    pub(super) async fn start(endpoint: &str) -> Self {
        let upstream = endpoint.strip_prefix("http://").unwrap().trim_end_matches('/').to_owned();
        let rules = Arc::new(Rules { upstream, cuts: AtomicUsize::new(0), after: AtomicUsize::new(0) });
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (stopped, stop) = watch::channel(false);
        let for_all = rules.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (rules, mut stop) = (for_all.clone(), stop.clone());
                tokio::spawn(async move {
                    // Cut as soon as the server is stopped, and at once if it is.
                    tokio::select! {
                        _ = stop.wait_for(|stopped| *stopped) => {}
                        () = forward(client, &rules) => {}
                    }
                });
            }
        });
        Self { endpoint, rules, stopped }
    }

    /// Cuts the next `times` connections, each after so many bytes of answers.
    pub(super) fn cut(&self, times: usize, after: usize) {
        self.rules.after.store(after, Ordering::SeqCst);
        self.rules.cuts.store(times, Ordering::SeqCst);
    }

    /// How many cuts are still to come.
    pub(super) fn cuts_left(&self) -> usize {
        self.rules.cuts.load(Ordering::SeqCst)
    }

    /// Stops: every connection is cut, new ones too.
    pub(super) fn stop(&self) {
        self.stopped.send_replace(true);
    }

    /// Goes on.
    pub(super) fn go_on(&self) {
        self.stopped.send_replace(false);
    }
}

async fn forward(mut client: TcpStream, rules: &Rules) {
    let Ok(mut server) = TcpStream::connect(&rules.upstream).await else { return };
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let requests = async {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
    };
    let answers = async {
        let (mut bytes, mut passed) = (vec![0; 64 * 1024], 0);
        while let Ok(length @ 1..) = from_server.read(&mut bytes).await {
            passed += length;
            if passed > rules.after.load(Ordering::SeqCst) {
                let cut = rules.cuts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
                if cut.is_ok() {
                    return;
                }
            }
            if to_client.write_all(&bytes[..length]).await.is_err() {
                return;
            }
        }
    };
    // Either end is the end of both.
    tokio::select! {
        () = requests => {}
        () = answers => {}
    }
}
