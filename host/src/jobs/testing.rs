//! The use cases over real parts in a folder of their own, for unit tests of what drives them.

use std::sync::{Arc, OnceLock};

use tokio::runtime::Runtime;

use super::{Jobs, Parts, Settings, capture};
use crate::archive::directory::DirectoryArchive;
use crate::core::Policy;
use crate::processor::{ProcessorHost, Registry};
use crate::runner::local::LocalRunner;
use crate::store::sqlite::SqliteStore;

/// The parts' tasks outlive each test's own runtime.
static RUNTIME: OnceLock<Runtime> = OnceLock::new();

/// Use cases that offer no process and have no job.
pub(crate) fn jobs() -> Arc<Jobs> {
    let build = || RUNTIME.get_or_init(|| Runtime::new().unwrap()).block_on(build());
    std::thread::spawn(build).join().unwrap()
}

async fn build() -> Arc<Jobs> {
    let folder = tempfile::tempdir().unwrap().keep();
    let store = SqliteStore::open(&folder.join("test.db"), &Default::default()).await.unwrap();
    let archive = DirectoryArchive::open(folder.join("archive")).await.unwrap();
    let runner = LocalRunner::open(Default::default(), &folder, "/bin/false".into()).await.unwrap();
    std::fs::create_dir(folder.join("compiled")).unwrap();
    let host = ProcessorHost::new(&Default::default(), &folder.join("compiled"), Arc::new(|_: &str| false)).unwrap();
    Jobs::new(Parts {
        store,
        archive: Arc::new(archive),
        runner: Arc::new(runner),
        registry: Arc::new(Registry::new(host)),
        policy: Policy::default(),
        spool_dir: folder,
        settings: Settings::default(),
        capture: capture::Settings::default(),
    })
}
