//! HTTP/2 with prior knowledge on the plain port.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::support::{App, Bench, Visitor, instance, read_head, route, soon};

#[tokio::test]
async fn streams_of_one_connection_reach_their_apps() {
    let mut bench = Bench::start().await;
    let (one, two) = (App::named("one").await, App::named("two").await);
    let routes = vec![
        route("one.example", "/", &[(1, one.address)]),
        route("two.example", "/", &[(2, two.address)]),
    ];
    bench.server.put(1, routes).await;
    let stream = TcpStream::connect(bench.address).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let ask = |uri: &str, body: &'static str| {
        Request::post(uri)
            .header("x-forwarded-for", "10.0.0.1")
            .body(Full::new(Bytes::from_static(body.as_bytes())))
            .unwrap()
    };
    let (first, second, third) = tokio::join!(
        sender.clone().send_request(ask("http://one.example/a?b", "first")),
        sender.clone().send_request(ask("http://two.example:80/", "second")),
        sender.send_request(ask("http://three.example/", "")),
    );
    let mut bodies = Vec::new();
    for (answer, status) in [(first, 200), (second, 200), (third, 404)] {
        let answer = answer.unwrap();
        assert_eq!(answer.status(), StatusCode::from_u16(status).unwrap());
        let body = soon("a body", answer.into_body().collect()).await.unwrap().to_bytes();
        bodies.push(String::from_utf8(body.to_vec()).unwrap());
    }
    assert!(bodies[0].starts_with("one\nPOST /a?b HTTP/1.1\r\n"), "{}", bodies[0]);
    assert!(bodies[0].contains("host: one.example\r\n"), "{}", bodies[0]);
    assert!(bodies[0].contains("x-forwarded-for: 127.0.0.1\r\n"), "{}", bodies[0]);
    assert!(bodies[0].ends_with("first") && bodies[1].ends_with("second"));
    assert!(bodies[1].contains("host: two.example:80\r\n"), "{}", bodies[1]);
}

#[tokio::test]
async fn what_only_begins_like_it_is_not_http2() {
    let bench = Bench::start().await;
    let mut visitor = Visitor::connect(bench.address).await;
    visitor.send("PRI ").await;
    visitor.send("/ HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    assert_eq!(visitor.answer().await.status, 404);
}

#[tokio::test]
async fn a_silent_connection_ends() {
    let bench =
        Bench::limited(|limits| limits.idle_timeout = std::time::Duration::from_millis(50)).await;
    let mut visitor = Visitor::connect(bench.address).await;
    visitor.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    visitor.send([0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
    visitor.rest().await;
}

#[tokio::test]
async fn a_stream_that_nobody_reads_lets_go_of_its_instance() {
    use tokio::io::AsyncWriteExt;
    let mut bench =
        Bench::limited(|limits| limits.stall_timeout = std::time::Duration::from_millis(100)).await;
    let app = App::start(|mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        let piece = [b"10000\r\n".as_slice(), &[b'a'; 0x10000], b"\r\n"].concat();
        // Ends when the gateway hangs up.
        while stream.write_all(&piece).await.is_ok() {}
    })
    .await;
    bench.server.put(1, vec![route("a.example", "/", &[(1, app.address)])]).await;
    let stream = TcpStream::connect(bench.address).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://a.example/").body(Full::new(Bytes::new())).unwrap();
    // The connection is alive and answers; only this body is never asked for.
    let answer = soon("the head", sender.send_request(request)).await.unwrap();
    let busy = bench.server.put(2, vec![]).await;
    if !busy.is_empty() {
        assert_eq!(busy, [instance(1).to_string()]);
        assert!(bench.server.ack().await.busy.is_empty());
    }
    drop(answer);
}
