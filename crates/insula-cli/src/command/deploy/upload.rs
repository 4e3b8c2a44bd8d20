//! Chunks that the server lacks, and only those.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use insula_blobs::Node;
use insula_build::folder::Folder;
use insula_model::Digest;
use insula_wire::rest::source::{
    CHUNKS_MEDIA_TYPE, ChunksStored, FRAME_HEADER_LEN, FindMissing, Missing, frame_header,
};

use super::prepare::Prepared;
use crate::client::{Body, SendBody, Target};
use crate::context::Cx;
use crate::failure::Failure;
use crate::show::units;

/// One request; when the line breaks, no more than this is sent again.
const BATCH_BYTES: u64 = 32 << 20;
const BATCH_CHUNKS: usize = 4_096;
/// What is read and handed over at once: system calls and messages stop to count.
const PIECE_BYTES: usize = 256 * 1024;
/// Pieces that were read and wait for the line.
const PIECES_WAITING: usize = 4;
/// Digests in one question.
const QUESTION_CHUNKS: usize = 50_000;

/// A chunk that is to be sent: a whole file.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub path: String,
    pub digest: Digest,
    pub len: u64,
}

pub async fn missing(cx: &Cx, prepared: &Prepared) -> Result<Vec<Wanted>, Failure> {
    let mut files: BTreeMap<Digest, Wanted> = BTreeMap::new();
    for entry in prepared.manifest.entries() {
        if let Node::File { chunks, .. } = &entry.node {
            for chunk in chunks {
                let (digest, len) = (chunk.digest, chunk.size.0);
                files.entry(digest).or_insert_with(|| Wanted {
                    path: entry.path.clone(),
                    digest,
                    len,
                });
            }
        }
    }
    let digests: Vec<Digest> = files.keys().copied().collect();
    let mut wanted = Vec::new();
    for chunks in digests.chunks(QUESTION_CHUNKS) {
        let target = cx.org(&["sources", "missing"]);
        let asked = FindMissing { chunks: chunks.to_vec() };
        let answer: Missing = cx.client().ask(&target, &asked).await?;
        wanted.extend(answer.missing.iter().filter_map(|digest| files.get(digest)).cloned());
    }
    Ok(wanted)
}

pub async fn upload(cx: &Cx, prepared: &Prepared) -> Result<(), Failure> {
    let wanted = missing(cx, prepared).await?;
    if wanted.is_empty() {
        return Ok(());
    }
    let total: u64 = wanted.iter().map(|chunk| chunk.len).sum();
    let of = units::size(total);
    let sent = Arc::new(AtomicU64::new(0));
    let target = cx.org(&["sources", "chunks"]);
    for batch in batches(wanted) {
        let upload = send(cx, &target, prepared.folder.clone(), batch, sent.clone());
        let mut upload = std::pin::pin!(upload);
        let mut tick = tokio::time::interval(std::time::Duration::from_millis(100));
        loop {
            tokio::select! {
                outcome = &mut upload => break outcome?,
                _ = tick.tick() => {
                    let sent = units::size(sent.load(Ordering::Relaxed).min(total));
                    cx.terminal.progress(&format!("uploading {sent} of {of}"));
                }
            }
        }
    }
    cx.terminal.say(&format!("sent {of}"));
    Ok(())
}

fn batches(wanted: Vec<Wanted>) -> Vec<Vec<Wanted>> {
    let (mut batches, mut bytes) = (Vec::<Vec<Wanted>>::new(), 0);
    for chunk in wanted {
        match batches.last_mut() {
            Some(batch) if bytes + chunk.len <= BATCH_BYTES && batch.len() < BATCH_CHUNKS => {
                bytes += chunk.len;
                batch.push(chunk);
            }
            Some(_) | None => {
                bytes = chunk.len;
                batches.push(vec![chunk]);
            }
        }
    }
    batches
}

async fn send(
    cx: &Cx,
    target: &Target,
    folder: Arc<Folder>,
    batch: Vec<Wanted>,
    sent: Arc<AtomicU64>,
) -> Result<(), Failure> {
    let len = batch.iter().map(|chunk| FRAME_HEADER_LEN as u64 + chunk.len).sum();
    let broken = Arc::new(Broken::default());
    let (batch, at) = (Arc::new(batch), sent.load(Ordering::Relaxed));
    let reader = {
        let broken = broken.clone();
        move || {
            // A second attempt begins where the first one did.
            sent.store(at, Ordering::Relaxed);
            read_body(folder.clone(), batch.clone(), sent.clone(), broken.clone())
        }
    };
    let gave_up = {
        let broken = broken.clone();
        Arc::new(move || broken.is.load(Ordering::Relaxed))
    };
    let body = Body::Stream { media_type: CHUNKS_MEDIA_TYPE, len, open: Arc::new(reader), gave_up };
    let outcome: Result<ChunksStored, _> = cx.client().upload(target, body).await;
    match (broken.why(), outcome) {
        (Some(why), _) => Err(Failure::failed(why).hint("let it settle and try again")),
        (None, outcome) => Ok(outcome.map(drop)?),
    }
}

