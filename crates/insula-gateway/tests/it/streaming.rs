//! Bytes pass as they come, both ways, and connections that stop being HTTP.

use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use crate::support::{App, Bench, Visitor, instance, read_head, route, soon};

#[tokio::test]
async fn an_answer_is_seen_before_it_is_whole() {
    let mut bench = Bench::start().await;
    let go = Arc::new(Notify::new());
    let app = App::start({
        let go = Arc::clone(&go);
        move |mut stream| {
            let go = Arc::clone(&go);
            async move {
                read_head(&mut stream).await;
                stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Checksum\r\n\r\n5\r\nfirst\r\n").await.unwrap();
                go.notified().await;
                stream.write_all(b"4\r\nlast\r\n0\r\nChecksum: 42\r\n\r\n").await.unwrap();
            }
        }
    })
    .await;
    bench.server.put(1, vec![route("a.example", "/", &[(1, app.address)])]).await;
    let mut visitor = Visitor::connect(bench.address).await;
    visitor.send("GET / HTTP/1.1\r\nHost: a.example\r\nTE: trailers\r\n\r\n").await;
    visitor.head().await;
    assert_eq!(visitor.chunk().await.unwrap(), b"first");
    go.notify_one();
    assert_eq!(visitor.chunk().await.unwrap(), b"last");
    let mut end = String::new();
    for _ in 0..3 {
        soon("the trailer", visitor.stream.read_line(&mut end)).await.unwrap();
    }
    assert_eq!(end.to_ascii_lowercase(), "0\r\nchecksum: 42\r\n\r\n");
}

