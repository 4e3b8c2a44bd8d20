//! Connections: kept, found stale, refused, cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

use crate::support::{App, Bench, Visitor, nowhere, read_head, route, soon};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn both_sides_are_kept_alive() {
    let mut bench = Bench::start().await;
    let app = App::named("app").await;
    bench.server.put(1, vec![route("a.example", "/", &[(1, app.address)])]).await;
    let mut visitor = Visitor::connect(bench.address).await;
    for n in 0..20 {
        visitor
            .send(format!("POST /{n} HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\n\r\nabc"))
            .await;
        let answer = visitor.answer().await;
        assert!(answer.body.contains(&format!("POST /{n} ")) && answer.body.ends_with("abc"));
    }
    assert_eq!(app.connections(), 1);
    // Pipelined ones are answered in their order.
    visitor
        .send("GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n\r\nGET /y HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n")
        .await;
    assert!(visitor.answer().await.body.contains("GET /x "));
    assert!(visitor.answer().await.body.contains("GET /y "));
    assert!(visitor.rest().await.is_empty());
}

#[tokio::test]
async fn a_connection_that_grew_stale_costs_no_request() {
    let mut bench = Bench::start().await;
    let hang_up = Arc::new(Notify::new());
    let hung_up = Arc::new(Notify::new());
    let app = App::start({
        let (hang_up, hung_up) = (Arc::clone(&hang_up), Arc::clone(&hung_up));
        move |mut stream| {
            let (hang_up, hung_up) = (Arc::clone(&hang_up), Arc::clone(&hung_up));
            async move {
                // One answer per connection, without saying so: the next request meets its end.
                read_head(&mut stream).await.unwrap();
                stream.write_all(OK).await.unwrap();
                hang_up.notified().await;
                drop(stream);
                hung_up.notify_one();
            }
        }
    })
    .await;
    bench.server.put(1, vec![route("a.example", "/", &[(1, app.address)])]).await;
    let mut visitor = Visitor::connect(bench.address).await;
    for method in ["GET", "POST", "DELETE", "POST", "GET"] {
        visitor
            .send(format!("{method} / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n"))
            .await;
        assert_eq!(visitor.answer().await.status, 200, "{method}");
        hang_up.notify_one();
        soon("the hanging up", hung_up.notified()).await;
    }
    assert_eq!(app.connections(), 5);
}

#[tokio::test]
async fn an_app_that_breaks_off_is_asked_again_only_if_that_is_harmless() {
    let mut bench = Bench::start().await;
    let seen = Arc::new(AtomicUsize::new(0));
    let app = App::start({
        let seen = Arc::clone(&seen);
        move |mut stream| {
            let seen = Arc::clone(&seen);
            async move {
                let head = read_head(&mut stream).await.unwrap();
                let before = seen.fetch_add(1, Ordering::SeqCst);
                if head.starts_with("GET") && before > 0 {
                    stream.write_all(OK).await.unwrap();
                }
            }
        }
    })
    .await;
    let routes = |n| route("a.example", "/", &[(1, app.address), (n, app.address)]);
    bench.server.put(1, vec![routes(1)]).await;
    let answer = bench.ask("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!((answer.status, seen.load(Ordering::SeqCst)), (502, 1));
}

#[tokio::test]
async fn a_dead_endpoint_costs_no_request_while_another_lives() {
    let mut bench = Bench::limited(|limits| limits.avoid = Duration::from_secs(600)).await;
    let app = App::named("app").await;
    let dead = nowhere().await;
    bench.server.put(1, vec![route("a.example", "/", &[(1, dead), (2, app.address)])]).await;
    for _ in 0..20 {
        let answer =
            bench.ask("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 2\r\n\r\nhi").await;
        assert_eq!((answer.status, answer.body.ends_with("hi")), (200, true));
    }
    // The only one is asked however often it refused.
    bench.server.put(2, vec![route("a.example", "/", &[(1, dead)])]).await;
    assert_eq!(bench.get("a.example", "/").await.status, 502);
    let listener = tokio::net::TcpListener::bind(dead).await.unwrap();
    let serving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = tokio::io::BufReader::new(stream);
        read_head(&mut stream).await.unwrap();
        stream.write_all(OK).await.unwrap();
    });
    assert_eq!(bench.get("a.example", "/").await.status, 200);
    serving.await.unwrap();
}

#[tokio::test]
async fn an_app_that_does_not_answer_is_given_up() {
    let mut bench =
        Bench::limited(|limits| limits.answer_timeout = Duration::from_millis(50)).await;
    let app = App::start(|stream| async move {
        let _open = stream;
        std::future::pending().await
    })
    .await;
    bench.server.put(1, vec![route("a.example", "/", &[(1, app.address)])]).await;
    let answer = bench.get("a.example", "/").await;
    assert_eq!(answer.status, 504);
    assert_eq!(app.connections(), 1, "it may be at work: not asked twice");
}

#[tokio::test]
async fn an_app_that_speaks_no_http_is_told_of() {
    let mut bench = Bench::start().await;
    let app = App::start(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"220 mail.example ESMTP\r\n\r\n").await;
    })
    .await;
    bench.server.put(1, vec![route("a.example", "/", &[(1, app.address)])]).await;
    let answer = bench.get("a.example", "/").await;
    assert_eq!(answer.status, 502);
    assert!(answer.body.contains("no proper answer"), "{}", answer.body);
}

#[tokio::test]
async fn who_says_nothing_is_shown_out_and_who_is_too_many_not_let_in() {
    let mut bench = Bench::limited(|limits| {
        limits.idle_timeout = Duration::from_millis(100);
        limits.connections_per_thread_max = 1;
    })
    .await;
    let app = App::named("app").await;
    bench.server.put(1, vec![route("a.example", "/", &[(1, app.address)])]).await;
    // Two threads with a place each: of three that stay, at least one is turned away at once.
    let mut visitors = Vec::new();
    for _ in 0..3 {
        visitors.push(Visitor::connect(bench.address).await);
    }
    for visitor in &mut visitors {
        assert!(visitor.rest().await.is_empty());
    }
    assert_eq!(bench.get("a.example", "/").await.status, 200);
}

#[tokio::test]
async fn an_orderly_end_lets_the_last_answer_out() {
    let mut bench = Bench::start().await;
    let (asked, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let app = App::start({
        let (asked, go) = (Arc::clone(&asked), Arc::clone(&go));
        move |mut stream| {
            let (asked, go) = (Arc::clone(&asked), Arc::clone(&go));
            async move {
                read_head(&mut stream).await;
                asked.notify_one();
                go.notified().await;
                stream.write_all(OK).await.unwrap();
            }
        }
    })
    .await;
    bench.server.put(1, vec![route("a.example", "/", &[(1, app.address)])]).await;
    let mut silent = Visitor::connect(bench.address).await;
    let mut visitor = Visitor::connect(bench.address).await;
    visitor.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    soon("the request", asked.notified()).await;
    let ending = tokio::spawn(bench.gateway.take().unwrap().end());
    assert!(silent.rest().await.is_empty(), "who asked nothing is sent away");
    go.notify_one();
    assert_eq!(visitor.answer().await.status, 200);
    assert!(visitor.rest().await.is_empty());
    soon("the end", ending).await.unwrap();
    assert!(tokio::net::TcpStream::connect(bench.address).await.is_err());
}
