//! A request for a file, and its answer.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, ETAG, HeaderName, HeaderValue, LAST_MODIFIED, LOCATION, RANGE, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use insula_kit::digest::{hex, sha256};

use super::conditional::{Coding, Part, codings, part, unchanged};
use super::kind;
use super::open::Root;
use super::path::{self, FilePath};

const INDEX: &str = "index.html";
const NOT_FOUND: &str = "404.html";
/// Read and sent at a time: a socket's buffer.
const PIECE_BYTES: usize = 64 * 1024;
/// Files up to here are known by their content, so that every instance says the same of them;
/// larger ones by their dates, because reading them twice would be felt.
const DIGESTED_BYTES_MAX: u64 = 1024 * 1024;
/// Of content that was digested already: 4,096 files are less than a megabyte.
const TAGS_MAX: usize = 4_096;

/// A folder of files.
#[derive(Debug)]
pub(crate) struct Site {
    root: Root,
    tags: RefCell<HashMap<Identity, String>>,
}

/// As long as none of these changes, the content is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

struct Found {
    file: File,
    metadata: Metadata,
}

impl Site {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { root: Root::open(path)?, tags: RefCell::default() })
    }

    pub(crate) fn answer<B>(&self, request: &Request<B>) -> Response<FileBody> {
        self.file(request).unwrap_or_else(|error| {
            eprintln!("{} {}: {error}", request.method(), request.uri().path());
            plain(StatusCode::INTERNAL_SERVER_ERROR, "This file cannot be read.\n")
        })
    }

    fn file<B>(&self, request: &Request<B>) -> io::Result<Response<FileBody>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, "Only GET and HEAD.\n");
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return Ok(refused);
        }
        let Some(FilePath { mut names, folder }) = path::parse(request.uri().path()) else {
            return self.not_found();
        };
        let Some(mut found) = self.find(&names)? else { return self.not_found() };
        if found.metadata.is_dir() {
            names.push(INDEX.into());
            found = match self.find(&names)? {
                Some(index) if index.metadata.is_file() => index,
                Some(_) | None => return self.not_found(),
            };
            if !folder {
                return Ok(with_slash(request));
            }
        } else if folder || !found.metadata.is_file() {
            return self.not_found();
        }
        let kind = names.last().map_or("application/octet-stream", |name| kind::of(name));
        let (found, coding) = self.smaller(request, names, found)?;
        self.present(request, &found, kind, coding)
    }

    /// Nothing for what is not there, or not for us.
    fn find(&self, names: &[OsString]) -> io::Result<Option<Found>> {
        use io::ErrorKind::{InvalidFilename, NotADirectory, NotFound, PermissionDenied};
        match self.root.find(names) {
            Ok(file) => Ok(Some(Found { metadata: file.metadata()?, file })),
            Err(error)
                if matches!(
                    error.kind(),
                    NotFound | NotADirectory | PermissionDenied | InvalidFilename
                ) =>
            {
                Ok(None)
            }
            // A socket cannot be opened, which is its own kind of not being a file.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// A compressed file that lies beside, if the client takes it whole.
    fn smaller<B>(
        &self,
        request: &Request<B>,
        names: Vec<OsString>,
        found: Found,
    ) -> io::Result<(Found, Option<Coding>)> {
        if !request.headers().contains_key(RANGE) {
            for coding in codings(request.headers()) {
                let mut beside = names.clone();
                if let Some(name) = beside.last_mut() {
                    name.push(coding.ending());
                }
                if let Some(smaller) = self.find(&beside)?
                    && smaller.metadata.is_file()
                {
                    return Ok((smaller, Some(coding)));
                }
            }
        }
        Ok((found, None))
    }

    fn present<B>(
        &self,
        request: &Request<B>,
        found: &Found,
        kind: &'static str,
        coding: Option<Coding>,
    ) -> io::Result<Response<FileBody>> {
        let tag = self.tag(found)?;
        let modified = modified(&found.metadata);
        let size = found.metadata.size();
        let mut response = Response::new(FileBody::empty());
        let set = |response: &mut Response<FileBody>, name: HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                response.headers_mut().insert(name, value);
            }
        };
        set(&mut response, ETAG, &tag);
        set(&mut response, LAST_MODIFIED, &modified);
        set(&mut response, VARY, "accept-encoding");
        // Kept, but asked for each time: a deploy is seen at once, and costs little otherwise.
        set(&mut response, CACHE_CONTROL, "public, max-age=0, must-revalidate");
        if unchanged(request.headers(), &tag, &modified) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return Ok(response);
        }
        set(&mut response, CONTENT_TYPE, kind);
        set(&mut response, X_CONTENT_TYPE_OPTIONS, "nosniff");
        set(&mut response, ACCEPT_RANGES, "bytes");
        if let Some(coding) = coding {
            set(&mut response, CONTENT_ENCODING, coding.name());
        }
        // Only GET has ranges (RFC 9110 §14.2).
        let part = match *request.method() {
            Method::GET => part(request.headers(), size, &tag, &modified),
            _ => Part::Whole,
        };
        let (start, len) = match part {
            Part::Whole => (0, size),
            Part::Range(start, len) => {
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                let range = format!("bytes {start}-{}/{size}", start + len - 1);
                set(&mut response, CONTENT_RANGE, &range);
                (start, len)
            }
            Part::Unsatisfiable => {
                *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
                set(&mut response, CONTENT_RANGE, &format!("bytes */{size}"));
                return Ok(response);
            }
        };
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(len));
        if *request.method() == Method::GET {
            *response.body_mut() = FileBody::new(found.file.try_clone()?, start, len);
        }
        Ok(response)
    }

    /// The site's own page if it has one.
    fn not_found(&self) -> io::Result<Response<FileBody>> {
        let own = self.find(&[NOT_FOUND.into()])?.filter(|found| found.metadata.is_file());
        let Some(own) = own else {
            return Ok(plain(StatusCode::NOT_FOUND, "There is no such file.\n"));
        };
        let len = own.metadata.size();
        let mut response = Response::new(FileBody::new(own.file, 0, len));
        *response.status_mut() = StatusCode::NOT_FOUND;
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, html);
        Ok(response)
    }

    fn tag(&self, found: &Found) -> io::Result<String> {
        let metadata = &found.metadata;
        let identity = Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        };
        if metadata.size() > DIGESTED_BYTES_MAX {
            let (seconds, nanos) = identity.changed;
            return Ok(format!("\"{:x}-{seconds:x}-{nanos:x}\"", identity.size));
        }
        if let Some(tag) = self.tags.borrow().get(&identity) {
            return Ok(tag.clone());
        }
        let mut content = vec![0; usize::try_from(metadata.size()).unwrap_or(0)];
        found.file.read_exact_at(&mut content, 0)?;
        let tag = format!("\"{}\"", hex(&sha256(&content)[..12]));
        let mut tags = self.tags.borrow_mut();
        if tags.len() >= TAGS_MAX {
            tags.clear();
        }
        tags.insert(identity, tag.clone());
        Ok(tag)
    }
}

