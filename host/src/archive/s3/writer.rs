//! One object that is being stored: bytes are gathered to a part; one part is a `PutObject`, more are a multipart upload.
//!
//! Invariant: nothing is readable before the last call of [`ArchiveWriter::finish`], and an upload that was begun is either completed or
//! aborted when its writer goes.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::{Bytes, BytesMut};
use tokio::task::JoinSet;

use super::super::{ArchiveError, ArchiveWriter};
use super::bucket::{Bucket, lasting};
use super::error::{S3Error, code, failed};

const ACTION: &str = "store an object";

/// So many parts of the first size; after that it doubles every [`STEP`]. With 8 MiB: 40 GiB; the 5 TiB of an object fit from 5 MiB on.
const FIRST_PARTS: u32 = 5_000;

/// So many parts of each larger size.
const STEP: u32 = 450;

/// The parts that an object may have.
const MOST_PARTS: u32 = 10_000;

/// The bytes that a part may have.
const LARGEST_PART: usize = 5 * 1024 * 1024 * 1024;

/// How long after the first abort the second one comes, for a part that was under way then.
const SECOND_ABORT: Duration = Duration::from_secs(1);

/// Bytes of the part of this number, from 1.
fn part_size(first: usize, number: u32) -> usize {
    let doublings = if number <= FIRST_PARTS { 0 } else { (number - FIRST_PARTS - 1) / STEP + 1 };
    first.saturating_mul(1_usize.checked_shl(doublings).unwrap_or(usize::MAX)).min(LARGEST_PART)
}

/// The writer of one object.
pub(super) struct ObjectWriter {
    bucket: Arc<Bucket>,
    object: String,
    media_type: String,
    gathered: BytesMut,
    upload: Option<Upload>,
    /// Whether a call failed or was given up: bytes may be missing.
    failed: bool,
}

impl ObjectWriter {
    /// Begins an object. Sends nothing.
    pub(super) fn begin(bucket: Arc<Bucket>, object: String, media_type: &str) -> Self {
        let media_type = media_type.to_owned();
        Self { bucket, object, media_type, gathered: BytesMut::new(), upload: None, failed: false }
    }

    fn check(&self) -> Result<(), ArchiveError> {
        if self.failed { Err(S3Error::EarlierPart.into()) } else { Ok(()) }
    }

    /// Bytes of the part that is gathered now.
    fn room(&self) -> usize {
        let sent = self.upload.as_ref().map_or(0, |upload| upload.sent);
        part_size(self.bucket.part, sent.saturating_add(1))
    }

    /// Sends what is gathered as a part.
    async fn send_part(&mut self) -> Result<(), ArchiveError> {
        let bytes = std::mem::take(&mut self.gathered).freeze();
        let upload = match &mut self.upload {
            Some(upload) => upload,
            begun @ None => {
                let (bucket, object, media_type) = (self.bucket.clone(), self.object.clone(), self.media_type.clone());
                // In a task of its own: a caller that gives up in the middle must not leave an upload that nobody knows.
                let begin = tokio::spawn(Upload::begin(bucket, object, media_type));
                begun.insert(begin.await.map_err(|stopped| ArchiveError::Unavailable(Box::new(stopped)))??)
            }
        };
        upload.send(bytes).await
    }

    async fn append(&mut self, mut bytes: Bytes) -> Result<(), ArchiveError> {
        while !bytes.is_empty() {
            let room = self.room();
            // Only when more comes: an object of exactly one part is no multipart upload.
            if self.gathered.len() >= room {
                self.send_part().await?;
                continue;
            }
            let taken = bytes.split_to(room.saturating_sub(self.gathered.len()).min(bytes.len()));
            self.gathered.extend_from_slice(&taken);
        }
        Ok(())
    }

    /// Stores an object of one part.
    async fn put(&mut self) -> Result<(), ArchiveError> {
        let bytes = std::mem::take(&mut self.gathered).freeze();
        put(&self.bucket, &self.object, &self.media_type, bytes).await
    }
}

