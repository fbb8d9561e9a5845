//! What is no job: processors, the history of processes; and what is asked of jobs that do not exist.

use bytes::Bytes;

use super::fixture::{at, record, to};
use crate::core::JobStatus::{Dismissed, Successful};
use crate::core::{Digest, JobId};
use crate::store::{JobStore, ProcessRow};

pub(in crate::store) async fn processors_are_kept_by_digest(store: &dyn JobStore) {
    let bytes = Bytes::from_static(b"\0asm\x0d\0\x01\0");
    let digest = Digest::of(&bytes);
    assert_eq!(store.processor(digest).await.unwrap(), None);
    store.put_processor(digest, bytes.clone()).await.unwrap();
    store.put_processor(digest, bytes.clone()).await.unwrap();
    assert_eq!(store.processor(digest).await.unwrap(), Some(bytes));
    let large = Bytes::from(vec![0_u8; 3 << 20]);
    store.put_processor(Digest::of(&large), large.clone()).await.unwrap();
    assert_eq!(store.processor(Digest::of(&large)).await.unwrap(), Some(large));
}

pub(in crate::store) fn offer(id: &str, version: &str) -> ProcessRow {
    ProcessRow {
        id: id.parse().unwrap(),
        version: version.to_owned(),
        digest: Digest::of(version.as_bytes()),
        source: "folder",
        config_sha256: Digest::of(b"config").hex(),
    }
}

/// What it leaves behind is looked at by the backend's own tests: the history is read in SQL alone.
pub(in crate::store) async fn processes_open_and_close(store: &dyn JobStore) {
    let both = [offer("a", "1"), offer("b", "1")];
    store.record_processes(&both, at(1_000)).await.unwrap();
    store.record_processes(&both, at(2_000)).await.unwrap();
    let open = async || {
        let open = store.open_processes().await.unwrap();
        open.into_iter().map(|open| (open.id.to_string(), open.digest, open.config_sha256)).collect::<Vec<_>>()
    };
    let form = |row: &ProcessRow| (row.id.to_string(), row.digest, row.config_sha256.clone());
    assert_eq!(open().await, both.each_ref().map(form));
    store.record_processes(&[offer("a", "2"), offer("b", "1")], at(3_000)).await.unwrap();
    store.record_processes(&[offer("a", "2")], at(4_000)).await.unwrap();
    store.record_processes(&both, at(5_000)).await.unwrap();
    store.record_processes(&[], at(6_000)).await.unwrap();
    assert_eq!(open().await, []);
}

pub(in crate::store) async fn an_unknown_job_is_none(store: &dyn JobStore) {
    let id = JobId::new();
    assert_eq!(store.job(id).await.unwrap(), None);
    assert!(store.detail(id).await.unwrap().is_none());
    assert!(store.transition(to(id, Dismissed, 1)).await.unwrap().is_none());
    assert_eq!(store.finish(record(id, Successful, Vec::new())).await.unwrap(), None);
    assert_eq!(store.remove(id, at(1)).await.unwrap(), None);
    store.report(id, Some(1), None, at(1)).await.unwrap();
    store.unclaim(id, "a").await.unwrap();
    assert_eq!(store.job(id).await.unwrap(), None);
}

pub(in crate::store) async fn it_is_ready(store: &dyn JobStore) {
    store.ready().await.unwrap();
    store.ready().await.unwrap();
}
