//! What every archive must do, as one suite that any `&dyn Archive` can be put through.

#![allow(clippy::unwrap_used, clippy::panic)] // A suite of tests, also where `cfg(test)` is not set.

use bytes::Bytes;
use futures::StreamExt;

use super::{Archive, ArchiveError, ByteRange};

/// The largest piece that a body may yield.
const PIECE: usize = 1024 * 1024;

/// Runs the whole suite; panics where the archive does not do as it must. Keys begin with `contract/`.
pub async fn check(archive: &dyn Archive) {
    archive.ready().await.unwrap();
    whole_or_not_at_all(archive).await;
    ranges(archive).await;
    large_and_in_pieces(archive).await;
    replaced_as_a_whole(archive).await;
    removed(archive).await;
    only_keys(archive).await;
    many_at_once(archive).await;
    listed(archive).await;
}

/// Stores an object in one piece.
async fn put(archive: &dyn Archive, key: &str, bytes: impl Into<Bytes>) {
    let mut writer = archive.create(key, "application/octet-stream").await.unwrap();
    writer.write(bytes.into()).await.unwrap();
    writer.finish().await.unwrap();
}

/// Size, offset and bytes of an object or a range of it.
async fn get(archive: &dyn Archive, key: &str, range: Option<ByteRange>) -> Result<(u64, u64, Vec<u8>), ArchiveError> {
    let mut object = archive.read(key, range).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = object.body.next().await {
        let piece = piece?;
        assert!(!piece.is_empty() && piece.len() <= PIECE, "a piece of {} bytes", piece.len());
        bytes.extend_from_slice(&piece);
    }
    assert_eq!(bytes.len() as u64, object.length);
    Ok((object.size, object.first, bytes))
}

async fn absent(archive: &dyn Archive, key: &str) {
    assert!(matches!(get(archive, key, None).await, Err(ArchiveError::NotFound(_))), "{key} is there");
}

async fn whole_or_not_at_all(archive: &dyn Archive) {
    let key = "contract/whole/log.txt";
    absent(archive, key).await;
    let mut writer = archive.create(key, "text/plain").await.unwrap();
    writer.write(Bytes::from_static(b"one\0two\n")).await.unwrap();
    absent(archive, key).await;
    writer.write(Bytes::new()).await.unwrap();
    writer.write(Bytes::from_static(b"\xff\xfe")).await.unwrap();
    absent(archive, key).await;
    writer.finish().await.unwrap();
    assert_eq!(get(archive, key, None).await.unwrap(), (10, 0, b"one\0two\n\xff\xfe".to_vec()));
    assert!(archive.uri(key).ends_with(key));

    let mut dropped = archive.create("contract/whole/dropped", "text/plain").await.unwrap();
    dropped.write(Bytes::from(vec![7; 3 * PIECE])).await.unwrap();
    drop(dropped);
    absent(archive, "contract/whole/dropped").await;

    archive.create("contract/whole/empty", "text/plain").await.unwrap().finish().await.unwrap();
    assert_eq!(get(archive, "contract/whole/empty", None).await.unwrap(), (0, 0, Vec::new()));
}

async fn ranges(archive: &dyn Archive) {
    let key = "contract/ranges";
    put(archive, key, &b"0123456789"[..]).await;
    let from = |first, last| Some(ByteRange::From { first, last });
    for (range, first, bytes) in [
        (from(0, Some(0)), 0, &b"0"[..]),
        (from(3, Some(5)), 3, b"345"),
        (from(7, None), 7, b"789"),
        (from(7, Some(100)), 7, b"789"),
        (from(0, Some(u64::MAX)), 0, b"0123456789"),
        (Some(ByteRange::Last(4)), 6, b"6789"),
        (Some(ByteRange::Last(11)), 0, b"0123456789"),
    ] {
        assert_eq!(get(archive, key, range).await.unwrap(), (10, first, bytes.to_vec()), "{range:?}");
    }
    for range in [from(10, None), from(u64::MAX, None), from(10, Some(12)), Some(ByteRange::Last(0))] {
        let refused = get(archive, key, range).await;
        assert!(matches!(refused, Err(ArchiveError::RangeNotSatisfiable { size: 10 })), "{range:?}");
    }
    assert!(matches!(get(archive, "contract/absent", from(0, None)).await, Err(ArchiveError::NotFound(_))));
}

/// Bytes that differ at every place.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at.wrapping_mul(31) ^ (at >> 8)) as u8).collect()
}

async fn large_and_in_pieces(archive: &dyn Archive) {
    let bytes = Bytes::from(pattern(9 * PIECE + 12_345));
    for (key, step) in
        [("contract/large/one", bytes.len()), ("contract/large/odd", 77_777), ("contract/large/big", 3 * PIECE + 1)]
    {
        let mut writer = archive.create(key, "application/octet-stream").await.unwrap();
        let mut rest = bytes.clone();
        while !rest.is_empty() {
            writer.write(rest.split_to(step.min(rest.len()))).await.unwrap();
        }
        writer.finish().await.unwrap();
        let (size, _, read) = get(archive, key, None).await.unwrap();
        assert!(size == bytes.len() as u64 && read == bytes, "{key} is not what was written");
        let middle = ByteRange::From { first: PIECE as u64 - 1, last: Some(4 * PIECE as u64) };
        let (_, _, read) = get(archive, key, Some(middle)).await.unwrap();
        assert!(read == bytes.slice(PIECE - 1..=4 * PIECE), "the range of {key} is not what was written");
        archive.remove(key).await.unwrap();
    }
}

