//! Reading: one `GetObject`, and another from the offset reached when its bytes stop.
//!
//! Invariant: all bytes of a body are of one version of the object; later requests demand the entity tag of the first.

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::get_object::{GetObjectError, GetObjectOutput};
use bytes::{Buf, Bytes};
use futures::StreamExt;
use futures::stream::BoxStream;

use super::super::{ArchiveError, ArchiveObject, ByteRange, PIECE, resolve};
use super::bucket::Bucket;
use super::error::{S3Error, failed, is_absent, reason, status};

const ACTION: &str = "read an object";

/// Between two tries to go on, at first.
const PAUSE: Duration = Duration::from_millis(100);

/// Between two tries to go on, at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Opens an object or a range of it.
pub(super) async fn open(
    bucket: Arc<Bucket>,
    object: String,
    range: Option<ByteRange>,
) -> Result<ArchiveObject, ArchiveError> {
    let header = match range {
        None => None,
        Some(range) => match header_of(range) {
            Some(header) => Some(header),
            // Not a range that S3 would refuse as one: some servers ignore it, so it is not sent.
            None => return without_bytes(&bucket, &object, Some(range), None).await,
        },
    };
    let output = match get(&bucket, &object, header, None).await {
        Ok(output) => output,
        Err(error) if status(&error) == Some(416) => {
            let size = error.raw_response().and_then(|answer| answer.headers().get("content-range")).and_then(size_in);
            return without_bytes(&bucket, &object, range, size).await;
        }
        Err(error) => return Err(refused(&bucket, &object, &error)),
    };
    let part = Part::of(&output)?;
    // A server that ignores the range sends everything: then the range is cut out here.
    let (first, length) = match (range, output.content_range()) {
        (Some(range), None) => resolve(Some(range), part.size)?,
        _ => (part.first, part.end.saturating_sub(part.first)),
    };
    let size = part.size;
    let tag = output.e_tag().map(ToOwned::to_owned);
    let whole = Whole { bucket, object, tag, size };
    Ok(ArchiveObject { size, first, length, body: body(whole, output, part, first, length) })
}

/// The answer for a range that has no bytes. `size` is that of the object, where the server told it.
async fn without_bytes(
    bucket: &Bucket,
    object: &str,
    range: Option<ByteRange>,
    size: Option<u64>,
) -> Result<ArchiveObject, ArchiveError> {
    let size = match size {
        Some(size) => size,
        None => {
            let head = bucket.client.head_object().bucket(&bucket.name).key(object).send().await;
            let head = head.map_err(|error| match status(&error) {
                Some(404) => ArchiveError::NotFound(object.to_owned()),
                _ => failed(bucket, ACTION, bucket.deadline.as_secs(), &error),
            })?;
            bytes_of(head.content_length())?
        }
    };
    match resolve(range, size)? {
        (first, 0) => Ok(ArchiveObject { size, first, length: 0, body: futures::stream::empty().boxed() }),
        _ => Err(S3Error::Replaced.into()),
    }
}

/// The `Range` header, if the range can have bytes and S3 can read the numbers.
fn header_of(range: ByteRange) -> Option<String> {
    let longest = i64::MAX.unsigned_abs();
    match range {
        ByteRange::Last(0) => None,
        ByteRange::Last(count) => Some(format!("bytes=-{}", count.min(longest))),
        ByteRange::From { first, .. } if first >= longest => None,
        ByteRange::From { first, last: Some(last) } if last < first => None,
        ByteRange::From { first, last: Some(last) } if last < longest => Some(format!("bytes={first}-{last}")),
        ByteRange::From { first, .. } => Some(format!("bytes={first}-")),
    }
}

fn bytes_of(length: Option<i64>) -> Result<u64, ArchiveError> {
    let missing = || answer("no length of the object".to_owned());
    length.and_then(|length| u64::try_from(length).ok()).ok_or_else(missing)
}

fn answer(problem: String) -> ArchiveError {
    S3Error::Answer { action: ACTION, problem }.into()
}

/// The size in `bytes */size`.
fn size_in(header: &str) -> Option<u64> {
    header.rsplit_once('/')?.1.parse().ok()
}

/// First byte, end and size in `bytes first-last/size`.
fn part_in(header: &str) -> Option<(u64, u64, u64)> {
    let (range, size) = header.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.trim().split_once('-')?;
    let (first, last, size): (u64, u64, u64) = (first.parse().ok()?, last.parse().ok()?, size.trim().parse().ok()?);
    (first <= last && last < size).then_some((first, last.saturating_add(1), size))
}

/// Which bytes an answer carries.
#[derive(Clone, Copy)]
struct Part {
    first: u64,
    end: u64,
    size: u64,
}

impl Part {
    fn of(output: &GetObjectOutput) -> Result<Self, ArchiveError> {
        let length = bytes_of(output.content_length())?;
        let Some(header) = output.content_range() else { return Ok(Self { first: 0, end: length, size: length }) };
        match part_in(header) {
            Some((first, end, size)) if end.saturating_sub(first) == length => Ok(Self { first, end, size }),
            _ => Err(answer(format!("'content-range' and 'content-length' do not agree ({length} bytes)"))),
        }
    }
}

async fn get(
    bucket: &Bucket,
    object: &str,
    range: Option<String>,
    tag: Option<String>,
) -> Result<GetObjectOutput, SdkError<GetObjectError, HttpResponse>> {
    let call = bucket.client.get_object().bucket(&bucket.name).key(object);
    call.set_range(range).set_if_match(tag).send().await
}

