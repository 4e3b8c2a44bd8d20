//! Which app gets a request, and what it is told.

use crate::support::{App, Bench, nowhere, route};

#[tokio::test]
async fn hosts_and_paths_lead_to_their_apps() {
    let mut bench = Bench::start().await;
    let (shop, api, other) =
        (App::named("shop").await, App::named("api").await, App::named("other").await);
    let mut whole = route("shop.example.org", "/whole", &[(4, api.address)]);
    whole.preserve = true;
    let routes = vec![
        route("shop.example.org", "/", &[(1, shop.address)]),
        route("shop.example.org", "/api", &[(2, api.address)]),
        route("other.example.org", "/only", &[(3, other.address)]),
        whole,
    ];
    assert!(bench.server.put(1, routes).await.is_empty());

    let answer = bench.get("SHOP.example.org.:8080", "/a?b=c").await;
    assert_eq!((answer.status, answer.header("x-app")), (200, Some("shop")));
    assert!(answer.body.contains("GET /a?b=c HTTP/1.1\r\n"), "{}", answer.body);
    assert!(!answer.body.contains("x-forwarded-prefix"), "{}", answer.body);

    let trimmed = bench.get("shop.example.org", "/api/v1?x=/api").await;
    assert_eq!(trimmed.header("x-app"), Some("api"));
    assert!(trimmed.body.contains("GET /v1?x=/api HTTP/1.1\r\n"), "{}", trimmed.body);
    assert!(trimmed.body.contains("x-forwarded-prefix: /api\r\n"), "{}", trimmed.body);

    assert!(bench.get("shop.example.org", "/api").await.body.contains("GET / HTTP/1.1\r\n"));
    assert!(
        bench.get("shop.example.org", "/whole/x").await.body.contains("GET /whole/x HTTP/1.1\r\n")
    );
    assert_eq!(bench.get("shop.example.org", "/apiary").await.header("x-app"), Some("shop"));

    let unknown = bench.get("nobody.example.org", "/").await;
    assert_eq!(unknown.status, 404);
    assert!(unknown.body.contains("There is nothing at this address"), "{}", unknown.body);
    let no_path = bench.get("other.example.org", "/else").await;
    assert_eq!(no_path.status, 404);
    assert!(no_path.body.contains("There is nothing at this path"), "{}", no_path.body);
    let id = no_path.header("x-request-id").unwrap();
    assert!(no_path.body.contains(id), "the page names the request: {}", no_path.body);
}

#[tokio::test]
async fn who_cannot_be_reached_is_told_of_without_an_address() {
    let mut bench = Bench::start().await;
    let dead = nowhere().await;
    let routes =
        vec![route("empty.example.org", "/", &[]), route("dead.example.org", "/", &[(1, dead)])];
    bench.server.put(1, routes).await;
    let empty = bench.get("empty.example.org", "/").await;
    assert_eq!((empty.status, empty.header("retry-after")), (503, Some("2")));
    let dead_answer = bench
        .ask("GET / HTTP/1.1\r\nHost: dead.example.org\r\nAccept: application/json\r\nX-Request-Id: mine-1\r\n\r\n")
        .await;
    assert_eq!(dead_answer.status, 502);
    assert_eq!(dead_answer.header("content-type"), Some("application/problem+json"));
    let problem: serde_json::Value = serde_json::from_str(&dead_answer.body).unwrap();
    assert_eq!(problem["code"], "no_answer");
    assert_eq!(problem["request_id"], "mine-1");
    assert!(!dead_answer.body.contains(&dead.port().to_string()), "{}", dead_answer.body);
    assert!(!dead_answer.body.contains("127.0.0.1"), "{}", dead_answer.body);
}
