//! Connections that break, servers that stop, objects that change: the bytes are right or there is an error.

use super::proxy::Proxy;
use super::*;

async fn behind_a_proxy() -> Option<(TestBucket, Proxy, S3Archive)> {
    let server = TestBucket::make().await?;
    let proxy = Proxy::start(server.settings.endpoint.as_deref().unwrap()).await;
    let settings = Settings { endpoint: Some(proxy.endpoint.clone()), ..server.settings.clone() };
    let archive = S3Archive::open(&settings).await.unwrap();
    Some((server, proxy, archive))
}

#[tokio::test]
async fn a_body_that_breaks_goes_on_where_it_stopped() {
    let Some((server, proxy, archive)) = behind_a_proxy().await else { return };
    let bytes = pattern(20 * MIB);
    put(&archive, "large", bytes.clone()).await.unwrap();
    proxy.cut(5, 3 * MIB);
    assert!(get(&archive, "large").await.unwrap() == bytes, "the bytes are not those that were stored");
    assert_eq!(proxy.cuts_left(), 0, "it was not cut");

    proxy.cut(2, 2 * MIB);
    let range = ByteRange::From { first: 1_234_567, last: Some(9_999_999) };
    let mut object = archive.read("large", Some(range)).await.unwrap();
    let mut read = Vec::new();
    while let Some(piece) = object.body.next().await {
        read.extend_from_slice(&piece.unwrap());
    }
    assert!(read == bytes.slice(1_234_567..10_000_000) && proxy.cuts_left() == 0);

    // The server is away for a moment, while the connection is open.
    let mut object = archive.read("large", None).await.unwrap();
    let mut read = object.body.next().await.unwrap().unwrap().to_vec();
    proxy.stop();
    let (rest, ()) = tokio::join!(
        async {
            let mut rest = Vec::new();
            while let Some(piece) = object.body.next().await {
                rest.extend_from_slice(&piece.unwrap());
            }
            rest
        },
        async {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            proxy.go_on();
        }
    );
    read.extend(rest);
    assert!(read == bytes);
    server.remove().await;
}

#[tokio::test]
async fn an_object_that_is_replaced_while_it_is_read_is_not_mixed() {
    let Some((server, proxy, archive)) = behind_a_proxy().await else { return };
    for removed in [false, true] {
        let old = Bytes::from(vec![1; 20 * MIB]);
        put(&archive, "changing", old.clone()).await.unwrap();
        let mut object = archive.read("changing", None).await.unwrap();
        let first = object.body.next().await.unwrap().unwrap();
        let direct = server.archive().await;
        if removed {
            direct.remove("changing").await.unwrap();
        } else {
            put(&direct, "changing", Bytes::from(vec![2; 20 * MIB])).await.unwrap();
        }
        proxy.cut(1, 0);
        let mut read = first.to_vec();
        let error = loop {
            match object.body.next().await {
                Some(Ok(piece)) => read.extend_from_slice(&piece),
                Some(Err(error)) => break Some(error),
                None => break None,
            }
        };
        assert!(read.iter().all(|byte| *byte == 1), "two objects were mixed");
        match error {
            Some(ArchiveError::NotFound(_)) => assert!(removed),
            Some(error) => assert!(matches!(cause(error), S3Error::Replaced)),
            None => panic!("the cut was not seen, {} bytes", read.len()),
        }
    }
    server.remove().await;
}