fn refused(bucket: &Bucket, object: &str, error: &SdkError<GetObjectError, HttpResponse>) -> ArchiveError {
    if is_absent(error) {
        return ArchiveError::NotFound(object.to_owned());
    }
    if status(error) == Some(412) {
        return S3Error::Replaced.into();
    }
    failed(bucket, ACTION, bucket.deadline.as_secs(), error)
}

/// The object that is being read.
struct Whole {
    bucket: Arc<Bucket>,
    object: String,
    tag: Option<String>,
    size: u64,
}

impl Whole {
    /// The answer with the bytes from `at` on, of the same version.
    async fn again(&self, at: u64, end: u64) -> Result<(GetObjectOutput, Part), ArchiveError> {
        let range = format!("bytes={at}-{}", end.saturating_sub(1));
        let output = get(&self.bucket, &self.object, Some(range), self.tag.clone())
            .await
            .map_err(|error| refused(&self.bucket, &self.object, &error))?;
        let part = Part::of(&output)?;
        if output.e_tag() != self.tag.as_deref() || part.size != self.size || part.first > at || part.end < end {
            return Err(S3Error::Replaced.into());
        }
        Ok((output, part))
    }
}

/// Where the bytes stopped, and since when they do.
struct Trouble {
    at: u64,
    since: Instant,
    pause: Duration,
}

/// The bytes from `first` on. They may stop again and again, as long as each deadline brings one piece at least.
fn body(
    whole: Whole,
    output: GetObjectOutput,
    part: Part,
    first: u64,
    length: u64,
) -> BoxStream<'static, Result<Bytes, ArchiveError>> {
    Box::pin(async_stream::try_stream! {
        let deadline = whole.bucket.deadline;
        let (mut at, end) = (first, first.saturating_add(length));
        let (mut bytes_at, mut bytes_end, mut stream) = (part.first, part.end, output.body);
        let mut trouble: Option<Trouble> = None;
        loop {
            let stopped = match tokio::time::timeout(deadline, stream.next()).await {
                Ok(Some(Ok(mut bytes))) => {
                    let before = usize::try_from(at.saturating_sub(bytes_at)).unwrap_or(usize::MAX);
                    bytes_at = bytes_at.saturating_add(bytes.len() as u64);
                    bytes.advance(before.min(bytes.len()));
                    bytes.truncate(usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX));
                    while !bytes.is_empty() {
                        let piece = bytes.split_to(PIECE.min(bytes.len()));
                        at = at.saturating_add(piece.len() as u64);
                        yield piece;
                    }
                    if at >= end && bytes_end > end {
                        break;
                    }
                    continue;
                }
                Ok(None) if at >= end => break,
                Ok(None) => "they ended early".to_owned(),
                Ok(Some(Err(error))) => reason(&error),
                Err(_) => format!("none came for {} s", deadline.as_secs()),
            };
            // At the end there is nothing to go on with: it is a checksum that does not match.
            if at >= end || whole.tag.is_none() {
                Err(S3Error::Broken { at, reason: stopped.clone() })?;
            }
            tracing::debug!(object = %whole.object, at, %stopped, "the bytes of an object stopped");
            let piece = at.saturating_sub(trouble.as_ref().map_or(0, |trouble| trouble.at)) >= PIECE as u64;
            let mut this = match trouble.take() {
                Some(trouble) if !piece => trouble,
                _ => Trouble { at, since: Instant::now(), pause: PAUSE },
            };
            loop {
                if this.since.elapsed() >= deadline {
                    Err(S3Error::Broken { at, reason: stopped.clone() })?;
                }
                tokio::time::sleep(this.pause).await;
                this.pause = this.pause.saturating_mul(2).min(LONGEST_PAUSE);
                match whole.again(at, end).await {
                    Ok((output, part)) => {
                        (bytes_at, bytes_end, stream) = (part.first, part.end, output.body);
                        break;
                    }
                    Err(error) if is_final(&error) => Err(error)?,
                    Err(error) => tracing::debug!(object = %whole.object, at, %error, "cannot go on with an object"),
                }
            }
            trouble = Some(this);
        }
    })
}

/// Whether another try is of no use.
fn is_final(error: &ArchiveError) -> bool {
    match error {
        ArchiveError::NotFound(_) | ArchiveError::RangeNotSatisfiable { .. } => true,
        ArchiveError::Unavailable(cause) => matches!(cause.downcast_ref(), Some(S3Error::Replaced)),
        ArchiveError::Timeout(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn headers_of_ranges() {
        let from = |first, last| header_of(ByteRange::From { first, last });
        assert_eq!(from(0, Some(0)).as_deref(), Some("bytes=0-0"));
        assert_eq!(from(7, None).as_deref(), Some("bytes=7-"));
        assert_eq!(from(7, Some(u64::MAX)).as_deref(), Some("bytes=7-"));
        assert_eq!(from(7, Some(6)), None);
        assert_eq!(from(u64::MAX, None), None);
        assert_eq!(header_of(ByteRange::Last(4)).as_deref(), Some("bytes=-4"));
        assert_eq!(header_of(ByteRange::Last(0)), None);
        assert_eq!(part_in("bytes 3-5/10"), Some((3, 6, 10)));
        assert_eq!(size_in("bytes */10"), Some(10));
    }

    proptest! {
        #[test]
        fn any_content_range_is_read_or_refused(text in "(bytes )?[0-9*]{0,21}-?[0-9]{0,21}/?[0-9*]{0,21}") {
            let _ = size_in(&text);
            if let Some((first, end, size)) = part_in(&text) {
                prop_assert!(first < end && end <= size);
            }
        }
    }
}
