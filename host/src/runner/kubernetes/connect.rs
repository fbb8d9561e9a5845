//! Finds the cluster: by the service account of the pod that we run in, or else by `KUBECONFIG`.

use std::sync::Arc;
use std::time::Duration;

use kube::Config;
use kube::config::{InClusterError, KubeConfigOptions, KubeconfigError};

use super::cluster::Cluster;
use super::names::Names;
use super::settings::Settings;
use crate::runner::inspection::PlaceFrom;

/// How long making a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// Why the runner cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Wrong settings, each with the key's name.
    #[error("the settings are wrong: {}", .0.join("; "))]
    Settings(Vec<String>),
    /// There is no cluster to be found.
    #[error(
        "no cluster is configured: not in a pod with a service account ({in_cluster}), and no kubeconfig to go by: set KUBECONFIG"
    )]
    NoCluster {
        /// Why not by a service account.
        in_cluster: InClusterError,
        /// Why not by a kubeconfig.
        #[source]
        kubeconfig: KubeconfigError,
    },
    /// No client can be made of the configuration that was found.
    #[error("cannot make a client of the cluster's configuration")]
    Client(#[source] Box<kube::Error>),
}

/// A client for the cluster, which is not called yet.
pub(super) async fn connect(settings: Settings) -> Result<Cluster, OpenError> {
    Ok(connect_from(settings).await?.0)
}

/// The same, and who named the namespace.
pub(super) async fn connect_from(settings: Settings) -> Result<(Cluster, PlaceFrom), OpenError> {
    let wrong = settings.violations();
    if !wrong.is_empty() {
        return Err(OpenError::Settings(wrong));
    }
    let (mut config, mut from) = match Config::incluster() {
        Ok(config) => (config, PlaceFrom::ServiceAccount),
        Err(in_cluster) => {
            let found = Config::from_kubeconfig(&KubeConfigOptions::default()).await;
            (found.map_err(|kubeconfig| OpenError::NoCluster { in_cluster, kubeconfig })?, PlaceFrom::Kubeconfig)
        }
    };
    if settings.namespace.is_some() {
        from = PlaceFrom::Configuration;
    }
    config.connect_timeout = Some(CONNECT);
    // Repeated calls would hide from watches that the API server is in trouble; `Cluster::call` repeats what is worth it.
    config.default_retry = false;
    let namespace = settings.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let client = kube::Client::try_from(config).map_err(|error| OpenError::Client(Box::new(error)))?;
    let names = Names::new(&settings.job_name_prefix);
    Ok((Cluster { client, namespace, names, settings: Arc::new(settings) }, from))
}
