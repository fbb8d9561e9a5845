//! Why the server did not do as asked, in words that name the setting to look at. Answers are cut short and requests never repeated,
//! so no secret gets in here.

use std::error::Error;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::super::ArchiveError;
use super::bucket::Bucket;

/// The cause inside of [`ArchiveError::Unavailable`] of the S3 archive. All may work again when someone mends it.
#[derive(Debug, thiserror::Error)]
pub enum S3Error {
    /// Settings that cannot work.
    #[error("the settings of the s3 archive are wrong: {0}")]
    Settings(String),
    /// `SignatureDoesNotMatch`.
    #[error(
        "cannot {action}: the s3 server refused the signature; look at 'secret_key', which is not that of 'access_key'"
    )]
    WrongSecret {
        /// What was attempted.
        action: &'static str,
    },
    /// `InvalidAccessKeyId`.
    #[error("cannot {action}: the s3 server does not know the access key; look at 'access_key' and 'endpoint'")]
    UnknownAccessKey {
        /// What was attempted.
        action: &'static str,
    },
    /// `ExpiredToken` and the like.
    #[error(
        "cannot {action}: the credentials from the aws chain are expired or not valid; look at where they come from"
    )]
    Expired {
        /// What was attempted.
        action: &'static str,
    },
    /// No credentials, or another fault before anything was sent.
    #[error("cannot {action}: the request was not sent: {reason}; {hint}")]
    NotSent {
        /// What was attempted.
        action: &'static str,
        /// What the client said.
        reason: String,
        /// Where to look.
        hint: &'static str,
    },
    /// `AccessDenied`.
    #[error(
        "cannot {action}: access to bucket '{bucket}' is denied; look at 'bucket', 'prefix' and the rights of the credentials (s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload)"
    )]
    Denied {
        /// What was attempted.
        action: &'static str,
        /// The bucket.
        bucket: String,
    },
    /// `NoSuchBucket`.
    #[error("cannot {action}: there is no bucket '{bucket}'; look at 'bucket', 'endpoint' and 'path_style'")]
    NoBucket {
        /// What was attempted.
        action: &'static str,
        /// The bucket.
        bucket: String,
    },
    /// The bucket is in another region, or the signature was made for another one.
    #[error("cannot {action}: the s3 server expects another region; look at 'region' and 'endpoint'")]
    WrongRegion {
        /// What was attempted.
        action: &'static str,
    },
    /// `RequestTimeTooSkewed`.
    #[error("cannot {action}: the clock of this machine and that of the s3 server differ too much")]
    Clock {
        /// What was attempted.
        action: &'static str,
    },
    /// No connection, or one that broke.
    #[error("cannot {action}: '{server}' cannot be reached: {reason}; look at 'endpoint'")]
    Unreachable {
        /// What was attempted.
        action: &'static str,
        /// The endpoint, or the region's.
        server: String,
        /// What the connection said.
        reason: String,
    },
    /// Any other refusal.
    #[error("cannot {action}: the s3 server answered {status} {code}: {message}")]
    Refused {
        /// What was attempted.
        action: &'static str,
        /// HTTP status.
        status: u16,
        /// The code of S3; may be empty.
        code: String,
        /// Its explanation, cut short.
        message: String,
    },
    /// An answer that S3 does not give.
    #[error("cannot {action}: the s3 server gave an answer that cannot be right: {problem}")]
    Answer {
        /// What was attempted.
        action: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The object was replaced or removed while it was read.
    #[error("the object was replaced or removed while it was read")]
    Replaced,
    /// The bytes of an object stopped and did not come back in time.
    #[error("the bytes of the object stopped at offset {at}: {reason}")]
    Broken {
        /// Offset of the first byte that is missing.
        at: u64,
        /// What the connection said last.
        reason: String,
    },
    /// The writer was used again after an error or a call that was given up.
    #[error("an earlier part of the object was not stored")]
    EarlierPart,
    /// Not a key, or too long behind the prefix.
    #[error("'{0}' is not a key")]
    NotAKey(String),
}

