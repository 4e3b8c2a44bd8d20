//! Visitors who mean harm: a test per attack.

use std::time::Duration;

use tokio::io::AsyncWriteExt;

use crate::support::{App, Bench, Visitor, route};

async fn bench() -> (Bench, App) {
    let mut bench = Bench::limited(|limits| {
        limits.head_read_timeout = Duration::from_millis(50);
        limits.body_bytes_max = 1_000;
        limits.stall_timeout = Duration::from_millis(50);
    })
    .await;
    let app = App::named("app").await;
    bench.server.put(1, vec![route("a.example", "/", &[(1, app.address)])]).await;
    (bench, app)
}

#[tokio::test]
async fn requests_with_two_meanings_are_refused_and_never_reach_an_app() {
    let (bench, app) = bench().await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n";
    for head in [
        "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: +0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: xchunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.example\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\nHost: b.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\nHost: a.example\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\nHost: a.example\n\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\nX: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\nX: a\0b\r\n\r\n",
        "GET http://b.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET a.example HTTP/1.1\r\nHost: a.example\r\n\r\n",
    ] {
        let mut visitor = Visitor::connect(bench.address).await;
        visitor.send(format!("{head}{smuggled}")).await;
        let answer = visitor.answer().await;
        assert_eq!(answer.status, 400, "{head:?}");
        let rest = String::from_utf8_lossy(&visitor.rest_or_answer().await).into_owned();
        // Those that are clear as bytes leave the connection usable; the next request is then
        // what it seems to be, and alone.
        assert!(rest.is_empty() || rest.contains("GET /smuggled"), "{head:?}: {rest}");
        assert!(rest.matches("HTTP/1.1 200").count() <= 1, "{head:?}: {rest}");
    }
    assert!(app.connections() <= 3, "only the requests that followed a clear one got through");
}

#[tokio::test]
async fn a_chunk_that_others_could_read_otherwise_ends_the_connection() {
    let (bench, _app) = bench().await;
    for body in [
        "5 \r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "2\r\nhello\r\n0\r\n\r\n",
    ] {
        let mut visitor = Visitor::connect(bench.address).await;
        visitor
            .send(format!("POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n{body}GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n"))
            .await;
        let rest = String::from_utf8_lossy(&visitor.rest().await).into_owned();
        assert!(!rest.contains(" 200 ") && !rest.contains("smuggled"), "{body:?}: {rest}");
    }
}

#[tokio::test]
async fn hosts_that_are_none_are_refused() {
    let (bench, app) = bench().await;
    for host in [
        "",
        " ",
        "a.example/../b",
        "a.example@b",
        "a b",
        "a.example:99999",
        "..",
        "[::1",
        "a,b",
        "<script>",
        "a%00",
        "xn--\u{fc}",
    ] {
        let answer = bench.get(host, "/").await;
        assert_eq!(answer.status, 400, "{host:?}");
        assert!(!answer.body.contains("<script>"), "{}", answer.body);
    }
    for host in ["127.0.0.1", "[::1]:80", "b.example", "a.example.b.example", "example"] {
        assert_eq!(bench.get(host, "/").await.status, 404, "{host:?}");
    }
    assert_eq!(app.connections(), 0);
}

#[tokio::test]
async fn heads_that_are_too_large_are_refused() {
    let (bench, app) = bench().await;
    let large =
        format!("GET / HTTP/1.1\r\nHost: a.example\r\nCookie: {}\r\n\r\n", "a".repeat(40_000));
    assert_eq!(bench.ask(&large).await.status, 431);
    let many = format!("GET / HTTP/1.1\r\nHost: a.example\r\n{}\r\n", "A: b\r\n".repeat(150));
    assert_eq!(bench.ask(&many).await.status, 431);
    let endless = format!("GET /{}", "a".repeat(40_000));
    assert_eq!(bench.ask(&endless).await.status, 431);
    assert_eq!(app.connections(), 0);
    let fits =
        format!("GET / HTTP/1.1\r\nHost: a.example\r\nCookie: {}\r\n\r\n", "a".repeat(30_000));
    assert_eq!(bench.ask(&fits).await.status, 200);
}

#[tokio::test]
async fn bodies_that_are_too_large_are_refused() {
    let (bench, _app) = bench().await;
    let announced = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1001\r\n\r\n";
    assert_eq!(bench.ask(announced).await.status, 413);
    let chunk = format!("3e9\r\n{}\r\n0\r\n\r\n", "a".repeat(1_001));
    let chunked =
        format!("POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}");
    assert_eq!(bench.ask(&chunked).await.status, 413);
}

#[tokio::test]
async fn a_slow_loris_is_cut_off() {
    let (bench, app) = bench().await;
    let mut visitor = Visitor::connect(bench.address).await;
    let begun = std::time::Instant::now();
    visitor.send("GET / HTTP/1.1\r\nHost: a.example\r\n").await;
    // A byte now and then does not buy time.
    let (mut reading, mut writing) = tokio::io::split(visitor.stream);
    let drip = tokio::spawn(async move {
        while writing.write_all(b"X").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let mut answer = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut reading, &mut answer);
    let _ = crate::support::soon("the end of a slow visitor", read).await;
    drip.abort();
    assert!(begun.elapsed() >= Duration::from_millis(50));
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(app.connections(), 0);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let (bench, _app) = bench().await;
    let begun = "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 10\r\n\r\nhalf";
    assert_eq!(bench.ask(begun).await.status, 408);
}

#[tokio::test]
async fn methods_that_are_not_for_apps_are_refused() {
    let (bench, app) = bench().await;
    assert_eq!(bench.ask("TRACE / HTTP/1.1\r\nHost: a.example\r\n\r\n").await.status, 405);
    let connect = bench.ask("CONNECT a.example:80 HTTP/1.1\r\nHost: a.example:80\r\n\r\n").await;
    assert_eq!(connect.status, 405);
    assert_eq!(bench.ask("GET / HTTP/3.0\r\nHost: a.example\r\n\r\n").await.status, 505);
    assert_eq!(app.connections(), 0);
}
