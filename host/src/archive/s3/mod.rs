//! The archive in a bucket of AWS or any server that speaks S3.
//!
//! Invariant: an object appears by one call, `PutObject` or `CompleteMultipartUpload`, so it is whole or not there, and storing it again
//! replaces it. No call is without a deadline, and no more than the parts of one object that are under way are in memory.

mod bucket;
mod error;
mod list;
mod reader;
mod settings;
mod writer;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use futures::stream::BoxStream;

pub use self::error::S3Error;
pub use self::settings::{Checksums, Encryption, Settings};

use self::bucket::{Bucket, at_once};
use self::error::{failed, is_absent, short};
use self::writer::ObjectWriter;
use super::{Archive, ArchiveError, ArchiveObject, ArchiveWriter, ByteRange, ListedObject};

/// How long readiness trusts that an object could be stored. In between it only looks at it.
const PROVEN: Duration = Duration::from_secs(60);

/// The longest time for which S3 signs an address.
const LONGEST_ADDRESS: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The archive in a bucket.
#[derive(Clone)]
pub struct S3Archive {
    bucket: Arc<Bucket>,
    /// When the probe was stored last.
    proven: Arc<ArcSwapOption<Instant>>,
    prefix_was_completed: bool,
    /// For how long addresses are signed, where they are to be.
    presign: Option<Duration>,
}

impl S3Archive {
    /// Opens the archive. The bucket is not asked for: a server starts without it, and [`Archive::ready`] tells.
    ///
    /// # Errors
    /// [`S3Error::Settings`] with all that is wrong; without `region` and `endpoint` also where the AWS chain has no region.
    pub async fn open(settings: &Settings) -> Result<Self, ArchiveError> {
        let prefix_was_completed = settings.whole_prefix().1;
        let bucket = Arc::new(Bucket::connect(settings).await?);
        if prefix_was_completed {
            tracing::warn!(prefix = %bucket.prefix, "the prefix of the s3 archive did not end in '/': it was appended");
        }
        let presign = settings.presign.then(|| Duration::from_secs(settings.presign_seconds.into()));
        Ok(Self { bucket, proven: Arc::default(), prefix_was_completed, presign })
    }

    /// Whether a `/` was appended to the prefix.
    pub fn prefix_was_completed(&self) -> bool {
        self.prefix_was_completed
    }

    /// An address under which anybody can read the object until it expires (7 days at most, and with the credentials that it was signed
    /// with), as a file of this name and media type. Whether there is such an object is not asked.
    pub async fn presigned(
        &self,
        key: &str,
        expires: Duration,
        filename: &str,
        media_type: &str,
    ) -> Result<String, ArchiveError> {
        const ACTION: &str = "sign an address";
        let bucket = &self.bucket;
        let object = bucket.key(key).ok_or_else(|| ArchiveError::NotFound(key.chars().take(1024).collect()))?;
        let expires = expires.clamp(Duration::from_secs(1), LONGEST_ADDRESS);
        let expires =
            PresigningConfig::expires_in(expires).map_err(|error| ArchiveError::Unavailable(Box::new(error)))?;
        let letter = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' };
        let filename: String = filename.chars().take(200).map(letter).collect();
        let call = bucket
            .client
            .get_object()
            .bucket(&bucket.name)
            .key(object)
            .response_content_type(media_type)
            .response_content_disposition(format!("attachment; filename=\"{filename}\""));
        let signing = tokio::time::timeout(bucket.deadline, call.presigned(expires)).await;
        let signed = signing.map_err(|_| ArchiveError::Timeout(bucket.deadline.as_secs()))?;
        let signed = signed.map_err(|error| failed(bucket, ACTION, bucket.deadline.as_secs(), &error))?;
        Ok(signed.uri().to_owned())
    }

    /// Stores the probe, which is an object without bytes.
    async fn prove(&self) -> Result<(), ArchiveError> {
        let bucket = &self.bucket;
        let call = bucket
            .client
            .put_object()
            .bucket(&bucket.name)
            .key(bucket.probe())
            .set_server_side_encryption(bucket.encryption.clone())
            .set_ssekms_key_id(bucket.kms_key.clone())
            .body(ByteStream::from_static(b""));
        let sent = call.customize().config_override(at_once(bucket.deadline)).send().await;
        sent.map_err(|error| failed(bucket, "store a probe object", bucket.deadline.as_secs(), &error))?;
        self.proven.store(Some(Arc::new(Instant::now())));
        Ok(())
    }
}

impl std::fmt::Debug for S3Archive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Archive").field("bucket", &self.bucket.name).field("prefix", &self.bucket.prefix).finish()
    }
}

#[async_trait]
impl Archive for S3Archive {
    async fn create(&self, key: &str, media_type: &str) -> Result<Box<dyn ArchiveWriter>, ArchiveError> {
        let object = self.bucket.key(key).ok_or_else(|| S3Error::NotAKey(short(key).chars().take(80).collect()))?;
        Ok(Box::new(ObjectWriter::begin(self.bucket.clone(), object, media_type)))
    }

    async fn read(&self, key: &str, range: Option<ByteRange>) -> Result<ArchiveObject, ArchiveError> {
        let absent = || ArchiveError::NotFound(key.chars().take(1024).collect());
        let object = self.bucket.key(key).ok_or_else(absent)?;
        let read = reader::open(self.bucket.clone(), object, range).await;
        read.map_err(|error| if let ArchiveError::NotFound(_) = error { absent() } else { error })
    }

    async fn remove(&self, key: &str) -> Result<(), ArchiveError> {
        let bucket = &self.bucket;
        let Some(object) = bucket.key(key) else { return Ok(()) };
        match bucket.client.delete_object().bucket(&bucket.name).key(object).send().await {
            Ok(_) => Ok(()),
            Err(error) if is_absent(&error) => Ok(()),
            Err(error) => Err(failed(bucket, "remove an object", bucket.deadline.as_secs(), &error)),
        }
    }

    fn list(&self, prefix: &str) -> BoxStream<'static, Result<ListedObject, ArchiveError>> {
        list::stream(self.bucket.clone(), prefix)
    }

    async fn address(&self, key: &str, filename: &str, media_type: &str) -> Result<Option<String>, ArchiveError> {
        match self.presign {
            Some(expires) => Ok(Some(self.presigned(key, expires, filename, media_type).await?)),
            None => Ok(None),
        }
    }

    fn uri(&self, key: &str) -> String {
        format!("s3://{}/{}{key}", self.bucket.name, self.bucket.prefix)
    }

    /// Stores an object without bytes once a minute, which is what proves that one can; in between it asks for that object, which needs
    /// no right that reading does not need.
    async fn ready(&self) -> Result<(), ArchiveError> {
        let bucket = &self.bucket;
        if self.proven.load().as_ref().is_some_and(|proven| proven.elapsed() < PROVEN) {
            let call = bucket.client.head_object().bucket(&bucket.name).key(bucket.probe());
            if call.customize().config_override(at_once(bucket.deadline)).send().await.is_ok() {
                return Ok(());
            }
            // Not there any more, or not allowed: storing it again says which, and why.
        }
        self.prove().await
    }
}