/// When it came to this place: the date that archives give a file is often the same for all.
fn modified(metadata: &Metadata) -> String {
    let seconds = Duration::from_secs(u64::try_from(metadata.ctime()).unwrap_or(0));
    httpdate::fmt_http_date(SystemTime::UNIX_EPOCH + seconds)
}

/// To the same place with a slash at its end, said relatively: only the visitor's browser knows
/// what stands before the path that came through to us.
fn with_slash<B>(request: &Request<B>) -> Response<FileBody> {
    let path = request.uri().path();
    let last = path.rsplit('/').next().unwrap_or_default();
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = plain(StatusCode::MOVED_PERMANENTLY, "This is a folder.\n");
    // `./` so that a name with a colon is no scheme.
    match HeaderValue::from_str(&format!("./{last}/{query}")) {
        Ok(location) => response.headers_mut().insert(LOCATION, location),
        Err(_) => return plain(StatusCode::NOT_FOUND, "There is no such file.\n"),
    };
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<FileBody> {
    let mut response = Response::new(FileBody::text(text));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// A part of a file, read as it is sent.
#[derive(Debug)]
pub(crate) struct FileBody {
    source: Source,
    left: u64,
}

#[derive(Debug)]
enum Source {
    Text(&'static str),
    File { file: File, at: u64 },
}

impl FileBody {
    fn new(file: File, at: u64, len: u64) -> Self {
        Self { source: Source::File { file, at }, left: len }
    }

    fn text(text: &'static str) -> Self {
        Self { left: text.len() as u64, source: Source::Text(text) }
    }

    fn empty() -> Self {
        Self::text("")
    }

    fn piece(&mut self) -> io::Result<Bytes> {
        let piece = match &mut self.source {
            Source::Text(text) => Bytes::from_static(text.as_bytes()),
            Source::File { file, at } => {
                let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(PIECE_BYTES);
                let mut piece = vec![0; want];
                let read = file.read_at(&mut piece, *at)?;
                if read == 0 {
                    // Shorter than it was: the length is promised, so this answer cannot end well.
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                piece.truncate(read);
                *at += read as u64;
                piece.into()
            }
        };
        self.left -= piece.len() as u64;
        Ok(piece)
    }
}

impl Body for FileBody {
    type Data = Bytes;
    type Error = io::Error;

    /// The read may wait for a disk, and every other answer of this instance with it. That is the
    /// price of one thread; most files are in the kernel's cache after their first reading.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        Poll::Ready(Some(self.piece().map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
