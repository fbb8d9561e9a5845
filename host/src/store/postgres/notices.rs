//! Change notices between replicas: LISTEN and NOTIFY.
//!
//! A change is told to this replica's receivers at once, to the others by a task that gathers what was committed and notifies in
//! one small transaction of its own. Not in the transaction of the change: PostgreSQL commits those that notify one after
//! another, each waiting for the disk alone, so that all replicas together would write no faster than one disk flush after
//! another. What this costs: a replica that dies between the two tells nobody.
//!
//! Invariant: a notice is a hint. One may be missing, and then a receiver sees [`RecvError::Lagged`](broadcast::error::RecvError)
//! where this module knows of it; whoever waits for a job looks at the row by himself from time to time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnection, PgListener, PgPoolOptions};
use tokio::sync::{broadcast, mpsc};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::failure::classify;
use super::pool::Door;
use crate::core::JobId;
use crate::store::StoreError;

const CHANNEL: &str = "vespiary_jobs";
/// Notices that a receiver may leave unread.
const UNREAD: usize = 2_048;
/// Ids in one notification: its payload ends at 8,000 bytes.
const GATHERED: usize = 200;
/// Ids that wait to be told to the others.
const WAITING: usize = 8_192;
/// A payload that stands for ids which are not known: look at everything.
const EVERYTHING: &str = "*";
/// A silent connection is asked so often whether it still lives.
const SILENCE: Duration = Duration::from_secs(10);
/// And has this long to answer; a notification, too.
const ANSWER: Duration = Duration::from_secs(5);
/// Between attempts to reach the server.
const PAUSE: Duration = Duration::from_millis(500);

/// Tells changes.
pub(super) struct Notices {
    here: broadcast::Sender<JobId>,
    elsewhere: mpsc::Sender<JobId>,
    lost: Arc<AtomicBool>,
}

impl Notices {
    /// Listens, and starts the tasks. They end with `stop`; `often` is called at least every few seconds.
    pub(super) async fn start(
        door: Door,
        stop: CancellationToken,
        often: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        let (here, _) = broadcast::channel(UNREAD);
        let (elsewhere, waiting) = mpsc::channel(WAITING);
        let lost = Arc::new(AtomicBool::new(false));
        // Its own notifications come back to a listener: this tells them from others'.
        let origin = JobId::new().to_string();
        let listener = listen(&door).await?;
        let ear = Ear { door: door.clone(), origin: origin.clone(), here: here.clone(), often: Box::new(often) };
        let ear_stop = stop.clone();
        tokio::spawn(async move { ear_stop.run_until_cancelled(ear.run(listener)).await });
        let mouth = Mouth { door, origin, lost: Arc::clone(&lost), connection: None };
        tokio::spawn(mouth.run(waiting, stop));
        Ok(Self { here, elsewhere, lost })
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<JobId> {
        self.here.subscribe()
    }

    /// Tells that this job's row was changed by this replica.
    pub(super) fn tell(&self, id: JobId) {
        // Nobody may be listening.
        let _ = self.here.send(id);
        if self.elsewhere.try_send(id).is_err() {
            self.lost.store(true, Ordering::Relaxed);
        }
    }
}

async fn listen(door: &Door) -> Result<PgListener, StoreError> {
    let listening = async {
        // A pool for one connection, which is never used for a second one: what is left of a dead one blocks nobody.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .acquire_timeout(door.connect_timeout())
            .connect_lazy_with(door.options());
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.ignore_pool_close_event(true);
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        Ok(listener)
    };
    match timeout(door.connect_timeout(), listening).await {
        Ok(outcome) => outcome.map_err(classify),
        Err(_) => Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut)),
    }
}

/// Hears what the others tell.
struct Ear {
    door: Door,
    origin: String,
    here: broadcast::Sender<JobId>,
    often: Box<dyn Fn() + Send + Sync>,
}

impl Ear {
    async fn run(self, listener: PgListener) {
        self.hear(listener).await;
        tracing::warn!("the connection for change notices is lost");
        loop {
            (self.often)();
            match listen(&self.door).await {
                Ok(listener) => {
                    tracing::info!("change notices come again");
                    self.look_again();
                    self.hear(listener).await;
                    tracing::warn!("the connection for change notices is lost");
                }
                Err(error) => tracing::debug!(%error, "listen"),
            }
            sleep(PAUSE).await;
        }
    }

    /// Hears until the connection is lost.
    async fn hear(&self, mut listener: PgListener) {
        loop {
            (self.often)();
            match timeout(SILENCE, listener.try_recv()).await {
                Ok(Ok(Some(notification))) => self.take(notification.payload()),
                Ok(Ok(None) | Err(_)) => return,
                Err(_) => {
                    let alive = timeout(ANSWER, sqlx::query("select 1").execute(&mut listener)).await;
                    if !matches!(alive, Ok(Ok(_))) {
                        return;
                    }
                }
            }
        }
    }

    fn take(&self, payload: &str) {
        let mut words = payload.split(' ');
        if words.next() == Some(self.origin.as_str()) {
            return;
        }
        for word in words {
            if word == EVERYTHING {
                self.look_again();
            } else if let Ok(id) = word.parse() {
                let _ = self.here.send(id);
            }
        }
    }

    /// Something was missed: more notices than receivers can hold, of a job that nobody waits for, so that they see that they lag.
    fn look_again(&self) {
        let nobody = JobId::new();
        for _ in 0..=UNREAD {
            if self.here.send(nobody).is_err() {
                return;
            }
        }
    }
}

/// Tells the others.
struct Mouth {
    door: Door,
    origin: String,
    lost: Arc<AtomicBool>,
    connection: Option<PgConnection>,
}

impl Mouth {
    async fn run(mut self, mut waiting: mpsc::Receiver<JobId>, stop: CancellationToken) {
        let mut ids = Vec::with_capacity(GATHERED);
        loop {
            let is_everything = self.lost.swap(false, Ordering::Relaxed);
            if is_everything {
                // What waits is part of everything.
                while waiting.try_recv().is_ok() {}
            } else {
                let taken = tokio::select! {
                    biased;
                    taken = waiting.recv_many(&mut ids, GATHERED) => taken,
                    () = stop.cancelled() => 0,
                };
                if taken == 0 {
                    return;
                }
            }
            let payload = self.payload(&mut ids, is_everything);
            if let Err(error) = self.notify(&payload).await {
                tracing::debug!(%error, "notify");
                self.connection = None;
                self.lost.store(true, Ordering::Relaxed);
                if stop.run_until_cancelled(sleep(PAUSE)).await.is_none() {
                    return;
                }
            }
        }
    }

    fn payload(&self, ids: &mut Vec<JobId>, is_everything: bool) -> String {
        let mut payload = self.origin.clone();
        if is_everything {
            payload.push(' ');
            payload.push_str(EVERYTHING);
        }
        // A job that changed twice is looked at once.
        ids.sort_unstable();
        ids.dedup();
        for id in ids.drain(..) {
            payload.push(' ');
            payload.push_str(&id.to_string());
        }
        payload
    }

    async fn notify(&mut self, payload: &str) -> Result<(), StoreError> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                let mut connection = self.door.connect().await?;
                // A hint is not worth a flush to the disk.
                sqlx::query("set synchronous_commit = off").execute(&mut connection).await.map_err(classify)?;
                self.connection.insert(connection)
            }
        };
        let telling = sqlx::query("select pg_notify($1, $2)").bind(CHANNEL).bind(payload).execute(connection);
        match timeout(ANSWER, telling).await {
            Ok(outcome) => outcome.map(drop).map_err(classify),
            Err(_) => Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut)),
        }
    }
}