/// Stores an object with one call.
async fn put(bucket: &Bucket, object: &str, media_type: &str, bytes: Bytes) -> Result<(), ArchiveError> {
    let deadline = bucket.deadline_for(bytes.len());
    let call = bucket
        .client
        .put_object()
        .bucket(&bucket.name)
        .key(object)
        .content_type(media_type)
        .set_server_side_encryption(bucket.encryption.clone())
        .set_ssekms_key_id(bucket.kms_key.clone())
        .body(ByteStream::from(bytes));
    let sent = call.customize().config_override(lasting(deadline)).send().await;
    sent.map(drop).map_err(|error| failed(bucket, ACTION, deadline.as_secs(), &error))
}

#[async_trait]
impl ArchiveWriter for ObjectWriter {
    async fn write(&mut self, bytes: Bytes) -> Result<(), ArchiveError> {
        self.check()?;
        // A call that is given up in the middle leaves this set.
        self.failed = true;
        self.append(bytes).await?;
        self.failed = false;
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), ArchiveError> {
        self.check()?;
        if self.upload.is_none() {
            return self.put().await;
        }
        if !self.gathered.is_empty() {
            self.send_part().await?;
        }
        match self.upload.take() {
            Some(upload) => upload.complete().await,
            None => Err(S3Error::EarlierPart.into()),
        }
    }
}

/// A multipart upload. Dropping it aborts it.
struct Upload {
    bucket: Arc<Bucket>,
    object: String,
    id: String,
    /// Parts that were sent or are under way.
    sent: u32,
    stored: Vec<CompletedPart>,
    under_way: JoinSet<Result<CompletedPart, ArchiveError>>,
    completed: bool,
}

impl Upload {
    async fn begin(bucket: Arc<Bucket>, object: String, media_type: String) -> Result<Self, ArchiveError> {
        let call = bucket
            .client
            .create_multipart_upload()
            .bucket(&bucket.name)
            .key(&object)
            .content_type(media_type)
            .set_server_side_encryption(bucket.encryption.clone())
            .set_ssekms_key_id(bucket.kms_key.clone())
            .set_checksum_algorithm(bucket.checksum.clone());
        let begun = call.send().await.map_err(|error| failed(&bucket, ACTION, bucket.deadline.as_secs(), &error))?;
        let problem = || S3Error::Answer { action: ACTION, problem: "an upload without identifier".to_owned() };
        let id = begun.upload_id().ok_or_else(problem)?.to_owned();
        let (stored, under_way) = (Vec::new(), JoinSet::new());
        Ok(Self { bucket, object, id, sent: 0, stored, under_way, completed: false })
    }

    /// Sends a part, behind those that are under way if they are as many as may be.
    async fn send(&mut self, bytes: Bytes) -> Result<(), ArchiveError> {
        while self.under_way.len() >= self.bucket.parts_in_flight {
            self.settle_one().await?;
        }
        self.sent = self.sent.saturating_add(1);
        let number = i32::try_from(self.sent).unwrap_or(i32::MAX);
        if self.sent > MOST_PARTS {
            let message = format!("it would have more than {MOST_PARTS} parts");
            return Err(ArchiveError::Unavailable(Box::new(std::io::Error::other(message))));
        }
        let (bucket, object, id) = (self.bucket.clone(), self.object.clone(), self.id.clone());
        self.under_way.spawn(async move {
            let deadline = bucket.deadline_for(bytes.len());
            let call = bucket
                .client
                .upload_part()
                .bucket(&bucket.name)
                .key(object)
                .upload_id(id)
                .part_number(number)
                .set_checksum_algorithm(bucket.checksum.clone())
                .body(ByteStream::from(bytes));
            let sent = call.customize().config_override(lasting(deadline)).send().await;
            let stored = sent.map_err(|error| failed(&bucket, ACTION, deadline.as_secs(), &error))?;
            Ok(CompletedPart::builder()
                .part_number(number)
                .set_e_tag(stored.e_tag)
                .set_checksum_crc32(stored.checksum_crc32)
                .build())
        });
        Ok(())
    }