/// Why the folder could not be read any further.
#[derive(Debug, Default)]
struct Broken {
    is: AtomicBool,
    why: Mutex<Option<String>>,
}

impl Broken {
    fn set(&self, why: String) {
        *self.why.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        self.is.store(true, Ordering::Relaxed);
    }

    fn why(&self) -> Option<String> {
        self.why.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Frames, read by a thread of their own while earlier ones travel.
fn read_body(
    folder: Arc<Folder>,
    batch: Arc<Vec<Wanted>>,
    sent: Arc<AtomicU64>,
    broken: Arc<Broken>,
) -> SendBody {
    let (sender, receiver) = tokio::sync::mpsc::channel(PIECES_WAITING);
    tokio::task::spawn_blocking(move || {
        let mut hand_over = |piece: Vec<u8>| {
            sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
            // Nobody takes it any more: the attempt has ended.
            sender.blocking_send(Ok(Frame::data(Bytes::from(piece)))).is_ok()
        };
        if let Err(why) = read_frames(&folder, &batch, &mut hand_over) {
            broken.set(why.clone());
            let _ = sender.blocking_send(Err(std::io::Error::other(why)));
        }
    });
    let pieces = stream::unfold(receiver, |mut receiver| async move {
        let piece = receiver.recv().await?;
        Some((piece, receiver))
    });
    StreamBody::new(pieces).boxed_unsync()
}

/// Whether anybody still listens comes back from `hand_over`.
fn read_frames(
    folder: &Folder,
    batch: &[Wanted],
    hand_over: &mut impl FnMut(Vec<u8>) -> bool,
) -> Result<(), String> {
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    for chunk in batch {
        let failed = |error: std::io::Error| format!("read `{}`: {error}", chunk.path);
        piece.extend_from_slice(&frame_header(&chunk.digest, chunk.len));
        let mut file = folder.open(&chunk.path).map_err(failed)?;
        let mut left = chunk.len;
        while left > 0 {
            let room = PIECE_BYTES.saturating_sub(piece.len()).max(1) as u64;
            let read = (&mut file).take(left.min(room)).read_to_end(&mut piece).map_err(failed)?;
            if read == 0 {
                return Err(format!("`{}` became shorter while it was sent", chunk.path));
            }
            left -= read as u64;
            if piece.len() >= PIECE_BYTES && !hand_over(std::mem::take(&mut piece)) {
                return Ok(());
            }
        }
    }
    if !piece.is_empty() {
        hand_over(piece);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use insula_wire::rest::source::read_frame_header;

    use super::*;

    fn wanted(path: &str, len: u64) -> Wanted {
        Wanted { path: path.into(), digest: Digest::from_sha256([len as u8; 32]), len }
    }

    #[test]
    fn small_chunks_travel_together_and_large_ones_alone() {
        let list =
            vec![wanted("a", 1), wanted("b", 2), wanted("large", BATCH_BYTES + 1), wanted("c", 3)];
        let sizes: Vec<usize> = batches(list).iter().map(Vec::len).collect();
        assert_eq!(sizes, [2, 1, 1]);
        let many = (0..BATCH_CHUNKS + 1).map(|_| wanted("x", 1)).collect();
        assert_eq!(batches(many).len(), 2);
        assert!(batches(Vec::new()).is_empty());
    }

    #[test]
    fn frames_hold_the_files_whatever_their_sizes() {
        let top = tempfile::tempdir().unwrap();
        let sizes = [1, PIECE_BYTES - FRAME_HEADER_LEN, PIECE_BYTES * 2 + 7, 5];
        let list: Vec<Wanted> = sizes
            .iter()
            .enumerate()
            .map(|(n, size)| {
                let path = format!("f{n}");
                std::fs::write(top.path().join(&path), vec![n as u8; *size]).unwrap();
                wanted(&path, *size as u64)
            })
            .collect();
        let folder = insula_build::folder::read(top.path()).unwrap();
        let mut body = Vec::new();
        let mut take = |piece: Vec<u8>| {
            body.extend(piece);
            true
        };
        read_frames(&folder, &list, &mut take).unwrap();
        let mut rest = body.as_slice();
        for (n, size) in sizes.iter().enumerate() {
            let (header, after) = rest.split_first_chunk().unwrap();
            assert_eq!(read_frame_header(header).1, *size as u64);
            let (bytes, after) = after.split_at(*size);
            assert!(bytes.iter().all(|byte| *byte == n as u8));
            rest = after;
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn a_file_that_shrinks_on_its_way_is_named() {
        let top = tempfile::tempdir().unwrap();
        std::fs::write(top.path().join("f"), b"12345").unwrap();
        let folder = insula_build::folder::read(top.path()).unwrap();
        std::fs::write(top.path().join("f"), b"123").unwrap();
        let why = read_frames(&folder, &[wanted("f", 5)], &mut |_| true).unwrap_err();
        assert!(why.contains("`f` became shorter"), "{why}");
    }
}
