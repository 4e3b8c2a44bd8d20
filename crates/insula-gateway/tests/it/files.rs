//! The file server of static components, asked over a real socket.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;

use insula_kit::shutdown::{Cause, Shutdown};
use tempfile::TempDir;
use tokio::task::LocalSet;

use crate::support::{Answer, Visitor};

struct Site {
    address: SocketAddr,
    shutdown: Shutdown,
    thread: Option<thread::JoinHandle<()>>,
    folder: TempDir,
}

impl Site {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("site");
        let put = |path: &str, content: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        put("index.html", "<h1>Hello</h1>");
        put("docs/index.html", "docs");
        put("empty/.keep", "");
        put("a b.txt", "spaced");
        put("app.js", "let plain;");
        put("app.js.br", "brotli");
        put("app.js.gz", "gzip");
        put("numbers", "0123456789");
        put("404.html", "own page");
        put(".env", "SECRET=1");
        put(".git/config", "secret");
        put("docs/.htpasswd", "secret");
        put(".well-known/security.txt", "mailto");
        fs::write(folder.path().join("outside"), "secret").unwrap();
        symlink("../outside", root.join("out")).unwrap();
        symlink("/etc/passwd", root.join("passwd")).unwrap();
        symlink("numbers", root.join("link")).unwrap();
        let pipe = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, root.join("pipe"), pipe, 0o600.into(), 0).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let thread = thread::spawn({
            let shutdown = shutdown.clone();
            move || serve(listener, &root, shutdown)
        });
        Self { address, shutdown, thread: Some(thread), folder }
    }

    async fn ask(&self, request: &str) -> Answer {
        let mut visitor = Visitor::connect(self.address).await;
        visitor.send(request).await;
        visitor.answer().await
    }

    async fn get(&self, path: &str, headers: &str) -> Answer {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n{headers}\r\n")).await
    }
}

fn serve(listener: TcpListener, root: &Path, shutdown: Shutdown) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let serving = insula_gateway::files::serve(listener, root, shutdown);
    LocalSet::new().block_on(&runtime, serving).unwrap();
}

impl Drop for Site {
    fn drop(&mut self) {
        self.shutdown.begin(Cause::Own);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(thread::panicking() || ended.is_ok(), "the file server ends in order");
        }
    }
}

#[tokio::test]
async fn files_are_served_as_what_they_are() {
    let site = Site::start();
    let index = site.get("/", "").await;
    assert_eq!((index.status, index.body.as_str()), (200, "<h1>Hello</h1>"));
    assert_eq!(index.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(index.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(site.get("/index.html?x=1", "").await.body, "<h1>Hello</h1>");
    assert_eq!(site.get("/docs/", "").await.body, "docs");
    assert_eq!(site.get("/a%20b.txt", "").await.body, "spaced");
    assert_eq!(site.get("/link", "").await.body, "0123456789");
    assert_eq!(site.get("/.well-known/security.txt", "").await.body, "mailto");
    let folder = site.get("/docs?a=b", "").await;
    assert_eq!((folder.status, folder.header("location")), (301, Some("./docs/?a=b")));
    let missing = site.get("/missing", "").await;
    assert_eq!((missing.status, missing.body.as_str()), (404, "own page"));
    let refused = site.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD")));
    let mut visitor = Visitor::connect(site.address).await;
    visitor.send("HEAD /numbers HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(visitor.head().await.contains("content-length: 10\r\n"));
    visitor.send("GET /numbers HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(visitor.answer().await.body, "0123456789");
}

#[tokio::test]
async fn nothing_outside_and_nothing_hidden_is_served() {
    let site = Site::start();
    assert!(site.folder.path().join("outside").exists());
    for path in [
        "/../outside",
        "/docs/../../outside",
        "/%2e%2e/outside",
        "/%2e%2e%2foutside",
        "/..%2foutside",
        "/docs/%2e%2e/%2e%2e/outside",
        "//etc/passwd",
        "/%2fetc/passwd",
        "/out",
        "/passwd",
        "/.env",
        "/%2eenv",
        "/.git/config",
        "/docs/.htpasswd",
        "/docs/./index.html",
        "/empty/",
        "/empty",
        "/numbers/",
        "/numbers/x",
        "/pipe",
        "/numbers%00.html",
        "/..%5coutside",
        "/%",
    ] {
        let answer = site.get(path, "").await;
        assert_eq!((answer.status, answer.body.as_str()), (404, "own page"), "{path}");
    }
}

#[tokio::test]
async fn a_copy_that_is_still_right_is_not_sent_again() {
    let site = Site::start();
    let first = site.get("/numbers", "").await;
    let (tag, date) = (first.header("etag").unwrap(), first.header("last-modified").unwrap());
    for condition in [format!("If-None-Match: {tag}\r\n"), format!("If-Modified-Since: {date}\r\n")]
    {
        let answer = site.get("/numbers", &condition).await;
        assert_eq!((answer.status, answer.header("etag")), (304, Some(tag)), "{condition}");
    }
    fs::write(site.folder.path().join("site/numbers"), "9876543210").unwrap();
    let changed = site.get("/numbers", &format!("If-None-Match: {tag}\r\n")).await;
    assert_eq!((changed.status, changed.body.as_str()), (200, "9876543210"));
}

#[tokio::test]
async fn a_part_is_sent_if_a_part_is_wanted() {
    let site = Site::start();
    let part = site.get("/numbers", "Range: bytes=2-4\r\n").await;
    assert_eq!((part.status, part.body.as_str()), (206, "234"));
    assert_eq!(part.header("content-range"), Some("bytes 2-4/10"));
    assert_eq!(site.get("/numbers", "Range: bytes=-2\r\n").await.body, "89");
    let beyond = site.get("/numbers", "Range: bytes=10-\r\n").await;
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some("bytes */10")));
    let stale = site.get("/numbers", "Range: bytes=2-4\r\nIf-Range: \"other\"\r\n").await;
    assert_eq!((stale.status, stale.body.as_str()), (200, "0123456789"));
}

#[tokio::test]
async fn what_lies_compressed_beside_is_taken() {
    let site = Site::start();
    let brotli = site.get("/app.js", "Accept-Encoding: gzip, br\r\n").await;
    assert_eq!((brotli.body.as_str(), brotli.header("content-encoding")), ("brotli", Some("br")));
    assert_eq!(brotli.header("content-type"), Some("text/javascript; charset=utf-8"));
    let gzip = site.get("/app.js", "Accept-Encoding: gzip, br;q=0\r\n").await;
    assert_eq!((gzip.body.as_str(), gzip.header("content-encoding")), ("gzip", Some("gzip")));
    let plain = site.get("/app.js", "").await;
    assert_eq!((plain.body.as_str(), plain.header("content-encoding")), ("let plain;", None));
    assert_eq!(plain.header("vary"), Some("accept-encoding"));
    assert_ne!(plain.header("etag"), gzip.header("etag"));
}
