//! What the stories share: an org, some bytes, and what every backend must do.

use bytes::Bytes;
use futures_util::{TryStreamExt, stream};
use insula_blobs::{BlobError, Blobs, Kind, Shelf};
use insula_model::{Bytes as Size, Digest, OrgId, Timestamp};

pub const ROOMY: Size = Size::mib(64);

pub fn shelf(org: u8) -> Shelf {
    Shelf::new(OrgId::from_parts(Timestamp::from_millis(1), [org; 10]), Kind::Chunk)
}

pub fn digest_of(bytes: &[u8]) -> Digest {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    Digest::from_sha256(digest.as_ref().try_into().unwrap())
}

/// Bytes that do not repeat, the same for the same number.
pub fn bytes(number: u64, len: usize) -> Bytes {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut all = Vec::with_capacity(len + 8);
    while all.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        all.extend_from_slice(&state.to_le_bytes());
    }
    all.truncate(len);
    all.into()
}

pub fn pieces(
    all: &Bytes,
    len: usize,
) -> impl futures_util::Stream<Item = Result<Bytes, std::io::Error>> + Send + use<> {
    let all = all.clone();
    let ranges: Vec<_> = (0..all.len()).step_by(len).collect();
    stream::iter(ranges.into_iter().map(move |at| Ok(all.slice(at..all.len().min(at + len)))))
}

/// The story that a directory and an S3 must tell alike.
pub async fn a_blob_lives_and_dies(blobs: &Blobs) {
    let (mine, other) = (shelf(1), shelf(2));
    let small = bytes(1, 1_000);
    let large = bytes(2, 20 * 1024 * 1024 + 7);

    let stored = blobs.put_bytes(mine, small.clone()).await.unwrap();
    assert_eq!((stored.digest, stored.size), (digest_of(&small), Size(1_000)));
    assert_eq!(blobs.put_bytes(mine, small.clone()).await.unwrap(), stored);
    assert_eq!(blobs.get_bytes(mine, stored.digest, ROOMY).await.unwrap(), small);

    let streamed = blobs.put_stream(mine, pieces(&large, 100_000), None, ROOMY).await.unwrap();
    assert_eq!(streamed.digest, digest_of(&large));
    let back: Vec<Bytes> =
        blobs.get_stream(mine, streamed.digest).await.unwrap().try_collect().await.unwrap();
    assert_eq!(digest_of(&back.concat()), streamed.digest);
    assert_eq!(blobs.verify(mine, streamed.digest).await.unwrap(), streamed.size);
    let range = blobs.get_range(mine, streamed.digest, 9_000_000..9_000_100).await.unwrap();
    assert_eq!(range, large.slice(9_000_000..9_000_100));
    let limited = blobs.get_bytes(mine, streamed.digest, Size(1_000)).await;
    assert!(matches!(limited, Err(BlobError::TooLarge { .. })));

    let empty = blobs.put_bytes(mine, Bytes::new()).await.unwrap();
    assert_eq!(blobs.get_bytes(mine, empty.digest, ROOMY).await.unwrap(), Bytes::new());

    // Another org has nothing, whatever digests it knows.
    let asked = [stored.digest, digest_of(b"nothing"), streamed.digest];
    assert_eq!(blobs.has_many(mine, &asked).await.unwrap(), [true, false, true]);
    assert_eq!(blobs.has_many(other, &asked).await.unwrap(), [false; 3]);
    assert!(blobs.get_stream(other, stored.digest).await.err().unwrap().is_missing());
    assert!(blobs.get_range(other, stored.digest, 0..1).await.unwrap_err().is_missing());

    let mut listed: Vec<_> = blobs.list(mine).try_collect().await.unwrap();
    listed.sort_by_key(|found| found.size);
    let sizes: Vec<_> = listed.iter().map(|found| found.size).collect();
    assert_eq!(sizes, [Size(0), stored.size, streamed.size]);
    assert!(listed[2].modified > Timestamp::from_millis(1_700_000_000_000));
    assert_eq!(blobs.list(other).try_collect::<Vec<_>>().await.unwrap(), []);

    blobs.delete(mine, stored.digest).await.unwrap();
    blobs.delete(mine, stored.digest).await.unwrap();
    assert_eq!(blobs.has_many(mine, &asked).await.unwrap(), [false, false, true]);
}

/// Nothing that was refused can be seen afterwards.
pub async fn what_is_refused_leaves_nothing(blobs: &Blobs) {
    let all = bytes(3, 700_000);
    let wrong = Some(digest_of(b"something else"));
    let mismatch = blobs.put_stream(shelf(1), pieces(&all, 1_000), wrong, ROOMY).await;
    assert!(matches!(mismatch, Err(BlobError::Mismatch { got, .. }) if got == digest_of(&all)));
    let long = blobs.put_stream(shelf(1), pieces(&all, 1_000), None, Size(699_999)).await;
    assert!(matches!(long, Err(BlobError::TooLarge { max: Size(699_999) })));
    let torn = stream::iter([Ok(all.clone()), Err("the connection broke")]);
    let torn = blobs.put_stream(shelf(1), torn, None, ROOMY).await;
    assert!(matches!(torn, Err(BlobError::Sender { .. })));
    assert_eq!(blobs.list(shelf(1)).try_collect::<Vec<_>>().await.unwrap(), []);
}

/// Many at once, some of them equal.
pub async fn a_batch_is_stored_in_order(blobs: &Blobs, count: u64) {
    let batch: Vec<_> = (0..count).map(|n| bytes(n % (count - 1), 100 + n as usize % 50)).collect();
    let stored = blobs.put_many(shelf(3), batch.clone()).await.unwrap();
    let digests: Vec<_> = batch.iter().map(|blob| digest_of(blob)).collect();
    assert_eq!(stored.iter().map(|stored| stored.digest).collect::<Vec<_>>(), digests);
    let there = blobs.has_many(shelf(3), &digests).await.unwrap();
    assert!(there.iter().all(|there| *there));
    for (blob, digest) in batch.iter().zip(&digests).take(20) {
        assert_eq!(blobs.get_bytes(shelf(3), *digest, ROOMY).await.unwrap(), *blob);
    }
}
