//! Remembers where the logs of running containers begin, whether anybody follows them or not: a log that begins later when it is captured
//! was rotated away by the kubelet, and the receipt says so.
//!
//! One small call a container, after its first seconds; a container that is silent, and one of which nothing could be learnt, is asked
//! again at growing pauses.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::cluster::Cluster;
use super::logs::{Log, Reader};
use super::view::View;

/// How often it is looked for containers.
const TICK: Duration = Duration::from_secs(1);

/// Shorter runs are left alone: who follows their progress has remembered most of them already, and few write as much.
const AFTER: Duration = Duration::from_secs(3);

/// Containers that are asked for in one tick, and at once.
const EACH_TICK: usize = 16;
const AT_ONCE: usize = 4;

/// Pauses between two questions about a container that has written nothing.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// The first one after a question that was not answered: the kubelet may rotate the log in ten seconds.
const SHORT_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// When a container is asked for again, and the pause behind that.
type Asked = HashMap<(Box<str>, Box<str>), (Instant, Duration)>;

/// Remembers until it is stopped.
pub(super) async fn remember(cluster: Cluster, view: Arc<View>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asked = Asked::new();
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return,
        }
        let now = Instant::now();
        // What is long overdue has ended or was remembered.
        asked.retain(|_, (next, _)| *next + LONGEST_PAUSE > now);
        let due = |uid: &str, name: &str| match asked.get_mut(&(uid.into(), name.into())) {
            Some((next, _)) if *next > now => false,
            Some((next, pause)) => {
                *pause = (*pause * 2).min(LONGEST_PAUSE);
                *next = now + *pause;
                true
            }
            None => {
                asked.insert((uid.into(), name.into()), (now + FIRST_PAUSE, FIRST_PAUSE));
                true
            }
        };
        let found = view.unremembered(AFTER, EACH_TICK, due);
        let each = futures::stream::iter(found).map(|(job_id, source, container)| {
            let reader = Reader { cluster: cluster.clone(), view: Arc::clone(&view), job_id, follow: false };
            async move {
                let log = Log { reader: &reader, source: &source, container: &container, follow: false };
                let cause = log.remember().await.err()?;
                tracing::debug!(job.id = %job_id, error = &cause as &dyn std::error::Error, "could not see where a log begins");
                Some((source.uid.as_str().into(), container.name.as_ref().into()))
            }
        });
        let unanswered = each.buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect::<Vec<_>>();
        let unanswered = tokio::select! {
            unanswered = unanswered => unanswered,
            () = stop.cancelled() => return,
        };
        for container in unanswered {
            if let Some(again) = asked.get_mut(&container)
                && again.1 == FIRST_PAUSE
            {
                *again = (Instant::now() + SHORT_PAUSE, SHORT_PAUSE);
            }
        }
    }
}
