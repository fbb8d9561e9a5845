//! The objects of the bucket below the prefix, a page at a time. It takes the right `s3:ListBucket`, which nothing else here needs.

use std::sync::Arc;

use futures::stream::BoxStream;

use super::bucket::Bucket;
use super::error::{S3Error, failed};
use crate::archive::{ArchiveError, ListedObject};
use crate::core::Timestamp;

/// Keys that begin with `prefix`.
pub(super) fn stream(bucket: Arc<Bucket>, prefix: &str) -> BoxStream<'static, Result<ListedObject, ArchiveError>> {
    const ACTION: &str = "list the objects (s3:ListBucket)";
    let whole = format!("{}{prefix}", bucket.prefix);
    Box::pin(async_stream::try_stream! {
        let mut next: Option<String> = None;
        loop {
            let call = bucket.client.list_objects_v2().bucket(&bucket.name).prefix(&whole);
            let sent = call.set_continuation_token(next.clone()).send().await;
            let page = sent.map_err(|error| failed(&bucket, ACTION, bucket.deadline.as_secs(), &error))?;
            for object in page.contents() {
                let Some(key) = object.key().and_then(|key| key.strip_prefix(&bucket.prefix)) else { continue };
                if bucket.key(key).is_none() {
                    continue;
                }
                let modified = object.last_modified().and_then(|at| at.to_millis().ok()).unwrap_or(i64::MAX);
                let size = object.size().and_then(|size| u64::try_from(size).ok()).unwrap_or(0);
                yield ListedObject { key: key.to_owned(), size, modified: Timestamp::from_millis(modified) };
            }
            match page.next_continuation_token().map(str::to_owned) {
                // A server that answers the same page for ever.
                Some(token) if next.as_ref() == Some(&token) => {
                    let problem = "the next page begins where this one does".to_owned();
                    Err(S3Error::Answer { action: ACTION, problem })?;
                }
                Some(token) if page.is_truncated() == Some(true) => next = Some(token),
                _ => break,
            }
        }
    })
}