impl From<S3Error> for ArchiveError {
    fn from(error: S3Error) -> Self {
        Self::Unavailable(Box::new(error))
    }
}

/// The texts of an error and its causes, cut short.
pub(super) fn reason(error: &(dyn Error + 'static)) -> String {
    let mut said: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = error.to_string();
        // Many errors repeat their cause.
        if !said.last().is_some_and(|last| last.contains(&text)) {
            said.push(text);
        }
        next = error.source();
    }
    short(&said.join(": "))
}

/// At most 300 characters, on one line.
pub(super) fn short(text: &str) -> String {
    text.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The HTTP status of a call that failed, if it was answered.
pub(super) fn status<E>(error: &SdkError<E, HttpResponse>) -> Option<u16> {
    error.raw_response().map(|answer| answer.status().as_u16())
}

/// The code of S3, if the answer has one.
pub(super) fn code<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Option<&str> {
    error.as_service_error().and_then(ProvideErrorMetadata::code)
}

/// Whether the server says that there is no such object. A bare 404 does not: it may be of a wrong bucket, user or endpoint.
pub(super) fn is_absent<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    status(error) == Some(404) && matches!(code(error), Some("NoSuchKey" | "NoSuchVersion" | "NotFound"))
}

/// What a failed call means. `seconds` is its deadline.
pub(super) fn failed<E>(
    bucket: &Bucket,
    action: &'static str,
    seconds: u64,
    error: &SdkError<E, HttpResponse>,
) -> ArchiveError
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let unreachable = |reason: String| S3Error::Unreachable { action, server: bucket.server.clone(), reason };
    let cause = match error {
        SdkError::TimeoutError(_) => return ArchiveError::Timeout(seconds),
        SdkError::DispatchFailure(failure) => {
            let reason = failure.as_connector_error().map_or_else(String::new, |error| reason(error));
            if failure.is_io() || failure.is_timeout() {
                unreachable(reason)
            } else {
                S3Error::NotSent { action, reason, hint: bucket.credentials_hint() }
            }
        }
        SdkError::ServiceError(_) => answered(bucket, action, error),
        SdkError::ResponseError(_) => S3Error::Answer { action, problem: reason(error) },
        _ => S3Error::NotSent { action, reason: reason(error), hint: bucket.credentials_hint() },
    };
    cause.into()
}

/// What a refusal means.
fn answered<E>(bucket: &Bucket, action: &'static str, error: &SdkError<E, HttpResponse>) -> S3Error
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let (status, code) = (status(error).unwrap_or_default(), code(error).unwrap_or_default());
    let bucket = bucket.name.clone();
    match (code, status) {
        ("SignatureDoesNotMatch", _) => S3Error::WrongSecret { action },
        ("InvalidAccessKeyId" | "XAdminUserNotFound", _) => S3Error::UnknownAccessKey { action },
        ("ExpiredToken" | "InvalidToken" | "TokenRefreshRequired", _) => S3Error::Expired { action },
        ("RequestTimeTooSkewed", _) => S3Error::Clock { action },
        ("NoSuchBucket", _) => S3Error::NoBucket { action, bucket },
        ("PermanentRedirect" | "TemporaryRedirect" | "AuthorizationHeaderMalformed" | "IncorrectEndpoint", _)
        | (_, 301 | 307 | 308) => S3Error::WrongRegion { action },
        ("AccessDenied" | "AllAccessDisabled" | "AccountProblem", _) | ("" | "Forbidden", 401 | 403) => {
            S3Error::Denied { action, bucket }
        }
        _ => {
            let message = error.as_service_error().and_then(ProvideErrorMetadata::message).unwrap_or_default();
            S3Error::Refused { action, status, code: short(code), message: short(message) }
        }
    }
}
