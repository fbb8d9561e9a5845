//! Deploying: what the configuration and the watched folder ask for becomes what is offered.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Error, Jobs, Sources};
use crate::core::Timestamp;
use crate::processor::{Desired, Offered};
use crate::store::ProcessRow;

/// Pause between attempts to keep a new processor when the database is not available.
const RETRY: Duration = Duration::from_secs(2);

impl Jobs {
    /// Brings what is offered in line with the sources, once. New processors are kept in the database before any request can name
    /// them.
    pub async fn deploy(&self, desired: &Desired) -> Result<(), Error> {
        let mut fetched = HashMap::new();
        for digest in desired.missing_digests() {
            if let Some(bytes) = self.store.processor(digest).await? {
                fetched.insert(digest, bytes);
            }
        }
        // Later the registry knows itself whose each id is.
        let offered: Offered = match self.registry.generation() {
            0 => {
                let open = self.store.open_processes().await?;
                open.into_iter().map(|open| (open.id, (open.digest, open.config_sha256))).collect()
            }
            _ => Offered::new(),
        };
        let prepared = self.registry.prepare(desired, &fetched, &offered).await;
        for (digest, bytes) in &prepared.components {
            self.store.put_processor(*digest, bytes.clone()).await?;
        }
        let rows: Vec<ProcessRow> = prepared
            .rows()
            .iter()
            .map(|offered| ProcessRow {
                id: offered.id.clone(),
                version: offered.version.clone(),
                digest: offered.digest,
                source: offered.source,
                config_sha256: offered.config_sha256.clone(),
            })
            .collect();
        self.store.record_processes(&rows, Timestamp::now()).await?;
        self.registry.commit(prepared);
        Ok(())
    }

    /// Follows the sources for ever. A database that is not available delays a deployment and loses none.
    pub async fn follow_sources(self: Arc<Self>, mut sources: Sources) {
        loop {
            let desired = sources.changed().await;
            while let Err(cause) = self.deploy(&desired).await {
                tracing::warn!(error = &cause as &dyn std::error::Error, "could not deploy; tried again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