#[tokio::test]
async fn a_server_that_stays_away_is_an_error_in_time() {
    let Some((server, proxy, _)) = behind_a_proxy().await else { return };
    let endpoint = Some(proxy.endpoint.clone());
    let settings = Settings { endpoint, deadline_ms: 2_000, ..server.settings.clone() };
    let archive = S3Archive::open(&settings).await.unwrap();
    archive.ready().await.unwrap();
    put(&archive, "old", pattern(20 * MIB)).await.unwrap();
    let mut reading = archive.read("old", None).await.unwrap();
    reading.body.next().await.unwrap().unwrap();
    let mut writing = archive.create("new", "text/plain").await.unwrap();
    writing.write(pattern(11 * MIB)).await.unwrap();
    proxy.stop();
    let began = Instant::now();
    assert!(archive.ready().await.is_err());
    let error = loop {
        match reading.body.next().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("the cut was not seen"),
        }
    };
    assert!(matches!(cause(error), S3Error::Broken { at: 1.., .. }));
    assert!(reading.body.next().await.is_none());
    let failed = async {
        writing.write(pattern(11 * MIB)).await?;
        writing.finish().await
    };
    assert!(failed.await.is_err());
    assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
    proxy.go_on();
    archive.ready().await.unwrap();
    assert!(matches!(get(&archive, "new").await, Err(ArchiveError::NotFound(_))));
    put(&archive, "new", pattern(11 * MIB)).await.unwrap();
    assert!(get(&archive, "new").await.unwrap() == pattern(11 * MIB));
    server.remove().await;
}

#[tokio::test]
async fn a_writer_outlives_a_server_that_is_away_for_a_moment() {
    let Some((server, proxy, archive)) = behind_a_proxy().await else { return };
    let bytes = pattern(22 * MIB);
    let mut writer = archive.create("patient", "text/plain").await.unwrap();
    writer.write(bytes.slice(..11 * MIB)).await.unwrap();
    proxy.stop();
    let (written, ()) = tokio::join!(writer.write(bytes.slice(11 * MIB..)), async {
        tokio::time::sleep(Duration::from_millis(700)).await;
        proxy.go_on();
    });
    written.unwrap();
    writer.finish().await.unwrap();
    assert!(get(&archive, "patient").await.unwrap() == bytes);
    server.remove().await;
}

#[tokio::test]
async fn wrong_settings_are_named_and_secrets_are_not() {
    let Some(server) = TestBucket::make().await else { return };
    let secret = "a-wrong-secret-0123";
    let wrong = Settings { secret_key: Some(secret.to_owned()), ..server.settings.clone() };
    let archive = S3Archive::open(&wrong).await.unwrap();
    let errors = [
        archive.ready().await.unwrap_err(),
        put(&archive, "a", pattern(10)).await.unwrap_err(),
        put(&archive, "a", pattern(6 * MIB)).await.unwrap_err(),
        get(&archive, "a").await.unwrap_err(),
        archive.remove("a").await.unwrap_err(),
    ];
    for error in errors {
        let shown = format!("{error:?} {}", error::reason(&error));
        assert!(shown.contains("secret_key") && !shown.contains(secret), "{shown}");
        assert!(matches!(cause(error), S3Error::WrongSecret { .. }), "{shown}");
    }
    assert!(!format!("{wrong:?} {archive:?}").contains(secret));

    let wrong = Settings { access_key: Some("nobody".to_owned()), ..server.settings.clone() };
    let archive = S3Archive::open(&wrong).await.unwrap();
    // Some servers answer 404, which must not be taken for an object that is not there.
    let errors = [
        archive.ready().await.unwrap_err(),
        get(&archive, "a").await.unwrap_err(),
        archive.remove("a").await.unwrap_err(),
    ];
    for error in errors {
        let error = cause(error);
        assert!(matches!(error, S3Error::UnknownAccessKey { .. }), "{error}");
    }

    let bucket = format!("absent-{}", uuid::Uuid::new_v4());
    let archive = S3Archive::open(&Settings { bucket, ..server.settings.clone() }).await.unwrap();
    let errors = [
        archive.ready().await.unwrap_err(),
        put(&archive, "a", pattern(6 * MIB)).await.unwrap_err(),
        get(&archive, "a").await.unwrap_err(),
        archive.remove("a").await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(&error, ArchiveError::Unavailable(_)), "{error:?}");
        let error = cause(error);
        assert!(matches!(error, S3Error::NoBucket { .. }), "{error}");
    }
    server.remove().await;
}
