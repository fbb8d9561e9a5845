//! The S3 archive on a real server: `TEST_S3_ENDPOINT`, `TEST_S3_KEY`, `TEST_S3_SECRET`, `TEST_S3_REGION`. Each test makes a bucket of its
//! own. Without a server these tests say so and do nothing; with `VESPIARY_TEST_ALL=1` they fail.

mod answers;
mod faults;
mod proxy;

use aws_sdk_s3::Client;
use bytes::Bytes;
use futures::StreamExt;

use super::*;
use crate::archive::contract;

const MIB: usize = 1024 * 1024;

/// A bucket on the server of the environment, and the settings for it.
struct TestBucket {
    settings: Settings,
    client: Client,
}

impl TestBucket {
    /// Makes a bucket. None where there is no server.
    async fn make() -> Option<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let (endpoint, key, secret) =
            (variable("TEST_S3_ENDPOINT"), variable("TEST_S3_KEY"), variable("TEST_S3_SECRET"));
        if endpoint.is_none() || key.is_none() || secret.is_none() {
            let all = std::env::var("VESPIARY_TEST_ALL").is_ok_and(|value| value == "1");
            assert!(!all, "TEST_S3_ENDPOINT, TEST_S3_KEY or TEST_S3_SECRET is not set");
            eprintln!("NOT TRIED: no S3 server (TEST_S3_ENDPOINT, TEST_S3_KEY, TEST_S3_SECRET)");
            return None;
        }
        let settings = Settings {
            bucket: format!("vespiary-{}", uuid::Uuid::new_v4()),
            prefix: "logs/here/".to_owned(),
            endpoint,
            region: variable("TEST_S3_REGION"),
            access_key: key,
            secret_key: secret,
            part_mib: 5,
            deadline_ms: 20_000,
            ..Settings::default()
        };
        let client = Bucket::connect(&settings).await.unwrap().client.clone();
        client.create_bucket().bucket(&settings.bucket).send().await.unwrap();
        Some(Self { settings, client })
    }

    async fn archive(&self) -> S3Archive {
        S3Archive::open(&self.settings).await.unwrap()
    }

    /// The keys of all objects.
    async fn objects(&self) -> Vec<String> {
        let listed = self.client.list_objects_v2().bucket(&self.settings.bucket).send().await.unwrap();
        listed.contents().iter().filter_map(|object| object.key().map(ToOwned::to_owned)).collect()
    }

    /// How many uploads are neither completed nor aborted.
    async fn pending(&self) -> usize {
        let listed = self.client.list_multipart_uploads().bucket(&self.settings.bucket).send().await.unwrap();
        listed.uploads().len()
    }

    /// Waits until a number of uploads is pending.
    async fn until_pending(&self, wanted: usize) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.pending().await != wanted {
            assert!(Instant::now() < deadline, "{} uploads are pending and not {wanted}", self.pending().await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Removes the bucket with all that is in it.
    async fn remove(self) {
        loop {
            let keys = self.objects().await;
            if keys.is_empty() {
                break;
            }
            for key in keys {
                self.client.delete_object().bucket(&self.settings.bucket).key(key).send().await.unwrap();
            }
        }
        self.client.delete_bucket().bucket(&self.settings.bucket).send().await.unwrap();
    }
}

/// Bytes that differ at every place.
fn pattern(length: usize) -> Bytes {
    (0..length).map(|at| (at.wrapping_mul(31) ^ (at >> 8) ^ (at >> 16)) as u8).collect::<Vec<u8>>().into()
}

async fn put(archive: &S3Archive, key: &str, bytes: Bytes) -> Result<(), ArchiveError> {
    let mut writer = archive.create(key, "text/plain").await?;
    let mut rest = bytes;
    while !rest.is_empty() {
        writer.write(rest.split_to(rest.len().min(777_777))).await?;
    }
    writer.finish().await
}

async fn get(archive: &S3Archive, key: &str) -> Result<Vec<u8>, ArchiveError> {
    let mut object = archive.read(key, None).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = object.body.next().await {
        bytes.extend_from_slice(&piece?);
    }
    Ok(bytes)
}

/// The cause that the archive gives for not being available.
fn cause(error: ArchiveError) -> S3Error {
    match error {
        ArchiveError::Unavailable(cause) => *cause.downcast().unwrap(),
        error => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn keeps_the_contract() {
    let Some(server) = TestBucket::make().await else { return };
    contract::check(&server.archive().await).await;
    server.until_pending(0).await;
    server.remove().await;
}

#[tokio::test]
async fn keeps_the_contract_with_checksums_and_without_a_prefix() {
    let Some(mut server) = TestBucket::make().await else { return };
    server.settings.checksums = Some(Checksums::WhenSupported);
    server.settings.prefix = String::new();
    server.settings.parts_in_flight = 1;
    contract::check(&server.archive().await).await;
    server.until_pending(0).await;
    server.remove().await;
}

#[tokio::test]
async fn one_part_is_put_and_more_are_an_upload() {
    let Some(server) = TestBucket::make().await else { return };
    let archive = server.archive().await;
    let part = 5 * MIB;
    // Twice: a repeat has the same bytes under the same key.
    for (length, parts) in
        [(0, None), (part - 1, None), (part, None), (part + 1, Some(2)), (2 * part, Some(2)), (3 * part + 7, Some(4))]
    {
        let bytes = pattern(length);
        for _ in 0..2 {
            put(&archive, "boundary", bytes.clone()).await.unwrap();
            assert!(get(&archive, "boundary").await.unwrap() == bytes, "{length} bytes are not what was written");
            let key = format!("{}boundary", server.settings.prefix);
            let head = server.client.head_object().bucket(&server.settings.bucket).key(key).send().await.unwrap();
            assert_eq!(head.content_type(), Some("text/plain"));
            let tag = head.e_tag().unwrap().trim_matches('"').to_owned();
            let ending = tag.rsplit_once('-').map(|(_, parts)| parts.parse::<u32>().unwrap());
            assert_eq!(ending, parts, "{length} bytes: {tag}");
        }
    }
    assert_eq!(server.objects().await, ["logs/here/boundary"]);
    server.remove().await;
}

#[tokio::test]
async fn a_writer_that_is_dropped_leaves_nothing() {
    let Some(server) = TestBucket::make().await else { return };
    let archive = server.archive().await;
    let mut writer = archive.create("dropped", "text/plain").await.unwrap();
    writer.write(pattern(22 * MIB)).await.unwrap();
    server.until_pending(1).await;
    assert!(server.objects().await.is_empty());
    drop(writer);
    server.until_pending(0).await;

    // Given up in the middle of a call, at many places of it.
    for wait in [0, 1, 3, 10, 30, 60, 100] {
        let mut writer = archive.create("given/up", "text/plain").await.unwrap();
        let write = writer.write(pattern(22 * MIB));
        if tokio::time::timeout(Duration::from_millis(wait), write).await.is_err() {
            // Bytes are missing, so it must not become an object.
            let refused = writer.write(Bytes::from_static(b"more")).await.unwrap_err();
            assert!(matches!(cause(refused), S3Error::EarlierPart));
            assert!(matches!(cause(writer.finish().await.unwrap_err()), S3Error::EarlierPart));
        }
    }
    server.until_pending(0).await;
    assert!(server.objects().await.is_empty());
    server.remove().await;
}

/// The most memory that this process had, in MiB.
fn peak() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse::<usize>().unwrap() / 1024
}

#[test]
fn a_large_object_takes_constant_memory() {
    const ALONE: &str = "VESPIARY_TEST_S3_ALONE";
    if std::env::var_os(ALONE).is_none() {
        // In a process of its own, since the memory of other tests would count.
        let name = "archive::s3::tests::a_large_object_takes_constant_memory";
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        let ended = again.args(["--exact", name, "--nocapture"]).env(ALONE, "1").status().unwrap();
        assert!(ended.success());
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let Some(mut server) = TestBucket::make().await else { return };
        server.settings.part_mib = 8;
        let archive = server.archive().await;
        put(&archive, "warm", pattern(MIB)).await.unwrap();
        let piece = pattern(MIB);
        let before = peak();
        let began = Instant::now();
        let mut writer = archive.create("large", "text/plain").await.unwrap();
        for _ in 0..100 {
            writer.write(piece.clone()).await.unwrap();
        }
        writer.finish().await.unwrap();
        let (stored, began) = (began.elapsed(), Instant::now());
        let mut object = archive.read("large", None).await.unwrap();
        let mut read = 0;
        while let Some(bytes) = object.body.next().await {
            let mut bytes = bytes.unwrap();
            while !bytes.is_empty() {
                let at = read % MIB;
                let same = bytes.split_to(bytes.len().min(MIB - at));
                assert!(same == piece[at..at + same.len()], "other bytes at {read}");
                read += same.len();
            }
        }
        assert_eq!(read, 100 * MIB);
        let grown = peak() - before;
        eprintln!("100 MiB: {grown} MiB of memory, stored in {stored:?}, read in {:?}", began.elapsed());
        assert!(grown <= 40, "{grown} MiB");
        server.remove().await;
    });
}

#[tokio::test]
async fn an_address_can_be_read_by_anybody_for_a_while() {
    let Some(mut server) = TestBucket::make().await else { return };
    let _ = rustls::crypto::ring::default_provider().install_default();
    for checksums in [Checksums::WhenRequired, Checksums::WhenSupported] {
        server.settings.checksums = Some(checksums);
        let archive = server.archive().await;
        put(&archive, "results/1", Bytes::from_static(b"{}")).await.unwrap();
        let hour = Duration::from_secs(3600);
        let address = archive.presigned("results/1", hour, "a\"b\r\n/ü.json", "application/json").await.unwrap();
        assert!(!address.contains(server.settings.secret_key.as_deref().unwrap()));
        let answer = reqwest::get(&address).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "application/json");
        assert_eq!(answer.headers()["content-disposition"], "attachment; filename=\"a_b____.json\"");
        assert_eq!(answer.bytes().await.unwrap(), "{}");
        let other = address.replace("results/1", "results/2");
        assert_eq!(reqwest::get(&other).await.unwrap().status(), 403);
    }
    server.remove().await;
}