async fn replaced_as_a_whole(archive: &dyn Archive) {
    let key = "contract/replaced";
    put(archive, key, &b"the first, longer one"[..]).await;
    let old = archive.read(key, None).await.unwrap();
    let mut writer = archive.create(key, "text/plain").await.unwrap();
    writer.write(Bytes::from_static(b"second")).await.unwrap();
    assert_eq!(get(archive, key, None).await.unwrap().2, b"the first, longer one");
    writer.finish().await.unwrap();
    assert_eq!(get(archive, key, None).await.unwrap(), (6, 0, b"second".to_vec()));
    // One who began to read gets one of them, or an error: never a mixture.
    let read: Vec<_> = old.body.collect().await;
    if let Ok(pieces) = read.into_iter().collect::<Result<Vec<_>, _>>() {
        assert_eq!(pieces.concat(), b"the first, longer one");
    }
}

async fn removed(archive: &dyn Archive) {
    put(archive, "contract/removed/a", &b"a"[..]).await;
    put(archive, "contract/removed/b", &b"b"[..]).await;
    archive.remove("contract/removed/a").await.unwrap();
    archive.remove("contract/removed/a").await.unwrap();
    archive.remove("contract/never/was").await.unwrap();
    absent(archive, "contract/removed/a").await;
    assert_eq!(get(archive, "contract/removed/b", None).await.unwrap().2, b"b");
    put(archive, "contract/removed/a", &b"again"[..]).await;
    assert_eq!(get(archive, "contract/removed/a", None).await.unwrap().2, b"again");
}

async fn only_keys(archive: &dyn Archive) {
    for key in ["", "/", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "./a", "a/./b", "a b", "ä", "a\0b", "a\\b"]
    {
        assert!(archive.create(key, "text/plain").await.is_err(), "{key:?} was taken");
        assert!(matches!(archive.read(key, None).await, Err(ArchiveError::NotFound(_))), "{key:?}");
        archive.remove(key).await.unwrap();
    }
    put(archive, "contract/A-z_0.9/...", &b"odd"[..]).await;
    assert_eq!(get(archive, "contract/A-z_0.9/...", None).await.unwrap().2, b"odd");
}

async fn many_at_once(archive: &dyn Archive) {
    let one = |number: usize| async move {
        // Two writers of one key: one of them wins as a whole.
        let key = format!("contract/many/{}", number / 2);
        put(archive, &key, vec![number as u8; 10_000 + number]).await;
        key
    };
    let keys: Vec<String> = futures::future::join_all((0..64).map(one)).await;
    for key in keys {
        let (size, _, bytes) = get(archive, &key, None).await.unwrap();
        let number = size as usize - 10_000;
        assert!(bytes.iter().all(|byte| *byte == number as u8), "{key} is a mixture");
    }
}

async fn listed(archive: &dyn Archive) {
    let before = crate::core::Timestamp::now();
    let list = async |prefix: &str| {
        let found: Vec<_> = archive.list(prefix).map(Result::unwrap).collect().await;
        let mut keys: Vec<_> = found.iter().map(|one| (one.key.clone(), one.size)).collect();
        // Servers keep whole seconds.
        assert!(found.iter().all(|one| one.modified.millis_since(before) >= -60_000), "{found:?}");
        keys.sort();
        keys
    };
    put(archive, "contract/listed/one/log", &b"1"[..]).await;
    put(archive, "contract/listed/one/results/0", &b"22"[..]).await;
    put(archive, "contract/listed/onely", &b"333"[..]).await;
    put(archive, "contract/listed/two", &b""[..]).await;
    let unfinished = archive.create("contract/listed/three", "text/plain").await.unwrap();
    let key = |name: &str, size: u64| (format!("contract/listed/{name}"), size);
    let (log, result, onely, two) = (key("one/log", 1), key("one/results/0", 2), key("onely", 3), key("two", 0));
    assert_eq!(list("contract/listed/").await, [log.clone(), result.clone(), onely.clone(), two]);
    assert_eq!(list("contract/listed/one").await, [log.clone(), result.clone(), onely]);
    assert_eq!(list("contract/listed/one/").await, [log, result]);
    assert_eq!(list("contract/listed/three").await, []);
    assert_eq!(list("contract/never-was/").await, []);
    drop(unfinished);
    archive.remove("contract/listed/two").await.unwrap();
    assert_eq!(list("contract/listed/t").await, []);
    futures::future::join_all((0..1_203).map(|n| async move {
        put(archive, &format!("contract/listed/many/{n}"), &b"x"[..]).await;
    }))
    .await;
    // More than a page of S3 and a batch of a folder.
    assert_eq!(list("contract/listed/many/").await.len(), 1_203);
}
