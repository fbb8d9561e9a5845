//! When the API server first says that an object has reached a state: a watch of one's own.

use std::collections::HashSet;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use kube::Resource;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;

use crate::Outcome;

/// How long an object may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a watch has seen.
pub(crate) struct Seen {
    found: UnboundedReceiver<(String, Instant)>,
    task: JoinHandle<()>,
}

impl Seen {
    /// Watches from now on. `reached` names the object, or what it belongs to, once it is as far.
    pub(crate) async fn watch<K>(api: Api<K>, reached: fn(&K) -> Option<String>) -> Outcome<Self>
    where
        K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    {
        let (tell, found) = unbounded_channel();
        let listed = api.list_metadata(&ListParams::default().limit(1)).await?;
        let mut version = listed.metadata.resource_version.ok_or("the list has no version")?;
        let task = tokio::spawn(async move {
            let mut told = HashSet::new();
            loop {
                let Ok(events) = api.watch(&WatchParams::default().timeout(290), &version).await else { return };
                let mut events = std::pin::pin!(events);
                while let Some(Ok(event)) = events.next().await {
                    let (WatchEvent::Added(object) | WatchEvent::Modified(object)) = event else { continue };
                    if let Some(newest) = &object.meta().resource_version {
                        version.clone_from(newest);
                    }
                    if let Some(name) = reached(&object)
                        && told.insert(name.clone())
                        && tell.send((name, Instant::now())).is_err()
                    {
                        return;
                    }
                }
            }
        });
        Ok(Self { found, task })
    }

    /// When this one was seen.
    pub(crate) async fn when(&mut self, wanted: &str) -> Outcome<Instant> {
        let found = async {
            loop {
                let (name, at) = self.found.recv().await.ok_or("the watch has ended")?;
                if name == wanted {
                    return Outcome::Ok(at);
                }
            }
        };
        tokio::time::timeout(PATIENCE, found).await?
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        self.task.abort();
    }
}