#[tokio::test]
async fn readiness_stores_its_probe_once_a_minute() {
    let Some(server) = TestBucket::make().await else { return };
    let archive = server.archive().await;
    archive.ready().await.unwrap();
    let first = archive.proven.load_full().unwrap();
    archive.ready().await.unwrap();
    assert_eq!(archive.proven.load_full().unwrap(), first);
    assert_eq!(server.objects().await, ["logs/here/.ready"]);
    // Someone tidies up: not a reason to be unready.
    server.client.delete_object().bucket(&server.settings.bucket).key("logs/here/.ready").send().await.unwrap();
    archive.ready().await.unwrap();
    assert_ne!(archive.proven.load_full().unwrap(), first);
    // The probe is not an object of the archive.
    assert!(archive.create(".ready", "text/plain").await.is_err());
    assert!(matches!(archive.read(".ready", None).await, Err(ArchiveError::NotFound(_))));
    server.remove().await;
}

#[tokio::test]
async fn encryption_and_its_key_are_asked_for() {
    let Some(mut server) = TestBucket::make().await else { return };
    server.settings.sse = Encryption::Aes256;
    let archive = server.archive().await;
    for length in [10, 6 * MIB] {
        // A server without encryption may refuse it, but then says so.
        match put(&archive, "encrypted", pattern(length)).await {
            Ok(()) => assert!(get(&archive, "encrypted").await.unwrap() == pattern(length)),
            Err(error) => assert!(matches!(cause(error), S3Error::Refused { .. })),
        }
    }
    server.until_pending(0).await;
    server.remove().await;
}