#[tokio::test]
async fn a_request_is_seen_before_it_is_whole() {
    let mut bench = Bench::start().await;
    let first = Arc::new(Notify::new());
    let app = App::start({
        let first = Arc::clone(&first);
        move |mut stream| {
            let first = Arc::clone(&first);
            async move {
                let head = read_head(&mut stream).await.unwrap();
                assert!(!head.to_ascii_lowercase().contains("expect:"), "{head}");
                let mut line = String::new();
                stream.read_line(&mut line).await.unwrap();
                stream.read_line(&mut line).await.unwrap();
                assert_eq!(line, "6\r\nfirst\n");
                first.notify_one();
                while !line.ends_with("0\r\n\r\n") {
                    stream.read_line(&mut line).await.unwrap();
                }
                let answer =
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{line}", line.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    bench.server.put(1, vec![route("a.example", "/", &[(1, app.address)])]).await;
    let mut visitor = Visitor::connect(bench.address).await;
    visitor
        .send("POST / HTTP/1.1\r\nHost: a.example\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    assert_eq!(visitor.answer().await.status, 100);
    visitor.send("6\r\nfirst\n\r\n").await;
    soon("the first piece", first.notified()).await;
    visitor.send("5\r\nlast\n\r\n0\r\n\r\n").await;
    let answer = visitor.answer().await;
    assert!(answer.body.contains("last\n"), "{}", answer.body);
}

#[tokio::test]
async fn back_pressure_reaches_the_app() {
    let mut bench = Bench::start().await;
    let written = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    const WHOLE: usize = 256 * 1024 * 1024;
    let app = App::start({
        let written = Arc::clone(&written);
        move |mut stream| {
            let written = Arc::clone(&written);
            async move {
                read_head(&mut stream).await;
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {WHOLE}\r\n\r\n");
                stream.write_all(head.as_bytes()).await.unwrap();
                let piece = vec![b'a'; 64 * 1024];
                while stream.write_all(&piece).await.is_ok() {
                    written.fetch_add(piece.len(), std::sync::atomic::Ordering::SeqCst);
                }
            }
        }
    })
    .await;
    bench.server.put(1, vec![route("a.example", "/", &[(1, app.address)])]).await;
    let mut visitor = Visitor::connect(bench.address).await;
    visitor.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    visitor.head().await;
    // Nobody reads. The app must come to a halt, long before it is through.
    let halted = async {
        let mut before = usize::MAX;
        loop {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            let now = written.load(std::sync::atomic::Ordering::SeqCst);
            if now == before {
                return now;
            }
            before = now;
        }
    };
    let halted = soon("a halt", halted).await;
    assert!(halted < WHOLE / 4, "{halted} bytes were taken from the app");
}

#[tokio::test]
async fn old_clients_and_old_apps_end_a_body_by_hanging_up() {
    let mut bench = Bench::start().await;
    let app = App::start(|mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nuntil the end").await.unwrap();
    })
    .await;
    bench.server.put(1, vec![route("a.example", "/", &[(1, app.address)])]).await;
    let answer = bench.get("a.example", "/").await;
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    assert_eq!(answer.body, "until the end");
    let old = bench.ask("GET / HTTP/1.0\r\nHost: a.example\r\n\r\n").await;
    assert_eq!(old.header("transfer-encoding"), None);
    assert_eq!(old.body, "until the end");
}

#[tokio::test]
async fn an_answer_cut_short_does_not_look_whole() {
    let mut bench = Bench::start().await;
    let app = App::start(|mut stream| async move {
        read_head(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
            .await
            .unwrap();
    })
    .await;
    bench.server.put(1, vec![route("a.example", "/", &[(1, app.address)])]).await;
    let mut visitor = Visitor::connect(bench.address).await;
    visitor.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    let rest = String::from_utf8(visitor.rest().await).unwrap();
    assert!(rest.ends_with("half\r\n"), "no last chunk was made up: {rest}");
}

/// Hand-made frames: what matters is that every byte passes, not what it means.
#[tokio::test]
async fn a_websocket_passes_both_ways_and_counts_as_busy() {
    let mut bench = Bench::start().await;
    let app = App::start(|mut stream| async move {
        let head = read_head(&mut stream).await.unwrap().to_ascii_lowercase();
        assert!(head.contains("connection: upgrade\r\n"), "{head}");
        assert!(head.contains("upgrade: websocket\r\n"), "{head}");
        assert!(head.contains("sec-websocket-key: dghlihnhbxbszsbub25jzq==\r\n"), "{head}");
        let accepted = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        stream.write_all(accepted.as_bytes()).await.unwrap();
        let mut frame = [0; 11];
        while stream.read_exact(&mut frame).await.is_ok() {
            let mask = [frame[2], frame[3], frame[4], frame[5]];
            let text: Vec<u8> = frame[6..].iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m).collect();
            stream.write_all(&[&[0x81, 5], text.as_slice()].concat()).await.unwrap();
        }
    })
    .await;
    bench.server.put(1, vec![route("a.example", "/", &[(1, app.address)])]).await;
    let mut visitor = Visitor::connect(bench.address).await;
    visitor
        .send("GET /chat HTTP/1.1\r\nHost: a.example\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
        .await;
    let head = visitor.head().await.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(
        head.contains("upgrade: websocket\r\n") && head.contains("connection: upgrade\r\n"),
        "{head}"
    );
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{head}");
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let masked: Vec<u8> = b"Hello".iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m).collect();
    let frame = [&[0x81, 0x85], mask.as_slice(), masked.as_slice()].concat();
    for _ in 0..3 {
        visitor.send(&frame).await;
        let mut echo = [0; 7];
        soon("an echo", visitor.stream.read_exact(&mut echo)).await.unwrap();
        assert_eq!(&echo, b"\x81\x05Hello");
    }
    // Out of the routes, but not at rest before the visitor leaves.
    let busy = bench.server.put(2, vec![route("a.example", "/", &[])]).await;
    assert_eq!(busy, [instance(1).to_string()]);
    visitor.send(&frame).await;
    let mut echo = [0; 7];
    soon("an echo", visitor.stream.read_exact(&mut echo)).await.unwrap();
    drop(visitor);
    let ack = bench.server.ack().await;
    assert_eq!((ack.generation, ack.busy.len()), (2, 0));
}

#[tokio::test]
async fn nobody_upgrades_who_was_not_asked() {
    let mut bench = Bench::start().await;
    let app = App::start(|mut stream| async move {
        let head = read_head(&mut stream).await.unwrap().to_ascii_lowercase();
        assert!(!head.contains("upgrade"), "{head}");
        let _ = stream
            .write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n",
            )
            .await;
    })
    .await;
    bench.server.put(1, vec![route("a.example", "/", &[(1, app.address)])]).await;
    assert_eq!(bench.get("a.example", "/").await.status, 502);
    let h2c = "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
    assert_eq!(bench.ask(h2c).await.status, 502, "HTTP/2 is not passed on behind our back");
}

#[tokio::test]
async fn trailers_of_a_request_reach_the_app() {
    let mut bench = Bench::start().await;
    let app = App::start(|mut stream| async move {
        read_head(&mut stream).await;
        let mut body = String::new();
        while !body.ends_with("\r\n\r\n") {
            stream.read_line(&mut body).await.unwrap();
        }
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    bench.server.put(1, vec![route("a.example", "/", &[(1, app.address)])]).await;
    let answer = bench
        .ask("POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nTrailer: Checksum\r\n\r\n1\r\na\r\n0\r\nChecksum: 7\r\n\r\n")
        .await;
    assert_eq!(answer.body.to_ascii_lowercase(), "1\r\na\r\n0\r\nchecksum: 7\r\n\r\n");
}

#[tokio::test]
async fn an_upgraded_connection_without_a_byte_ends() {
    let mut bench = Bench::limited(|limits| {
        limits.upgrade_idle_timeout = std::time::Duration::from_millis(50);
    })
    .await;
    let app = App::start(|mut stream| async move {
        read_head(&mut stream).await;
        let accepted =
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: own\r\n\r\nfirst";
        stream.write_all(accepted).await.unwrap();
        let _open = stream;
        std::future::pending().await
    })
    .await;
    bench.server.put(1, vec![route("a.example", "/", &[(1, app.address)])]).await;
    let mut visitor = Visitor::connect(bench.address).await;
    visitor
        .send("GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: own\r\n\r\n")
        .await;
    assert!(visitor.head().await.starts_with("HTTP/1.1 101 "));
    assert_eq!(visitor.rest().await, b"first");
}

#[tokio::test]
async fn a_visitor_who_leaves_keeps_no_instance_busy() {
    let mut bench = Bench::start().await;
    let asked = Arc::new(Notify::new());
    let app = App::start({
        let asked = Arc::clone(&asked);
        move |mut stream| {
            let asked = Arc::clone(&asked);
            async move {
                read_head(&mut stream).await;
                asked.notify_one();
                // Never answers; ends when the gateway hangs up.
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest).await;
            }
        }
    })
    .await;
    bench.server.put(1, vec![route("a.example", "/", &[(1, app.address)])]).await;
    let mut visitor = Visitor::connect(bench.address).await;
    visitor.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    soon("the request", asked.notified()).await;
    assert_eq!(bench.server.put(2, vec![]).await.len(), 1);
    drop(visitor);
    assert!(bench.server.ack().await.busy.is_empty());
}
