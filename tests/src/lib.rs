//! What end-to-end tests are written with: a real server process in a folder of its own, and a client that speaks HTTP to it.

mod api_proxy;
mod client;
pub mod cluster;
mod folder;
mod kubectl;
pub mod namespace;
mod outage;
mod process;
mod server;
pub mod verdict;
pub mod workspace;

pub use api_proxy::{ApiProxy, Call};
pub use client::{Answer, Client};
pub use cluster::{Cluster, local_only};
pub use folder::Folder;
pub use kubectl::{kubectl, try_kubectl};
pub use namespace::Namespace;
pub use outage::{Calm, Outage};
pub use process::process;
pub use server::{Server, ServerOptions};
pub use verdict::Verdict;

use std::time::{Duration, Instant};

/// Waits until `check` has an answer, at most so long; the failure names what was waited for.
pub async fn until<T, W>(what: &str, at_most: Duration, mut check: impl FnMut() -> W) -> T
where
    W: Future<Output = Option<T>>,
{
    let end = Instant::now() + at_most;
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(Instant::now() < end, "waited {at_most:?} in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
