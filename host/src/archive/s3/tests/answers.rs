//! What needs no server, or one that only ever says one thing.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// Settings for an endpoint that gives this answer to everything; none: it never answers.
async fn answering(answer: Option<(u16, &str, &'static str)>) -> Settings {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let answer = answer.map(|(status, code, headers)| {
        let body = format!("<Error><Code>{code}</Code><Message>no\nway</Message></Error>");
        format!("HTTP/1.1 {status} x\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
    });
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut bytes = vec![0; 64 * 1024];
                while connection.read(&mut bytes).await.is_ok_and(|length| length > 0) {
                    if let Some(answer) = &answer {
                        let _ = connection.write_all(answer.as_bytes()).await;
                        let _ = connection.shutdown().await;
                    }
                }
            });
        }
    });
    Settings {
        bucket: "bucket".to_owned(),
        endpoint: Some(endpoint),
        access_key: Some("key".to_owned()),
        secret_key: Some("the-secret".to_owned()),
        deadline_ms: 1_000,
        ..Settings::default()
    }
}

async fn refusal(status: u16, code: &str) -> S3Error {
    let settings = answering(Some((status, code, ""))).await;
    cause(S3Archive::open(&settings).await.unwrap().ready().await.unwrap_err())
}

#[tokio::test]
async fn refusals_name_the_setting_to_look_at() {
    assert!(matches!(refusal(403, "AccessDenied").await, S3Error::Denied { .. }));
    assert!(matches!(refusal(400, "ExpiredToken").await, S3Error::Expired { .. }));
    assert!(matches!(refusal(400, "AuthorizationHeaderMalformed").await, S3Error::WrongRegion { .. }));
    assert!(matches!(refusal(301, "PermanentRedirect").await, S3Error::WrongRegion { .. }));
    assert!(matches!(refusal(403, "RequestTimeTooSkewed").await, S3Error::Clock { .. }));
    let error = refusal(400, "KMS.DisabledException").await;
    assert_eq!(
        error.to_string(),
        "cannot store a probe object: the s3 server answered 400 KMS.DisabledException: no way"
    );
}

#[tokio::test]
async fn a_404_of_something_else_is_not_an_absent_object() {
    for code in ["XSomething", ""] {
        let archive = S3Archive::open(&answering(Some((404, code, ""))).await).await.unwrap();
        assert!(matches!(cause(get(&archive, "a").await.unwrap_err()), S3Error::Refused { status: 404, .. }));
        assert!(matches!(cause(archive.remove("a").await.unwrap_err()), S3Error::Refused { status: 404, .. }));
    }
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let archive = S3Archive::open(&answering(None).await).await.unwrap();
    let began = Instant::now();
    assert!(archive.ready().await.is_err());
    assert!(archive.read("a", None).await.is_err());
    assert!(archive.remove("a").await.is_err());
    assert!(put(&archive, "a", pattern(10)).await.is_err());
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[tokio::test]
async fn the_size_of_an_object_comes_with_a_refused_range() {
    let answer = Some((416, "InvalidRange", "content-range: bytes */10\r\n"));
    let archive = S3Archive::open(&answering(answer).await).await.unwrap();
    let range = ByteRange::From { first: 10, last: None };
    let refused = archive.read("a", Some(range)).await;
    assert!(matches!(refused, Err(ArchiveError::RangeNotSatisfiable { size: 10 })));
}

#[tokio::test]
async fn a_server_that_ignores_ranges_gives_the_range_too() {
    // The answer's body is an XML text of which the range is cut out.
    let archive = S3Archive::open(&answering(Some((200, "x", ""))).await).await.unwrap();
    for range in [ByteRange::From { first: 1, last: Some(5) }, ByteRange::From { first: 1, last: None }] {
        let mut object = archive.read("a", Some(range)).await.unwrap();
        let mut read = Vec::new();
        while let Some(piece) = object.body.next().await {
            read.extend_from_slice(&piece.unwrap());
        }
        assert!(read.starts_with(b"Error") && read.len() as u64 == object.length, "{range:?}: {}", read.len());
    }
}

#[tokio::test]
async fn all_that_is_wrong_with_the_settings_is_told_at_once() {
    let wrong = Settings {
        bucket: "a/b".to_owned(),
        prefix: "../x".to_owned(),
        endpoint: Some("https://user:hidden@host".to_owned()),
        secret_key: Some("hidden\n".to_owned()),
        kms_key: Some("k".to_owned()),
        part_mib: 4,
        ..Settings::default()
    };
    let problems = wrong.problems();
    for setting in ["bucket", "prefix", "endpoint", "secret_key", "access_key", "kms_key", "part_mib"] {
        assert!(problems.iter().any(|problem| problem.starts_with(&format!("'{setting}'"))), "{setting}: {problems:?}");
    }
    let error = S3Archive::open(&wrong).await.unwrap_err();
    assert!(!format!("{error:?}").contains("hidden"));
    assert!(matches!(cause(error), S3Error::Settings(_)));
    assert!(Settings::default().problems().iter().all(|problem| problem.starts_with("'bucket'")));
}

#[tokio::test]
async fn a_prefix_is_completed() {
    for (prefix, whole, completed) in [("", "", false), ("a/b/", "a/b/", false), ("a/b", "a/b/", true)] {
        let settings = Settings { prefix: prefix.to_owned(), ..answering(None).await };
        let archive = S3Archive::open(&settings).await.unwrap();
        assert_eq!(archive.prefix_was_completed(), completed);
        assert_eq!(archive.uri("k/1.log"), format!("s3://bucket/{whole}k/1.log"));
    }
}

#[test]
fn settings_are_read_as_they_are_documented() {
    let read: Settings =
        serde_json::from_str(r#"{"bucket": "b", "sse": "aws:kms", "checksums": "when_required"}"#).unwrap();
    assert_eq!((read.sse, read.checksums), (Encryption::AwsKms, Some(Checksums::WhenRequired)));
    assert!(serde_json::from_str::<Settings>(r#"{"buckets": "b"}"#).is_err());
}
