//! What holds for files only: no leftovers, keys that stay inside, faults of the disk.

use bytes::Bytes;
use futures::StreamExt;
use proptest::prelude::*;

use super::*;
use crate::archive::contract;

async fn open(root: &Path) -> DirectoryArchive {
    DirectoryArchive::open(root).await.unwrap()
}

fn growing(root: &Path) -> usize {
    fs::read_dir(root.join(GROWING)).unwrap().count()
}

/// Waits for what happens in a blocking thread.
async fn eventually(what: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !what() {
        assert!(std::time::Instant::now() < deadline, "it never came");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn put(archive: &DirectoryArchive, key: &str, bytes: &'static [u8]) -> Result<(), ArchiveError> {
    let mut writer = archive.create(key, "text/plain").await?;
    writer.write(Bytes::from_static(bytes)).await?;
    writer.finish().await
}

#[tokio::test]
async fn keeps_the_contract() {
    let root = tempfile::tempdir().unwrap();
    let archive = open(root.path()).await;
    contract::check(&archive).await;
    drop(archive);
    eventually(|| growing(root.path()) == 0).await;
}

#[tokio::test]
async fn nothing_half_written_stays() {
    let root = tempfile::tempdir().unwrap();
    let archive = open(root.path()).await;
    let mut writer = archive.create("a/b", "text/plain").await.unwrap();
    writer.write(Bytes::from(vec![1; 3 * PIECE])).await.unwrap();
    assert_eq!(growing(root.path()), 1);
    // A second server that opens the folder leaves the living writer alone, and takes what a dead one left.
    fs::write(root.path().join(GROWING).join("dead"), b"half").unwrap();
    open(root.path()).await;
    assert_eq!(growing(root.path()), 1);
    drop(writer);
    eventually(|| growing(root.path()) == 0).await;
    assert!(!root.path().join("a").exists());
}

#[tokio::test]
async fn recovers_when_the_disk_does() {
    let root = tempfile::tempdir().unwrap();
    let archive = open(root.path()).await;
    archive.ready().await.unwrap();
    // What `ready` wrote is removed behind its answer.
    eventually(|| growing(root.path()) == 0).await;
    fs::remove_dir(root.path().join(GROWING)).unwrap();
    fs::write(root.path().join(GROWING), b"in the way").unwrap();
    assert!(matches!(archive.ready().await, Err(ArchiveError::Unavailable(_))));
    assert!(matches!(put(&archive, "a/b", b"x").await, Err(ArchiveError::Unavailable(_))));
    fs::remove_file(root.path().join(GROWING)).unwrap();
    fs::create_dir(root.path().join(GROWING)).unwrap();
    put(&archive, "a/b", b"x").await.unwrap();
    archive.ready().await.unwrap();
    eventually(|| growing(root.path()) == 0).await;

    // A name that cannot be taken: nothing is left either.
    fs::write(root.path().join("file"), b"").unwrap();
    assert!(put(&archive, "file/below", b"x").await.is_err());
    eventually(|| growing(root.path()) == 0).await;
}

#[tokio::test]
async fn removing_takes_empty_folders_along() {
    let root = tempfile::tempdir().unwrap();
    let archive = open(root.path()).await;
    put(&archive, "a/b/c", b"1").await.unwrap();
    put(&archive, "a/d", b"2").await.unwrap();
    archive.remove("a/b/c").await.unwrap();
    assert!(!root.path().join("a/b").exists());
    assert!(root.path().join("a/d").exists());
    archive.remove("a/d").await.unwrap();
    assert!(!root.path().join("a").exists() && root.path().exists());
}

#[tokio::test]
async fn a_uri_is_a_file_url() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("with blank");
    let archive = open(&folder).await;
    put(&archive, "a/b.log", b"1").await.unwrap();
    let path = url::Url::parse(&archive.uri("a/b.log")).unwrap().to_file_path().unwrap();
    assert_eq!(fs::read(path).unwrap(), b"1");
}

#[tokio::test]
async fn a_truncated_object_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    let archive = open(root.path()).await;
    put(&archive, "a", b"0123456789").await.unwrap();
    let mut object = archive.read("a", None).await.unwrap();
    fs::OpenOptions::new().write(true).open(root.path().join("a")).unwrap().set_len(3).unwrap();
    assert!(matches!(object.body.next().await, Some(Err(ArchiveError::Unavailable(_)))));
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_told() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("file"), b"").unwrap();
    assert!(matches!(DirectoryArchive::open(root.path().join("file/below")).await, Err(ArchiveError::Unavailable(_))));
}

proptest! {
    #[test]
    fn a_key_stays_inside(key in "[a-zA-Z0-9._/\\x00\\\\ ~-]{0,40}") {
        if let Some(path) = path_below(Path::new("/archive"), &key) {
            prop_assert!(path.starts_with("/archive") && path != Path::new("/archive"));
            prop_assert!(path.components().all(|part| !matches!(part, std::path::Component::ParentDir | std::path::Component::CurDir)));
            prop_assert!(!path.starts_with("/archive/.tmp"));
        }
    }

    #[test]
    fn a_range_lies_in_the_object(size in 0u64..20, first in 0u64..25, last in proptest::option::of(0u64..25), count in 0u64..25) {
        for range in [ByteRange::From { first, last }, ByteRange::Last(count)] {
            if let Ok((first, length)) = resolve(Some(range), size) {
                prop_assert!(first + length <= size);
                prop_assert!(length > 0 || size == 0);
            }
        }
    }
}
