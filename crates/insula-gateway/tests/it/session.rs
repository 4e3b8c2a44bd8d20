//! Tables, acknowledgements, and life without a server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use insula_gateway::{Gateway, Options};
use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;

use crate::support::{
    App, Bench, Server, Visitor, app, config, doors, instance, read_head, route, socket, soon,
};

#[tokio::test]
async fn a_table_is_acknowledged_with_whoever_is_still_busy() {
    let mut bench = Bench::start().await;
    assert_eq!(bench.server.hello().await.generation, 0);
    let (asked, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let old = App::start({
        let (asked, go) = (Arc::clone(&asked), Arc::clone(&go));
        move |mut stream| {
            let (asked, go) = (Arc::clone(&asked), Arc::clone(&go));
            async move {
                read_head(&mut stream).await;
                asked.notify_one();
                go.notified().await;
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nold").await.unwrap();
            }
        }
    })
    .await;
    let new = App::named("new").await;
    bench.server.put(1, vec![route("a.example", "/", &[(1, old.address)])]).await;
    let mut visitor = Visitor::connect(bench.address).await;
    visitor.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    soon("the request", asked.notified()).await;

    let busy = bench.server.put(2, vec![route("a.example", "/", &[(2, new.address)])]).await;
    assert_eq!(busy, [instance(1).to_string()]);
    assert_eq!(bench.get("a.example", "/").await.header("x-app"), Some("new"));
    go.notify_one();
    assert_eq!(visitor.answer().await.body, "old");
    let ack = bench.server.ack().await;
    assert_eq!((ack.generation, ack.busy.len()), (2, 0));

    // The past is refused, a resend is acknowledged again.
    bench.server.offer(1, vec![route("a.example", "/", &[(1, old.address)])]);
    assert!(
        bench.server.put(3, vec![route("a.example", "/", &[(2, new.address)])]).await.is_empty()
    );
    assert_eq!(bench.get("a.example", "/").await.header("x-app"), Some("new"));
    bench.server.offer(3, vec![route("a.example", "/", &[(2, new.address)])]);
    assert_eq!(bench.server.ack().await.generation, 3);
    assert_eq!(bench.get("a.example", "/").await.header("x-app"), Some("new"));
    // A server that was started with another suffix speaks of other hosts without a new decision.
    bench.server.put(3, vec![route("b.example", "/", &[(2, new.address)])]).await;
    assert_eq!(bench.get("b.example", "/").await.header("x-app"), Some("new"));
}

#[tokio::test]
async fn traffic_is_told_once_and_only_if_there_was_any() {
    let mut bench =
        Bench::limited(|limits| limits.traffic_interval = std::time::Duration::from_millis(20))
            .await;
    let one = App::named("app").await;
    bench
        .server
        .put(1, vec![route("a.example", "/", &[(1, one.address)]), route("b.example", "/", &[])])
        .await;
    let answer = bench.get("a.example", "/").await;
    bench.get("b.example", "/").await;
    let (mut requests, mut errors, mut bytes) = (0, 0, 0);
    while requests < 2 || bytes < answer.body.len() as u64 {
        for seen in bench.server.traffic().await.apps {
            assert_eq!(
                (seen.app.as_str(), seen.component.as_str()),
                (app().to_string().as_str(), "web")
            );
            requests += seen.requests;
            errors += seen.errors_5xx;
            bytes += seen.bytes_out;
        }
    }
    assert_eq!((requests, errors, bytes), (2, 1, answer.body.len() as u64));
}

#[tokio::test]
async fn a_gateway_serves_from_its_disk_and_finds_its_server_again() {
    let mut bench = Bench::start().await;
    let one = App::named("one").await;
    let first = bench.server.hello().await;
    bench.server.put(7, vec![route("a.example", "/", &[(1, one.address)])]).await;
    soon("the end", bench.gateway.take().unwrap().end()).await;
    let Bench { server, folder, .. } = bench;
    drop(server);

    // Nobody answers at the socket.
    let gateway = Gateway::start(doors(), config(&folder), Options::default()).await.unwrap();
    let address = gateway.addresses()[0];
    let mut visitor = Visitor::connect(address).await;
    let get = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
    visitor.send(get).await;
    assert_eq!(visitor.answer().await.header("x-app"), Some("one"));

    std::fs::remove_file(socket(&folder)).unwrap();
    let mut server = Server::start(&socket(&folder)).await;
    let hello = server.hello().await;
    assert_eq!((hello.gateway, hello.generation), (first.gateway, 7));
    let two = App::named("two").await;
    server.put(8, vec![route("a.example", "/", &[(2, two.address)])]).await;
    visitor.send(get).await;
    assert_eq!(visitor.answer().await.header("x-app"), Some("two"));
    soon("the end", gateway.end()).await;
}

#[tokio::test]
async fn kept_routes_that_cannot_be_read_are_no_reason_to_stay_down() {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("gateway");
    std::fs::create_dir(&own).unwrap();
    std::fs::write(own.join("routes.json"), "{\"schema\":1,").unwrap();
    let mut server = Server::start(&socket(&folder)).await;
    let gateway = Gateway::start(doors(), config(&folder), Options::default()).await.unwrap();
    assert_eq!(server.hello().await.generation, 0);
    soon("the end", gateway.end()).await;
}

/// Two thousand requests while the route goes to and fro two hundred times. Each time the old app
/// is closed for good once the gateway has said that nothing is left of it there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn routes_change_under_load_and_nobody_notices() {
    const REQUESTS: usize = 2_000;
    const CHANGES: u64 = 200;
    const VISITORS: usize = 8;
    let mut bench = Bench::start().await;
    let mut current = App::named("app").await;
    bench.server.put(1, vec![route("a.example", "/", &[(1, current.address)])]).await;
    let (done, changed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let visitors: Vec<_> = (0..VISITORS)
        .map(|number| {
            let (done, changed, address) = (Arc::clone(&done), Arc::clone(&changed), bench.address);
            tokio::spawn(async move {
                let mut visitor = Visitor::connect(address).await;
                let mut asked = 0;
                while done.load(Ordering::SeqCst) < REQUESTS || !changed.load(Ordering::SeqCst) {
                    let request = if asked % 2 == 0 {
                        "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
                    } else {
                        "POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\n\r\nbody"
                    };
                    visitor.send(request).await;
                    let answer = visitor.answer().await;
                    assert_eq!(answer.status, 200, "visitor {number}: {}", answer.body);
                    done.fetch_add(1, Ordering::SeqCst);
                    asked += 1;
                    if asked % 16 == number % 16 {
                        visitor = Visitor::connect(address).await;
                    }
                }
            })
        })
        .collect();
    for change in 0..CHANGES {
        let generation = change + 2;
        let number = u8::try_from(generation % 251).unwrap() + 1;
        let next = App::named("app").await;
        let mut busy = bench
            .server
            .put(generation, vec![route("a.example", "/", &[(number, next.address)])])
            .await;
        while !busy.is_empty() {
            busy = bench.server.ack().await.busy;
        }
        current.end();
        current = next;
    }
    changed.store(true, Ordering::SeqCst);
    for visitor in visitors {
        soon("a visitor", visitor).await.expect("no request failed");
    }
    assert!(done.load(Ordering::SeqCst) >= REQUESTS);
}

/// The process as the binary runs it. The signal goes to this very process, which is the test's own.
#[tokio::test]
async fn sigterm_is_an_orderly_end() {
    use rustix::process::{Signal, getpid, kill_process};
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(&socket(&folder)).await;
    let config = config(&folder);
    let running = tokio::task::spawn_blocking(move || insula_gateway::run(doors(), config));
    server.hello().await;
    kill_process(getpid(), Signal::TERM).unwrap();
    soon("the end", running).await.unwrap().unwrap();
    let own = folder.path().join("gateway");
    let mode = std::os::unix::fs::PermissionsExt::mode(&own.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700);
}
