//! What an app hears about its visitor.

use std::net::IpAddr;

use insula_gateway::Options;

use crate::support::{App, Bench, Visitor, route};

#[tokio::test]
async fn an_app_is_told_the_truth_about_its_visitor() {
    let mut bench = Bench::start().await;
    let app = App::named("app").await;
    bench.server.put(1, vec![route("a.example", "/", &[(1, app.address)])]).await;
    let answer = bench
        .ask(
            "GET / HTTP/1.1\r\nHost: A.example:81\r\nX-Forwarded-For: 10.0.0.1\r\n\
             X_Forwarded_For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n\
             X-Real-IP: 10.0.0.1\r\nForwarded: for=10.0.0.1\r\nX-Request-Id: not an id\r\n\
             traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\
             Connection: X-Secret, keep-alive\r\nX-Secret: 1\r\nKeep-Alive: 5\r\n\
             Proxy-Connection: keep-alive\r\nTE: gzip\r\nCookie: kept=1\r\n\r\n",
        )
        .await;
    let heard = answer.body.to_ascii_lowercase();
    for line in [
        "host: a.example:81\r\n",
        "x-forwarded-for: 127.0.0.1\r\n",
        "x-forwarded-proto: http\r\n",
        "x-forwarded-host: a.example:81\r\n",
        "x-request-id: req_",
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-",
        "cookie: kept=1\r\n",
    ] {
        assert!(heard.contains(line), "{line:?} is missing:\n{heard}");
    }
    for absent in [
        "10.0.0.1",
        "evil",
        "x-secret",
        "keep-alive",
        "proxy-connection",
        "te:",
        "forwarded: for",
        "b7ad6b7169203331",
        "not an id",
        "x_forwarded",
    ] {
        assert!(!heard.contains(absent), "{absent:?} came through:\n{heard}");
    }
    let id = answer.header("x-request-id").unwrap();
    assert!(answer.body.contains(id), "app and visitor hear the same id");
}

#[tokio::test]
async fn a_proxy_that_the_operator_named_is_believed() {
    let loopback: IpAddr = "127.0.0.1".parse().unwrap();
    let options = Options { trusted_proxies: vec![loopback], ..Options::default() };
    let mut bench = Bench::with(options).await;
    let app = App::named("app").await;
    bench.server.put(1, vec![route("a.example", "/", &[(1, app.address)])]).await;
    let answer = bench
        .ask("GET / HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\n\r\n")
        .await;
    assert!(answer.body.contains("x-forwarded-for: 203.0.113.9, 127.0.0.1\r\n"), "{}", answer.body);
    assert!(answer.body.contains("x-forwarded-proto: https\r\n"), "{}", answer.body);
}

#[tokio::test]
async fn an_answer_loses_what_concerned_one_connection() {
    let mut bench = Bench::start().await;
    let app = App::start(|mut stream| async move {
        use tokio::io::AsyncWriteExt;
        while let Some(head) = crate::support::read_head(&mut stream).await {
            let answer: &[u8] = if head.starts_with("HEAD") {
                b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n"
            } else if head.starts_with("GET /304") {
                b"HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n"
            } else if head.starts_with("GET /204") {
                b"HTTP/1.1 204 No Content\r\n\r\n"
            } else if head.starts_with("GET /hints") {
                b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
            } else {
                b"HTTP/1.1 200 OK\r\nConnection: X-Own, keep-alive\r\nX-Own: 1\r\nKeep-Alive: timeout=5\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n\r\nok"
            };
            stream.write_all(answer).await.unwrap();
        }
    })
    .await;
    bench.server.put(1, vec![route("a.example", "/", &[(1, app.address)])]).await;
    let mut visitor = Visitor::connect(bench.address).await;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n");
    visitor.send(get("/")).await;
    let answer = visitor.answer().await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
    assert_eq!((answer.header("x-own"), answer.header("keep-alive")), (None, None));
    assert_eq!(answer.head.to_ascii_lowercase().matches("set-cookie").count(), 2);
    // On one connection, so that a wrong idea of a length would be seen.
    visitor.send("HEAD / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    assert!(visitor.head().await.to_ascii_lowercase().contains("content-length: 12345\r\n"));
    for (path, status) in [("/304", 304), ("/204", 204), ("/hints", 200), ("/", 200)] {
        visitor.send(get(path)).await;
        assert_eq!(visitor.answer().await.status, status, "{path}");
    }
    assert_eq!(app.connections(), 1, "the connection to the app was used again");
}