    /// Waits for one of the parts that are under way.
    async fn settle_one(&mut self) -> Result<(), ArchiveError> {
        match self.under_way.join_next().await {
            Some(Ok(part)) => self.stored.push(part?),
            Some(Err(stopped)) => return Err(ArchiveError::Unavailable(Box::new(stopped))),
            None => {}
        }
        Ok(())
    }

    /// Joins the parts. The object is readable after it.
    async fn complete(mut self) -> Result<(), ArchiveError> {
        while !self.under_way.is_empty() {
            self.settle_one().await?;
        }
        let mut parts = std::mem::take(&mut self.stored);
        parts.sort_by_key(CompletedPart::part_number);
        let bucket = &self.bucket;
        let call = bucket
            .client
            .complete_multipart_upload()
            .bucket(&bucket.name)
            .key(&self.object)
            .upload_id(&self.id)
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts)).build());
        let sent = call.customize().config_override(lasting(bucket.finish_deadline)).send().await;
        sent.map_err(|error| failed(bucket, ACTION, bucket.finish_deadline.as_secs(), &error))?;
        self.completed = true;
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.completed {
            return;
        }
        let (bucket, object, id) =
            (self.bucket.clone(), std::mem::take(&mut self.object), std::mem::take(&mut self.id));
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            tracing::warn!(%object, "cannot abort a multipart upload: the server is ending");
            return;
        };
        let mut under_way = std::mem::take(&mut self.under_way);
        drop(runtime.spawn(async move {
            // A part that is stored after the abort would stay: so none is sent any more, and one that was is aborted again.
            let twice = !under_way.is_empty();
            let work = async {
                under_way.shutdown().await;
                abort(&bucket, &object, &id).await?;
                if twice {
                    tokio::time::sleep(SECOND_ABORT).await;
                    abort(&bucket, &object, &id).await?;
                }
                Ok(())
            };
            let bound = bucket.deadline.saturating_mul(2).saturating_add(SECOND_ABORT);
            let aborted: Result<(), ArchiveError> =
                tokio::time::timeout(bound, work).await.unwrap_or(Err(ArchiveError::Timeout(bound.as_secs())));
            if let Err(error) = aborted {
                let error = super::error::reason(&error);
                tracing::warn!(%object, %error, "cannot abort a multipart upload; a lifecycle rule of the bucket removes it");
            }
        }));
    }
}

/// Aborts an upload. One that is not there any more is fine.
async fn abort(bucket: &Bucket, object: &str, id: &str) -> Result<(), ArchiveError> {
    let call = bucket.client.abort_multipart_upload().bucket(&bucket.name).key(object).upload_id(id);
    match call.send().await {
        Ok(_) => Ok(()),
        Err(error) if code(&error) == Some("NoSuchUpload") => Ok(()),
        Err(error) => Err(failed(bucket, "abort a multipart upload", bucket.deadline.as_secs(), &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_grow_so_that_an_object_of_5_tib_fits() {
        let mib = 1024 * 1024;
        assert_eq!(part_size(8 * mib, 1), 8 * mib);
        assert_eq!(part_size(8 * mib, 5_000), 8 * mib);
        assert_eq!(part_size(8 * mib, 5_001), 16 * mib);
        assert_eq!(part_size(8 * mib, 5_450), 16 * mib);
        assert_eq!(part_size(8 * mib, 5_451), 32 * mib);
        assert_eq!(part_size(1024 * mib, 10_000), LARGEST_PART);
        for first in [5, 8, 64, 1024] {
            let all: u128 = (1..=MOST_PARTS).map(|number| part_size(first * mib, number) as u128).sum();
            assert!(all >= 5 << 40, "{first} MiB: {all}");
        }
    }
}
