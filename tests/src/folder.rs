//! Where a server under test keeps everything: a folder, and on the cluster a database and a part of a bucket.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::{Cluster, Namespace};

/// The folder of a server, with an empty folder for processors; gone with its backends when dropped.
pub struct Folder {
    folder: tempfile::TempDir,
    cluster: Option<Arc<Cluster>>,
}

impl Folder {
    /// A new one, on the backends that the environment asks for.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Self::with(Cluster::if_wanted())
    }

    /// A new one on these backends.
    #[must_use]
    pub fn on(cluster: Arc<Cluster>) -> Arc<Self> {
        Self::with(Some(cluster))
    }

    fn with(cluster: Option<Arc<Cluster>>) -> Arc<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("plugins")).expect("a folder for processors");
        Arc::new(Self { folder, cluster })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The variables of a server in it.
    #[must_use]
    pub fn env(&self) -> Vec<(String, String)> {
        self.cluster.as_ref().map(|cluster| cluster.env()).unwrap_or_default()
    }

    /// Where its Jobs are, with the Kubernetes runner.
    #[must_use]
    pub fn namespace(&self) -> Option<&Namespace> {
        self.cluster.as_ref()?.namespace()
    }

    /// Key and size of the archive's objects whose keys begin so.
    #[must_use]
    pub fn archived(&self, beginning: &str) -> BTreeMap<String, u64> {
        match &self.cluster {
            Some(cluster) => cluster.objects(beginning),
            None => {
                let archive = self.path().join("data/archive");
                let mut found = BTreeMap::new();
                let mut folders = vec![archive.clone()];
                while let Some(folder) = folders.pop() {
                    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                        let path = entry.path();
                        let Ok(about) = entry.metadata() else { continue };
                        if about.is_dir() {
                            folders.push(path);
                        } else if let Ok(key) = path.strip_prefix(&archive) {
                            found.insert(key.to_string_lossy().into_owned(), about.len());
                        }
                    }
                }
                found.retain(|key, _| key.starts_with(beginning));
                found
            }
        }
    }
}
